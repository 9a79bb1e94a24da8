"""May this runner still act? Asked of the record before every call that cannot be taken back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from migrate.errors import Conflict

Check = Callable[[], None]
"""Returns while the caller may go on; raises Conflict once it may not."""


def unguarded() -> None:
    """The check of work that belongs to no tenant's record, as in tests of the parts."""


class Leases(Protocol):
    """Who knows whose turn it is: `migrate.records.Records`."""

    def lost(self, tenant: str, fence: int) -> Conflict | None: ...


@dataclass(frozen=True)
class Guard:
    """The right to act on a tenant, under the fence with which it was taken. A seal or another runner ends it."""

    leases: Leases
    tenant: str
    fence: int

    def check(self) -> None:
        """Raises Conflict (code `sealed` or `lease-lost`) if the fence is no longer the tenant's. Reads only."""
        stopped = self.stopped()
        if stopped is not None:
            raise stopped

    def stopped(self) -> Conflict | None:
        """Why this runner may not go on, None while it may."""
        return self.leases.lost(self.tenant, self.fence)
