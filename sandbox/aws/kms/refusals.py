"""Every error this KMS returns, in one place, each with its AWS source.

`STATES` is the table of (operation, key state, origin). The named refusals below it are the errors
that depend on something else than the state. Sources: "Guide" is the AWS KMS Developer Guide,
"API" the AWS KMS API Reference; "recorded" marks a message text that others recorded from AWS;
"unconfirmed" marks what no document says and was decided here, always for the stricter reading.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from sandbox.aws.kms.model import KeyState, Origin


class KmsError(Exception):
    """An error as KMS returns it: `code` is the exception's name, `status` the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True)
class Refusal:
    """One documented error: its code, its message (a format string), where AWS says so."""

    code: str
    message: str
    source: str
    status: int = 400

    def error(self, **fields: object) -> KmsError:
        return KmsError(self.code, self.message.format(**fields), self.status)


@dataclass(frozen=True)
class StateRow:
    """`refusal` meets each of `operations` on a key in one of `states` with one of `origins`."""

    operations: tuple[str, ...]
    states: tuple[KeyState, ...]
    origins: tuple[Origin, ...]
    refusal: Refusal


CRYPTOGRAPHIC = ("Encrypt", "Decrypt", "ReEncrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext")
_ENABLED, _DISABLED = KeyState.ENABLED, KeyState.DISABLED
_PENDING_IMPORT, _PENDING_DELETION = KeyState.PENDING_IMPORT, KeyState.PENDING_DELETION
_ANY_STATE = tuple(KeyState)
_ANY_ORIGIN = tuple(Origin)
_NOTE = "Guide, key-state.html, table of key states, note {}"
_DOES_NOT_FIT = "{arn} origin is {origin} which is not valid for this operation."


def _note(number: str, code: str, message: str) -> Refusal:
    return Refusal(code, message, _NOTE.format(number))


STATES: tuple[StateRow, ...] = (
    StateRow(CRYPTOGRAPHIC, (_DISABLED,), _ANY_ORIGIN, _note("1", "DisabledException", "{arn} is disabled.")),
    StateRow(
        CRYPTOGRAPHIC,
        (_PENDING_DELETION,),
        _ANY_ORIGIN,
        _note("3 (2 or 3)", "KMSInvalidStateException", "{arn} is pending deletion."),
    ),
    StateRow(
        CRYPTOGRAPHIC,
        (_PENDING_IMPORT,),
        _ANY_ORIGIN,
        _note("5", "KMSInvalidStateException", "{arn} is pending import."),
    ),
    StateRow(
        ("CancelKeyDeletion",),
        (_ENABLED, _DISABLED, _PENDING_IMPORT),
        _ANY_ORIGIN,
        _note("4", "KMSInvalidStateException", "{arn} is not pending deletion (or pending replica deletion)."),
    ),
    StateRow(
        ("EnableKey", "DisableKey"),
        (_PENDING_IMPORT,),
        _ANY_ORIGIN,
        _note("5", "KMSInvalidStateException", "{arn} is pending import."),
    ),
    StateRow(
        (
            "EnableKey",
            "DisableKey",
            "ScheduleKeyDeletion",
            "CreateAlias",
            "TagResource",
            "UntagResource",
            "UpdateKeyDescription",
        ),
        (_PENDING_DELETION,),
        _ANY_ORIGIN,
        _note("3", "KMSInvalidStateException", "{arn} is pending deletion."),
    ),
    StateRow(
        ("UpdateAlias",),  # judged on the new target only: leaving a key that is pending deletion is allowed
        (_PENDING_DELETION,),
        _ANY_ORIGIN,
        _note("10", "KMSInvalidStateException", "{arn} is pending deletion."),
    ),
    StateRow(
        ("EnableKeyRotation", "DisableKeyRotation"),
        _ANY_STATE,
        (Origin.EXTERNAL,),
        _note("6 and 7", "UnsupportedOperationException", _DOES_NOT_FIT),
    ),
    StateRow(
        ("EnableKeyRotation", "DisableKeyRotation"),
        (_DISABLED,),
        (Origin.AWS_KMS,),
        _note("1", "DisabledException", "{arn} is disabled."),
    ),
    StateRow(
        ("EnableKeyRotation", "DisableKeyRotation"),
        (_PENDING_DELETION,),
        (Origin.AWS_KMS,),
        _note("3", "KMSInvalidStateException", "{arn} is pending deletion."),
    ),
    StateRow(
        # The older notes 7 refuse it for every imported key; on-demand rotation of imported keys
        # (2025) made it the documented way to follow such a rotation, so only note 6 is left.
        ("GetKeyRotationStatus",),
        (_PENDING_IMPORT,),
        (Origin.EXTERNAL,),
        _note("6", "UnsupportedOperationException", _DOES_NOT_FIT),
    ),
    StateRow(
        ("RotateKeyOnDemand",),
        (_DISABLED,),
        _ANY_ORIGIN,
        Refusal("DisabledException", "{arn} is disabled.", "API, RotateKeyOnDemand, Errors"),
    ),
    StateRow(
        ("RotateKeyOnDemand",),
        (_PENDING_IMPORT,),
        (Origin.EXTERNAL,),
        Refusal("KMSInvalidStateException", "{arn} is pending import.", "API, RotateKeyOnDemand, Errors"),
    ),
    StateRow(
        ("RotateKeyOnDemand",),
        (_PENDING_DELETION,),
        _ANY_ORIGIN,
        Refusal("KMSInvalidStateException", "{arn} is pending deletion.", "API, RotateKeyOnDemand, Errors"),
    ),
    StateRow(
        ("GetParametersForImport", "ImportKeyMaterial", "DeleteImportedKeyMaterial"),
        _ANY_STATE,
        (Origin.AWS_KMS,),
        _note("9 (text recorded)", "UnsupportedOperationException", _DOES_NOT_FIT),
    ),
    StateRow(
        ("GetParametersForImport", "ImportKeyMaterial"),
        (_PENDING_DELETION,),
        (Origin.EXTERNAL,),
        _note("8", "KMSInvalidStateException", "{arn} is pending deletion."),
    ),
    StateRow(
        # The state table's note 9 would let it through; the API reference is the stricter.
        ("ImportKeyMaterial",),
        (_DISABLED,),
        (Origin.EXTERNAL,),
        Refusal(
            "KMSInvalidStateException",
            "{arn} is disabled.",
            "API, ImportKeyMaterial: KeyState must be PendingImport or Enabled",
        ),
    ),
)


def _by_case(rows: Iterable[StateRow]) -> dict[tuple[str, KeyState, Origin], Refusal]:
    cases: dict[tuple[str, KeyState, Origin], Refusal] = {}
    for row in rows:
        for case in product(row.operations, row.states, row.origins):
            if case in cases:
                raise ValueError(f"two rows speak for {case}")
            cases[case] = row.refusal
    return cases


REFUSED_IN_STATE = _by_case(STATES)

# --- finding the key ---------------------------------------------------------------------------
KEY_NOT_FOUND = Refusal("NotFoundException", "Key '{arn}' does not exist", "API, DescribeKey, Errors (text recorded)")
ALIAS_NOT_FOUND = Refusal("NotFoundException", "Alias {arn} is not found.", "API, DescribeKey, Errors (text recorded)")
NOT_A_KEY_ID = Refusal("NotFoundException", "Invalid keyId '{ref}'", "API, DescribeKey, Errors (text recorded)")
OTHER_REGION = Refusal("NotFoundException", "Invalid arn {region}", "API, DescribeKey, Errors (text recorded)")
NOT_AN_ARN = Refusal("InvalidArnException", "Invalid arn: {ref}", "API, InvalidArnException")
NOT_A_KEY_ARN = Refusal(
    "InvalidArnException",
    "{ref} is an alias; this operation takes a key ID or a key ARN.",
    "API, KeyId of each operation: 'Specify the key ID or key ARN'",
)

# --- permission --------------------------------------------------------------------------------
_AUTHORIZATION = "IAM User Guide, troubleshoot_access-denied"
DENIED_BY_KEY_POLICY = Refusal(
    "AccessDeniedException",
    "User: {caller} is not authorized to perform: {action} on resource: {resource} "
    "with an explicit deny in a resource-based policy",
    _AUTHORIZATION,
)
DENIED_BY_IDENTITY = Refusal(
    "AccessDeniedException",
    "User: {caller} is not authorized to perform: {action} on resource: {resource} "
    "with an explicit deny in an identity-based policy",
    _AUTHORIZATION,
)
NOT_ALLOWED_BY_KEY_POLICY = Refusal(
    "AccessDeniedException",
    "User: {caller} is not authorized to perform: {action} on resource: {resource} "
    "because no resource-based policy allows the {action} action",
    _AUTHORIZATION,
)
NOT_ALLOWED_BY_IDENTITY = Refusal(
    "AccessDeniedException",
    "User: {caller} is not authorized to perform: {action} on resource: {resource} "
    "because no identity-based policy allows the {action} action",
    _AUTHORIZATION,
)
_FOREIGN_REASON = (
    "because the resource does not exist in this Region, no resource-based policies allow access, "
    "or a resource-based policy explicitly denies access"
)
FOREIGN_KEY_HIDDEN = Refusal(
    "AccessDeniedException",
    "User: {caller} is not authorized to perform: {action} on this resource " + _FOREIGN_REASON,
    "Guide, policy-evaluation, and S3 User Guide, troubleshoot-403-errors (text recorded)",
)
CIPHERTEXT_KEY_HIDDEN = Refusal(
    "AccessDeniedException",
    "User: {caller} is not authorized to perform: {action} on the resource associated with this ciphertext "
    + _FOREIGN_REASON,
    "Guide, policy-evaluation (text recorded)",
)
NOT_ACROSS_ACCOUNTS = Refusal(
    "AccessDeniedException",
    "User: {caller} is not authorized to perform: {action} on this resource " + _FOREIGN_REASON,
    "API, each operation: 'Cross-account use: No'; Guide, key-policy-modifying-external-accounts",
)

# --- the request -------------------------------------------------------------------------------
UNKNOWN_OPERATION = Refusal("UnknownOperationException", "{operation} is not a KMS operation.", "API, Common Errors")
NOT_OFFERED = Refusal(
    "UnsupportedOperationException",
    "{what} is not offered by this sandbox.",
    "API, UnsupportedOperationException: 'a specified parameter is not supported'",
)
INVALID_REQUEST = Refusal("ValidationException", "{text}", "API, Common Errors: ValidationError")
NOT_READABLE = Refusal("SerializationException", "{text}", "AWS JSON 1.1 protocol")
INVALID_MARKER = Refusal("InvalidMarkerException", "The marker is not valid.", "API, InvalidMarkerException")
NO_SUCH_GRANT_TOKEN = Refusal(
    "InvalidGrantTokenException",
    "No grant token is valid: there are no grants here.",
    "API, InvalidGrantTokenException",
)
DRY_RUN = Refusal(
    "DryRunOperationException",
    "The request would have succeeded, but the DryRun option is set.",
    "API, DryRunOperationException; Guide, testing-permissions",
)
THROTTLED = Refusal(
    "ThrottlingException",
    "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls.",
    "Guide, throttling",
)
INTERNAL = Refusal("KMSInternalException", "An internal exception occurred.", "API, KMSInternalException", 500)

# --- policies, aliases, tags -------------------------------------------------------------------
MALFORMED_POLICY = Refusal(
    "MalformedPolicyDocumentException", "{text}", "API, PutKeyPolicy, Errors; IAM User Guide, policy grammar"
)
INVALID_PRINCIPAL = Refusal(
    "MalformedPolicyDocumentException",
    "Policy contains a statement with one or more invalid principals.",
    "API, PutKeyPolicy, Policy: 'The principals in the key policy must exist'",
)
LOCKED_OUT = Refusal(
    "MalformedPolicyDocumentException",
    "The new key policy will not allow you to update the key policy in the future.",
    "API, PutKeyPolicy, Policy: safety check (text recorded)",
)
POLICY_TOO_LONG = Refusal(
    "LimitExceededException",
    "The policy is longer than 32768 bytes.",
    "Guide, resource-limits: key policy document size",
)
NO_SUCH_POLICY = Refusal(
    "NotFoundException", "No such policy exists", "API, GetKeyPolicy, PolicyName: 'The only valid name is default'"
)
ALIAS_NAME = Refusal("InvalidAliasNameException", "{name} is not a valid alias name.", "API, CreateAlias, AliasName")
ALIAS_EXISTS = Refusal(
    "AlreadyExistsException", "An alias with the name {arn} already exists", "API, CreateAlias, Errors"
)
ALIAS_TO_ALIAS = Refusal(
    "ValidationException", "Aliases must refer to keys. Not aliases", "API, CreateAlias, TargetKeyId"
)
TOO_MANY_ALIASES = Refusal(
    "LimitExceededException", "{arn} has 50 aliases already.", "Guide, resource-limits: aliases per key"
)
INVALID_TAG = Refusal("TagException", "{text}", "API, TagException; Guide, tagging-keys")
TOO_MANY_TAGS = Refusal("LimitExceededException", "A key has 50 tags at most.", "API, TagResource, Errors")

# --- cryptographic operations ------------------------------------------------------------------
BAD_CIPHERTEXT = Refusal("InvalidCiphertextException", "", "API, Decrypt, Errors (empty text recorded)")
OTHER_KEY = Refusal(
    "IncorrectKeyException",
    "The key ID in the request does not identify a CMK that can perform this operation.",
    "API, Decrypt, KeyId (text recorded)",
)
OTHER_ALGORITHM = Refusal(
    "InvalidKeyUsageException",
    "Algorithm {algorithm} is incompatible with key spec SYMMETRIC_DEFAULT.",
    "API, InvalidKeyUsageException (text recorded)",
)

# --- imports and rotation ----------------------------------------------------------------------
WRAPPING_UNSUITABLE = Refusal(
    "UnsupportedOperationException",
    "{algorithm} does not wrap key material for a SYMMETRIC_DEFAULT key.",
    "API, GetParametersForImport, WrappingAlgorithm: RSA_AES_KEY_WRAP is for RSA and ECC material, "
    "PKCS1 v1.5 ended on 2023-10-10, SM2PKE is for China Regions",
)
VALID_TO_MISSING = Refusal(
    "ValidationException",
    "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES",
    "API, ImportKeyMaterial, ExpirationModel (text recorded)",
)
VALID_TO_SUPERFLUOUS = Refusal(
    "ValidationException",
    "A validTo date must not be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE",
    "API, ImportKeyMaterial, ExpirationModel",
)
VALID_TO_OUT_OF_RANGE = Refusal(
    "ValidationException",
    "The validTo date must be in the future and at most 365 days away.",
    "API, ImportKeyMaterial, ValidTo",
)
MATERIAL_ID_WITH_NEW = Refusal(
    "ValidationException",
    "KeyMaterialId can't be specified when ImportType is NEW_KEY_MATERIAL.",
    "API, ImportKeyMaterial, KeyMaterialId",
)
TOKEN_EXPIRED = Refusal(
    "ExpiredImportTokenException", "The import token has expired.", "API, ImportKeyMaterial, Errors"
)
TOKEN_INVALID = Refusal("InvalidImportTokenException", "{text}", "API, ImportKeyMaterial, Errors")
NOT_UNWRAPPED = Refusal(
    "InvalidCiphertextException",
    "",
    "API, InvalidCiphertextException: 'KMS could not decrypt the encrypted (wrapped) key material'",
)
OTHER_MATERIAL = Refusal(
    "IncorrectKeyMaterialException",
    "The key material is not the same key material that was previously imported into this key.",
    "API, IncorrectKeyMaterialException",
)
KNOWN_MATERIAL = Refusal(
    "IncorrectKeyMaterialException",
    "The key material is already associated with this key.",
    "API, IncorrectKeyMaterialException: 'KMS expected new key material but ...'",
)
MATERIAL_PENDING_ALREADY = Refusal(
    "KMSInvalidStateException",
    "{arn} has key material pending rotation already: rotate the key, or delete that material first.",
    "API, RotationsListEntry: 'You can delete this key material and import different key material in its place'",
)
NEW_MATERIAL_WHILE_INCOMPLETE = Refusal(
    "KMSInvalidStateException",
    "{arn} is pending import.",
    "unconfirmed: new material on a key that lacks an earlier one",
)
NO_SUCH_MATERIAL = Refusal(
    "NotFoundException", "{arn} has no key material {material}.", "API, DeleteImportedKeyMaterial, Errors"
)
NOTHING_TO_ROTATE_TO = Refusal(
    "KMSInvalidStateException",
    "No available key material pending rotation for the key: {arn}.",
    "API, RotateKeyOnDemand: 'state should be PENDING_ROTATION' (text recorded)",
)
TOO_MANY_ROTATIONS = Refusal(
    "LimitExceededException",
    "On-demand rotation quota for KMS key {id} is exceeded.",
    "API, RotateKeyOnDemand: 'a maximum of 25 times per KMS key'",
)
ROTATION_UNDER_WAY = Refusal(
    "ConflictException",
    "A rotation of {arn} is in progress or scheduled to begin within the next 20 minutes.",
    "API, ConflictException",
)
