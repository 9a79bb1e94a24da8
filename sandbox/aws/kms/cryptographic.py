"""Encrypt, Decrypt, ReEncrypt, GenerateDataKey and GenerateDataKeyWithoutPlaintext."""

import base64
import os
import re
from typing import Any

from sandbox.aws.kms import refusals
from sandbox.aws.kms.call import Call, Reach
from sandbox.aws.kms.ciphertext import Ciphertext, NotACiphertext, seal, unseal
from sandbox.aws.kms.model import Key

_ALGORITHM = "SYMMETRIC_DEFAULT"
_CONTEXT_CHARACTERS = 8192
_DATA_KEY_BYTES = {"AES_128": 16, "AES_256": 32}
_BARE_KEY_ID = re.compile(r"[0-9a-f-]{36}")


def _wire(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _check(call: Call) -> None:
    """Refuse what none of these operations takes here."""
    for member in ("EncryptionAlgorithm", "SourceEncryptionAlgorithm", "DestinationEncryptionAlgorithm"):
        if call.request.get(member, _ALGORITHM) != _ALGORITHM:
            raise refusals.OTHER_ALGORITHM.error(algorithm=call.request[member])
    if "Recipient" in call.request:
        raise refusals.NOT_OFFERED.error(what="Recipient")
    for member in ("EncryptionContext", "SourceEncryptionContext", "DestinationEncryptionContext"):
        context = call.request.get(member, {})
        if sum(len(name) + len(value) for name, value in context.items()) > _CONTEXT_CHARACTERS:
            raise refusals.INVALID_REQUEST.error(text=f"{member} is longer than {_CONTEXT_CHARACTERS} characters.")


def _sealing_key(call: Call, ref: str, context: dict[str, str], action: str | None = None) -> Key:
    key = call.find(ref, Reach.ANY_KEY_OR_ALIAS, action)
    call.authorize(key, action, context)
    call.require_state(key)
    return key


def _seal(key: Key, plaintext: bytes, context: dict[str, str]) -> str:
    """Only for a key that is Enabled: it has its current material then."""
    return _wire(seal(key, key.current, plaintext, context))


def encrypt(call: Call) -> dict[str, Any]:
    _check(call)
    context = call.request.get("EncryptionContext", {})
    key = _sealing_key(call, call.request["KeyId"], context)
    call.finish_dry_run()
    blob = _seal(key, call.request["Plaintext"], context)
    return {"CiphertextBlob": blob, "KeyId": key.arn, "EncryptionAlgorithm": _ALGORITHM}


def generate_data_key(call: Call) -> dict[str, Any]:
    answer, plaintext = _data_key(call)
    return {**answer, "Plaintext": _wire(plaintext)}


def generate_data_key_without_plaintext(call: Call) -> dict[str, Any]:
    return _data_key(call)[0]


def _data_key(call: Call) -> tuple[dict[str, Any], bytes]:
    _check(call)
    spec, number = call.request.get("KeySpec"), call.request.get("NumberOfBytes")
    if (spec is None) == (number is None):
        raise refusals.INVALID_REQUEST.error(text="Please specify either number of bytes or key spec.")
    context = call.request.get("EncryptionContext", {})
    key = _sealing_key(call, call.request["KeyId"], context)
    call.finish_dry_run()
    plaintext = os.urandom(number if spec is None else _DATA_KEY_BYTES[spec])
    blob = _seal(key, plaintext, context)
    return {"CiphertextBlob": blob, "KeyId": key.arn, "KeyMaterialId": key.current.id}, plaintext


def decrypt(call: Call) -> dict[str, Any]:
    _check(call)
    context = call.request.get("EncryptionContext", {})
    key, material_id, plaintext = _open(call, call.request.get("KeyId"), context, call.action)
    call.finish_dry_run()
    return {
        "KeyId": key.arn,
        "Plaintext": _wire(plaintext),
        "EncryptionAlgorithm": _ALGORITHM,
        "KeyMaterialId": material_id,
    }


def re_encrypt(call: Call) -> dict[str, Any]:
    """Two permissions: kms:ReEncryptFrom on the source key, kms:ReEncryptTo on the destination."""
    _check(call)
    source_context = call.request.get("SourceEncryptionContext", {})
    source, material_id, plaintext = _open(call, call.request.get("SourceKeyId"), source_context, "kms:ReEncryptFrom")
    call.request_alias = None
    context = call.request.get("DestinationEncryptionContext", {})
    key = _sealing_key(call, call.request["DestinationKeyId"], context, "kms:ReEncryptTo")
    call.finish_dry_run()
    return {
        "CiphertextBlob": _seal(key, plaintext, context),
        "SourceKeyId": source.arn,
        "KeyId": key.arn,
        "SourceEncryptionAlgorithm": _ALGORITHM,
        "DestinationEncryptionAlgorithm": _ALGORITHM,
        "SourceKeyMaterialId": material_id,
        "DestinationKeyMaterialId": key.current.id,
    }


def _open(call: Call, ref: str | None, context: dict[str, str], action: str) -> tuple[Key, str, bytes]:
    """The key of the ciphertext, the id of its material, the plaintext (empty if the dry run ignores it)."""
    ignores_ciphertext = "IGNORE_CIPHERTEXT" in call.request.get("DryRunModifiers", ())
    if ignores_ciphertext:
        if not call.is_dry_run or ref is None:
            raise refusals.INVALID_REQUEST.error(text="IGNORE_CIPHERTEXT needs DryRun and the key's identifier.")
        key = call.find(ref, Reach.ANY_KEY_OR_ALIAS, action)
        call.authorize(key, action, context)
        call.require_state(key)
        return key, "", b""
    if "CiphertextBlob" not in call.request:
        raise refusals.INVALID_REQUEST.error(text="CiphertextBlob is required.")
    try:
        ciphertext = Ciphertext.read(call.request["CiphertextBlob"])
        key = _opening_key(call, ref, ciphertext, action)
        call.authorize(key, action, context, refusals.CIPHERTEXT_KEY_HIDDEN)
        if key.id != ciphertext.key_id:
            raise refusals.OTHER_KEY.error()
        call.require_state(key)
        return key, ciphertext.material_id, unseal(key, ciphertext, context)
    except NotACiphertext as error:
        raise refusals.BAD_CIPHERTEXT.error() from error


def _opening_key(call: Call, ref: str | None, ciphertext: Ciphertext, action: str) -> Key:
    """The named key; else the ciphertext's. A bare key ID may name a foreign key here (API, Decrypt)."""
    if ref is not None and not (_BARE_KEY_ID.fullmatch(ref) and ref == ciphertext.key_id):
        return call.find(ref, Reach.ANY_KEY_OR_ALIAS, action)
    key = call.kms.keys.get(ciphertext.key_id)
    if key is None:
        raise refusals.CIPHERTEXT_KEY_HIDDEN.error(caller=call.caller.arn, action=action)
    return key
