"""What the configuration says of a tenant, as the rules of a whole stack need it.

Read from the stack's output `layout`, which the program exports before anything else could go wrong with it.
Plain data and no `Layout`: the pack starts in every update, and pydantic would be a third of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OFFERED = {"aws": frozenset({"standard", "byok", "byokms"}), "azure": frozenset({"standard", "byok", "byokv"})}
"""Which mode a cloud has; a test holds it to `stacks.layout`."""


@dataclass(frozen=True)
class Facts:
    """`layout` is None in a stamp's stack, and in one that does not say what it is."""

    layout: Mapping[str, Any] | None = None

    @property
    def tenant(self) -> str:
        return str(self._of("tenant"))

    @property
    def cloud(self) -> str:
        return str(self._of("cloud") or "aws")

    @property
    def mode(self) -> str:
        return str(self._of("mode"))

    def units(self, kind: str) -> list[Mapping[str, Any]]:
        """The keys, storages, searches or pipelines of the layout."""
        return list(self._of(kind) or [])

    def unit(self, kind: str, id: str) -> Mapping[str, Any] | None:
        return next((one for one in self.units(kind) if one.get("id") == id), None)

    def key_of(self, unit: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self.unit("keys", str(unit.get("key")))

    @property
    def serves(self) -> Mapping[str, Any]:
        return self._of("serves") or {}

    @property
    def are_jobs_open(self) -> bool:
        return self._gate.get("jobs", "open") == "open"

    @property
    def is_access_open(self) -> bool:
        return self._gate.get("access", "open") == "open"

    @property
    def released(self) -> set[str]:
        """Units that the layout lets go of under a verdict."""
        return {
            str(one["id"])
            for kind in ("keys", "storages", "searches")
            for one in self.units(kind)
            if one.get("release")
        }

    @property
    def _gate(self) -> Mapping[str, Any]:
        return self._of("gate") or {}

    def _of(self, name: str) -> Any:
        return (self.layout or {}).get(name)
