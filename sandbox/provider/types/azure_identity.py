"""azure-native: resources.ResourceGroup; managedidentity.UserAssignedIdentity, FederatedIdentityCredential."""

from __future__ import annotations

from sandbox.provider.kinds import Properties, Resource
from sandbox.provider.types.azure import Arm, Document, group_path, kind, told

_IDENTITY = "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"


def _group(resource: Resource) -> str:
    return f"/subscriptions/{resource.clouds.azure.subscription}/resourceGroups/{resource.inputs['resourceGroupName']}"


def _identity(resource: Resource) -> str:
    return group_path(resource, f"{_IDENTITY}{resource.inputs['resourceName']}")


def _credential(resource: Resource) -> str:
    name = resource.inputs["federatedIdentityCredentialResourceName"]
    return f"{_identity(resource)}/federatedIdentityCredentials/{name}"


def _located(inputs: Properties) -> Document:
    return {"location": inputs.get("location"), "tags": inputs.get("tags") or {}}


def _credential_body(inputs: Properties) -> Document:
    return {"properties": {name: inputs[name] for name in ("issuer", "subject", "audiences")}}


_OF_IDENTITY = {name: name for name in ("clientId", "principalId", "tenantId")}
_OF_CREDENTIAL = {name: name for name in ("issuer", "subject", "audiences")}

KINDS = {
    "ResourceGroup": kind(
        Arm(
            token="azure-native:resources:ResourceGroup",
            api="2024-11-01",
            path=_group,
            body=_located,
            shown=lambda found: {
                "location": found["location"],
                "properties": found["properties"],
                "tags": found["tags"] or None,
            },
            name="resourceGroupName",
            takes=frozenset({"location", "resourceGroupName", "tags"}),
            fixed=frozenset({"location", "resourceGroupName"}),
        )
    ),
    "UserAssignedIdentity": kind(
        Arm(
            token="azure-native:managedidentity:UserAssignedIdentity",
            api="2024-11-30",
            path=_identity,
            body=_located,
            shown=lambda found: {
                "location": found["location"],
                "tags": found["tags"] or None,
                **told(found["properties"], _OF_IDENTITY),
            },
            name="resourceName",
            takes=frozenset({"location", "resourceGroupName", "resourceName", "tags"}),
            fixed=frozenset({"location", "resourceGroupName", "resourceName"}),
        )
    ),
    "FederatedIdentityCredential": kind(
        Arm(
            token="azure-native:managedidentity:FederatedIdentityCredential",
            api="2024-11-30",
            path=_credential,
            body=_credential_body,
            shown=lambda found: told(found["properties"], _OF_CREDENTIAL),
            name="federatedIdentityCredentialResourceName",
            takes=frozenset(
                {"federatedIdentityCredentialResourceName", "resourceGroupName", "resourceName", *_OF_CREDENTIAL}
            ),
            fixed=frozenset({"federatedIdentityCredentialResourceName", "resourceGroupName", "resourceName"}),
        )
    ),
}
