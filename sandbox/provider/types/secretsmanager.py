"""aws.secretsmanager: Secret, SecretVersion."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
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

_GONE = "ResourceNotFoundException"
_CURRENT = "AWSCURRENT"


@contextmanager
def _gone() -> Iterator[None]:
    """A secret that waits for its deletion is gone as well, though the service says it in other words."""
    try:
        with gone_on(_GONE):
            yield
    except Exception as error:
        words = ("marked for deletion", "marked deleted", "was deleted", "scheduled for deletion")
        if error_code(error) == "InvalidRequestException" and any(text in str(error) for text in words):
            raise GoneError(str(error)) from error
        raise


def _create_secret(resource: Resource) -> str:
    client, name = resource.client("secretsmanager"), resource.inputs["name"]
    names = {"description": "Description", "kmsKeyId": "KmsKeyId", "name": "Name"}
    try:
        return client.create_secret(**given(resource.inputs, names), Tags=pairs(wanted_tags(resource)))["ARN"]
    except Exception as error:
        if error_code(error) != "ResourceExistsException":
            raise
        found = client.describe_secret(SecretId=name)
        if not is_ours(resource, from_pairs(found.get("Tags", []))):
            raise
        client.update_secret(
            SecretId=found["ARN"], **given(resource.inputs, {"description": "Description", "kmsKeyId": "KmsKeyId"})
        )
        return found["ARN"]


def _configure_secret(resource: Resource) -> None:
    client, policy = resource.client("secretsmanager"), resource.inputs.get("policy")
    if policy:
        client.put_resource_policy(SecretId=resource.id, ResourcePolicy=policy)


def _read_secret(resource: Resource) -> Properties:
    client = resource.client("secretsmanager")
    with _gone():
        found = client.describe_secret(SecretId=resource.id)
        policy = client.get_resource_policy(SecretId=resource.id).get("ResourcePolicy")
    if found.get("DeletedDate"):
        raise GoneError(f"secret {resource.id} is marked for deletion")
    return {
        "arn": found["ARN"],
        "description": found.get("Description") or None,
        "kmsKeyId": found.get("KmsKeyId") or None,
        "name": found["Name"],
        "policy": policy or "",
        "region": found["ARN"].split(":")[3],
        **found_tags(resource, from_pairs(found.get("Tags", []))),
    }


def _update_secret(resource: Resource) -> None:
    client, inputs = resource.client("secretsmanager"), resource.inputs
    client.update_secret(
        SecretId=resource.id,
        Description=inputs.get("description") or "",
        **given(inputs, {"kmsKeyId": "KmsKeyId"}),
    )
    present = from_pairs(client.describe_secret(SecretId=resource.id).get("Tags", []))
    client.tag_resource(SecretId=resource.id, Tags=pairs(wanted_tags(resource)))
    if surplus := surplus_tags(resource, present):
        client.untag_resource(SecretId=resource.id, TagKeys=surplus)


def _delete_secret(resource: Resource) -> None:
    days = resource.state.get("recoveryWindowInDays")
    window: dict[str, Any] = {"RecoveryWindowInDays": days} if days else {"ForceDeleteWithoutRecovery": True}
    with _gone():
        resource.client("secretsmanager").delete_secret(SecretId=resource.id, **window)


def _validate_secret(inputs: Properties) -> Problems:
    days = inputs.get("recoveryWindowInDays")
    if isinstance(days, int) and days != 0 and not 7 <= days <= 30:
        yield "recoveryWindowInDays", f"recoveryWindowInDays must be 0 or 7 to 30, got {days}"


def _create_version(resource: Resource) -> str:
    inputs = resource.inputs
    text, binary = inputs.get("secretString"), inputs.get("secretBinary")
    content: dict[str, Any] = {} if text is None else {"SecretString": text}
    if binary is not None:
        content = {"SecretBinary": base64.b64decode(binary)}
    digest = hashlib.sha256(f"{text} {binary}".encode()).hexdigest()
    put = resource.client("secretsmanager").put_secret_value(
        SecretId=inputs["secretId"],
        # one token for one content: a lost create asked for again makes no second version
        ClientRequestToken=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{resource.urn} {inputs['secretId']} {digest}")),
        **content,
        **given(inputs, {"versionStages": "VersionStages"}),
    )
    return f"{inputs['secretId']}|{put['VersionId']}"


def _version_key(resource: Resource) -> dict[str, str]:
    secret, _, version = resource.id.rpartition("|")
    return {"SecretId": secret, "VersionId": version}


def _read_version(resource: Resource) -> Properties:
    key = _version_key(resource)
    with _gone():
        found = resource.client("secretsmanager").get_secret_value(**key)
    binary = found.get("SecretBinary")
    return {
        "arn": found["ARN"],
        "hasSecretStringWo": False,
        "region": found["ARN"].split(":")[3],
        "secretArn": found["ARN"],
        "secretBinary": base64.b64encode(binary).decode() if binary else None,
        "secretId": key["SecretId"],
        "secretString": found.get("SecretString"),
        "versionId": found["VersionId"],
        "versionStages": found.get("VersionStages", []),
    }


def _update_version(resource: Resource) -> None:
    client, key = resource.client("secretsmanager"), _version_key(resource)
    was, wanted = set(resource.state.get("versionStages") or []), set(resource.inputs.get("versionStages") or [])
    for stage in sorted(wanted - was):
        client.update_secret_version_stage(
            SecretId=key["SecretId"], VersionStage=stage, MoveToVersionId=key["VersionId"]
        )
    _remove_stages(resource, sorted(was - wanted))


def _remove_stages(resource: Resource, stages: list[str]) -> None:
    key = _version_key(resource)
    for stage in stages:
        if stage != _CURRENT:  # it can only move to another version, never be taken away
            resource.client("secretsmanager").update_secret_version_stage(
                SecretId=key["SecretId"], VersionStage=stage, RemoveFromVersionId=key["VersionId"]
            )


def _delete_version(resource: Resource) -> None:
    """Takes the version's stages, as the real provider does: what has none is deleted by the service in time."""
    with _gone():
        found = resource.client("secretsmanager").get_secret_value(**_version_key(resource))
        _remove_stages(resource, found.get("VersionStages", []))


def _validate_version(inputs: Properties) -> Problems:
    if inputs.get("secretString") is not None and inputs.get("secretBinary") is not None:
        yield "secretBinary", "conflicts with secretString"


KINDS = {
    "Secret": Kind(
        create=_create_secret,
        configure=_configure_secret,
        read=_read_secret,
        update=_update_secret,
        delete=_delete_secret,
        autoname=Autoname("name", max_length=512),
        defaults={"forceOverwriteReplicaSecret": False, "recoveryWindowInDays": 30},
        force_new=frozenset({"name", "region"}),
        policies=frozenset({"policy"}),
        unsupported=frozenset({"namePrefix", "replicas", "type"}),
        absent=frozenset({"namePrefix", "replicas"}),
        validate=_validate_secret,
    ),
    "SecretVersion": Kind(
        create=_create_version,
        read=_read_version,
        update=_update_version,
        delete=_delete_version,
        force_new=frozenset({"region", "secretBinary", "secretId", "secretString"}),
        sets=frozenset({"versionStages"}),
        secrets=frozenset({"secretBinary", "secretString"}),
        unsupported=frozenset({"secretStringWo", "secretStringWoVersion"}),
        validate=_validate_version,
    ),
}
