"""Key Vault behind `KeyOps`: one key a tenant, of which each upload is a version, and a key exchange key an upload.

Plaintext key bytes exist nowhere here: the vault unwraps. Which upload a version is says a tag on it, so that a lost
state folder loses nothing. The SHA-256 is that of the `.byok` file, as the customer sent it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import stamina
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.keyvault.keys import JsonWebKey, KeyClient, KeyProperties, KeyVaultKey
from cryptography.hazmat.primitives.asymmetric import rsa

from components.vault import VaultKey
from migrate.azure import identity
from migrate.azure.errors import explained
from migrate.errors import CloudError, KeyshiftError, RefusedInput, Waiting
from migrate.files import private_folder, write_private
from migrate.keys import byok
from migrate.keys.byok import KeyExchangeKey
from migrate.keys.ops import Described, Filled, Requested
from migrate.keys.vault_onboarding import directory_of
from migrate.live import Live

VALID_FOR = timedelta(days=7)
"""How long the customer has. Our choice: Azure sets a key exchange key no limit of its own."""
OF_KEY, OF_FILE = "keyshift-key", "keyshift-sha256"
LAG_SECONDS = 600.0
"""How long a role may take to spread (Azure RBAC, "Troubleshoot")."""

Answer = TypeVar("Answer")


class VaultKeys:
    pins_storages = True

    def __init__(self, live: Live, client: KeyClient | None = None) -> None:
        self._live, self._given = live, client

    def request(self, key: str, requests: Path, into: Path) -> Requested:
        tenant = self._live.layout.tenant
        if self._version(key) is not None:
            raise RefusedInput(
                f"{key} of tenant {tenant} already holds the customer's key; a new request would make its upload unknown",
                hint=f"keyshift key list {tenant}",
                code="key-already-imported",
            )
        kek = self._kek(key)
        if kek.properties.expires_on is None:
            until = datetime.now(UTC).replace(microsecond=0) + VALID_FOR
            kek = self._asked(
                f"limiting {kek.name}",
                lambda: self._keys.update_key_properties(kek.name, kek.properties.version, expires_on=until),
            )
        elif kek.properties.expires_on <= datetime.now(UTC):
            kek = self._renewed(kek)
        named = _named(kek)
        into.mkdir(parents=True, exist_ok=True)
        file = into / f"{tenant}-{key}-kek.pem"
        file.write_text(named.text())
        write_private(private_folder(requests) / f"{key}-kek.pem", named.text().encode())
        return Requested(
            public_key=file,
            valid_until=named.valid_until,
            openssl=byok.openssl_lines(named, file),
            wrap=f"keyshift key wrap --azure {file}",
        )

    def upload(self, key: str, wrapped: bytes, sha256: str, requests: Path) -> Filled:
        digest = _checked_hash(wrapped, sha256)
        held = self._version(key)
        if held is not None:
            return self._already(key, held, digest)
        kek = self._kek(key)
        if kek.properties.expires_on is None or not (requests / f"{key}-kek.pem").exists():
            raise Waiting(
                f"no key exchange key of {key} has been given out, so the customer has nothing to wrap with yet",
                waits_for="an import request",
                hint="ask for one, and have the key wrapped with the file that it gives",
                code="no-import-request",
            )
        byok.checked(wrapped, _named(kek))
        if kek.properties.expires_on <= datetime.now(UTC):
            raise RefusedInput(
                f"the key exchange key of {key} expired at {kek.properties.expires_on.isoformat()}",
                hint="ask for a new import request; the same key has to be wrapped again with its file",
                code="import-token-expired",
            )
        made = self._asked(
            f"importing the wrapped key into {self._slot(key)['name']}", lambda: self._import(key, wrapped, digest)
        )
        # Nothing may be imported with it again.
        self._asked(f"closing {kek.name}", lambda: self._keys.update_key_properties(kek.name, enabled=False))
        return Filled(material=str(made.properties.version), sha256=digest, already=False)

    def describe(self, key: str) -> Described:
        theirs = self._live.layout.key(key).arn
        if theirs is not None:
            return Described(id=theirs, state="the customer's own", material=self._live.layout.key(key).material or "-")
        found = self._version(key)
        if found is None:
            return Described(id=self._slot(key)["key_id"], state="PendingImport")
        state = "Enabled" if found.enabled else "Disabled"
        return Described(id=str(found.id), state=state, material=str(found.version))

    def material(self, key: str) -> str | None:
        found = self._version(key)
        return None if found is None else str(found.version)

    def require_fit(self, key: str) -> dict[str, Any]:
        """Only that the vault is still the bound directory's: whether it lets us in is tried by making the account."""
        bound = self._live.layout.key(key)
        if bound.arn is None:
            return {"key": key}
        vault_uri = VaultKey.parse(bound.arn).vault_uri
        says = directory_of(vault_uri)
        if says not in {None, bound.directory}:
            raise Waiting(
                f"the vault {vault_uri} belongs to the directory {says} now, not to {bound.directory}, to which {key} of "
                f"tenant {self._live.layout.tenant} was bound",
                waits_for="the vault of the customer to be theirs again",
                hint=f"keyshift abort {self._live.layout.tenant}, then bind another: keyshift key onboard --help",
                code="vault-of-another-directory",
            )
        return {"key": bound.arn, "directory": bound.directory, "is_proved": says is not None}

    def require_in_storages(self, key: str) -> None:
        """A storage account has asked the vault itself, when it was made and at each trial of the key."""

    def enable(self, key: str, *, is_enabled: bool) -> None:
        found = self._version(key)
        if found is None:
            raise RefusedInput(
                f"{key} of tenant {self._live.layout.tenant} holds no version that could be put "
                f"{'in' if is_enabled else 'out of'} use",
                hint=f"keyshift key list {self._live.layout.tenant}",
                code="no-version",
            )
        if found.enabled is not is_enabled:
            self._asked(
                f"{'enabling' if is_enabled else 'disabling'} {found.id}",
                lambda: self._keys.update_key_properties(str(found.name), found.version, enabled=is_enabled),
            )

    # the vault --------------------------------------------------------------------------------

    @cached_property
    def _keys(self) -> KeyClient:
        return self._given or KeyClient(self._live.outputs["stamp"]["vault_uri"], identity.operator())

    def _slot(self, key: str) -> dict[str, Any]:
        made = self._live.outputs.get("keys", {})
        if key not in made:
            raise RefusedInput(
                f"{key} of tenant {self._live.layout.tenant} has not been brought up yet",
                hint=f"keyshift resume {self._live.layout.tenant}",
                code="not-up",
            )
        return made[key]

    def _kek(self, key: str) -> KeyVaultKey:
        name = self._slot(key)["kek_name"]
        return self._asked(f"reading {name}", lambda: self._keys.get_key(name))

    def _renewed(self, kek: KeyVaultKey) -> KeyVaultKey:
        """A version of its own: what was wrapped for one that has expired stays useless."""
        until = datetime.now(UTC).replace(microsecond=0) + VALID_FOR
        return self._asked(
            f"renewing {kek.name}",
            lambda: self._keys.create_rsa_key(
                str(kek.name),
                size=_public(kek).key_size,
                hardware_protected=True,
                key_operations=["import"],
                expires_on=until,
            ),
        )

    def _version(self, key: str) -> KeyProperties | None:
        """The version that the customer's upload into `key` made."""
        name = self._slot(key)["name"]

        def listed() -> list[KeyProperties]:
            try:
                return list(self._keys.list_properties_of_key_versions(name))
            except ResourceNotFoundError:
                return []

        found = [one for one in self._asked(f"listing {name}", listed) if (one.tags or {}).get(OF_KEY) == key]
        return max(found, key=lambda one: one.created_on or datetime.min.replace(tzinfo=UTC), default=None)

    def _import(self, key: str, wrapped: bytes, digest: str) -> KeyVaultKey:
        return self._keys.import_key(
            self._slot(key)["name"],
            JsonWebKey(kty="RSA-HSM", key_ops=["wrapKey", "unwrapKey"], t=wrapped),
            hardware_protected=True,
            tags={OF_KEY: key, OF_FILE: digest},
        )

    def _already(self, key: str, held: KeyProperties, digest: str) -> Filled:
        if (held.tags or {}).get(OF_FILE) != digest:
            raise RefusedInput(
                f"{key} already holds a customer's key (version {held.version}), and this is another file",
                hint="a key is uploaded once; to use another key, start a rotation",
                code="key-already-imported",
            )
        kek = self._slot(key)["kek_name"]
        self._asked(f"closing {kek}", lambda: self._keys.update_key_properties(kek, enabled=False))
        return Filled(material=str(held.version), sha256=digest, already=True)

    def _asked(self, doing: str, call: Callable[[], Answer]) -> Answer:
        """Asks the vault, patient with a role that was assigned a moment ago."""
        try:
            for attempt in stamina.retry_context(on=_may_pass, attempts=None, timeout=LAG_SECONDS, wait_max=15.0):
                with attempt:
                    return call()
        except AzureError as error:
            raise _refusal(error, doing) from error
        raise AssertionError("a retry context either returns or raises")


def _named(kek: KeyVaultKey) -> KeyExchangeKey:
    until = kek.properties.expires_on
    return KeyExchangeKey(str(kek.id), _public(kek), until.isoformat() if until else "")


def _public(kek: KeyVaultKey) -> rsa.RSAPublicKey:
    jwk: Any = kek.key
    return rsa.RSAPublicNumbers(int.from_bytes(jwk.e, "big"), int.from_bytes(jwk.n, "big")).public_key()


def _checked_hash(wrapped: bytes, expected_sha256: str) -> str:
    expected = expected_sha256.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise RefusedInput(
            "the SHA-256 of the wrapped file has to be 64 hexadecimal digits",
            hint=f"`openssl dgst -sha256 {byok.WRAPPED_FILE}` prints it",
            code="wrapped-sha256-form",
        )
    digest = hashlib.sha256(wrapped).hexdigest()
    if digest != expected:
        raise RefusedInput(
            f"the file's SHA-256 is {digest[:12]}…, the customer named {expected[:12]}…:"
            " it was changed on the way, or the hash was taken over another file",
            hint="ask the customer for both again; the hash is taken over the .byok file, not over the key",
            code="wrapped-sha256",
        )
    return digest


def _inner(error: AzureError) -> tuple[str, str]:
    """(code, inner code): Key Vault says Forbidden, and by what inside."""
    said: Any = getattr(error, "error", None)
    inner = getattr(said, "innererror", None) or {}
    return str(getattr(said, "code", "") or ""), str(inner.get("code", "") if isinstance(inner, dict) else "")


def _may_pass(error: Exception) -> bool:
    if not isinstance(error, HttpResponseError) or error.status_code != 403:
        return False
    return _inner(error)[1] in {"", "ForbiddenByRbac"} and "ForbiddenByConnection" not in str(error)


def _refusal(error: AzureError, doing: str) -> KeyshiftError:
    status = getattr(error, "status_code", None)
    if status == 400:
        said = " ".join(str(getattr(error, "message", error)).split())
        return RefusedInput(
            f"{doing}: Key Vault could not unwrap the file to an RSA key ({said[:200].rstrip('.')})",
            hint="wrap it again with `keyshift key wrap --azure`, or with the openssl lines that it prints",
            code="key-not-unwrapped",
        )
    failed = explained(error, doing)
    if status == 403:
        hint = "the operator needs Key Vault Crypto Officer at the stamp's vault: keyshift:operatorPrincipal names them"
        return CloudError(failed.message, cloud_code=failed.cloud_code, hint=hint, code="key-denied")
    return failed
