"""azure-native.keyvault: Vault, Key, Secret."""

from __future__ import annotations

from typing import Any

from sandbox.provider.errors import ProviderError
from sandbox.provider.kinds import Problems, Properties, Resource
from sandbox.provider.types.azure import Arm, Document, group_path, kind, told

_VAULTS_API = "2024-11-01"
_VAULTS = "/providers/Microsoft.KeyVault/vaults/"
_OF_KEY = {name: name for name in ("attributes", "keyOps", "keySize", "keyUri", "keyUriWithVersion", "kty")}


def _vault(resource: Resource) -> str:
    return group_path(resource, f"{_VAULTS}{resource.inputs['vaultName']}")


def _vault_body(inputs: Properties) -> Document:
    return {"location": inputs.get("location"), "properties": inputs["properties"], "tags": inputs.get("tags") or {}}


def _object_body(inputs: Properties) -> Document:
    return {"properties": inputs["properties"], "tags": inputs.get("tags") or {}}


def _vault_uri(resource: Resource) -> str:
    """Where a key's or secret's vault answers: its id is that of the vault and two parts more."""
    vault = resource.id.rsplit("/", 2)[0]
    return resource.clouds.azure.resource_manager("GET", vault, _VAULTS_API)["properties"]["vaultUri"]


def _delete_key(resource: Resource) -> None:
    resource.clouds.azure.delete_in_vault(_vault_uri(resource), "keys", resource.id.rsplit("/", 1)[1])


def _delete_secret(resource: Resource) -> None:
    resource.clouds.azure.delete_in_vault(_vault_uri(resource), "secrets", resource.id.rsplit("/", 1)[1])


def _update_key(resource: Resource) -> None:
    # Docs, keyvault/keys: the PUT never changes a key. Silence would leave the program believing it did.
    raise ProviderError(f"Resource Manager changes no key that exists: {resource.id} stays as it is")


def _validate_vault(inputs: Properties) -> Problems:
    properties: Any = inputs.get("properties") or {}
    if isinstance(properties, dict) and properties.get("accessPolicies"):
        yield "properties.accessPolicies", "the sandbox's vaults go by roles: enableRbacAuthorization"


def _vault_shown(found: Document) -> Properties:
    return {"location": found["location"], "properties": found["properties"], "tags": found["tags"] or None}


KINDS = {
    "Vault": kind(
        Arm(
            token="azure-native:keyvault:Vault",
            api=_VAULTS_API,
            path=_vault,
            body=_vault_body,
            shown=_vault_shown,
            name="vaultName",
            takes=frozenset({"location", "properties", "resourceGroupName", "tags", "vaultName"}),
            fixed=frozenset({"location", "resourceGroupName", "vaultName"}),
        ),
        partial=frozenset({"properties"}),
        unforeseen=frozenset({"properties"}),
        computed=frozenset({"location"}),
        validate=_validate_vault,
    ),
    "Key": kind(
        Arm(
            token="azure-native:keyvault:Key",
            api=_VAULTS_API,
            path=lambda resource: f"{_vault(resource)}/keys/{resource.inputs['keyName']}",
            body=_object_body,
            shown=lambda found: {
                "location": found["location"],
                "tags": found["tags"] or None,
                **told(found["properties"], _OF_KEY),
            },
            name="keyName",
            takes=frozenset({"keyName", "properties", "resourceGroupName", "tags", "vaultName"}),
            fixed=frozenset({"keyName", "resourceGroupName", "vaultName"}),
        ),
        delete=_delete_key,
        update=_update_key,
        unread=frozenset({"properties"}),
    ),
    "Secret": kind(
        Arm(
            token="azure-native:keyvault:Secret",
            api=_VAULTS_API,
            path=lambda resource: f"{_vault(resource)}/secrets/{resource.inputs['secretName']}",
            body=_object_body,
            shown=_vault_shown,
            name="secretName",
            takes=frozenset({"properties", "resourceGroupName", "secretName", "tags", "vaultName"}),
            fixed=frozenset({"resourceGroupName", "secretName", "vaultName"}),
        ),
        delete=_delete_secret,
        unforeseen=frozenset({"properties"}),
        unread=frozenset({"properties"}),
    ),
}
