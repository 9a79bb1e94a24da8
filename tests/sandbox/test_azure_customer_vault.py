"""A storage account of the vendor's under a key in the customer's own Entra tenant."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.keyvault.keys import KeyClient
from azure.storage.blob import ContainerClient
from azure_lab import LAG, current, refused, settled
from azure_server import BLOB_OWNER, CRYPTO_OFFICER, ENCRYPTION_USER, STORAGE_API, AzureServer, Refused

pytestmark = pytest.mark.sandbox


@dataclass
class Shared:
    """The vendor's application and the customer's vault, and the vendor's account between them."""

    group: str
    identity: dict[str, Any]
    application: dict[str, Any]
    vault: dict[str, Any]
    keys: KeyClient

    def encryption(self, **more: Any) -> dict[str, Any]:
        return {
            "identity": {
                "federatedIdentityClientId": self.application["appId"],
                "userAssignedIdentity": self.identity["id"],
            },
            "keySource": "Microsoft.Keyvault",
            "keyvaultproperties": {
                "keyname": "theirs",
                "keyvaulturi": self.vault["properties"]["vaultUri"],
                "keyversion": "",
            },
            **more,
        }

    @property
    def attached(self) -> dict[str, Any]:
        return {"type": "UserAssigned", "userAssignedIdentities": {self.identity["id"]: {}}}


@pytest.fixture(scope="module")
def shared(azure: AzureServer) -> Shared:
    group = azure.group("byokv")
    identity = azure.identity(group, "encryption")
    body = {"displayName": "keyshift", "signInAudience": "AzureADMultipleOrgs"}
    application = azure.graph("POST", "/applications", body)
    theirs = azure.group("their-keys", who="customer")
    vault = azure.vault(theirs, "customer-vault", who="customer")
    officer = azure.person("customer")["object_id"]
    azure.assign(vault["id"], CRYPTO_OFFICER, officer, "1", who="customer")
    keys = azure.keys(vault, "customer")
    settled(partial(keys.create_rsa_key, "theirs", size=2048), "ForbiddenByRbac")
    return Shared(group, identity, application, vault, keys)


def _trust(azure: AzureServer, shared: Shared, issuer: str, name: str = "identity") -> str:
    body = {
        "audiences": ["api://AzureADTokenExchange"],
        "issuer": issuer,
        "name": name,
        "subject": shared.identity["principalId"],
    }
    path = f"/applications/{shared.application['id']}/federatedIdentityCredentials"
    return azure.graph("POST", path, body)["id"]


@pytest.fixture(scope="module")
def account(azure: AzureServer, shared: Shared) -> dict[str, Any]:
    """Made step by step: each step that is missing is a refusal of its own."""
    make = partial(azure.account, shared.group, "acmebyokv", encryption=shared.encryption(), identity=shared.attached)
    assert refused(make) == "KeyVaultAuthenticationFailure", "no consent: no service principal in their tenant"
    consent = azure.graph("POST", "/servicePrincipals", {"appId": shared.application["appId"]}, who="customer")
    azure.assign(f"{shared.vault['id']}/keys/theirs", ENCRYPTION_USER, consent["id"], "2", who="customer")
    wrong = _trust(azure, shared, "https://login.microsoftonline.com/x/v2.0")
    azure.settings(role_lag_seconds=0)
    assert refused(make) == "KeyVaultAuthenticationFailure", "the application trusts another issuer"
    path = f"/applications/{shared.application['id']}/federatedIdentityCredentials"
    azure.graph("DELETE", f"{path}/{wrong}")
    _trust(azure, shared, f"{azure.url}/{azure.person()['tenant_id']}/v2.0", "right")
    azure.settings(role_lag_seconds=LAG)
    return make()


@pytest.fixture(scope="module")
def blobs(azure: AzureServer, shared: Shared, account: dict[str, Any]) -> ContainerClient:
    runner = azure.identity(shared.group, "runner")
    container = f"{account['id']}/blobServices/default/containers/acme-s3"
    azure.arm("PUT", container, {"properties": {}}, api=STORAGE_API)
    azure.assign(container, BLOB_OWNER, runner["principalId"], "3")
    client = azure.container(account, "acme-s3", azure.acting_as(runner["clientId"]))
    settled(lambda: client.upload_blob("canary", b"chirp"), "AuthorizationPermissionMismatch")
    return client


def _code(blobs: ContainerClient) -> str:
    with pytest.raises(HttpResponseError) as caught:
        blobs.get_blob_client("canary").download_blob()
    return str(getattr(caught.value.error_code, "value", caught.value.error_code))


def test_the_vendor_neither_sees_nor_uses_the_customers_vault(azure: AzureServer, shared: Shared) -> None:
    with pytest.raises(Refused, match="InvalidAuthenticationTokenTenant"):
        azure.arm("GET", shared.vault["id"], api="2024-11-01")
    with pytest.raises(HttpResponseError, match="tenant"):
        azure.keys(shared.vault).get_key("theirs")


def test_the_account_follows_a_new_version_at_the_daily_look(
    azure: AzureServer, shared: Shared, account: dict[str, Any]
) -> None:
    new = shared.keys.create_rsa_key("theirs", size=2048)
    seen = azure.arm("GET", account["id"], api=STORAGE_API)
    assert current(seen) == current(account) != new.id, "not before the look"
    azure.settings(key_check_seconds=0)
    assert current(azure.arm("GET", account["id"], api=STORAGE_API)) == new.id
    azure.settings(key_check_seconds=86400)


def test_a_customer_who_disables_the_key_closes_the_data(shared: Shared, blobs: ContainerClient) -> None:
    latest = shared.keys.get_key("theirs").properties.version
    shared.keys.update_key_properties("theirs", latest, enabled=False)
    assert _code(blobs) == "KeyVaultEncryptionKeyNotFound"
    shared.keys.update_key_properties("theirs", latest, enabled=True)
    assert blobs.get_blob_client("canary").download_blob().readall() == b"chirp"


def test_a_customer_who_withdraws_the_role_closes_the_data(
    azure: AzureServer, shared: Shared, blobs: ContainerClient
) -> None:
    scope = f"{shared.vault['id']}/keys/theirs"
    guid = "00000000-0000-4000-8000-000000000002"
    azure.settings(role_lag_seconds=0)
    azure.arm("DELETE", f"{scope}/providers/Microsoft.Authorization/roleAssignments/{guid}", who="customer")
    assert _code(blobs) == "KeyVaultEncryptionKeyNotFound"
    principals = azure.graph("GET", "/servicePrincipals", who="customer")["value"]
    ours = next(each["id"] for each in principals if each["appId"] == shared.application["appId"])
    azure.assign(scope, ENCRYPTION_USER, ours, "2", who="customer")
    assert blobs.get_blob_client("canary").download_blob().readall() == b"chirp"
    azure.graph("DELETE", f"/servicePrincipals/{ours}", who="customer")
    assert _code(blobs) == "KeyVaultAccessTokenCannotBeAcquired", "no application, no token"
    azure.settings(role_lag_seconds=LAG)
