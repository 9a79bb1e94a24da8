"""`python -m console.job ORDER`: one order, done in a process of its own, which may be killed and run again.

A process walks one tenant: the runner's journal and its lock are made for that. What was begun before a kill is
gone on with; what had ended is not done again.
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from console.orders import DONE, FAILED, REFUSED, WAITING, Data, Kind, Order, Orders
from console.settings import from_environment
from console.store import open_store
from migrate import dry_run, failures, tenants
from migrate.errors import KeyshiftError, RefusedInput, Waiting
from migrate.events import Begun, Event, Progressed, Scribe, Waits
from migrate.integrity import Wanted
from migrate.keys import onboarding
from migrate.log import Log
from migrate.operations import OperationKind
from migrate.progress import Progress, Speedometer
from migrate.records import ENDED, Operation
from migrate.redaction import configure_logging
from migrate.revoke import Revoker, StillOpen
from migrate.rotation import Rotations
from migrate.runner import Runner
from migrate.stack import Project
from stacks.layout import OnRotation

PATIENCE_SECONDS = 600.0
REFUSED_WITHIN_SECONDS = 300.0
BACK_WITHIN_SECONDS = 1800.0
PROGRESS_SECONDS = 1.0
"""How often progress is kept; who follows over a network needs no more, and the database keeps every line."""


class Unfit(RefusedInput):
    """The key behind an alias cannot be used yet. Carries what was found."""

    default_code = "key-unfit"

    def __init__(self, found: Data) -> None:
        missing = ", ".join(found["missing_statements"]) or "see the findings"
        super().__init__(
            f"the key behind {found['alias']} cannot be used yet ({missing})"
            + ("" if found["bound"] else "; nothing was bound"),
            hint="mend the key's policy as the findings say, then check again",
        )
        self.found = found


class Told:
    """Keeps what an operation tells as events of its order."""

    def __init__(self, orders: Orders, order: Order) -> None:
        self._orders, self._id = orders, order.id
        self._last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progressed | Waits) and not self._is_due(event):
            return
        if isinstance(event, Begun):
            self._orders.note_operation(self._id, event.operation)
        self._orders.tell(self._id, event.event, event.model_dump(mode="json", exclude={"event"}))

    def _is_due(self, event: Progressed | Waits) -> bool:
        """A step's first word and its last total are always kept."""
        of = f"{event.step}/{event.event}/{event.move if isinstance(event, Progressed) else event.reason}"
        is_last = isinstance(event, Progressed) and event.objects == event.objects_total
        now = time.monotonic()
        if of in self._last and now - self._last[of] < PROGRESS_SECONDS and not is_last:
            return False
        self._last = {of: now}
        return True


class Job:
    """Does one order."""

    def __init__(self, project: Project, orders: Orders, order: Order) -> None:
        self._project, self._orders, self._order = project, orders, order
        self._tell = Told(orders, order)
        self._log = Log(tenants.folder(project, order.tenant))

    def run(self) -> None:
        """Whatever comes of it, the order ends: in a result, or in what a person reads."""
        order = self._order
        if order.attempts == 1:
            self._log.append({"event": "asked-in-console", **_asked(order)})
        try:
            result = self._do()
        except (StillOpen, Unfit) as told:
            state = REFUSED if isinstance(told, Unfit) else FAILED
            self._orders.end(order.id, state, said=_said(told), result=told.found)
        except Exception as error:  # noqa: BLE001 - the person who asked reads it, whatever it is
            structlog.get_logger().debug("an order stopped", order=order.id, exc_info=error)
            said = failures.explained(error)
            state = WAITING if isinstance(said, Waiting) else REFUSED if isinstance(said, RefusedInput) else FAILED
            self._orders.end(order.id, state, said=_said(said))
        else:
            self._orders.end(order.id, DONE, result=result)

    def _do(self) -> Data:
        return _DOES[self._order.kind](self)

    # operations of the runner -----------------------------------------------------------------

    def _operation(self) -> Data:
        kind = OperationKind(self._order.kind)
        return self._reported(self._gone_on_with(kind) or self._runner().run(kind, self._order.wanted.get("mode")))

    def _resume(self) -> Data:
        ended = self._ended_before()
        return self._reported(ended or self._runner().resume())

    def _abort(self) -> Data:
        return self._reported(self._gone_on_with(OperationKind.ABORT) or self._runner().abort())

    def _confirm(self) -> Data:
        gone_on = self._gone_on_with(OperationKind.CONFIRM)
        by = f"{self._order.asked_by['name']} ({self._order.asked_by['id']})"
        return self._reported(gone_on or self._rotations().confirm(str(self._order.wanted["token"]), by))

    def _onboard(self) -> Data:
        wanted = self._order.wanted
        terms = None
        if "pause_on" in wanted or "rebuild_search" in wanted:
            now = tenants.records(self._project).tenant(self._order.tenant).layout.on_rotation
            terms = OnRotation(
                pause=wanted.get("pause_on", now.pause),
                rebuilds_search=wanted.get("rebuild_search", now.rebuilds_search),
            )

        def bind(asked: Data) -> object:
            kind = OperationKind.ONBOARD
            return self._gone_on_with(kind) or self._runner().run(kind, asked=asked)

        found = onboarding.onboard(self._project, self._order.tenant, wanted["alias"], terms, bind)
        if not found["fit"]:
            raise Unfit(found)
        return found

    def _follow(self) -> Data:
        return self._rotations().follow()

    def _gone_on_with(self, kind: OperationKind) -> Operation | None:
        """What an attempt before this one had begun, gone on with to its end; None if nothing was."""
        if self._order.attempts == 1:
            return None
        if (ended := self._ended_before()) is not None:
            return ended
        unfinished = tenants.records(self._project).unfinished(self._order.tenant)
        is_ours = unfinished is not None and (
            unfinished.id == self._order.operation
            or (unfinished.kind is kind and unfinished.started_at.isoformat() >= (self._order.started_at or "~"))
        )
        return self._runner().resume() if is_ours else None

    def _ended_before(self) -> Operation | None:
        if self._order.operation is None or self._order.attempts == 1:
            return None
        operation = tenants.records(self._project).operation(self._order.operation)
        return operation if operation.state in ENDED else None

    def _reported(self, operation: Operation) -> Data:
        self._orders.note_operation(self._order.id, operation.id)
        return tenants.report(self._project, operation)

    # what is no operation of the runner -------------------------------------------------------

    def _plan(self) -> Data:
        wanted, runner = self._order.wanted, self._runner()
        made = runner.preview(OperationKind(wanted["of"]), wanted.get("mode"))
        found = dry_run.dry_run(self._project, made, self._report, with_previews=bool(wanted.get("previews", False)))
        return {**found, "preflight": runner.preflight}

    def _check(self) -> Data:
        return tenants.check_verdicts(
            self._project, self._order.tenant, self._order.wanted.get("verdict"), self._report
        )

    def _revoke(self) -> Data:
        revoker = Revoker(self._project, self._order.tenant, self._report)
        return revoker.revoke(str(self._order.wanted["reason"]), limit=REFUSED_WITHIN_SECONDS)

    def _restore(self) -> Data:
        revoker = Revoker(self._project, self._order.tenant, self._report)
        wanted = Wanted(read_all=bool(self._order.wanted.get("read_all", False)))
        return revoker.restore(str(self._order.wanted.get("reason", "")), limit=BACK_WITHIN_SECONDS, wanted=wanted)

    def _runner(self) -> Runner:
        return Runner(self._project, self._order.tenant, self._tell, patience=PATIENCE_SECONDS)

    def _rotations(self) -> Rotations:
        return Rotations(self._project, self._order.tenant, self._tell, patience=PATIENCE_SECONDS)

    @property
    def _report(self) -> Callable[[Progress], None]:
        scribe, speed = Scribe(self._tell, tenant=self._order.tenant), Speedometer()
        return lambda progress: scribe.progress(None, progress, speed(progress))


_DOES: dict[Kind, Callable[[Job], Data]] = {
    Kind.PLAN: Job._plan,  # noqa: SLF001 - the table of this class's own verbs
    Kind.CHECK: Job._check,  # noqa: SLF001
    Kind.REQUEST: Job._operation,  # noqa: SLF001
    Kind.ENABLE: Job._operation,  # noqa: SLF001
    Kind.CHANGE: Job._operation,  # noqa: SLF001
    Kind.ROTATE: Job._operation,  # noqa: SLF001
    Kind.REMOVE: Job._operation,  # noqa: SLF001
    Kind.RESUME: Job._resume,  # noqa: SLF001
    Kind.ABORT: Job._abort,  # noqa: SLF001
    Kind.CONFIRM: Job._confirm,  # noqa: SLF001
    Kind.ONBOARD: Job._onboard,  # noqa: SLF001
    Kind.FOLLOW: Job._follow,  # noqa: SLF001
    Kind.REVOKE: Job._revoke,  # noqa: SLF001
    Kind.RESTORE: Job._restore,  # noqa: SLF001
}


def _said(error: KeyshiftError) -> Data:
    said: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint or None}
    if isinstance(error, Waiting):
        said["waits_for"] = error.waits_for
    return said


def _asked(order: Order) -> Data:
    """For the tenant's log: who asked for what, and who agreed. The wanted values hold no secret."""
    about = {
        name: value for name, value in order.wanted.items() if name in {"mode", "of", "alias", "reason", "verdict"}
    }
    approved = {"approved_by": order.approved_by["id"]} if order.approved_by else {}
    return {"order": order.id, "kind": str(order.kind), "by": order.asked_by["id"], **approved, **about}


@contextmanager
def alone(folder: Path, lane: str) -> Iterator[None]:
    """One process a tenant and lane: waits for one that outlived its worker. The kernel frees it at any death."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / f"console-{lane}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(arguments: list[str]) -> int:
    configure_logging()
    project = Project.find()
    orders = Orders(open_store(project.home, from_environment().database_url))
    order = orders.get(arguments[0])
    with alone(tenants.folder(project, order.tenant), order.lane):
        order = orders.get(order.id)
        if order.ended_at is None:
            Job(project, orders, orders.start(order.id)).run()
    print(json.dumps({"order": order.id, "state": orders.get(order.id).state}))  # noqa: T201 - for the worker's log
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
