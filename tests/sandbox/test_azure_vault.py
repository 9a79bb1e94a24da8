"""Entra and Key Vault as Azure's SDKs find them. What Azure refuses, they refuse."""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import Any

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import ClientSecretCredential
from azure.keyvault.keys import JsonWebKey
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm
from azure_lab import LAG, Home, refused, settled, wrapped
from azure_server import (
    BLOB_READER,
    CRYPTO_OFFICER,
    LOCATION,
    AzureServer,
)
from cryptography.hazmat.primitives.asymmetric import ec, rsa

pytestmark = pytest.mark.sandbox


# Entra


def test_a_wrong_secret_and_an_unknown_tenant_are_entras_errors(azure: AzureServer) -> None:
    person = azure.person()
    for tenant, secret, code in (
        (person["tenant_id"], "wrong", "AADSTS7000215"),
        ("00000000-0000-4000-8000-000000000000", person["client_secret"], "Unable to get authority configuration"),
    ):
        credential = ClientSecretCredential(
            tenant, person["client_id"], secret, authority=azure.url, disable_instance_discovery=True
        )
        with pytest.raises(Exception, match=code):
            credential.get_token("https://management.azure.com/.default")


def test_an_identity_without_a_federated_credential_cannot_be_acted_as(azure: AzureServer, home: Home) -> None:
    id_ = f"{home.group}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/lonely"
    made = azure.arm("PUT", id_, {"location": LOCATION}, api="2024-11-30")
    with pytest.raises(ClientAuthenticationError, match="AADSTS70021"):
        azure.acting_as(made["properties"]["clientId"]).get_token("https://storage.azure.com/.default")


def test_a_role_for_an_identity_that_is_new_needs_its_principal_type(azure: AzureServer, home: Home) -> None:
    azure.settings(directory_lag_seconds=60)
    try:
        fresh = azure.identity(home.group, "fresh")
        properties = {
            "principalId": fresh["principalId"],
            "roleDefinitionId": f"/providers/Microsoft.Authorization/roleDefinitions/{BLOB_READER}",
        }
        id_ = f"{home.group}/providers/Microsoft.Authorization/roleAssignments/00000000-0000-4000-8000-000000000099"
        assert refused(lambda: azure.arm("PUT", id_, {"properties": properties})) == "PrincipalNotFound"
        azure.arm("PUT", id_, {"properties": properties | {"principalType": "ServicePrincipal"}})
    finally:
        azure.settings(directory_lag_seconds=LAG)


# Key Vault


def test_an_owner_of_the_subscription_has_no_rights_to_keys(azure: AzureServer, home: Home) -> None:
    vault = azure.vault(home.group, "keyshift-no-role")
    with pytest.raises(HttpResponseError, match="ForbiddenByRbac"):
        azure.keys(vault).get_key("anything")


def test_the_imported_key_is_the_customers(home: Home, customer_key: rsa.RSAPrivateKey) -> None:
    assert int.from_bytes(home.imported.key.n) == customer_key.public_key().public_numbers().n
    assert home.imported.key_type == "RSA-HSM"


def test_a_second_import_is_a_new_version(azure: AzureServer, home: Home) -> None:
    keys = azure.keys(home.vault)
    for _ in range(2):
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        keys.import_key("twice", JsonWebKey(kty="RSA-HSM", t=wrapped(home.kek, other)), hardware_protected=True)
    versions = list(keys.list_properties_of_key_versions("twice"))
    assert len(versions) == 2
    assert int.from_bytes(keys.get_key("twice").key.n) == other.public_key().public_numbers().n


def _bad_blobs(home: Home, key: Any) -> dict[str, bytes]:
    other = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    good = wrapped(home.kek, key)
    document = json.loads(good)
    damaged = bytearray(base64.urlsafe_b64decode(document["ciphertext"]))
    damaged[-1] ^= 1
    document["ciphertext"] = base64.urlsafe_b64encode(bytes(damaged)).decode()
    return {
        "no JSON": b"-----BEGIN PRIVATE KEY-----",
        "wrong algorithm": wrapped(home.kek, key, enc="CKM_RSA_PKCS"),
        "another vault's KEK": wrapped(home.kek, key, kid="https://127.0.0.1:1/keys/acme-kek/0"),
        "not a KEK": wrapped(home.kek, key, kid=home.imported.id),
        "no version": wrapped(home.kek, key, kid=home.kek.id.rsplit("/", 1)[0]),
        "damaged": json.dumps(document).encode(),
        "RSA-1024": wrapped(home.kek, other),
        "EC": wrapped(home.kek, ec.generate_private_key(ec.SECP256R1())),
    }


def test_a_bad_transfer_blob_is_refused_and_makes_no_version(
    azure: AzureServer, home: Home, customer_key: rsa.RSAPrivateKey
) -> None:
    keys = azure.keys(home.vault)
    for what, blob in _bad_blobs(home, customer_key).items():
        with pytest.raises(HttpResponseError, match=r"BadParameter|KeyNotFound") as caught:
            keys.import_key("bad", JsonWebKey(kty="RSA-HSM", t=blob), hardware_protected=True)
        assert caught.value.status_code in (400, 404), what
    with pytest.raises(ResourceNotFoundError):
        keys.get_key("bad")


def test_a_disabled_kek_imports_nothing(azure: AzureServer, home: Home, customer_key: rsa.RSAPrivateKey) -> None:
    keys = azure.keys(home.vault)
    kek = keys.create_rsa_key("old-kek", size=2048, hardware_protected=True, key_operations=["import"])
    keys.update_key_properties("old-kek", enabled=False)
    with pytest.raises(HttpResponseError, match="disabled"):
        keys.import_key("x", JsonWebKey(kty="RSA-HSM", t=wrapped(kek, customer_key)), hardware_protected=True)


def test_hsm_keys_need_a_premium_vault_and_import_is_exclusive(azure: AzureServer, home: Home) -> None:
    vault = azure.vault(home.group, "keyshift-cheap", sku={"family": "A", "name": "standard"})
    azure.assign(vault["id"], CRYPTO_OFFICER, azure.person()["object_id"], "4")
    make = partial(azure.keys(vault).create_rsa_key, "x", size=2048, hardware_protected=True)
    with pytest.raises(HttpResponseError, match="standard SKU"):
        settled(make, "ForbiddenByRbac")
    with pytest.raises(HttpResponseError, match="exclusive"):
        azure.keys(home.vault).create_rsa_key(
            "x", size=2048, hardware_protected=True, key_operations=["import", "wrapKey"]
        )


def test_a_disabled_key_wraps_nothing(azure: AzureServer, home: Home) -> None:
    keys = azure.keys(home.vault)
    key = keys.create_rsa_key("toggled", size=2048)
    client = CryptographyClient(key.id, azure.credential(), connection_verify=azure.bundle)
    secret = client.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, b"k" * 32).encrypted_key
    keys.update_key_properties("toggled", enabled=False)
    with pytest.raises(HttpResponseError, match="KeyDisabled"):
        client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret)
    keys.update_key_properties("toggled", enabled=True)
    assert client.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret).key == b"k" * 32


def test_a_deleted_keys_name_is_burned(azure: AzureServer, home: Home) -> None:
    keys = azure.keys(home.vault)
    keys.create_rsa_key("burned", size=2048)
    keys.begin_delete_key("burned").wait()
    with pytest.raises(ResourceExistsError, match="recoverable"):
        keys.create_rsa_key("burned", size=2048)
    with pytest.raises(HttpResponseError, match="purge"):
        keys.purge_deleted_key("burned")
    keys.begin_recover_deleted_key("burned").wait()
    assert keys.get_key("burned").name == "burned"


def test_a_deleted_vaults_name_is_burned_and_its_roles_are_gone(azure: AzureServer, home: Home) -> None:
    vault = azure.vault(home.group, "keyshift-gone")
    assignment = azure.assign(vault["id"], CRYPTO_OFFICER, azure.person()["object_id"], "5")
    azure.arm("DELETE", vault["id"], api="2024-11-01")
    assert refused(lambda: azure.vault(home.group, "keyshift-gone")) == "VaultAlreadyExists"
    azure.vault(home.group, "keyshift-gone", createMode="recover")
    assert refused(lambda: azure.arm("GET", assignment)) == "ResourceNotFound"


@pytest.mark.parametrize(
    ("properties", "code"),
    [
        ({"enablePurgeProtection": False}, "BadRequest"),
        ({"enableRbacAuthorization": False}, "NotImplemented"),
        ({"softDeleteRetentionInDays": 3}, "BadRequest"),
        ({"tenantId": "44444444-bbbb-4bbb-8bbb-444444444444"}, "BadRequest"),
    ],
)
def test_a_vault_that_would_not_keep_keys_is_refused(
    azure: AzureServer, home: Home, properties: dict[str, Any], code: str
) -> None:
    assert refused(lambda: azure.vault(home.group, "keyshift-bad", **properties)) == code


def test_a_secret_is_read_by_who_has_the_role_only(azure: AzureServer, home: Home) -> None:
    id_ = f"{home.vault['id']}/secrets/word"
    azure.arm("PUT", id_, {"properties": {"value": "the word"}}, api="2024-11-01")
    shown = azure.arm("GET", id_, api="2024-11-01")
    assert "the word" not in json.dumps(shown), "Resource Manager never shows a value"
    reader = azure.identity(home.group, "reader")
    client = azure.secrets(home.vault, azure.acting_as(reader["clientId"]))
    with pytest.raises(HttpResponseError, match="ForbiddenByRbac"):
        client.get_secret("word")
    azure.assign(id_, "4633458b-17de-408a-b874-0445c86b69e6", reader["principalId"], "6")
    assert settled(lambda: client.get_secret("word"), "ForbiddenByRbac").value == "the word"
