"""Where a storage lies, as a manifest keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from migrate.copy.s3 import StorageRef


@dataclass(frozen=True)
class ContainerRef:
    """A container of a storage account. `endpoint` is the account's, ending in a slash.

    `key_uri` is the customer's key that the account must be under, None for the vendor's.
    """

    endpoint: str
    container: str
    key_uri: str | None = None

    @property
    def prefix(self) -> str:
        """A tenant has the whole container."""
        return ""

    def keyless(self) -> ContainerRef:
        return replace(self, key_uri=None)

    def __str__(self) -> str:
        return f"{self.endpoint}{self.container}/"


Place = StorageRef | ContainerRef


def as_place(kept: Mapping[str, Any]) -> Place:
    """The place that `asdict` made `kept` of."""
    return ContainerRef(**kept) if "container" in kept else StorageRef(**kept)
