"""Storage accounts under a key, by Resource Manager. What Azure refuses, it refuses."""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import Any

import pytest
from azure_lab import Home, current, refused, settled
from azure_server import (
    ENCRYPTION_USER,
    STORAGE_API,
    AzureServer,
    Refused,
)

pytestmark = pytest.mark.sandbox


# Accounts under a key


def _expired(keys: Any) -> None:
    keys.create_rsa_key("expired", size=2048, expires_on=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))


def test_an_account_is_not_made_under_a_key_that_does_not_serve(azure: AzureServer, home: Home) -> None:
    keys = azure.keys(home.vault)
    _expired(keys)
    keys.create_rsa_key("off", size=2048, enabled=False)
    azure.assign(home.vault["id"], ENCRYPTION_USER, home.identity["principalId"], "7")
    soft = azure.vault(home.group, "keyshift-soft", enablePurgeProtection=None)
    outside = azure.identity(home.group, "outside")["id"]
    uri = {"keyvaultproperties": {"keyname": "acme", "keyvaulturi": soft["properties"]["vaultUri"]}}
    nowhere = {"keyvaultproperties": {"keyname": "acme", "keyvaulturi": "https://127.0.0.1:1/"}}
    two = {"type": "UserAssigned", "userAssignedIdentities": {home.identity["id"]: {}, outside: {}}}
    ready = partial(azure.account, home.group, "never", encryption=home.encryption("off"), identity=home.attached)
    assert refused(ready) == "KeyVaultAuthenticationFailure", "a disabled key"
    cases: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("KeyVaultAuthenticationFailure", "expired", home.encryption("expired"), home.attached),
        ("KeyVaultKeyNotFound", "no such key", home.encryption("none"), home.attached),
        ("KeyVaultPolicyError", "no purge protection", home.encryption(**uri), home.attached),
        ("HttpResourceNotFound", "no such vault", home.encryption(**nowhere), home.attached),
        ("InvalidValuesForRequestParameters", "identity not attached", home.encryption(), {"type": "None"}),
        ("InvalidRequestPropertyValue", "no identity", home.encryption(identity={}), home.attached),
        ("TooManyUserAssignedIdentities", "two identities", home.encryption(), two),
    ]
    for code, what, encryption, identity in cases:
        with pytest.raises(Refused) as caught:
            settled(
                partial(azure.account, home.group, "never", encryption=encryption, identity=identity),
                "KeyVaultAuthenticationFailure" if code != "KeyVaultAuthenticationFailure" else "none",
            )
        assert caught.value.code == code, what
    with pytest.raises(Refused, match="ResourceNotFound"):
        azure.arm("GET", f"{home.group}/providers/Microsoft.Storage/storageAccounts/never", api=STORAGE_API)


def test_key_and_identity_are_not_changed_in_one_update(azure: AzureServer, home: Home) -> None:
    other = azure.identity(home.group, "other-key")
    azure.assign(home.vault["id"], ENCRYPTION_USER, other["principalId"], "8")
    keys = azure.keys(home.vault)
    keys.create_rsa_key("next", size=2048)
    encryption = home.encryption("next") | {"identity": {"userAssignedIdentity": other["id"]}}
    attached = {"type": "UserAssigned", "userAssignedIdentities": {other["id"]: {}}}
    with pytest.raises(Refused, match="cannot be updated in a single operation"):
        azure.account(home.group, "acmes2", encryption=encryption, identity=attached)
    now = azure.arm("GET", home.account["id"], api=STORAGE_API)
    assert now["properties"]["encryption"]["keyvaultproperties"]["keyname"] == "acme", "nothing was changed"


def test_an_account_is_redirected_to_a_named_version(azure: AzureServer, home: Home) -> None:
    keys = azure.keys(home.vault)
    old = keys.create_rsa_key("turning", size=2048)
    azure.assign(f"{home.vault['id']}/keys/turning", ENCRYPTION_USER, home.identity["principalId"], "10")

    def put(version: str) -> str:
        """The current version after an update to this one."""
        encryption = home.encryption("turning", version)
        update = partial(azure.account, home.group, "turned", encryption=encryption, identity=home.attached)
        return current(settled(update, "KeyVaultAuthenticationFailure"))

    assert put(old.properties.version) == old.id
    new = keys.create_rsa_key("turning", size=2048)
    assert (
        current(azure.arm("GET", f"{home.group}/providers/Microsoft.Storage/storageAccounts/turned", api=STORAGE_API))
        == old.id
    )
    assert put(new.properties.version) == new.id
    keys.update_key_properties("turning", old.properties.version, enabled=False)
    keys.update_key_properties("turning", new.properties.version, enabled=False)
    newest = keys.create_rsa_key("turning", size=2048)
    with pytest.raises(Refused, match="KeyVaultAuthenticationFailure"):
        azure.account(
            home.group,
            "turned",
            encryption=home.encryption("turning", newest.properties.version),
            identity=home.attached,
        )


def test_shared_keys_and_unknown_settings_are_refused(azure: AzureServer, home: Home) -> None:
    assert (
        refused(lambda: azure.account(home.group, "x12", properties={"allowSharedKeyAccess": True})) == "NotImplemented"
    )
    assert refused(lambda: azure.account(home.group, "x12", properties={"isSftpEnabled": True})) == "NotImplemented"
    assert refused(lambda: azure.account(home.group, "Bad_Name")) == "AccountNameInvalid"
    elsewhere = azure.group("elsewhere")
    assert refused(lambda: azure.account(elsewhere, "acmes2")) == "StorageAccountAlreadyTaken"
