"""Microsoft.Authorization: role assignments and custom role definitions."""

from __future__ import annotations

import re

from sandbox.azure import refusals
from sandbox.azure.arm.kit import Kit, bad_request, known, missing
from sandbox.azure.arm.place import Place
from sandbox.azure.directory import Caller
from sandbox.azure.rbac import BUILT_IN
from sandbox.azure.store import Document
from sandbox.azure.world import SUBSCRIPTIONS, timestamp

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class RoleAssignments:
    name = "Microsoft.Authorization/roleAssignments"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        properties = body.get("properties") or {}
        known(properties, ("roleDefinitionId", "principalId", "principalType", "description"))
        role, principal = properties.get("roleDefinitionId") or "", properties.get("principalId") or ""
        if not _GUID.fullmatch(place.name):
            raise bad_request(
                "InvalidRoleAssignmentId", f"The role assignment ID '{place.name}' is not valid. It must be a GUID."
            )
        if not kit.rbac.has_role(role):
            raise refusals.NO_ROLE_DEFINITION.error(role=role.rsplit("/", 1)[-1])
        _check_principal(kit, principal, SUBSCRIPTIONS[place.subscription], properties.get("principalType"))
        scope = place.scope
        present = _found(kit, place)
        if present is not None:
            if (present["role"].lower(), present["principal"]) != (role.lower(), principal):
                raise refusals.ROLE_ASSIGNMENT_UPDATE.error()
            return 200, self.get(kit, place)
        for _, each in kit.world.store.all("assignment"):
            same = (each["scope"].lower(), _guid(each["role"]), each["principal"]) == (
                scope.lower(),
                _guid(role),
                principal,
            )
            if same and each.get("ended") is None:
                raise refusals.ROLE_ASSIGNMENT_EXISTS.error()
        document = {
            "description": properties.get("description"),
            "id": place.id,
            "made": kit.world.now(),
            "name": place.name,
            "principal": principal,
            "principalType": properties.get("principalType") or "ServicePrincipal",
            "role": role,
            "scope": scope,
        }
        kit.world.store.put("assignment", place.id, document)
        return 201, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        found = _found(kit, place)
        if found is None:
            raise refusals.NO_RESOURCE_OF_ID.error(type=self.name, name=place.name, group=place.group)
        return _shown(found)

    def delete(self, kit: Kit, place: Place) -> None:
        found = _found(kit, place)
        if found is not None:
            # It goes on to hold for a while: kept until then, under an id that no request can name.
            kit.world.store.delete("assignment", place.id)
            ending = {**found, "ended": kit.world.now(), "id": f"{place.id}#{kit.world.now()}"}
            kit.world.store.put("assignment", ending["id"], ending)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        """Those at the scope and below."""
        return [_shown(each) for _, each in kit.world.store.all("assignment", place.scope) if each.get("ended") is None]


def _found(kit: Kit, place: Place) -> Document | None:
    return kit.world.store.get("assignment", place.id)


def _shown(assignment: Document) -> Document:
    properties = {
        "createdOn": timestamp(assignment["made"]),
        "description": assignment.get("description"),
        "principalId": assignment["principal"],
        "principalType": assignment["principalType"],
        "roleDefinitionId": assignment["role"],
        "scope": assignment["scope"],
    }
    return {
        "id": assignment["id"],
        "name": assignment["name"],
        "properties": properties,
        "type": RoleAssignments.name,
    }


def _check_principal(kit: Kit, principal: str, tenant: str, kind: str | None) -> None:
    found = kit.world.store.get("principal", principal)
    if found is not None and found["tenant"] == tenant:
        is_settled = kit.world.now() >= found["made"] + kit.world.settings.directory_lag_seconds
        if is_settled or kind == "ServicePrincipal":
            return
    raise refusals.NO_PRINCIPAL.error(principal=principal.replace("-", ""), tenant=tenant)


def _guid(role: str) -> str:
    return role.rsplit("/", 1)[-1].lower()


class RoleDefinitions:
    name = "Microsoft.Authorization/roleDefinitions"

    def put(self, kit: Kit, place: Place, body: Document, _caller: Caller) -> tuple[int, Document]:
        properties = body.get("properties") or {}
        known(properties, ("roleName", "description", "type", "permissions", "assignableScopes"))
        if not _GUID.fullmatch(place.name):
            raise bad_request(
                "InvalidRoleDefinitionId", f"The role definition ID '{place.name}' is not valid. It must be a GUID."
            )
        for _, other in kit.world.store.all("role"):
            if other["roleName"] == properties.get("roleName") and other["name"] != place.name.lower():
                raise refusals.AzureError(
                    "RoleDefinitionWithSameNameExists",
                    f"A custom role with the same name already exists in this directory: '{other['roleName']}'.",
                    409,
                )
        if not properties.get("roleName") or not properties.get("permissions"):
            raise bad_request("BadRequestFormat", "The request was incorrectly formatted: roleName, permissions.")
        if not properties.get("assignableScopes"):
            raise bad_request("RoleDefinitionEmptyAssignableScopes", "The assignableScopes must not be empty.")
        document = {
            "assignableScopes": properties["assignableScopes"],
            "description": properties.get("description"),
            "id": place.id,
            "name": place.name.lower(),
            "permissions": properties["permissions"],
            "roleName": properties["roleName"],
            "type": "CustomRole",
        }
        kit.world.store.put("role", place.name, document)
        return 201, self.get(kit, place)

    def get(self, kit: Kit, place: Place) -> Document:
        found = kit.world.store.get("role", place.name)
        if found is None and place.name.lower() in BUILT_IN:
            return {
                "id": place.id,
                "name": place.name,
                "properties": {"roleName": BUILT_IN[place.name.lower()].name, "type": "BuiltInRole"},
                "type": self.name,
            }
        if found is None:
            raise missing(place)
        properties = {
            "assignableScopes": found["assignableScopes"],
            "description": found["description"],
            "permissions": found["permissions"],
            "roleName": found["roleName"],
            "type": found["type"],
        }
        return {"id": place.id, "name": place.name, "properties": properties, "type": self.name}

    def delete(self, kit: Kit, place: Place) -> None:
        for _, each in kit.world.store.all("assignment"):
            if _guid(each["role"]) == place.name.lower() and each.get("ended") is None:
                raise refusals.ROLE_DEFINITION_IN_USE.error(role=place.name)
        kit.world.store.delete("role", place.name)

    def list(self, kit: Kit, place: Place) -> list[Document]:
        raise missing(place)
