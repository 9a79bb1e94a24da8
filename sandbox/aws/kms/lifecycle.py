"""Making, describing, disabling and deleting keys; their policies and tags."""

import os
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sandbox.aws.kms import refusals
from sandbox.aws.kms.call import Call
from sandbox.aws.kms.model import Key, KeyState, Material, MaterialState, Origin
from sandbox.aws.kms.paging import page
from sandbox.aws.kms.policy import Policy, PolicyError, PrincipalError, default_policy
from sandbox.aws.kms.rotation import material_id

_DAY = 86_400
_POLICY_BYTES = 32_768
_TAGS = 50
_POLICY_NAME = "default"


def create_key(call: Call) -> dict[str, Any]:
    request = call.request
    _refuse_other_kinds(request)
    call.authorize_by_identity("*")
    tags = _tags(request.get("Tags", ()))
    if tags:
        call.authorize_by_identity("*", "kms:TagResource")
    key_id = str(uuid.uuid4())
    origin = Origin(request.get("Origin", Origin.AWS_KMS))
    materials: tuple[Material, ...] = ()
    if origin is Origin.AWS_KMS:
        secret = os.urandom(32)
        materials = (Material(material_id(key_id, secret), MaterialState.CURRENT, secret),)
    key = Key(
        id=key_id,
        account=call.caller.account,
        region=call.kms.region,
        origin=origin,
        policy_text=request.get("Policy", default_policy(call.caller.account)),
        created_at=call.now,
        description=request.get("Description", ""),
        tags=tags,
        materials=materials,
    )
    if "Policy" in request:
        _check_policy(call, key, request["Policy"])
    call.kms.put(key)
    return {"KeyMetadata": metadata(key)}


def _refuse_other_kinds(request: dict[str, Any]) -> None:
    spec = request.get("KeySpec", request.get("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT"))
    if spec != "SYMMETRIC_DEFAULT":
        raise refusals.NOT_OFFERED.error(what=f"KeySpec {spec}")
    if (usage := request.get("KeyUsage", "ENCRYPT_DECRYPT")) != "ENCRYPT_DECRYPT":
        raise refusals.INVALID_REQUEST.error(text=f"KeyUsage {usage} is not compatible with KeySpec {spec}")
    if request.get("MultiRegion"):
        raise refusals.NOT_OFFERED.error(what="MultiRegion")
    if (origin := request.get("Origin", Origin.AWS_KMS)) not in tuple(Origin):
        raise refusals.NOT_OFFERED.error(what=f"Origin {origin}")
    for member in ("CustomKeyStoreId", "XksKeyId"):
        if member in request:
            raise refusals.NOT_OFFERED.error(what=member)


def metadata(key: Key) -> dict[str, Any]:
    """KeyMetadata of CreateKey and DescribeKey. Its times are seconds since the epoch."""
    document = {
        "AWSAccountId": key.account,
        "KeyId": key.id,
        "Arn": key.arn,
        "CreationDate": key.created_at,
        "Enabled": key.state is KeyState.ENABLED,
        "Description": key.description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": key.state.value,
        "Origin": key.origin.value,
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
    }
    if key.deletion_date is not None:
        document["DeletionDate"] = key.deletion_date
    if key.current is not None:
        document["CurrentKeyMaterialId"] = key.current.id
    imported = [m for m in key.materials if m.is_permanent and m.secret is not None]
    if key.origin is Origin.EXTERNAL and imported:
        ends = [material.valid_to for material in imported if material.valid_to is not None]
        document["ExpirationModel"] = "KEY_MATERIAL_EXPIRES" if ends else "KEY_MATERIAL_DOES_NOT_EXPIRE"
        if ends:
            document["ValidTo"] = min(ends)
    return document


def describe_key(call: Call, key: Key) -> dict[str, Any]:
    return {"KeyMetadata": metadata(key)}


def list_keys(call: Call) -> dict[str, Any]:
    call.authorize_by_identity("*")
    own = sorted((k for k in call.kms.keys.values() if k.account == call.caller.account), key=lambda k: k.id)
    return page(call, "Keys", [(key.id, {"KeyId": key.id, "KeyArn": key.arn}) for key in own])


def update_key_description(call: Call, key: Key) -> dict[str, Any]:
    call.kms.put(replace(key, description=call.request["Description"]))
    return {}


def enable_key(call: Call, key: Key) -> dict[str, Any]:
    call.kms.put(replace(key, is_disabled=False))
    return {}


def disable_key(call: Call, key: Key) -> dict[str, Any]:
    call.kms.put(replace(key, is_disabled=True))
    return {}


def schedule_key_deletion(call: Call, key: Key) -> dict[str, Any]:
    days = call.request.get("PendingWindowInDays", 30)
    if not 7 <= days <= 30:
        raise refusals.INVALID_REQUEST.error(text="PendingWindowInDays must be between 7 and 30, inclusive.")
    key = replace(key, deletion_date=call.now + days * _DAY)
    call.kms.put(key)
    return {
        "KeyId": key.arn,
        "DeletionDate": key.deletion_date,
        "KeyState": key.state.value,
        "PendingWindowInDays": days,
    }


def cancel_key_deletion(call: Call, key: Key) -> dict[str, Any]:
    """The key comes back Disabled (API, CancelKeyDeletion)."""
    call.kms.put(replace(key, deletion_date=None, is_disabled=True))
    return {"KeyId": key.arn}


# --- policies ------------------------------------------------------------------------------------


def _check_policy(call: Call, key: Key, text: str) -> None:
    if len(text.encode()) > _POLICY_BYTES:
        raise refusals.POLICY_TOO_LONG.error()
    try:
        policy = Policy.parse(text)
    except PrincipalError as error:
        raise refusals.INVALID_PRINCIPAL.error() from error
    except PolicyError as error:
        raise refusals.MALFORMED_POLICY.error(text=str(error)) from error
    exists = call.kms.principal_exists
    if exists is not None and policy.missing_principals(exists):
        raise refusals.INVALID_PRINCIPAL.error()
    if not call.request.get("BypassPolicyLockoutSafetyCheck") and not call.may_put_policy(key, policy):
        raise refusals.LOCKED_OUT.error()


def get_key_policy(call: Call, key: Key) -> dict[str, Any]:
    if call.request.get("PolicyName", _POLICY_NAME) != _POLICY_NAME:
        raise refusals.NO_SUCH_POLICY.error()
    return {"Policy": key.policy_text, "PolicyName": _POLICY_NAME}


def put_key_policy(call: Call, key: Key) -> dict[str, Any]:
    if call.request.get("PolicyName", _POLICY_NAME) != _POLICY_NAME:
        raise refusals.NO_SUCH_POLICY.error()
    _check_policy(call, key, call.request["Policy"])
    call.kms.put(replace(key, policy_text=call.request["Policy"]))
    return {}


def list_key_policies(call: Call, key: Key) -> dict[str, Any]:
    return page(call, "PolicyNames", [(_POLICY_NAME, _POLICY_NAME)])


# --- tags ----------------------------------------------------------------------------------------


def _tags(tags: Sequence[dict[str, str]]) -> tuple[tuple[str, str], ...]:
    names = [tag["TagKey"] for tag in tags]
    if len(names) != len(set(names)):
        raise refusals.INVALID_TAG.error(text="Duplicate tag keys found.")
    if any(name.lower().startswith("aws:") for name in names):
        raise refusals.INVALID_TAG.error(text="aws: prefixed tag key names are not allowed for external use.")
    if len(names) > _TAGS:
        raise refusals.TOO_MANY_TAGS.error()
    return tuple((tag["TagKey"], tag["TagValue"]) for tag in tags)


def tag_resource(call: Call, key: Key) -> dict[str, Any]:
    tags = dict(key.tags) | dict(_tags(call.request["Tags"]))
    if len(tags) > _TAGS:
        raise refusals.TOO_MANY_TAGS.error()
    call.kms.put(replace(key, tags=tuple(tags.items())))
    return {}


def untag_resource(call: Call, key: Key) -> dict[str, Any]:
    gone = set(call.request["TagKeys"])
    call.kms.put(replace(key, tags=tuple((name, value) for name, value in key.tags if name not in gone)))
    return {}


def list_resource_tags(call: Call, key: Key) -> dict[str, Any]:
    return page(call, "Tags", [(name, {"TagKey": name, "TagValue": value}) for name, value in sorted(key.tags)])
