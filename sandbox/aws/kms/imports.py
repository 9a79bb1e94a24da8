"""Key material that the customer brings: wrapped under our RSA key, never seen in clear outside."""

import base64
import os
from dataclasses import replace
from typing import Any

from sandbox.aws.kms import refusals
from sandbox.aws.kms.call import Call
from sandbox.aws.kms.model import ImportToken, Key, KeyState, Material, MaterialState
from sandbox.aws.kms.rotation import material_id, without_material
from sandbox.aws.kms.wrapping import ALGORITHMS, BITS, NotUnwrapped, private_bytes, public_bytes, unwrap

_DAY = 86_400
_TOKEN_BYTES = 256


def get_parameters_for_import(call: Call, key: Key) -> dict[str, Any]:
    """A public key and its token, valid for 24 hours together. Several sets may be open at once."""
    algorithm, spec = call.request["WrappingAlgorithm"], call.request["WrappingKeySpec"]
    if algorithm not in ALGORITHMS or spec not in BITS:
        raise refusals.WRAPPING_UNSUITABLE.error(algorithm=f"{algorithm} with {spec}")
    call.kms.forget_tokens(before=call.now - _DAY)
    pair = call.kms.wrapping_keys.take(spec)
    token = ImportToken(
        token=os.urandom(_TOKEN_BYTES),
        key_id=key.id,
        algorithm=algorithm,
        private_key=private_bytes(pair),
        number=1 + max((token.number for token in call.kms.tokens.values()), default=0),
        valid_to=call.now + _DAY,
    )
    call.kms.put_token(token)
    return {
        "KeyId": key.arn,
        "ImportToken": base64.b64encode(token.token).decode("ascii"),
        "PublicKey": base64.b64encode(public_bytes(pair)).decode("ascii"),
        "ParametersValidTo": token.valid_to,
    }


def import_key_material(call: Call, key: Key) -> dict[str, Any]:
    valid_to = _valid_to(call)
    token = _token(call, key)
    try:
        secret = unwrap(token.private_key, token.algorithm, call.request["EncryptedKeyMaterial"])
    except NotUnwrapped as error:
        raise refusals.NOT_UNWRAPPED.error() from error
    identity = material_id(key.id, secret)
    known = key.material(identity)
    if _is_new(call, key):
        key = _with_new_material(call, key, known, Material(identity, MaterialState.CURRENT, secret, valid_to=valid_to))
    else:
        if known is None or call.request.get("KeyMaterialId", identity) != identity:
            raise refusals.OTHER_MATERIAL.error()
        description = call.request.get("KeyMaterialDescription", known.description)
        back = replace(known, secret=secret, valid_to=valid_to, description=description)
        key = replace(key, materials=tuple(back if m.id == identity else m for m in key.materials))
    if key.state is KeyState.DISABLED:
        key = replace(key, is_disabled=False)  # it was PendingImport: an import ends in Enabled (API)
    call.kms.put(key)
    call.kms.put_token(replace(token, is_used=True))
    return {"KeyId": key.arn, "KeyMaterialId": identity}


def _valid_to(call: Call) -> float | None:
    """The end of the material in seconds since the epoch; None if it does not expire. It expires by default."""
    valid_to = call.request.get("ValidTo")
    if call.request.get("ExpirationModel", "KEY_MATERIAL_EXPIRES") == "KEY_MATERIAL_DOES_NOT_EXPIRE":
        if valid_to is not None:
            raise refusals.VALID_TO_SUPERFLUOUS.error()
        return None
    if valid_to is None:
        raise refusals.VALID_TO_MISSING.error()
    if not call.now < valid_to <= call.now + 365 * _DAY:
        raise refusals.VALID_TO_OUT_OF_RANGE.error()
    return valid_to


def _token(call: Call, key: Key) -> ImportToken:
    """A used token serves again (the same material may come back), until a newer set is issued for the key."""
    token = call.kms.tokens.get(call.request["ImportToken"])
    if token is None or token.key_id != key.id:
        raise refusals.TOKEN_INVALID.error(text="The import token is not one of this key.")
    if token.valid_to <= call.now:
        raise refusals.TOKEN_EXPIRED.error()
    newest = max(other.number for other in call.kms.tokens.values() if other.key_id == key.id)
    if token.is_used and token.number < newest:
        raise refusals.TOKEN_INVALID.error(text="The import token was used, and a newer one was issued since.")
    return token


def _is_new(call: Call, key: Key) -> bool:
    default = "EXISTING_KEY_MATERIAL" if key.materials else "NEW_KEY_MATERIAL"
    is_new = call.request.get("ImportType", default) == "NEW_KEY_MATERIAL"
    if is_new and "KeyMaterialId" in call.request:
        raise refusals.MATERIAL_ID_WITH_NEW.error()
    return is_new


def _with_new_material(call: Call, key: Key, known: Material | None, material: Material) -> Key:
    """The first material becomes current at once; a later one waits for RotateKeyOnDemand."""
    if known is not None:
        raise refusals.KNOWN_MATERIAL.error()
    if key.pending is not None:
        raise refusals.MATERIAL_PENDING_ALREADY.error(arn=key.arn)
    if key.materials and key.state is KeyState.PENDING_IMPORT:
        raise refusals.NEW_MATERIAL_WHILE_INCOMPLETE.error(arn=key.arn)
    state = MaterialState.PENDING_ROTATION if key.materials else MaterialState.CURRENT
    material = replace(material, state=state, description=call.request.get("KeyMaterialDescription", ""))
    return replace(key, materials=(*key.materials, material))


def delete_imported_key_material(call: Call, key: Key) -> dict[str, Any]:
    """Without KeyMaterialId the current material goes. Deleting what is not there changes nothing."""
    wanted = call.request.get("KeyMaterialId")
    material = key.current if wanted is None else key.material(wanted)
    if material is None:
        if wanted is not None:
            raise refusals.NO_SUCH_MATERIAL.error(arn=key.arn, material=wanted)
        return {"KeyId": key.arn}
    call.kms.put(without_material(key, material))
    call.kms.shred()
    return {"KeyId": key.arn, "KeyMaterialId": material.id}
