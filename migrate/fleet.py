"""One release over many tenants: preview or bring up each one's stack, some at a time, stop at the first failure.

A second run goes on where the first one stopped: what shows no change is left alone.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from components import naming
from migrate import failures
from migrate.errors import Conflict, KeyshiftError, RefusedInput
from migrate.log import Log
from migrate.records import LEASE, Records
from migrate.stack import Project, Stack, Step, judge
from stacks.layout import Layout
from stacks.record import TenantRecord

RENEW_SECONDS = LEASE.total_seconds() / 4
WHERE: Mapping[str, Callable[[Layout], str]] = {
    "tenant": lambda layout: layout.tenant,
    "customer": lambda layout: layout.customer,
    "mode": lambda layout: str(layout.mode),
    "stamp": lambda layout: layout.stamp,
    "cloud": lambda layout: str(layout.cloud),
    "region": lambda layout: layout.region,
}
"""What tenants can be chosen by."""


class Came(StrEnum):
    """What came of one tenant."""

    NO_CHANGE = "no change"
    WOULD_CHANGE = "would change"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"
    NOT_BEGUN = "not begun"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One tenant of the table. `changes`: steps by kind. `because`: why it was skipped or failed, `hint` what next."""

    tenant: str
    came: Came
    changes: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    because: str | None = None
    hint: str | None = None


Told = Callable[[Row], None]


def choose(records: Records, where: str) -> list[TenantRecord]:
    """The tenants that fit `mode=byok,customer=acme-corp`; all of them for "". Raises RefusedInput when none does."""
    wanted = _parsed(where)
    found = [
        tenant for tenant in records.tenants() if all(WHERE[name](tenant.layout) == wanted[name] for name in wanted)
    ]
    if not found:
        raise RefusedInput(
            f"no tenant fits {where!r}" if where else "there is no tenant yet",
            hint="keyshift tenant list",
            code="no-tenant-fits",
        )
    return found


def _parsed(where: str) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for part in filter(None, (one.strip() for one in where.split(","))):
        name, is_one, value = part.partition("=")
        if not is_one or name not in WHERE or not value or name in wanted:
            raise RefusedInput(
                f"{part!r} in {where!r} does not say which tenants are meant",
                hint=f"--where NAME=VALUE,NAME=VALUE, each name once, of: {', '.join(WHERE)}",
                code="where",
            )
        wanted[name] = value
    return wanted


class Fleet:
    """Runs over tenants. `bring_up`: else they are only previewed."""

    def __init__(self, project: Project, records: Records, *, bring_up: bool, told: Told) -> None:
        self._project = project
        self._records = records
        self._bring_up = bring_up
        self._told = told
        self._stop = threading.Event()

    def run(self, tenants: Sequence[TenantRecord], parallel: int) -> list[Row]:
        """A row for each tenant, in their order. After a failed `up` those that run end, and none begins.

        An interrupt waits for nobody: engines end by themselves, and the next run recovers what they leave.
        """
        pool = ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="fleet")
        try:
            return list(pool.map(lambda tenant: self._one(tenant.name), tenants))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, name: str) -> Row:
        if self._stop.is_set():
            return Row(tenant=name, came=Came.NOT_BEGUN, because="another tenant had failed before")
        began = time.monotonic()
        try:
            row = self._skipped(name) or self._worked(name)
        except Exception as error:  # noqa: BLE001 - one tenant's error must not lose the others' rows
            if self._bring_up:
                self._stop.set()
            failed = failures.explained(error)
            row = Row(tenant=name, came=Came.FAILED, because=failed.message, hint=failed.hint or None)
        row = Row(**{**asdict(row), "seconds": round(time.monotonic() - began, 1)})
        self._told(row)
        return row

    def _skipped(self, name: str) -> Row | None:
        operation = self._records.unfinished(name)
        if self._records.tenant(name).sealed:
            because, hint = "it is sealed", f"keyshift restore {name}"
        elif operation is not None:
            because, hint = f"{operation.id} is unfinished ({operation.state})", f"keyshift resume {name}"
        else:
            return None
        return Row(tenant=name, came=Came.SKIPPED, because=because, hint=hint)

    def _worked(self, name: str) -> Row:
        try:
            with holding(self._records, name) as fence:
                # An operation may have begun and stopped before the lease was ours.
                return self._skipped(name) or self._brought(self._records.tenant(name), fence)
        except RefusedInput as refused:
            if refused.code not in {"lease-held", "sealed"}:
                raise
            return Row(tenant=name, came=Came.SKIPPED, because=refused.message, hint=refused.hint)

    def _brought(self, tenant: TenantRecord, fence: int) -> Row:
        stack = Stack(self._project, naming.tenant_stack(tenant.name))
        if self._bring_up:
            stack.recover()
        stack.render(tenant.layout, tenant.generation)
        with tempfile.TemporaryDirectory(prefix="keyshift-") as folder:
            plan_file = Path(folder) / "plan.json"
            steps = stack.preview(fence=fence, plan_file=plan_file)
            judge(steps, tenant.layout)
            if not steps:
                return Row(tenant=tenant.name, came=Came.NO_CHANGE)
            if not self._bring_up:
                return Row(tenant=tenant.name, came=Came.WOULD_CHANGE, changes=_counted(steps))
            self._records.check(tenant.name, fence)
            stack.up(fence=fence, plan_file=plan_file)
        if stack.outputs().get("generation") != tenant.generation:
            raise KeyshiftError(
                f"the program of tenant {tenant.name} ended before its last line",
                hint=f"look for what ended it: pulumi preview -s tenant-{tenant.name}",
                code="program-incomplete",
            )
        changes = _counted(steps)
        log = Log(self._project.home / "tenants" / tenant.name)
        log.append({"event": "fleet-up", "generation": tenant.generation, "changes": changes})
        return Row(tenant=tenant.name, came=Came.CHANGED, changes=changes)


def summary(rows: Sequence[Row], *, where: str, bring_up: bool) -> dict[str, Any]:
    """The table as data; `is_done` when nothing is left to do for any tenant that was chosen."""
    counts = Counter(str(row.came) for row in rows)
    is_done = {row.came for row in rows} <= {Came.NO_CHANGE, Came.CHANGED}
    return {
        "verb": "up" if bring_up else "preview",
        "where": where,
        "tenants": [{**asdict(row), "came": str(row.came)} for row in rows],
        "counts": {str(came): counts[str(came)] for came in Came},
        "failed": counts[str(Came.FAILED)] > 0,
        "is_done": is_done,
    }


@contextmanager
def holding(records: Records, tenant: str, *, of_a_sealed: bool = False) -> Iterator[int]:
    """The lease on a tenant, renewed until the block ends; yields its fence. Raises RefusedInput as `lease` does."""
    with records.lease(tenant, of_a_sealed=of_a_sealed) as fence:
        stop = threading.Event()
        renewer = threading.Thread(target=_renew, args=(records, tenant, fence, stop), daemon=True)
        renewer.start()
        try:
            yield fence
        finally:
            stop.set()
            renewer.join()


def _renew(records: Records, tenant: str, fence: int, stop: threading.Event) -> None:
    while not stop.wait(RENEW_SECONDS):
        try:
            records.renew(tenant, fence)
        except Conflict:
            return  # the guard refuses the engine's run, and `check` the next step
        except SQLAlchemyError as error:
            structlog.get_logger().warning("the lease was not renewed", tenant=tenant, because=str(error))


def _counted(steps: Sequence[Step]) -> dict[str, int]:
    return dict(sorted(Counter(step.op for step in steps).items()))
