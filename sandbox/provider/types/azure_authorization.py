"""azure-native.authorization: RoleAssignment, RoleDefinition."""

from __future__ import annotations

from typing import Any

from sandbox.provider.kinds import Properties, Resource
from sandbox.provider.types.azure import Arm, Document, given, is_same_id, kind, told

_AUTHORIZATION = "/providers/Microsoft.Authorization/"
_ASSIGNMENT = {name: name for name in ("description", "principalId", "principalType", "roleDefinitionId", "scope")}
_DEFINITION = {
    "assignableScopes": "assignableScopes",
    "description": "description",
    "permissions": "permissions",
    "roleName": "roleName",
    "roleType": "type",
}
_ACTIONS = ("actions", "notActions", "dataActions", "notDataActions")


def _assignment(resource: Resource) -> str:
    inputs = resource.inputs
    return f"{inputs['scope']}{_AUTHORIZATION}roleAssignments/{inputs['roleAssignmentName']}"


def _assignment_body(inputs: Properties) -> Document:
    return {
        "properties": {name: inputs[name] for name in _ASSIGNMENT if name != "scope" and inputs.get(name) is not None}
    }


def _definition(resource: Resource) -> str:
    inputs = resource.inputs
    return f"{inputs['scope']}{_AUTHORIZATION}roleDefinitions/{inputs['roleDefinitionId']}"


def _definition_body(inputs: Properties) -> Document:
    return {"properties": given(inputs, _DEFINITION)}


def _is_same_permissions(wanted: Any, found: Any) -> bool:
    def meaning(permissions: Any) -> list[list[list[str]]]:
        return [[sorted(each.get(name) or ()) for name in _ACTIONS] for each in permissions]

    return meaning(wanted) == meaning(found)


KINDS = {
    "RoleAssignment": kind(
        Arm(
            token="azure-native:authorization:RoleAssignment",
            api="2022-04-01",
            path=_assignment,
            body=_assignment_body,
            shown=lambda found: {
                "createdOn": found["properties"]["createdOn"],
                **told(found["properties"], _ASSIGNMENT),
            },
            name="roleAssignmentName",
            takes=frozenset({"roleAssignmentName", *_ASSIGNMENT}),
            fixed=frozenset({"principalId", "roleAssignmentName", "roleDefinitionId", "scope"}),
        ),
        same={"roleDefinitionId": is_same_id, "scope": is_same_id},
        computed=frozenset({"principalType"}),
    ),
    "RoleDefinition": kind(
        Arm(
            token="azure-native:authorization:RoleDefinition",
            api="2022-05-01-preview",
            path=_definition,
            body=_definition_body,
            shown=lambda found: told(found["properties"], _DEFINITION),
            name="roleDefinitionId",
            takes=frozenset({"roleDefinitionId", "scope", *_DEFINITION}),
            fixed=frozenset({"roleDefinitionId", "scope"}),
        ),
        same={"permissions": _is_same_permissions},
        computed=frozenset({"roleType"}),
    ),
}
