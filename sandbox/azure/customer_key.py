"""A storage account under a key: what Storage does with the vault, as the identity that the account names.

The account has a data key of its own, wrapped by the vault's key. Setting a key wraps it; a listed operation on
the data unwraps it. Both go through the vault's own checks, so that a key that is disabled, deleted, expired,
withdrawn from the identity or gone with its vault is really out of reach.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sandbox.azure import refusals
from sandbox.azure.directory import Caller, Directory
from sandbox.azure.refusals import AzureError
from sandbox.azure.store import Document
from sandbox.azure.vault.byok import decode, encode
from sandbox.azure.vault.service import Vaults
from sandbox.azure.world import World

_ALGORITHM = "RSA-OAEP-256"
_WRAP, _UNWRAP = "Microsoft.KeyVault/vaults/keys/wrap/action", "Microsoft.KeyVault/vaults/keys/unwrap/action"
_READ = "Microsoft.KeyVault/vaults/keys/read"
_SIZES = (2048, 3072, 4096)


@dataclass(frozen=True)
class KeyReference:
    """What an account says of its key. An empty version means the latest, looked up once a day."""

    uri: str
    name: str
    version: str
    identity: str
    federated_app: str = ""

    @classmethod
    def of(cls, encryption: dict[str, Any]) -> KeyReference:
        properties, identity = encryption.get("keyvaultproperties") or {}, encryption.get("identity") or {}
        return cls(
            (properties.get("keyvaulturi") or "").rstrip("/"),
            properties.get("keyname") or "",
            properties.get("keyversion") or "",
            (identity.get("userAssignedIdentity") or "").lower(),
            (identity.get("federatedIdentityClientId") or "").lower(),
        )


@dataclass(frozen=True)
class CustomerKeys:
    """Storage's side of customer-managed keys."""

    world: World
    directory: Directory
    vaults: Vaults

    def set(self, reference: KeyReference, wrapped: Document | None, *, is_new: bool) -> Document:
        """Wraps the account's data key under the key: {kid, wrapped, at}. Raises AzureError.

        `wrapped` is what the account holds now: its data key has to be unwrapped first, with the old key.
        """
        vault = self.vaults.by_uri(reference.uri)
        if vault is None:
            raise refusals.VAULT_GONE.error(vault=reference.uri)
        if not vault["properties"].get("enablePurgeProtection"):
            raise refusals.VAULT_POLICY.error()
        data_key = secrets.token_bytes(32) if wrapped is None else self._data_key(wrapped, is_new=is_new)
        caller = self._caller(reference, vault)
        try:
            for action in (_READ, _WRAP, _UNWRAP):
                self.vaults.check(vault, caller, action, reference.name, f"keys/{reference.name}")
            found = self.vaults.keys.get(vault, reference.name, reference.version)
            if found["key"]["kty"] not in ("RSA", "RSA-HSM") or len(decode(found["key"]["n"])) * 8 not in _SIZES:
                raise refusals.KEY_TYPE.error()
            version = found["key"]["kid"].rsplit("/", 1)[1]
            kid, ciphertext = self.vaults.keys.wrap(vault, reference.name, version, _ALGORITHM, data_key)
            self.vaults.keys.unwrap(vault, reference.name, version, _ALGORITHM, ciphertext)
        except AzureError as error:
            if error.code == "KeyNotFound":
                raise refusals.KEY_NOT_FOUND_AT_SET.error(key=reference.name, vault=vault["name"]) from error
            if (
                error.code == "Forbidden"
            ):  # no role (yet), disabled, expired, not for wrapping: Azure does not say which
                raise refusals.VAULT_AUTHENTICATION.error() from error
            raise
        return {
            "at": self.world.now(),
            "kid": kid,
            "reference": reference.__dict__,
            "wrapped": encode(ciphertext),
        }

    def follow(self, account: Document) -> Document:
        """The account, under the latest version of its key if it names none and the daily look is due.

        Docs, customer-managed-keys-overview: a look once a day; until then the old version has to stay enabled.
        """
        key, now = account["key"], self.world.now()
        if key is None or key["reference"]["version"] or now < key["at"] + self.world.settings.key_check_seconds:
            return account
        reference = KeyReference(**key["reference"])
        vault = self.vaults.by_uri(reference.uri)
        try:
            latest = self.vaults.keys.get(vault, reference.name)["key"]["kid"] if vault else key["kid"]
            if latest == key["kid"]:
                return account
            account["key"] = self.set(reference, key, is_new=False)
        except AzureError:
            return account  # Storage says nothing of it: who reads the data meets the old version, or its loss
        self.world.store.put("account", account["name"], account)
        return account

    def unwrap(self, key: Document) -> bytes:
        """The account's data key. Raises AzureError with the code that a reader of the data gets."""
        reference = KeyReference(**key["reference"])
        vault = self.vaults.by_uri(reference.uri)
        if vault is None:
            raise refusals.VAULT_LOST.error()
        try:
            caller = self._caller(reference, vault)
        except AzureError as error:
            raise refusals.IDENTITY_LOST.error() from error
        name, version = key["kid"].rsplit("/", 2)[-2:]
        try:
            self.vaults.check(vault, caller, _UNWRAP, name, f"keys/{name}")
            return self.vaults.keys.unwrap(vault, name, version, _ALGORITHM, decode(key["wrapped"]))[1]
        except AzureError as error:
            raise refusals.KEY_LOST.error() from error

    def _data_key(self, wrapped: Document, *, is_new: bool) -> bytes:
        assert not is_new
        try:
            return self.unwrap(wrapped)
        except AzureError as error:
            if error.code == refusals.VAULT_LOST.code:
                raise refusals.VAULT_GONE.error(vault=wrapped["reference"]["uri"]) from error
            raise refusals.VAULT_AUTHENTICATION.error() from error

    def _caller(self, reference: KeyReference, vault: Document) -> Caller:
        """Who Storage is at the vault: the identity, or in another tenant the app that trusts it."""
        identity = self.world.store.get("uami", reference.identity)
        principal = self.world.store.get("principal", identity["principalId"]) if identity else None
        if principal is None:
            raise refusals.VAULT_AUTHENTICATION.error()
        if reference.federated_app:
            try:
                principal = self.directory.exchanged(principal, reference.federated_app, vault["tenant"])
            except AzureError as error:
                raise refusals.VAULT_AUTHENTICATION.error() from error
        elif principal["tenant"] != vault["tenant"]:
            raise refusals.VAULT_AUTHENTICATION.error()
        return Caller(principal["id"], principal["appId"], principal["tenant"])
