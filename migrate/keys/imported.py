"""Importing a customer's wrapped key into a KMS key that was made without material: our side.

Plaintext key bytes exist nowhere here: KMS unwraps. What the customer's SHA-256 is checked against
is therefore the *wrapped* file: it proves that the file arrived as it was sent. What identifies the
key afterwards is KMS's own `KeyMaterialId`, a hash over key id and material; keep it as the fingerprint.

The import token is good for one key and 24 hours (KMS API, GetParametersForImport). It lives in a
0600 file of the state folder and goes nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import stamina
from botocore.exceptions import ClientError

from migrate.aws import code_of, explained
from migrate.errors import CloudError, KeyshiftError, RefusedInput, Waiting
from migrate.files import private_folder, write_private
from migrate.keys.wrap import WRAPPED_BYTES, WRAPPING_KEY_BITS

WRAPPING_ALGORITHM = "RSAES_OAEP_SHA_256"
WRAPPING_KEY_SPEC = f"RSA_{WRAPPING_KEY_BITS}"
REQUEST_FILE = "request.json"
PROPAGATION_SECONDS = 60.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ImportRequest:
    """What the customer has to wrap with, until when. `public_key` and `token` are names in the request's folder.

    `sent_sha256` is the wrapped file that was last given to KMS under this request, `key_material_id`
    what KMS made of it: both empty until then.
    """

    key_id: str
    public_key: str
    token: str
    valid_to: str
    sent_sha256: str = ""
    key_material_id: str = ""

    def expired(self, now: datetime) -> bool:
        return now >= datetime.fromisoformat(self.valid_to)


@dataclass(frozen=True)
class ImportedKey:
    """A key that holds the customer's material. `already` is True if this very file had been imported before."""

    key_id: str
    arn: str
    key_material_id: str
    wrapped_sha256: str
    already: bool


def request(kms: Any, key_id: str, folder: Path) -> ImportRequest:
    """Ask KMS for a public key and a token for `key_id`, and keep both in `folder`/`key_id`.

    A request that is still valid is handed out again: replacing it would make useless what the
    customer is wrapping at this moment. Raises RefusedInput if the key takes no imported material.
    """
    place = private_folder(folder / key_id)
    known = _kept(place)
    if known is not None and _is_usable(known, place):
        return known
    answer = _asked(
        f"asking KMS for an import token for {key_id}",
        lambda: kms.get_parameters_for_import(
            KeyId=key_id, WrappingAlgorithm=WRAPPING_ALGORITHM, WrappingKeySpec=WRAPPING_KEY_SPEC
        ),
    )
    mark = hashlib.sha256(answer["PublicKey"]).hexdigest()[:16]
    made = ImportRequest(
        key_id=key_id,
        public_key=f"WrappingPublicKey-{mark}.bin",
        token=f"ImportToken-{mark}.bin",
        valid_to=answer["ParametersValidTo"].astimezone(UTC).isoformat(),
    )
    write_private(place / made.public_key, answer["PublicKey"])
    write_private(place / made.token, answer["ImportToken"])
    _keep(place, made)
    return made


def public_key_path(folder: Path, made: ImportRequest) -> Path:
    """The DER file to hand to the customer."""
    return folder / made.key_id / made.public_key


def upload(kms: Any, key_id: str, wrapped: bytes, expected_sha256: str, folder: Path) -> ImportedKey:
    """Import the customer's wrapped key into `key_id`. The file's form is checked before any call.

    `expected_sha256` is the customer's SHA-256, in hex, of the wrapped file. The same file given twice
    answers with the first import (so a kill after KMS accepted it costs nothing); another file for a
    key that has material is refused. Raises RefusedInput, Waiting (no request), CloudError.
    """
    digest = _checked_file(wrapped, expected_sha256)
    place = folder / key_id
    made = _usable_request(place, key_id)
    described = _asked(f"reading {key_id}", lambda: kms.describe_key(KeyId=key_id))["KeyMetadata"]
    if described["KeyState"] != "PendingImport":
        return _already_imported(described, made, digest, place)
    if not _is_usable(made, place):
        raise _expired(made)
    _keep(place, replace(made, sent_sha256=digest, key_material_id=""))
    answer = _asked(
        f"importing the wrapped key into {key_id}",
        lambda: kms.import_key_material(
            KeyId=key_id,
            ImportToken=(place / made.token).read_bytes(),
            EncryptedKeyMaterial=wrapped,
            ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
            ImportType="NEW_KEY_MATERIAL",
        ),
    )
    return _finished(place, made, ImportedKey(key_id, described["Arn"], answer["KeyMaterialId"], digest, already=False))


def _finished(place: Path, made: ImportRequest, key: ImportedKey) -> ImportedKey:
    """Note what KMS made of the file, and forget the token: nothing may be imported with it again."""
    _keep(place, replace(made, sent_sha256=key.wrapped_sha256, key_material_id=key.key_material_id))
    (place / made.token).unlink(missing_ok=True)
    return key


def _already_imported(described: dict[str, Any], made: ImportRequest, digest: str, place: Path) -> ImportedKey:
    state, material_id = described["KeyState"], described.get("CurrentKeyMaterialId", "")
    if state == "Enabled" and material_id and made.sent_sha256 == digest:
        return _finished(place, made, ImportedKey(made.key_id, described["Arn"], material_id, digest, already=True))
    if state == "Enabled":
        raise RefusedInput(
            f"{made.key_id} already holds a customer's key ({material_id[:12]}…), and this is another file",
            hint="a key is uploaded once; to use another key, start a rotation",
            code="key-already-imported",
        )
    raise RefusedInput(
        f"{made.key_id} is in state {state} and takes no key material",
        hint="only a key in PendingImport does",
        code="key-state",
    )


def _checked_file(wrapped: bytes, expected_sha256: str) -> str:
    if len(wrapped) != WRAPPED_BYTES:
        raise RefusedInput(
            f"the wrapped key is {len(wrapped)} bytes long, not {WRAPPED_BYTES}: {_what_it_looks_like(wrapped)}",
            hint="upload the file that `keyshift key wrap` or `openssl pkeyutl -encrypt` wrote, as it is",
            code="wrapped-length",
        )
    expected = expected_sha256.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise RefusedInput(
            "the SHA-256 of the wrapped file has to be 64 hexadecimal digits",
            hint="`openssl dgst -sha256 EncryptedKeyMaterial.bin` prints it",
            code="wrapped-sha256-form",
        )
    digest = hashlib.sha256(wrapped).hexdigest()
    if digest != expected:
        raise RefusedInput(
            f"the file's SHA-256 is {digest[:12]}…, the customer named {expected[:12]}…:"
            " it was changed on the way, or the hash was taken over another file",
            hint="ask the customer for both again; the hash is taken over the wrapped file, not over the key",
            code="wrapped-sha256",
        )
    return digest


def _what_it_looks_like(wrapped: bytes) -> str:
    text = wrapped.strip()
    if text.startswith(b"-----BEGIN"):
        return "it is PEM text, which has to be the binary file"
    if len(text) == 2 * WRAPPED_BYTES and re.fullmatch(rb"[0-9a-fA-F]+", text):
        return "it is hexadecimal text, which has to be decoded first"
    if _is_base64_of_a_wrapped_key(text):
        return "it is base64 text, which has to be decoded first"
    if len(wrapped) in (256, 384):
        return f"it was wrapped with an RSA-{8 * len(wrapped)} key, and ours is RSA-{WRAPPING_KEY_BITS}"
    if len(wrapped) == 32:
        return "it may be the key itself, which must never leave you; treat that key as lost"
    return f"RSA-{WRAPPING_KEY_BITS} always makes {WRAPPED_BYTES}"


def _is_base64_of_a_wrapped_key(text: bytes) -> bool:
    try:
        return len(base64.b64decode(b"".join(text.split()), validate=True)) == WRAPPED_BYTES
    except binascii.Error:
        return False


def _usable_request(place: Path, key_id: str) -> ImportRequest:
    made = _kept(place)
    if made is None:
        raise Waiting(
            f"no import has been asked for {key_id}, so the customer has no public key of it yet",
            waits_for="an import request",
            hint="ask for one, and have the key wrapped with the public key it gives",
            code="no-import-request",
        )
    return made


def _is_usable(made: ImportRequest, place: Path) -> bool:
    return not made.expired(datetime.now(UTC)) and (place / made.token).exists()


def _expired(made: ImportRequest) -> RefusedInput:
    return RefusedInput(
        f"the import token of {made.key_id} expired at {made.valid_to}; KMS issues it for 24 hours",
        hint="ask for a new import request; the same key has to be wrapped again with its new public key",
        code="import-token-expired",
    )


def _kept(place: Path) -> ImportRequest | None:
    file = place / REQUEST_FILE
    return ImportRequest(**json.loads(file.read_bytes())) if file.exists() else None


def _keep(place: Path, made: ImportRequest) -> None:
    write_private(place / REQUEST_FILE, json.dumps(asdict(made), indent=1).encode())


def _asked(doing: str, call: Callable[[], Answer]) -> Answer:
    """Call KMS, patient with a key that was made a moment ago.

    KMS is eventually consistent: a call right after CreateKey may answer NotFoundException (KMS
    developer guide, "Programming eventual consistency").
    """
    try:
        for attempt in stamina.retry_context(on=_may_pass, attempts=None, timeout=PROPAGATION_SECONDS):
            with attempt:
                return call()
    except ClientError as error:
        raise _refusal(error, doing) from error
    raise AssertionError("a retry context either returns or raises")


def _may_pass(error: Exception) -> bool:
    return code_of(error) in {"NotFoundException", "DependencyTimeoutException", "KMSInternalException"}


_NOT_UNWRAPPED = (
    "KMS could not unwrap the file to a 256-bit key: it was wrapped with PKCS#1 v1.5 or with OAEP over SHA-1"
    " instead of OAEP over SHA-256, or with another public key than this request's, or what was wrapped is not"
    " 32 raw bytes (base64 or PEM text, say)"
)
_WRAP_AGAIN = "ask for a new import request, and have the key wrapped again with its public key"
_REFUSALS: dict[str, tuple[type[KeyshiftError], str, str, str]] = {
    "InvalidCiphertextException": (
        RefusedInput,
        "key-not-unwrapped",
        _NOT_UNWRAPPED,
        "wrap it again with `keyshift key wrap`, or with the three openssl lines that it prints",
    ),
    "IncorrectKeyMaterialException": (
        RefusedInput,
        "other-key-material",
        "the key already belongs to other material: KMS takes only the same bytes again",
        "to use another key, start a rotation",
    ),
    "ExpiredImportTokenException": (
        RefusedInput,
        "import-token-expired",
        "the import token has expired; KMS issues it for 24 hours",
        _WRAP_AGAIN,
    ),
    "InvalidImportTokenException": (
        RefusedInput,
        "import-token-invalid",
        "the import token is not of this key, or not of the public key that was used",
        _WRAP_AGAIN,
    ),
    "KMSInvalidStateException": (
        RefusedInput,
        "key-state",
        "the key's state does not allow it (disabled, or to be deleted)",
        "see the key's state in the layout and in KMS",
    ),
    "UnsupportedOperationException": (
        RefusedInput,
        "key-origin",
        "the key was not made for imported material (its origin is not EXTERNAL)",
        "see the tenant's key mode",
    ),
    "NotFoundException": (
        CloudError,
        "key-missing",
        "the key does not exist in this account and Region",
        "see the stack's outputs",
    ),
    "AccessDeniedException": (
        CloudError,
        "key-denied",
        "we are not allowed to, by the key policy or by our own role",
        "see the key policy: our account's administrators import",
    ),
}
"""AWS's code -> what kind of error it is, our code, what it means, what to do."""


def _refusal(error: ClientError, doing: str) -> KeyshiftError:
    if code_of(error) not in _REFUSALS:
        return explained(error, doing)
    kind, code, sentence, hint = _REFUSALS[code_of(error)]
    return kind(f"{doing}: {sentence}", hint=hint, code=code)
