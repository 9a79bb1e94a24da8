"""A customer's key that lies with us, whatever the cloud: asked for, filled by their upload, put out of use, given back.

Chosen once, by the layout. Everything here is done as whoever runs the command: no role of a tenant may touch a key.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from stacks.layout import Cloud

if TYPE_CHECKING:
    from migrate.live import Live

ADAPTERS = {Cloud.AWS: ("migrate.keys.kms", "KmsKeys"), Cloud.AZURE: ("migrate.keys.vault", "VaultKeys")}
"""Imported when first chosen: the SDKs of the other cloud are not loaded."""


@dataclass(frozen=True, kw_only=True)
class Requested:
    """What the customer wraps with: a file, until when, and how to do it without us."""

    public_key: Path
    valid_until: str
    openssl: tuple[str, ...]
    wrap: str


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A key that holds the customer's material. `already` is True if this very file had been imported before."""

    material: str
    sha256: str
    already: bool


@dataclass(frozen=True, kw_only=True)
class Described:
    """A key as its cloud sees it; `state` is the cloud's own word. `ends_at`: when it expires or is deleted, ISO 8601."""

    id: str
    state: str
    material: str = "-"
    made_at: str | None = None
    ends_at: str | None = None


class KeyOps(Protocol):
    """The keys of one tenant. Every key is named by its number, `k2`.

    `pins_storages`: a storage is put under one upload by what tells it from others, so the layout has to hold it.
    """

    pins_storages: bool

    def request(self, key: str, requests: Path, into: Path) -> Requested:
        """What wraps an upload into `key`. Raises RefusedInput if it holds the customer's material already."""
        ...

    def upload(self, key: str, wrapped: bytes, sha256: str, requests: Path) -> Filled:
        """Imports a wrapped file, whose SHA-256 the customer says. Raises RefusedInput, Waiting, CloudError."""
        ...

    def describe(self, key: str) -> Described: ...

    def material(self, key: str) -> str | None:
        """What tells one upload from another; None while there is none."""
        ...

    def require_fit(self, key: str) -> dict[str, Any]:
        """Returns once a key of the customer's own may be taken into use, as far as can be told. Raises Waiting."""
        ...

    def require_in_storages(self, key: str) -> None:
        """Every storage under a key of the customer's own really works with it. Raises Waiting."""
        ...

    def enable(self, key: str, *, is_enabled: bool) -> None:
        """Puts the material of one key in or out of use, and of no other. Twice is once."""
        ...


def of(live: Live) -> KeyOps:
    """The adapter of the cloud that a tenant lies in."""
    module, name = ADAPTERS[live.layout.cloud]
    return getattr(importlib.import_module(module), name)(live)


def is_ours(live: Live, key: str) -> bool:
    return live.layout.key(key).arn is None
