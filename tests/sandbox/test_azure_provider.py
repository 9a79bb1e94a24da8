"""The azure-native and azuread plugins against the sandbox's Azure, asked as the engine asks them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from azure_server import LOCATION, AzureServer, running_azure
from provider_plugin import Plugin, started

from sandbox.provider import values
from sandbox.provider.protocol import provider_pb2

pytestmark = pytest.mark.sandbox

GROUP = {"resourceGroupName": "stamp"}


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with running_azure(tmp_path_factory.mktemp("azure"), role_lag_seconds=0.2, directory_lag_seconds=0.2) as server:
        yield server


@pytest.fixture(scope="module")
def native(azure: AzureServer) -> Iterator[Plugin]:
    with started("azure-native", azure.environment) as plugin:
        yield plugin


@pytest.fixture(scope="module")
def azuread(azure: AzureServer) -> Iterator[Plugin]:
    with started("azuread", azure.environment) as plugin:
        yield plugin


@dataclass
class Made:
    """Resources in the order in which they were made."""

    plugin: Plugin
    done: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = field(default_factory=list)

    def make(self, token: str, name: str, inputs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        token = f"azure-native:{token}"
        id_, state = self.plugin.create(token, name, inputs)
        self.done.append((token, name, id_, inputs, state))
        return id_, state


def stamp_account(key: str, vault_uri: str, identity: str) -> dict[str, Any]:
    return {
        **GROUP,
        "accessTier": "Hot",
        "accountName": "ksstamp01",
        "allowBlobPublicAccess": False,
        "allowCrossTenantReplication": False,
        "allowSharedKeyAccess": False,
        "defaultToOAuthAuthentication": True,
        "enableHttpsTrafficOnly": True,
        "encryption": {
            "encryptionIdentity": {"encryptionUserAssignedIdentity": identity},
            "keySource": "Microsoft.Keyvault",
            "keyVaultProperties": {"keyName": key, "keyVaultUri": vault_uri, "keyVersion": ""},
            "requireInfrastructureEncryption": False,
            "services": {
                "blob": {"enabled": True, "keyType": "Account"},
                "file": {"enabled": True, "keyType": "Account"},
            },
        },
        "identity": {"type": "UserAssigned", "userAssignedIdentities": [identity]},
        "kind": "StorageV2",
        "location": LOCATION,
        "minimumTlsVersion": "TLS1_2",
        "publicNetworkAccess": "Enabled",
        "sku": {"name": "Standard_ZRS"},
        "tags": {"keyshift": "stamp"},
    }


@pytest.fixture(scope="module")
def stamp(azure: AzureServer, native: Plugin) -> Made:
    """What a stamp is made of, and what a standard tenant adds to it."""
    made = Made(native)
    subscription, tenant = azure.person()["subscription_id"], azure.person()["tenant_id"]
    made.make("resources:ResourceGroup", "group", {**GROUP, "location": LOCATION, "tags": {"a": "b"}})
    vault_id, vault = made.make(
        "keyvault:Vault",
        "vault",
        {
            **GROUP,
            "location": LOCATION,
            "properties": {
                "enablePurgeProtection": True,
                "enableRbacAuthorization": True,
                "enableSoftDelete": True,
                "publicNetworkAccess": "Enabled",
                "sku": {"family": "A", "name": "premium"},
                "softDeleteRetentionInDays": 90,
                "tenantId": tenant,
            },
            "vaultName": "keyshift-stamp-01",
        },
    )
    made.make(
        "keyvault:Key",
        "vendor",
        {
            **GROUP,
            "keyName": "vendor",
            "properties": {"keyOps": ["wrapKey", "unwrapKey"], "keySize": 3072, "kty": "RSA-HSM"},
            "vaultName": "keyshift-stamp-01",
        },
    )
    identity, uami = made.make(
        "managedidentity:UserAssignedIdentity", "encryption", {**GROUP, "location": LOCATION, "resourceName": "enc"}
    )

    def role(name: str, scope: str, role_id: str, principal: str) -> None:
        made.make(
            "authorization:RoleAssignment",
            name,
            {
                "principalId": principal,
                "principalType": "ServicePrincipal",
                "roleAssignmentName": f"00000000-0000-4000-8000-{abs(hash(name)) % 10**12:012}",
                "roleDefinitionId": f"/subscriptions/{subscription}/providers/Microsoft.Authorization/roleDefinitions/{role_id}",
                "scope": scope,
            },
        )

    role("officer", vault_id, "14b46e9e-c2b7-41b4-b07b-48a6ebf60603", azure.person()["object_id"])
    role("secrets", vault_id, "b86a8fe4-44ce-4948-aee5-eccb2c155cd7", azure.person()["object_id"])
    role("encryption", f"{vault_id}/keys/vendor", "e147488a-f6f5-4113-8e2d-b22465e65bf6", uami["principalId"])
    made.make(
        "authorization:RoleDefinition",
        "reader",
        {
            "assignableScopes": [f"/subscriptions/{subscription}"],
            "permissions": [
                {
                    "actions": [],
                    "dataActions": ["Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"],
                    "notActions": [],
                    "notDataActions": [],
                }
            ],
            "roleDefinitionId": "11111111-0000-4000-8000-000000000001",
            "roleName": "keyshift reader",
            "scope": f"/subscriptions/{subscription}",
        },
    )
    wanted = stamp_account("vendor", vault["properties"]["vaultUri"], identity)
    with pytest.raises(grpc.RpcError, match="KeyVaultAuthenticationFailure"):
        native.create("azure-native:storage:StorageAccount", "early", wanted)
    account_id = ""
    for _ in range(100):  # the role's lag: the program's error hook tries again
        try:
            account_id, _account = made.make("storage:StorageAccount", "account", wanted)
            break
        except grpc.RpcError as error:
            if "KeyVaultAuthenticationFailure" not in str(error):
                raise
    assert account_id, "the account is made once the role holds"
    account = {**GROUP, "accountName": "ksstamp01"}
    made.make(
        "storage:BlobServiceProperties",
        "service",
        {
            **account,
            "blobServicesName": "default",
            "containerDeleteRetentionPolicy": {"enabled": False},
            "deleteRetentionPolicy": {"enabled": False},
            "isVersioningEnabled": False,
        },
    )
    made.make("storage:BlobContainer", "acme", {**account, "containerName": "acme-s1", "publicAccess": "None"})
    made.make("storage:Queue", "queue", {**account, "queueName": "acme-p1"})
    _, topic = made.make(
        "eventgrid:SystemTopic",
        "topic",
        {
            **GROUP,
            "identity": {"type": "SystemAssigned"},
            "location": LOCATION,
            "source": account_id,
            "systemTopicName": "ksstamp01",
            "topicType": "Microsoft.Storage.StorageAccounts",
        },
    )
    queue = f"{account_id}/queueServices/default/queues/acme-p1"
    role("topic", queue, "c6a89b2d-59bc-44d0-9896-0f6e12d7b80a", topic["identity"]["principalId"])
    made.make(
        "eventgrid:SystemTopicEventSubscription",
        "subscription",
        {
            **GROUP,
            "deliveryWithResourceIdentity": {
                "destination": {
                    "endpointType": "StorageQueue",
                    "queueMessageTimeToLiveInSeconds": -1,
                    "queueName": "acme-p1",
                    "resourceId": account_id,
                },
                "identity": {"type": "SystemAssigned"},
            },
            "eventDeliverySchema": "EventGridSchema",
            "eventSubscriptionName": "acme-p1",
            "filter": {
                "includedEventTypes": ["Microsoft.Storage.BlobCreated", "Microsoft.Storage.BlobDeleted"],
                "isSubjectCaseSensitive": True,
                "subjectBeginsWith": "/blobServices/default/containers/acme-s1/",
            },
            "retryPolicy": {"eventTimeToLiveInMinutes": 1440, "maxDeliveryAttempts": 30},
            "systemTopicName": "ksstamp01",
        },
    )
    made.make(
        "managedidentity:FederatedIdentityCredential",
        "federation",
        {
            **GROUP,
            "audiences": ["api://AzureADTokenExchange"],
            "federatedIdentityCredentialResourceName": "runner",
            "issuer": azure.environment["KEYSHIFT_WORKLOAD_ISSUER"],
            "resourceName": "enc",
            "subject": azure.environment["KEYSHIFT_WORKLOAD_SUBJECT"],
        },
    )
    made.make(
        "keyvault:Secret",
        "secret",
        {
            **GROUP,
            "properties": {"contentType": "application/json", "value": '{"password": "x"}'},
            "secretName": "keyshift-acme-e1-admin",
            "vaultName": "keyshift-stamp-01",
        },
    )
    made.make(
        "web:AppServicePlan",
        "plan",
        {
            **GROUP,
            "kind": "linux",
            "location": LOCATION,
            "name": "stamp-plan",
            "reserved": True,
            "sku": {"name": "P0v3", "tier": "Premium0V3"},
        },
    )
    made.make(
        "web:WebApp",
        "worker",
        {
            **GROUP,
            "enabled": False,
            "httpsOnly": True,
            "identity": {"type": "UserAssigned", "userAssignedIdentities": [identity]},
            "kind": "app,linux,container",
            "location": LOCATION,
            "name": "acme-p1",
            "serverFarmId": f"/subscriptions/{subscription}/resourceGroups/stamp/providers/Microsoft.Web/serverfarms/stamp-plan",
            "siteConfig": {
                "alwaysOn": True,
                "appCommandLine": "python -m worker.azure",
                "appSettings": [{"name": "QUEUE", "value": "acme-p1"}],
                "linuxFxVersion": "DOCKER|keyshift/worker:sandbox",
            },
        },
    )
    return made


def test_what_was_made_and_is_read_again_shows_no_change(stamp: Made) -> None:
    assert len({token for token, *_ in stamp.done}) == 16, "a type of the list is not tried"
    for token, name, id_, inputs, state in stamp.done:
        checked = stamp.plugin.checked(token, name, inputs)
        same = stamp.plugin.diff(token, name, state=state, old_inputs=checked, inputs=checked)
        assert not same.diffs, f"{token} differs from itself in {list(same.diffs)}"
        answer = stamp.plugin.read(token, name, id_, checked, state)
        found, kept = values.decode(answer.properties)[0], values.decode(answer.inputs)[0]
        assert answer.id == id_, token
        after = stamp.plugin.diff(token, name, state=found, old_inputs=kept, inputs=checked)
        assert not after.diffs, f"{token} differs after a refresh in {list(after.diffs)}"


def test_an_account_says_which_version_of_its_key_is_current(stamp: Made) -> None:
    state = next(state for token, _, _, _, state in stamp.done if token.endswith("StorageAccount"))
    current = state["encryption"]["keyVaultProperties"]["currentVersionedKeyIdentifier"]
    assert "/keys/vendor/" in current
    assert len(current.rsplit("/", 1)[1]) == 32, "a version"
    assert state["primaryEndpoints"]["blob"].endswith("/ksstamp01/")
    assert isinstance(state["identity"]["userAssignedIdentities"], dict), "outputs hold a map, as the SDK's types do"


def test_an_existing_resource_is_not_made_again(stamp: Made, native: Plugin) -> None:
    token, name, _, inputs, _ = next(each for each in stamp.done if each[0].endswith("BlobContainer"))
    with pytest.raises(grpc.RpcError, match="cannot create already existing resource"):
        native.create(token, f"{name}-again", inputs)


@pytest.mark.parametrize(
    ("token", "inputs", "property_"),
    [
        ("storage:StorageAccount", {"accountNam": "x"}, "accountNam"),
        ("storage:StorageAccount", {"isSftpEnabled": True}, "isSftpEnabled"),
        ("storage:StorageAccount", {}, "accountName"),
        ("authorization:RoleAssignment", {"condition": "x"}, "condition"),
        ("keyvault:Vault", {"properties": {"sku": {"family": "A", "name": "premium"}}}, "properties.tenantId"),
    ],
)
def test_check_refuses_what_is_unknown_not_offered_or_missing(
    native: Plugin, token: str, inputs: dict[str, Any], property_: str
) -> None:
    assert property_ in native.refusals(f"azure-native:{token}", inputs)


def test_another_name_replaces_and_another_tag_does_not(stamp: Made, native: Plugin) -> None:
    token, name, _, inputs, state = next(each for each in stamp.done if each[0].endswith("StorageAccount"))
    checked = native.checked(token, name, inputs)
    renamed = native.diff(token, name, state=state, old_inputs=checked, inputs={**checked, "accountName": "other"})
    assert list(renamed.replaces) == ["accountName"]
    tagged = native.diff(token, name, state=state, old_inputs=checked, inputs={**checked, "tags": {"x": "y"}})
    assert list(tagged.diffs) == ["tags"]
    assert not tagged.replaces


def test_an_application_trusts_an_identity(azuread: Plugin, stamp: Made, azure: AzureServer) -> None:
    token = "azuread:index/applicationRegistration:ApplicationRegistration"
    inputs = {"displayName": "keyshift", "signInAudience": "AzureADMultipleOrgs"}
    id_, state = azuread.create(token, "app", inputs)
    assert state["clientId"]
    assert id_ == f"/applications/{state['objectId']}"
    uami = next(state for token, name, _, _, state in stamp.done if name == "encryption" and "principalId" in state)
    credential = "azuread:index/applicationFederatedIdentityCredential:ApplicationFederatedIdentityCredential"
    wanted = {
        "applicationId": id_,
        "audiences": ["api://AzureADTokenExchange"],
        "displayName": "encryption",
        "issuer": f"{azure.url}/{azure.person()['tenant_id']}/v2.0",
        "subject": uami["principalId"],
    }
    credential_id, found = azuread.create(credential, "trust", wanted)
    same = azuread.diff(credential, "trust", state=found, old_inputs=wanted, inputs=wanted)
    assert not same.diffs
    azuread.delete(credential, "trust", credential_id, found)
    azuread.delete(token, "app", id_, state)


def test_a_preview_foresees_no_more_than_azure_native_does(stamp: Made, native: Plugin) -> None:
    """What comes back in another form, or with more in it, is unknown until it is made."""
    for name, unforeseen in (
        ("account", {"encryption", "identity"}),
        ("vault", {"properties"}),
        ("topic", {"identity"}),
        ("worker", {"identity", "siteConfig"}),
    ):
        token, _, id_, inputs, state = next(each for each in stamp.done if each[1] == name)
        _, foreseen = native.create(token, f"{name}-foreseen", inputs, preview=True)
        unknown = {key for key, value in foreseen.items() if value is values.UNKNOWN}
        assert unforeseen <= unknown, f"{name}: a program would take the input for what the service answers"
        tagged = native.stub.Update(
            provider_pb2.UpdateRequest(
                urn=native.urn(token, name),
                id=id_,
                olds=values.encode(state),
                news=values.encode({**native.checked(token, name, inputs), "tags": {"x": "y"}}),
                preview=True,
            )
        )
        kept = values.decode(tagged.properties)[0]
        for key in unforeseen - {"siteConfig"}:
            assert kept[key] == state[key], f"{name}.{key} does not change with a tag"
