"""What Azure answers in the mock engine: ids, endpoints and identities, made from the names asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pulumi.runtime import mocks

LOCATION = "westeurope"
STAMP = "stamp-azure-westeurope-01"
SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
DIRECTORY = "66666666-7777-8888-9999-000000000000"
OPERATOR = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/keyshift-{STAMP}"
ACCOUNT_ID = f"{GROUP}/providers/Microsoft.Storage/storageAccounts/ksstamp01"
VAULT_URI = "https://keyshift-5b1ec0de.vault.azure.net/"

STAMP_CONFIG = {
    "operatorPrincipal": OPERATOR,
    "operatorIssuer": "https://oidc.example.com/keyshift",
    "operatorSubject": "system:serviceaccount:keyshift:runner",
    "workerImage": "example.azurecr.io/keyshift/worker@sha256:0",
}
STAMP_OUTPUTS = {
    "account": "ksstamp01",
    "account_resource_id": ACCOUNT_ID,
    "account_topic": "ksstamp01",
    "account_topic_principal": "principal-of-topic",
    "endpoint": "https://ksstamp01.blob.core.windows.net/",
    "queue_endpoint": "https://ksstamp01.queue.core.windows.net/",
    "resource_group": f"keyshift-{STAMP}",
    "location": LOCATION,
    "account_id": SUBSCRIPTION,
    "subscription_id": SUBSCRIPTION,
    "entra_tenant_id": DIRECTORY,
    "vault": "keyshift-5b1ec0de",
    "vault_uri": VAULT_URI,
    "vault_id": f"{GROUP}/providers/Microsoft.KeyVault/vaults/keyshift-5b1ec0de",
    "vendor_key_uri": f"{VAULT_URI}keys/vendor",
    "encryption_identity_id": f"{GROUP}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/encryption",
    "app_client_id": "client-of-application",
    "plan_id": f"{GROUP}/providers/Microsoft.Web/serverfarms/keyshift-{STAMP}",
    "worker_image": STAMP_CONFIG["workerImage"],
    "operator_issuer": STAMP_CONFIG["operatorIssuer"],
    "operator_subject": STAMP_CONFIG["operatorSubject"],
}
CALLS = {
    "azure-native:authorization:getClientConfig": {
        "subscriptionId": SUBSCRIPTION,
        "tenantId": DIRECTORY,
        "clientId": "client-of-operator",
        "objectId": OPERATOR,
    }
}


def _id(kind: str, name: str) -> Callable[[mocks.MockResourceArgs], dict[str, Any]]:
    def computed(args: mocks.MockResourceArgs) -> dict[str, Any]:
        group = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{args.inputs.get('resourceGroupName', '')}"
        called = args.inputs.get(name, "unknown")
        return {"id": f"{group}/providers/{kind}/{called}", "name": called}

    return computed


def _account(args: mocks.MockResourceArgs) -> dict[str, Any]:
    name, encryption = args.inputs["accountName"], args.inputs["encryption"]
    properties = encryption["keyVaultProperties"]
    current = f"{properties.get('keyVaultUri')}keys/{properties['keyName']}/{properties['keyVersion'] or 'newest'}"
    return {
        **_id("Microsoft.Storage/storageAccounts", "accountName")(args),
        "primaryEndpoints": {
            "blob": f"https://{name}.blob.core.windows.net/",
            "queue": f"https://{name}.queue.core.windows.net/",
        },
        "encryption": {**encryption, "keyVaultProperties": {**properties, "currentVersionedKeyIdentifier": current}},
        "identity": _identities(args.inputs["identity"]),
    }


def _identities(identity: dict[str, Any]) -> dict[str, Any]:
    """Azure takes a list and answers with a map."""
    found = {id: {"principalId": "p", "clientId": "c"} for id in identity.get("userAssignedIdentities", [])}
    return {**identity, "userAssignedIdentities": found}


def _vault(args: mocks.MockResourceArgs) -> dict[str, Any]:
    uri = f"https://{args.inputs['vaultName']}.vault.azure.net/"
    return {
        **_id("Microsoft.KeyVault/vaults", "vaultName")(args),
        "properties": {**args.inputs["properties"], "vaultUri": uri},
    }


def _identity(args: mocks.MockResourceArgs) -> dict[str, Any]:
    called = _id("Microsoft.ManagedIdentity/userAssignedIdentities", "resourceName")(args)
    return {**called, "clientId": f"client-of-{args.name}", "principalId": f"principal-of-{args.name}"}


def _topic(args: mocks.MockResourceArgs) -> dict[str, Any]:
    called = _id("Microsoft.EventGrid/systemTopics", "systemTopicName")(args)
    return {**called, "identity": {**args.inputs["identity"], "principalId": f"principal-of-{args.name}"}}


COMPUTED: dict[str, Callable[[mocks.MockResourceArgs], dict[str, Any]]] = {
    "azure-native:resources:ResourceGroup": lambda a: {"name": a.inputs["resourceGroupName"]},
    "azure-native:keyvault:Vault": _vault,
    "azure-native:keyvault:Key": lambda a: {
        **_id("Microsoft.KeyVault/keys", "keyName")(a),
        "keyUri": f"https://{a.inputs.get('vaultName')}.vault.azure.net/keys/{a.inputs['keyName']}",
    },
    "azure-native:managedidentity:UserAssignedIdentity": _identity,
    "azure-native:storage:StorageAccount": _account,
    "azure-native:storage:BlobContainer": _id("Microsoft.Storage/containers", "containerName"),
    "azure-native:storage:Queue": _id("Microsoft.Storage/queues", "queueName"),
    "azure-native:eventgrid:SystemTopic": _topic,
    "azure-native:web:AppServicePlan": _id("Microsoft.Web/serverfarms", "name"),
    "azure-native:web:WebApp": lambda a: {"identity": _identities(a.inputs["identity"])},
    "azuread:index/applicationRegistration:ApplicationRegistration": lambda a: {
        "id": f"/applications/{a.name}",
        "clientId": "client-of-application",
    },
}
