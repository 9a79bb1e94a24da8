"""One round of the watch: look at every tenant, remember, decide, act, and tell each thing that changed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol

from migrate import failures
from migrate.denials import Estate
from migrate.errors import KeyshiftError, Waiting
from migrate.progress import Report, unwatched
from migrate.records import Records
from migrate.seal import Sealer
from migrate.seals import Lost, Seals
from migrate.stack import Project
from migrate.watching.decide import Decision, Rules, Tripped, Watched, counted, decide, tripped
from migrate.watching.findings import Cause, Finding, Known
from migrate.watching.memory import Memory, Seen, after
from migrate.watching.observe import observe, watched_keys
from stacks.record import TenantRecord, connect

Event = dict[str, Any]
TellEvent = Callable[[Event], None]
OnRotation = Callable[[Project, str, Finding], Any]

AT_ONCE = 8
"""How many tenants are looked at at the same time."""
REFUSED_WITHIN_SECONDS = 60.0
BACK_WITHIN_SECONDS = 60.0
"""A search may take half an hour to unlock; the next round tries again, and the other tenants do not wait."""


class Looker(Protocol):
    """Looks at the keys of a tenant."""

    def __call__(self, record: TenantRecord, known: dict[str, Known]) -> list[Finding]: ...


@dataclass(frozen=True)
class Round:
    """What a round came to."""

    looked_at: int
    lost: tuple[str, ...]
    closed: tuple[str, ...]
    reopened: tuple[str, ...]
    waiting: tuple[str, ...]
    failed: tuple[str, ...]
    breaker: Tripped | None

    @property
    def exit_code(self) -> int:
        """1: something is wrong on our side. 3: a customer has to act. 0: all is well."""
        if self.breaker is not None or self.failed:
            return 1
        return 3 if self.lost or self.waiting else 0


def rotation_hook() -> OnRotation | None:
    """`migrate.rotation.on_rotation`, which begins what a customer's rotation asks for; None where there is none."""
    try:
        return importlib.import_module("migrate.rotation").on_rotation
    except ModuleNotFoundError as error:
        if error.name != "migrate.rotation":
            raise
        return None


@dataclass
class Watch:
    """The watch of a project. `names`: only these tenants; all when empty.

    `look` and `on_rotation` are what it works with; tests give their own.
    """

    project: Project
    tell: TellEvent
    rules: Rules = field(default_factory=Rules)
    names: Sequence[str] = ()
    report: Report = unwatched
    look: Looker | None = None
    on_rotation: OnRotation | None = field(default_factory=rotation_hook)

    def __post_init__(self) -> None:
        engine = connect(self.project.home)
        self._records, self._seals, self._memory = Records(engine), Seals(engine), Memory(engine)
        for name in self.names:
            self._records.tenant(name)  # raises for one that is unknown

    def round(self) -> Round:
        """Looks at every tenant once. What fails for one tenant is told and stops no other."""
        records = [one for one in self._tenants() if watched_keys(one.layout)]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="watch") as pool:
            watched = list(pool.map(self._watched, records))
        breaker = tripped(watched, self.rules)
        if breaker is not None:
            self.tell(_event("breaker", because=str(breaker), tenants=list(breaker.failing)))
        done: dict[str, list[str]] = {name: [] for name in ("close", "reopen", "rotated", "waiting", "failed")}
        for one in watched:
            self._remember(one, breaker)
            for decision in decide(one, self.rules, breaker):
                done[self._act(decision)].append(one.tenant)
        lost = {one.tenant for one in watched if any(finding.is_lost for finding in one.findings)}
        found = Round(
            looked_at=len(watched),
            lost=tuple(sorted(lost)),
            closed=tuple(done["close"]),
            reopened=tuple(done["reopen"]),
            waiting=tuple(done["waiting"]),
            failed=tuple(done["failed"]),
            breaker=breaker,
        )
        self.tell(_event("round", **{**asdict(found), "breaker": breaker is not None}))
        return found

    def _tenants(self) -> list[TenantRecord]:
        return [one for one in self._records.tenants() if not self.names or one.name in self.names]

    def _watched(self, record: TenantRecord) -> Watched:
        now = datetime.now(UTC)
        before = self._memory.of(record.name)
        known = {key: seen.whole for key, seen in before.items()}
        findings = (self.look or self._look)(record, known)
        seen = {
            one.key: after(before.get(one.key) or Seen.never(record.name, one.key, now), one, now) for one in findings
        }
        seal = self._seals.in_force(record.name)
        return Watched(
            tenant=record.name,
            customer=record.customer,
            is_sealed=seal is not None,
            closed_for=seal.lost.key if seal and seal.lost else None,
            findings=findings,
            seen=seen,
            before={key: one.cause for key, one in before.items()},
        )

    def _look(self, record: TenantRecord, known: dict[str, Known]) -> list[Finding]:
        @cache
        def estate() -> Estate:
            return Sealer(self.project, record.name, self.report).estate()

        return observe(estate, record.layout, known)

    def _remember(self, one: Watched, breaker: Tripped | None) -> None:
        for finding in one.findings:
            seen = counted(one.seen[finding.key], breaker)
            self._memory.put(seen)
            if finding.cause != one.before.get(finding.key, Cause.OK):
                self.tell(_of_finding("key", finding, before=one.before.get(finding.key)))

    # acting -----------------------------------------------------------------------------------

    def _act(self, decision: Decision) -> str:
        """What became of it. An error is an event: the watch has other tenants to look after."""
        acts = {"close": self._close, "reopen": self._reopen, "rotated": self._hand_on}
        try:
            return decision.act if acts[decision.act](decision) else "failed"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            said = failures.explained(error)
            came_to = "waiting" if isinstance(said, Waiting) else "failed"
            self.tell(_of_finding(f"{decision.act}-{came_to}", decision.finding, error=_told(said)))
            return came_to

    def _close(self, decision: Decision) -> bool:
        finding = decision.finding
        reason = f"{finding.key} is the customer's and cannot be used: {finding.why}"
        self.tell(_of_finding("closing", finding, reason=reason))
        sealer = Sealer(self.project, decision.tenant, self.report)
        found = sealer.seal(reason, limit=REFUSED_WITHIN_SECONDS, lost=Lost(finding.key, str(finding.cause)))
        slowest = max((one["after"] for one in found["paths"] if one["after"] is not None), default=None)
        self.tell(_of_finding("closed", finding, slowest=slowest, still_open=found["still_open"]))
        return not found["still_open"]

    def _reopen(self, decision: Decision) -> bool:
        finding = decision.finding
        self.tell(_of_finding("reopening", finding))
        sealer = Sealer(self.project, decision.tenant, self.report)
        reason = f"{finding.key} works again, seen by the watch"
        found = sealer.restore(reason, limit=BACK_WITHIN_SECONDS, only_lost=True)
        self.tell(_of_finding("reopened", finding, checked=found["checked"], next=found["next"]))
        return True

    def _hand_on(self, decision: Decision) -> bool:
        finding = decision.finding
        self.tell(_of_finding("rotated", finding, handled=self.on_rotation is not None))
        if self.on_rotation is not None:
            self.on_rotation(self.project, decision.tenant, finding)
        seen = self._memory.of(decision.tenant)[finding.key]
        self._memory.put(replace(seen, told=finding.now))
        return True


def _event(name: str, **facts: Any) -> Event:
    return {"event": name, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), **facts}


def _of_finding(name: str, finding: Finding, **facts: Any) -> Event:
    return _event(
        name,
        tenant=finding.tenant,
        key=finding.key,
        cause=str(finding.cause),
        canary=str(finding.canary),
        canary_of=finding.canary_of,
        said=finding.said,
        arn=finding.now.arn or finding.was.arn,
        was_arn=finding.was.arn,
        fingerprint=finding.now.material,
        was_fingerprint=finding.was.material,
        **facts,
    )


def _told(error: KeyshiftError) -> Event:
    return {"code": error.code, "message": error.message, "hint": error.hint}
