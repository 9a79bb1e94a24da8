"""Each operation on a key in each state, against a grid written from AWS's documents by hand."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from kms_lab import Lab, blob, open_kms, wrap

from sandbox.aws.kms import KmsError
from sandbox.aws.kms.refusals import STATES
from sandbox.aws.kms.server import OFFERED

CODES = {
    "Dis": "DisabledException",
    "Inv": "KMSInvalidStateException",
    "Uns": "UnsupportedOperationException",
}
STATES_OF_A_KEY = (
    "AWS_KMS/Enabled",
    "AWS_KMS/Disabled",
    "AWS_KMS/PendingDeletion",
    "EXTERNAL/Enabled",
    "EXTERNAL/Disabled",
    "EXTERNAL/PendingImport",
    "EXTERNAL/PendingDeletion",
)
# key-state.html of the Developer Guide, and the API page where the table says less.
GRID = """
                                 aws: On Dis Del  external: On Dis Imp Del
Encrypt                               ok Dis Inv            ok Dis Inv Inv
Decrypt                               ok Dis Inv            ok Dis Inv Inv
ReEncrypt                             ok Dis Inv            ok Dis Inv Inv
GenerateDataKey                       ok Dis Inv            ok Dis Inv Inv
GenerateDataKeyWithoutPlaintext       ok Dis Inv            ok Dis Inv Inv
DescribeKey                           ok ok  ok             ok ok  ok  ok
EnableKey                             ok ok  Inv            ok ok  Inv Inv
DisableKey                            ok ok  Inv            ok ok  Inv Inv
ScheduleKeyDeletion                   ok ok  Inv            ok ok  ok  Inv
CancelKeyDeletion                     Inv Inv ok            Inv Inv Inv ok
GetKeyPolicy                          ok ok  ok             ok ok  ok  ok
PutKeyPolicy                          ok ok  ok             ok ok  ok  ok
ListKeyPolicies                       ok ok  ok             ok ok  ok  ok
TagResource                           ok ok  Inv            ok ok  ok  Inv
UntagResource                         ok ok  Inv            ok ok  ok  Inv
ListResourceTags                      ok ok  ok             ok ok  ok  ok
UpdateKeyDescription                  ok ok  Inv            ok ok  ok  Inv
CreateAlias                           ok ok  Inv            ok ok  ok  Inv
UpdateAlias                           ok ok  Inv            ok ok  ok  Inv
DeleteAlias                           ok ok  ok             ok ok  ok  ok
ListAliases                           ok ok  ok             ok ok  ok  ok
EnableKeyRotation                     ok Dis Inv            Uns Uns Uns Uns
DisableKeyRotation                    ok Dis Inv            Uns Uns Uns Uns
GetKeyRotationStatus                  ok ok  ok             ok ok  Uns ok
ListKeyRotations                      ok ok  ok             ok ok  ok  ok
RotateKeyOnDemand                     ok Dis Inv            ok Dis Inv Inv
GetParametersForImport                Uns Uns Uns           ok ok  ok  Inv
ImportKeyMaterial                     Uns Uns Uns           ok Inv ok  Inv
DeleteImportedKeyMaterial             Uns Uns Uns           ok ok  ok  ok
"""
CASES = [
    pytest.param(line.split()[0], state, outcome, id=f"{line.split()[0]}-{state}")
    for line in GRID.strip().splitlines()[1:]
    for state, outcome in zip(STATES_OF_A_KEY, line.split()[1:], strict=True)
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    kms = open_kms(tmp_path_factory.mktemp("kms"))
    yield Lab(kms)
    kms.close()


class Prepared:
    """A key in the wanted state, with everything that the operations need gathered while it was healthy."""

    def __init__(self, lab: Lab, origin: str, state: str) -> None:
        self.lab = lab
        self.alias = f"alias/{os.urandom(6).hex()}"
        self.material = os.urandom(32)
        is_external = origin == "EXTERNAL"
        self.key = lab.imported_key(self.material) if is_external else lab.key()
        self.parameters = lab.parameters(self.key) if is_external else None
        self.other = lab.key()
        self.ciphertext = lab.encrypt(self.key)
        lab("CreateAlias", AliasName=self.alias, TargetKeyId=self.key)
        lab("TagResource", KeyId=self.key, Tags=[{"TagKey": "tenant", "TagValue": "acme"}])
        if is_external:
            lab.bring(self.key, os.urandom(32), ImportType="NEW_KEY_MATERIAL")
        transition = {
            "Disabled": "DisableKey",
            "PendingDeletion": "ScheduleKeyDeletion",
            "PendingImport": "DeleteImportedKeyMaterial",
        }.get(state)
        if transition:
            lab(transition, KeyId=self.key)
        assert lab.state(self.key) == state, "the case would test another state than it says"

    def request(self, operation: str) -> dict[str, Any]:
        policy = self.lab("GetKeyPolicy", KeyId=self.key)["Policy"]
        parameters = self.parameters or self.lab.parameters(self.lab.key(Origin="EXTERNAL"))
        moved = f"{self.alias}-moved"
        special: dict[str, Callable[[], dict[str, Any]]] = {
            "Encrypt": lambda: {"KeyId": self.key, "Plaintext": blob(b"text")},
            "Decrypt": lambda: {"CiphertextBlob": self.ciphertext},
            "ReEncrypt": lambda: {"CiphertextBlob": self.ciphertext, "DestinationKeyId": self.other},
            "GenerateDataKey": lambda: {"KeyId": self.key, "KeySpec": "AES_256"},
            "GenerateDataKeyWithoutPlaintext": lambda: {"KeyId": self.key, "NumberOfBytes": 64},
            "PutKeyPolicy": lambda: {"KeyId": self.key, "Policy": policy},
            "TagResource": lambda: {"KeyId": self.key, "Tags": [{"TagKey": "a", "TagValue": "b"}]},
            "UntagResource": lambda: {"KeyId": self.key, "TagKeys": ["tenant"]},
            "UpdateKeyDescription": lambda: {"KeyId": self.key, "Description": "new"},
            "CreateAlias": lambda: {"AliasName": moved, "TargetKeyId": self.key},
            "UpdateAlias": lambda: self._alias_of_another_key(moved),
            "DeleteAlias": lambda: {"AliasName": self.alias},
            "GetParametersForImport": lambda: {
                "KeyId": self.key,
                "WrappingAlgorithm": "RSAES_OAEP_SHA_256",
                "WrappingKeySpec": "RSA_2048",
            },
            "ImportKeyMaterial": lambda: {
                "KeyId": self.key,
                "ImportToken": parameters["ImportToken"],
                "EncryptedKeyMaterial": wrap(parameters, self.material),
                "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
            },
        }
        return special.get(operation, lambda: {"KeyId": self.key})()

    def _alias_of_another_key(self, name: str) -> dict[str, Any]:
        self.lab("CreateAlias", AliasName=name, TargetKeyId=self.other)
        return {"AliasName": name, "TargetKeyId": self.key}


@pytest.mark.parametrize(("operation", "case", "outcome"), CASES)
def test_an_operation_in_a_state_does_what_aws_documents(lab: Lab, operation: str, case: str, outcome: str) -> None:
    origin, state = case.split("/")
    prepared = Prepared(lab, origin, state)
    request = prepared.request(operation)
    if outcome == "ok":
        lab(operation, **request)
        return
    with pytest.raises(KmsError) as refused:
        lab(operation, **request)
    assert refused.value.code == CODES[outcome]
    assert refused.value.status == 400
    assert prepared.key in refused.value.message, "the message names the key, as AWS's does"


def test_a_refused_operation_changes_nothing(lab: Lab) -> None:
    prepared = Prepared(lab, "EXTERNAL", "PendingDeletion")
    before = lab.kms.keys[prepared.key.rpartition("/")[2]]
    for operation in ("TagResource", "UpdateKeyDescription", "EnableKey", "ImportKeyMaterial", "CreateAlias"):
        with pytest.raises(KmsError):
            lab(operation, **prepared.request(operation))
    assert lab.kms.keys[before.id] is before


def test_an_alias_may_leave_a_key_that_is_pending_deletion(lab: Lab) -> None:
    prepared = Prepared(lab, "AWS_KMS", "PendingDeletion")
    lab("UpdateAlias", AliasName=prepared.alias, TargetKeyId=prepared.other)
    assert lab("DescribeKey", KeyId=prepared.alias)["KeyMetadata"]["Arn"] == prepared.other


def test_re_encrypting_to_a_disabled_key_is_refused(lab: Lab) -> None:
    source, destination = lab.key(), lab.key()
    ciphertext = lab.encrypt(source)
    lab("DisableKey", KeyId=destination)
    with pytest.raises(KmsError, match="DisabledException"):
        lab("ReEncrypt", CiphertextBlob=ciphertext, DestinationKeyId=destination)


def test_the_grid_covers_every_operation_that_touches_a_key() -> None:
    assert {case.values[0] for case in CASES} == OFFERED - {"CreateKey", "ListKeys"}


def test_every_row_of_the_table_names_its_source_and_an_offered_operation() -> None:
    for row in STATES:
        assert row.refusal.source
        assert set(row.operations) <= OFFERED


def test_what_aws_has_and_the_sandbox_has_not_is_an_error(lab: Lab) -> None:
    for operation in ("CreateGrant", "Sign", "GenerateRandom", "ReplicateKey"):
        with pytest.raises(KmsError, match="UnsupportedOperationException"):
            lab(operation, KeyId="x")
    with pytest.raises(KmsError, match="UnknownOperationException"):
        lab("MakeCoffee")
