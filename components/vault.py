"""How a key of a vault is named: pure, for who reads a layout and for who takes a customer's words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_NAME = re.compile(r"[0-9a-zA-Z-]{1,127}")
"""https://learn.microsoft.com/azure/key-vault/general/about-keys-secrets-certificates#objects-identifiers-and-versioning"""


@dataclass(frozen=True, kw_only=True)
class VaultKey:
    """A key without its version. `vault_uri` ends with a slash, as Azure gives it."""

    vault_uri: str
    name: str

    @classmethod
    def of(cls, vault_uri: str, name: str) -> Self:
        """Raises ValueError that says what is wrong with the one or the other."""
        if not _NAME.fullmatch(name):
            versioned = "; it names a version, and a key is named without one" if "/" in name else ""
            raise ValueError(f"{name!r} is no key's name{versioned}")
        return cls(vault_uri=vault(vault_uri), name=name)

    @classmethod
    def parse(cls, id: str) -> Self:
        """From a key's identifier, `https://…/keys/<name>`. Raises ValueError."""
        found = re.fullmatch(r"(https://[^/]+/)keys/([^/]+)(/.*)?", id)
        if found is None:
            raise ValueError(f"{id!r} is no identifier of a key, which is https://<vault>/keys/<name>")
        if found[3]:
            raise ValueError(f"{id!r} names a version; a key is named without one, so that it can be rotated")
        return cls.of(found[1], found[2])

    @property
    def id(self) -> str:
        return f"{self.vault_uri}keys/{self.name}"

    def version(self, version: str) -> str:
        return f"{self.id}/{version}"


def vault(uri: str) -> str:
    """The address of a vault as Azure writes it. Raises ValueError for one that is none."""
    try:
        split = urlsplit(uri.strip())
        port = f":{split.port}" if split.port not in {None, 443} else ""
    except ValueError:
        raise ValueError(f"{uri!r} is no vault's address") from None
    if split.scheme != "https" or not split.hostname or split.username or split.query or split.fragment:
        raise ValueError(f"{uri!r} is no vault's address, which is https://<name>.vault.azure.net/")
    if split.path not in {"", "/"}:
        raise ValueError(f"{uri!r} names more than the vault; give the key's name by itself")
    return f"https://{split.hostname}{port}/"


def is_of_the_same_cloud(uri: str, ours: str) -> bool:
    """Whether a vault, or managed HSM, lies in the Azure cloud of `ours`: another one takes no federated credential."""
    suffix, home = (_suffix(one) for one in (uri, ours))
    return suffix in {home, home.replace("vault.", "managedhsm.", 1)}


def _suffix(uri: str) -> str:
    return (urlsplit(uri).hostname or "").partition(".")[2]
