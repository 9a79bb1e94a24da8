"""aws.iam: Role, RolePolicy."""

from __future__ import annotations

import json
from typing import Any

from sandbox.provider.kinds import Autoname, Kind, Properties, Resource
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

_GONE = "NoSuchEntity"


def _create_role(resource: Resource) -> str:
    names = {
        "assumeRolePolicy": "AssumeRolePolicyDocument",
        "description": "Description",
        "maxSessionDuration": "MaxSessionDuration",
        "name": "RoleName",
        "path": "Path",
        "permissionsBoundary": "PermissionsBoundary",
    }
    iam, name = resource.client("iam"), resource.inputs["name"]
    try:
        iam.create_role(**given(resource.inputs, names), Tags=pairs(wanted_tags(resource)))
    except Exception as error:
        if error_code(error) != "EntityAlreadyExists":
            raise
        role = iam.get_role(RoleName=name)["Role"]
        if not is_ours(resource, from_pairs(role.get("Tags", []))):
            raise
        _update_role(_as_found(resource, role))
    return name


def _as_found(resource: Resource, role: dict[str, Any]) -> Resource:
    """The resource as an update of what a lost create left."""
    return Resource(
        urn=resource.urn,
        inputs=resource.inputs,
        clouds=resource.clouds,
        id=role["RoleName"],
        state={"permissionsBoundary": role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn")},
    )


def _read_role(resource: Resource) -> Properties:
    iam = resource.client("iam")
    with gone_on(_GONE):
        role = iam.get_role(RoleName=resource.id)["Role"]
    attached = iam.list_attached_role_policies(RoleName=resource.id)["AttachedPolicies"]
    return {
        "arn": role["Arn"],
        "assumeRolePolicy": _text(role["AssumeRolePolicyDocument"]),
        "createDate": role["CreateDate"].strftime("%Y-%m-%dT%H:%M:%SZ"),
        "description": role.get("Description") or None,
        "managedPolicyArns": [policy["PolicyArn"] for policy in attached],
        "maxSessionDuration": role.get("MaxSessionDuration", 3600),
        "name": role["RoleName"],
        "path": role["Path"],
        "permissionsBoundary": role.get("PermissionsBoundary", {}).get("PermissionsBoundaryArn"),
        "uniqueId": role["RoleId"],
        **found_tags(resource, from_pairs(role.get("Tags", []))),
    }


def _text(document: Any) -> str:
    """botocore decodes IAM's documents where it can; state holds text."""
    return document if isinstance(document, str) else json.dumps(document)


def _update_role(resource: Resource) -> None:
    iam, inputs, name = resource.client("iam"), resource.inputs, resource.id
    iam.update_assume_role_policy(RoleName=name, PolicyDocument=inputs["assumeRolePolicy"])
    iam.update_role(
        RoleName=name,
        Description=inputs.get("description") or "",
        MaxSessionDuration=inputs.get("maxSessionDuration") or 3600,
    )
    boundary = inputs.get("permissionsBoundary")
    if boundary:
        iam.put_role_permissions_boundary(RoleName=name, PermissionsBoundary=boundary)
    elif resource.state.get("permissionsBoundary"):
        iam.delete_role_permissions_boundary(RoleName=name)
    present = from_pairs(iam.list_role_tags(RoleName=name).get("Tags", []))
    iam.tag_role(RoleName=name, Tags=pairs(wanted_tags(resource)))
    if surplus := surplus_tags(resource, present):
        iam.untag_role(RoleName=name, TagKeys=surplus)


def _delete_role(resource: Resource) -> None:
    iam, name = resource.client("iam"), resource.id
    with gone_on(_GONE):
        if resource.state.get("forceDetachPolicies"):
            for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
                iam.detach_role_policy(RoleName=name, PolicyArn=policy["PolicyArn"])
            for inline in iam.list_role_policies(RoleName=name)["PolicyNames"]:
                iam.delete_role_policy(RoleName=name, PolicyName=inline)
        iam.delete_role(RoleName=name)


def _create_policy(resource: Resource) -> str:
    _put_policy(resource)
    return f"{resource.inputs['role']}:{resource.inputs['name']}"


def _policy_key(resource: Resource) -> dict[str, str]:
    role, _, name = resource.id.partition(":")
    return {"RoleName": role, "PolicyName": name}


def _put_policy(resource: Resource) -> None:
    inputs = resource.inputs
    resource.client("iam").put_role_policy(
        RoleName=inputs["role"], PolicyName=inputs["name"], PolicyDocument=inputs["policy"]
    )


def _read_policy(resource: Resource) -> Properties:
    with gone_on(_GONE):
        found = resource.client("iam").get_role_policy(**_policy_key(resource))
    return {"name": found["PolicyName"], "policy": _text(found["PolicyDocument"]), "role": found["RoleName"]}


def _delete_policy(resource: Resource) -> None:
    with gone_on(_GONE):
        resource.client("iam").delete_role_policy(**_policy_key(resource))


KINDS = {
    "Role": Kind(
        create=_create_role,
        read=_read_role,
        update=_update_role,
        delete=_delete_role,
        autoname=Autoname("name", max_length=64),
        defaults={"forceDetachPolicies": False, "maxSessionDuration": 3600, "path": "/"},
        force_new=frozenset({"name", "path"}),
        policies=frozenset({"assumeRolePolicy"}),
        unsupported=frozenset({"inlinePolicies", "managedPolicyArns", "namePrefix"}),
        absent=frozenset({"inlinePolicies", "namePrefix"}),
    ),
    "RolePolicy": Kind(
        create=_create_policy,
        read=_read_policy,
        update=_put_policy,
        delete=_delete_policy,
        autoname=Autoname("name", max_length=128),
        force_new=frozenset({"name", "role"}),
        policies=frozenset({"policy"}),
        unsupported=frozenset({"namePrefix"}),
        absent=frozenset({"namePrefix"}),
    ),
}
