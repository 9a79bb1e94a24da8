"""Fixtures of the Azure half, one of each a session."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from azure.keyvault.keys import JsonWebKey
from azure.storage.blob import ContainerClient
from azure_lab import LAG, Home, refused, settled, wrapped
from azure_server import (
    BLOB_OWNER,
    CRYPTO_OFFICER,
    ENCRYPTION_USER,
    STORAGE_API,
    AzureServer,
    running_azure,
)
from cryptography.hazmat.primitives.asymmetric import rsa


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    with running_azure(tmp_path_factory.mktemp("azure"), role_lag_seconds=LAG, directory_lag_seconds=LAG) as server:
        yield server


@pytest.fixture(scope="session")
def customer_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="session")
def home(azure: AzureServer, customer_key: rsa.RSAPrivateKey) -> Home:
    group = azure.group("home")
    vault = azure.vault(group, "keyshift-home")
    azure.assign(vault["id"], CRYPTO_OFFICER, azure.person()["object_id"], "1")
    keys = azure.keys(vault)
    make = partial(keys.create_rsa_key, "acme-kek", size=2048, hardware_protected=True, key_operations=["import"])
    kek = settled(make, "ForbiddenByRbac", "Forbidden")
    jwk = JsonWebKey(kty="RSA-HSM", key_ops=["wrapKey", "unwrapKey"], t=wrapped(kek, customer_key))
    imported = keys.import_key("acme", jwk, hardware_protected=True)
    identity = azure.identity(group, "key")
    azure.settings(role_lag_seconds=60)
    assignment = azure.assign(f"{vault['id']}/keys/acme", ENCRYPTION_USER, identity["principalId"], "2")
    found = Home(group, vault, kek, imported, identity, assignment, {}, azure.identity(group, "runner"))
    create = partial(azure.account, group, "acmes2", encryption=found.encryption(), identity=found.attached)
    assert refused(create) == "KeyVaultAuthenticationFailure", "the role does not hold yet"
    azure.settings(role_lag_seconds=LAG)
    found.account = settled(create, "KeyVaultAuthenticationFailure")
    container = f"{found.account['id']}/blobServices/default/containers/acme-s2"
    azure.arm("PUT", container, {"properties": {}}, api=STORAGE_API)
    azure.assign(container, BLOB_OWNER, found.runner["principalId"], "3")
    return found


@pytest.fixture(scope="session")
def blobs(azure: AzureServer, home: Home) -> ContainerClient:
    """The container, as the runner's identity sees it."""
    client = azure.container(home.account, "acme-s2", azure.acting_as(home.runner["clientId"]))
    settled(lambda: list(client.list_blobs()), "AuthorizationPermissionMismatch")
    return client
