"""azure-native.storage: StorageAccount, BlobServiceProperties, BlobContainer, Queue."""

from __future__ import annotations

from typing import Any

from sandbox.provider.kinds import Properties, Resource
from sandbox.provider.types.azure import (
    Arm,
    Document,
    attached,
    given,
    group_path,
    is_same_identity,
    kind,
    told,
)

_API = "2024-01-01"
_SETTINGS = {
    "accessTier": "accessTier",
    "allowBlobPublicAccess": "allowBlobPublicAccess",
    "allowCrossTenantReplication": "allowCrossTenantReplication",
    "allowSharedKeyAccess": "allowSharedKeyAccess",
    "defaultToOAuthAuthentication": "defaultToOAuthAuthentication",
    "enableHttpsTrafficOnly": "supportsHttpsTrafficOnly",
    "isHnsEnabled": "isHnsEnabled",
    "minimumTlsVersion": "minimumTlsVersion",
    "networkRuleSet": "networkAcls",
    "publicNetworkAccess": "publicNetworkAccess",
}
_READ_ONLY = {
    name: name
    for name in ("creationTime", "primaryEndpoints", "primaryLocation", "provisioningState", "statusOfPrimary")
}
_KEY = {
    "currentVersionedKeyIdentifier": "currentVersionedKeyIdentifier",
    "keyName": "keyname",
    "keyVaultUri": "keyvaulturi",
    "keyVersion": "keyversion",
    "lastKeyRotationTimestamp": "lastKeyRotationTimestamp",
}
_KEY_IDENTITY = {
    "encryptionFederatedIdentityClientId": "federatedIdentityClientId",
    "encryptionUserAssignedIdentity": "userAssignedIdentity",
}
_PLAIN = {name: name for name in ("keySource", "requireInfrastructureEncryption", "services")}
_BLOB_SERVICE = {
    name: name
    for name in ("changeFeed", "containerDeleteRetentionPolicy", "deleteRetentionPolicy", "isVersioningEnabled")
}


def _account(resource: Resource) -> str:
    return group_path(resource, f"/providers/Microsoft.Storage/storageAccounts/{resource.inputs['accountName']}")


def _account_body(inputs: Properties) -> Document:
    properties = given(inputs, _SETTINGS)
    if inputs.get("encryption") is not None:
        properties["encryption"] = _encryption(inputs["encryption"])
    body = {
        "kind": inputs["kind"],
        "location": inputs.get("location"),
        "properties": properties,
        "sku": inputs["sku"],
        "tags": inputs.get("tags") or {},
    }
    return body | ({"identity": attached(inputs["identity"])} if inputs.get("identity") else {})


def _encryption(wanted: Document) -> Document:
    parts = given(wanted, _PLAIN)
    if wanted.get("keyVaultProperties") is not None:
        parts["keyvaultproperties"] = given(wanted["keyVaultProperties"], _KEY)
    if wanted.get("encryptionIdentity") is not None:
        parts["identity"] = given(wanted["encryptionIdentity"], _KEY_IDENTITY)
    return parts


def _account_shown(found: Document) -> Properties:
    properties = found["properties"]
    encryption = properties["encryption"]
    shown: Document = {name: value for name, value in told(encryption, _PLAIN).items() if value is not None}
    for name, wire, names in (
        ("keyVaultProperties", "keyvaultproperties", _KEY),
        ("encryptionIdentity", "identity", _KEY_IDENTITY),
    ):
        if encryption.get(wire):
            shown[name] = {key: value for key, value in told(encryption[wire], names).items() if value is not None}
    return {
        **told(properties, _SETTINGS),
        **told(properties, _READ_ONLY),
        "encryption": shown,
        "identity": found.get("identity"),
        "kind": found["kind"],
        "location": found["location"],
        "sku": found["sku"],
        "tags": found["tags"] or None,
    }


def _is_same_encryption(wanted: Any, found: Any) -> bool:
    """What a program says is what is found; an empty key version and none mean the same: the latest."""

    def contains(have: Any, want: Any) -> bool:
        if isinstance(want, dict):
            return isinstance(have, dict) and all(contains(have.get(key), item) for key, item in want.items())
        return have == want or (not have and not want)

    return contains(found, wanted)


def _container_shown(found: Document) -> Properties:
    properties = found["properties"]
    shown = ("denyEncryptionScopeOverride", "hasImmutabilityPolicy", "hasLegalHold", "lastModifiedTime", "publicAccess")
    return {**{name: properties[name] for name in shown}, "metadata": properties["metadata"] or None}


def _leave(_resource: Resource) -> None:
    """Deleting the settings of a service that always exists is nothing, as with the real provider."""


def _inner(inputs: Properties, names: tuple[str, ...]) -> Document:
    return {"properties": {name: inputs[name] for name in names if inputs.get(name) is not None}}


KINDS = {
    "StorageAccount": kind(
        Arm(
            token="azure-native:storage:StorageAccount",
            api=_API,
            path=_account,
            body=_account_body,
            shown=_account_shown,
            name="accountName",
            takes=frozenset(
                {
                    "accountName",
                    "encryption",
                    "identity",
                    "kind",
                    "location",
                    "resourceGroupName",
                    "sku",
                    "tags",
                    *_SETTINGS,
                }
            ),
            fixed=frozenset({"accountName", "isHnsEnabled", "location", "resourceGroupName"}),
        ),
        partial=frozenset({"encryption", "identity", "networkRuleSet", "sku"}),
        same={"encryption": _is_same_encryption, "identity": is_same_identity},
        computed=frozenset(_SETTINGS),
        unforeseen=frozenset({"encryption", "identity", "sku"}),
    ),
    "BlobServiceProperties": kind(
        Arm(
            token="azure-native:storage:BlobServiceProperties",
            api=_API,
            path=lambda resource: f"{_account(resource)}/blobServices/{resource.inputs['blobServicesName']}",
            body=lambda inputs: _inner(inputs, tuple(_BLOB_SERVICE)),
            shown=lambda found: {"sku": found["sku"], **told(found["properties"], _BLOB_SERVICE)},
            name="blobServicesName",
            takes=frozenset({"accountName", "blobServicesName", "resourceGroupName", *_BLOB_SERVICE}),
            fixed=frozenset({"accountName", "blobServicesName", "resourceGroupName"}),
        ),
        delete=_leave,
        is_there_already=True,
        computed=frozenset(_BLOB_SERVICE),
        partial=frozenset(_BLOB_SERVICE),
    ),
    "BlobContainer": kind(
        Arm(
            token="azure-native:storage:BlobContainer",
            api=_API,
            path=lambda resource: (
                f"{_account(resource)}/blobServices/default/containers/{resource.inputs['containerName']}"
            ),
            body=lambda inputs: _inner(inputs, ("metadata", "publicAccess")),
            shown=_container_shown,
            name="containerName",
            takes=frozenset({"accountName", "containerName", "metadata", "publicAccess", "resourceGroupName"}),
            fixed=frozenset({"accountName", "containerName", "resourceGroupName"}),
        ),
        computed=frozenset({"publicAccess"}),
    ),
    "Queue": kind(
        Arm(
            token="azure-native:storage:Queue",
            api=_API,
            path=lambda resource: f"{_account(resource)}/queueServices/default/queues/{resource.inputs['queueName']}",
            body=lambda inputs: _inner(inputs, ("metadata",)),
            shown=lambda found: {"metadata": found["properties"]["metadata"] or None},
            name="queueName",
            takes=frozenset({"accountName", "metadata", "queueName", "resourceGroupName"}),
            fixed=frozenset({"accountName", "queueName", "resourceGroupName"}),
        )
    ),
}
