"""From findings to what is done about them: pure, so that every case stands in a table of a test.

Closing is the dangerous answer. It takes a data canary that was refused, twice, for a reason that lies with
the key's owner, while most other customers' keys work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from migrate.watching.findings import Canary, Cause, Finding, Known
from migrate.watching.memory import Seen

Act = Literal["close", "reopen", "rotated"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """`looks`: refusals in a row before a tenant is closed.

    The breaker trips when at least `breaker_customers` customers, and at least `breaker_fraction` of those
    that were looked at, fail in the same round. Customers, not tenants: one key may serve several tenants.
    """

    looks: int = 2
    breaker_customers: int = 3
    breaker_fraction: float = 0.25


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One tenant in one round. `closed_for`: the key for whose loss the watch itself sealed it, if it did."""

    tenant: str
    customer: str
    is_sealed: bool
    closed_for: str | None
    findings: Sequence[Finding]
    seen: Mapping[str, Seen]
    """What is remembered with this round's look already counted."""
    before: Mapping[str, Cause] = field(default_factory=dict)
    """Key -> what it was before this look."""

    @property
    def is_failing(self) -> bool:
        return not self.is_sealed and any(finding.is_lost for finding in self.findings)

    @property
    def is_judged(self) -> bool:
        """Whether it was open and a canary said anything at all: the rest does not make a fraction smaller."""
        return not self.is_sealed and any(finding.canary is not Canary.UNCLEAR for finding in self.findings)


@dataclass(frozen=True, kw_only=True)
class Tripped:
    """The breaker: so many customers do not lose their keys in the same minute by themselves."""

    failing: tuple[str, ...]
    customers: int
    looked_at: int

    def __str__(self) -> str:
        return (
            f"{self.customers} of {self.looked_at} customers cannot read their data at once "
            f"({', '.join(self.failing)}): that looks like a fault of ours, so nothing is closed"
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    act: Act
    tenant: str
    finding: Finding


def tripped(watched: Sequence[Watched], rules: Rules) -> Tripped | None:
    """Whether too many customers fail at once for it to be their doing."""
    failing = [one for one in watched if one.is_failing]
    customers = {one.customer for one in failing}
    looked_at = {one.customer for one in watched if one.is_judged}
    is_many = len(customers) >= max(1, rules.breaker_customers)
    if not is_many or len(customers) < rules.breaker_fraction * len(looked_at):
        return None
    return Tripped(
        failing=tuple(sorted(one.tenant for one in failing)), customers=len(customers), looked_at=len(looked_at)
    )


def counted(seen: Seen, breaker: Tripped | None) -> Seen:
    """What is kept of a count: nothing while the breaker is open, for what was seen then is not the owner's doing."""
    return replace(seen, refusals=0) if breaker else seen


def decide(one: Watched, rules: Rules, breaker: Tripped | None) -> list[Decision]:
    """What is done about a tenant: at most one closing or opening, and each new rotation handed on."""
    by_key = {finding.key: finding for finding in one.findings}
    if one.closed_for is not None:
        back = by_key.get(one.closed_for)
        # Every key in use has to work: the customer may have disabled another one meanwhile.
        is_whole = back is not None and back.is_back and not any(finding.is_lost for finding in one.findings)
        return [Decision(act="reopen", tenant=one.tenant, finding=back)] if back and is_whole else []
    if one.is_sealed:
        return []
    lost = [finding for finding in one.findings if finding.is_lost and one.seen[finding.key].refusals >= rules.looks]
    if lost:
        return [] if breaker else [Decision(act="close", tenant=one.tenant, finding=lost[0])]
    return [
        Decision(act="rotated", tenant=one.tenant, finding=finding)
        for finding in one.findings
        if _is_new_rotation(finding, one.seen[finding.key])
    ]


def _is_new_rotation(finding: Finding, seen: Seen) -> bool:
    return finding.cause is Cause.ROTATED and Known(finding.now.arn, finding.now.material) != Known(
        seen.told.arn, seen.told.material
    )
