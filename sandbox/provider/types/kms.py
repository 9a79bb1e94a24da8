"""aws.kms: Key, ExternalKey (made without material), Alias."""

from __future__ import annotations

from functools import partial
from typing import Any

from sandbox.provider.errors import GoneError
from sandbox.provider.kinds import Autoname, Kind, Problems, Properties, Resource
from sandbox.provider.types.aws import (
    error_code,
    found_tags,
    from_pairs,
    given,
    gone_on,
    is_ours,
    pairs,
    surplus_tags,
    wanted_tags,
)

_GONE = "NotFoundException"
_DELETION_DAYS = 30


def _create_key(resource: Resource, *, origin: str) -> str:
    lost = _lost_key(resource, origin)
    if lost is not None:
        return lost
    names = {
        "description": "Description",
        "customerMasterKeySpec": "KeySpec",
        "keySpec": "KeySpec",
        "keyUsage": "KeyUsage",
        "multiRegion": "MultiRegion",
        "policy": "Policy",
        "bypassPolicyLockoutSafetyCheck": "BypassPolicyLockoutSafetyCheck",
    }
    response = resource.client("kms").create_key(
        Origin=origin, Tags=pairs(wanted_tags(resource), "TagKey", "TagValue"), **given(resource.inputs, names)
    )
    return response["KeyMetadata"]["KeyId"]


def _lost_key(resource: Resource, origin: str) -> str | None:
    """The key of an earlier create that was never recorded. Key ids are random, so the mark is looked for."""
    if not resource.may_adopt:
        return None
    kms = resource.client("kms")
    for page in kms.get_paginator("list_keys").paginate():
        for key in page["Keys"]:
            if _is_ours(resource, key["KeyId"], origin):
                return key["KeyId"]
    return None


def _is_ours(resource: Resource, id_: str, origin: str) -> bool:
    kms = resource.client("kms")
    try:
        metadata = kms.describe_key(KeyId=id_)["KeyMetadata"]
        is_alive = metadata["KeyState"] != "PendingDeletion" and metadata.get("KeyManager", "CUSTOMER") == "CUSTOMER"
        if not is_alive or metadata.get("Origin") != origin:
            return False
        tags = kms.list_resource_tags(KeyId=id_).get("Tags", [])
    except Exception as error:
        if error_code(error) not in {"AccessDeniedException", _GONE}:
            raise
        return False  # a key that lets us not even look was not made by this program
    return is_ours(resource, from_pairs(tags, "TagKey", "TagValue"))


def _configure_key(resource: Resource) -> None:
    """Brings rotation and the enabled state to what the program says; both cannot be part of CreateKey."""
    kms, inputs = resource.client("kms"), resource.inputs
    if inputs.get("enableKeyRotation") and not resource.state.get("enableKeyRotation"):
        kms.enable_key_rotation(KeyId=resource.id, **given(inputs, {"rotationPeriodInDays": "RotationPeriodInDays"}))
    elif resource.state.get("enableKeyRotation") and not inputs.get("enableKeyRotation"):
        kms.disable_key_rotation(KeyId=resource.id)
    _set_enabled(resource, inputs.get("isEnabled"))


def _configure_external_key(resource: Resource) -> None:
    _set_enabled(resource, resource.inputs.get("enabled"))


def _set_enabled(resource: Resource, wanted: bool | None) -> None:
    """Enables or disables. A key that waits for its material can be neither: the real provider skips it too."""
    kms = resource.client("kms")
    metadata = kms.describe_key(KeyId=resource.id)["KeyMetadata"]
    if wanted is None or metadata["KeyState"] == "PendingImport" or metadata["Enabled"] == wanted:
        return
    (kms.enable_key if wanted else kms.disable_key)(KeyId=resource.id)


def _update_key(resource: Resource) -> None:
    kms, inputs, id_ = resource.client("kms"), resource.inputs, resource.id
    if inputs.get("policy") and inputs["policy"] != resource.state.get("policy"):
        bypass = given(inputs, {"bypassPolicyLockoutSafetyCheck": "BypassPolicyLockoutSafetyCheck"})
        kms.put_key_policy(KeyId=id_, PolicyName="default", Policy=inputs["policy"], **bypass)
    if (inputs.get("description") or "") != (resource.state.get("description") or ""):
        kms.update_key_description(KeyId=id_, Description=inputs.get("description") or "")
    present = from_pairs(kms.list_resource_tags(KeyId=id_).get("Tags", []), "TagKey", "TagValue")
    kms.tag_resource(KeyId=id_, Tags=pairs(wanted_tags(resource), "TagKey", "TagValue"))
    if surplus := surplus_tags(resource, present):
        kms.untag_resource(KeyId=id_, TagKeys=surplus)


def _read_metadata(resource: Resource) -> dict[str, Any]:
    with gone_on(_GONE):
        metadata = resource.client("kms").describe_key(KeyId=resource.id)["KeyMetadata"]
    if metadata["KeyState"] in {"PendingDeletion", "PendingReplicaDeletion"}:
        raise GoneError(f"key {resource.id} is {metadata['KeyState']}")
    return metadata


def _read_common(resource: Resource, metadata: dict[str, Any]) -> Properties:
    kms = resource.client("kms")
    tags = from_pairs(kms.list_resource_tags(KeyId=resource.id).get("Tags", []), "TagKey", "TagValue")
    return {
        "arn": metadata["Arn"],
        "description": metadata.get("Description") or None,
        "keyUsage": metadata.get("KeyUsage", "ENCRYPT_DECRYPT"),
        "multiRegion": metadata.get("MultiRegion", False),
        "policy": kms.get_key_policy(KeyId=resource.id, PolicyName="default")["Policy"],
        "region": metadata["Arn"].split(":")[3],
        **found_tags(resource, tags),
    }


def _read_key(resource: Resource) -> Properties:
    metadata = _read_metadata(resource)
    rotation = resource.client("kms").get_key_rotation_status(KeyId=resource.id)
    return {
        **_read_common(resource, metadata),
        "customerMasterKeySpec": metadata.get("KeySpec", "SYMMETRIC_DEFAULT"),
        "enableKeyRotation": rotation["KeyRotationEnabled"],
        "isEnabled": metadata["Enabled"],
        "keyId": metadata["KeyId"],
        "rotationPeriodInDays": rotation.get("RotationPeriodInDays"),
    }


def _read_external_key(resource: Resource) -> Properties:
    metadata = _read_metadata(resource)
    valid_to = metadata.get("ValidTo")
    return {
        **_read_common(resource, metadata),
        "enabled": metadata["Enabled"],
        "expirationModel": metadata.get("ExpirationModel", ""),
        "keySpec": metadata.get("KeySpec", "SYMMETRIC_DEFAULT"),
        "keyState": metadata["KeyState"],
        "validTo": valid_to.strftime("%Y-%m-%dT%H:%M:%SZ") if valid_to else None,
    }


def _delete_key(resource: Resource) -> None:
    days = resource.state.get("deletionWindowInDays") or _DELETION_DAYS
    with gone_on(_GONE):
        try:
            resource.client("kms").schedule_key_deletion(KeyId=resource.id, PendingWindowInDays=days)
        except Exception as error:
            # said of a key whose deletion an interrupted delete has scheduled already
            if error_code(error) != "KMSInvalidStateException" or "pending deletion" not in str(error):
                raise


def _validate_key(inputs: Properties) -> Problems:
    days = inputs.get("deletionWindowInDays")
    if isinstance(days, int) and not 7 <= days <= 30:
        yield "deletionWindowInDays", f"deletionWindowInDays must be 7 to 30, got {days}"


def _create_alias(resource: Resource) -> str:
    name, target = resource.inputs["name"], resource.inputs["targetKeyId"]
    kms = resource.client("kms")
    try:
        kms.create_alias(AliasName=name, TargetKeyId=target)
    except Exception as error:
        if error_code(error) != "AlreadyExistsException" or not resource.may_adopt:
            raise
        # an alias has no tags: one that leads to the same key is what a lost create would have left
        if not _is_same_key(target, _find_alias(resource, name).get("TargetKeyId", "")):
            raise
    return name


def _find_alias(resource: Resource, name: str) -> dict[str, str]:
    for page in resource.client("kms").get_paginator("list_aliases").paginate():
        for alias in page["Aliases"]:
            if alias["AliasName"] == name:
                return alias
    raise GoneError(f"alias {name} not found")


def _read_alias(resource: Resource) -> Properties:
    alias = _find_alias(resource, resource.id)
    arn = alias["AliasArn"]
    return {
        "arn": arn,
        "name": alias["AliasName"],
        "region": arn.split(":")[3],
        "targetKeyArn": f"{arn.rsplit(':', 1)[0]}:key/{alias['TargetKeyId']}",
        "targetKeyId": alias["TargetKeyId"],
    }


def _update_alias(resource: Resource) -> None:
    resource.client("kms").update_alias(AliasName=resource.id, TargetKeyId=resource.inputs["targetKeyId"])


def _delete_alias(resource: Resource) -> None:
    with gone_on(_GONE):
        resource.client("kms").delete_alias(AliasName=resource.id)


def _is_same_key(one: str, other: str) -> bool:
    return one.rsplit("/", 1)[-1] == other.rsplit("/", 1)[-1]


def _validate_alias(inputs: Properties) -> Problems:
    name = inputs.get("name")
    if isinstance(name, str) and not name.startswith("alias/"):
        yield "name", f"name must begin with 'alias/', got '{name}'"


def _validate_external_key(inputs: Properties) -> Problems:
    yield from _validate_key(inputs)
    if inputs.get("keyMaterialBase64") is not None:
        yield "keyMaterialBase64", "key material would be kept in the state; import it by ImportKeyMaterial"


KINDS = {
    "Key": Kind(
        create=partial(_create_key, origin="AWS_KMS"),
        configure=_configure_key,
        read=_read_key,
        update=_update_key,
        delete=_delete_key,
        defaults={
            "bypassPolicyLockoutSafetyCheck": False,
            "customerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "enableKeyRotation": False,
            "isEnabled": True,
            "keyUsage": "ENCRYPT_DECRYPT",
        },
        force_new=frozenset({"customerMasterKeySpec", "keyUsage", "multiRegion", "region"}),
        policies=frozenset({"policy"}),
        unsupported=frozenset({"customKeyStoreId", "xksKeyId"}),
        validate=_validate_key,
    ),
    "ExternalKey": Kind(
        create=partial(_create_key, origin="EXTERNAL"),
        configure=_configure_external_key,
        read=_read_external_key,
        update=_update_key,
        delete=_delete_key,
        defaults={"bypassPolicyLockoutSafetyCheck": False, "deletionWindowInDays": _DELETION_DAYS},
        force_new=frozenset({"keySpec", "keyUsage", "multiRegion", "region"}),
        policies=frozenset({"policy"}),
        volatile=frozenset({"enabled", "keyState"}),
        validate=_validate_external_key,
    ),
    "Alias": Kind(
        create=_create_alias,
        read=_read_alias,
        update=_update_alias,
        delete=_delete_alias,
        autoname=Autoname("name", prefix="alias/", max_length=250),
        force_new=frozenset({"name", "region"}),
        same={"targetKeyId": _is_same_key},
        unsupported=frozenset({"namePrefix"}),
        absent=frozenset({"namePrefix"}),
        validate=_validate_alias,
    ),
}
