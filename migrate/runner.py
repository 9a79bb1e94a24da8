"""The walker: up, waits, moves, checkpoint, phase by phase, until the plan has ended.

Everything here can be killed at any instant and run again: a step that has ended is not repeated
(`durable`), one that was cut off is idempotent, and what a kill left of the engine is recovered
before the next `up`.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError

from components import naming
from migrate import durable, elastic_cloud, failures, policing, unreadable
from migrate import outage as outages
from migrate.copy.preflight import require_movable
from migrate.durable import Outcome
from migrate.errors import CloudError, Conflict, KeyLost, KeyshiftError, RefusedInput, VerificationFailed, Waiting
from migrate.events import Scribe, Tell, step_names
from migrate.fence import Fence
from migrate.freeze import goes_on_at
from migrate.guard import Guard
from migrate.live import Live
from migrate.log import Log
from migrate.moves import Moves
from migrate.operations import ABORTABLE, OperationKind, Phase, Plan, Request
from migrate.pending import PendingRotations
from migrate.plan import plan
from migrate.progress import Progress, Speedometer
from migrate.records import ABORT, LEASE, Operation, Records
from migrate.stack import EngineDied, Project, Stack, Step, judge
from migrate.verdict import Verdicts
from stacks.layout import Layout, StorageKind
from stacks.record import TenantRecord, connect

RENEW_SECONDS = LEASE.total_seconds() / 4
POLL_SECONDS = 2.0
GUARD_SECONDS = 1.0
"""How often a long step asks whether it may go on: one that copies for hours stops at a seal too."""
UP_ATTEMPTS = 3
"""How often an `up` is begun whose engine, plugin or program was killed."""
AFTERMATH_SECONDS = 60.0
"""How long after a key is back what hangs on it (a locked search) may still refuse."""


class Runner:
    """Runs operations of one tenant."""

    def __init__(self, project: Project, tenant: str, tell: Tell, *, patience: float = 0.0) -> None:
        """`patience`: how many seconds a running step waits for a key that was lost, before it stops."""
        self.project = project
        self.records = Records(connect(project.home))
        self.pending = PendingRotations(connect(project.home))
        self.tenant = self.records.tenant(tenant).name
        self.folder = project.home / "tenants" / tenant
        self.stack = Stack(project, naming.tenant_stack(tenant))
        self.verdicts = Verdicts(self.folder)
        self.log = Log(self.folder)
        self._tell = tell
        self._scribe = Scribe(tell, tenant=self.tenant)
        self._began: dict[str, str] = {}  # when the phase and the step that are being done began
        self._speed = Speedometer()
        self._patience = patience
        self._fence = 0
        self.preflight: dict[str, Any] | None = None
        self._back: float | None = None  # when a key that had been lost was there again, on the monotonic clock

    # what may be asked for --------------------------------------------------------------------

    def preview(self, kind: OperationKind, mode: str | None, asked: Mapping[str, Any] | None = None) -> Plan:
        """The plan of an operation that is not begun: what --dry-run prints. Changes nothing.

        Raises RefusedInput while another operation is unfinished: its middle layouts are no place to start from.
        """
        made = self.planned(kind, mode, asked)
        elastic_cloud.require_offered(made)
        self.preflight = self._preflight(made)
        return made

    def planned(self, kind: OperationKind, mode: str | None, asked: Mapping[str, Any] | None = None) -> Plan:
        """The plan of an operation, after every check that needs no cloud. Raises RefusedInput, PolicyViolation."""
        tenant = self.records.tenant(self.tenant)
        self._refuse_unfinished()
        asked = asked or unreadable.asked(self.project, tenant, kind)
        made = plan(Request(operation=f"{self.tenant}-{kind}", kind=kind, mode=mode, **asked), tenant.layout)
        self.records.refuse_foreign_keys(phase.layout for phase in made.phases)
        policing.refuse_plan(made, self._owners(made))
        return made

    def _owners(self, made: Plan) -> Mapping[str, str]:
        return self.records.key_owners(phase.layout for phase in made.phases)

    def _preflight(self, made: Plan) -> dict[str, Any] | None:
        """What a plan's preflight finds now, before anything is changed; None if it has none or nothing is up yet.

        Raises RefusedInput for what cannot be moved.
        """
        move = next((move for phase in made.phases for move in phase.moves if move.kind == "preflight"), None)
        outputs = self.stack.outputs() if move else {}
        if move is None or move.storage is None or move.storage not in outputs.get("storages", {}):
            return None
        live = Live(made.start, outputs)
        source = live.storage(move.storage)
        target = next(unit for phase in made.phases for unit in phase.layout.storages if unit.id == move.target)
        prefix = naming.shared_prefix(self.tenant) if target.kind is StorageKind.SHARED else ""
        report = self._watched()
        return asdict(
            require_movable(live.cloud.survey(source, prefix, report), source, f"keyshift {made.kind} {self.tenant}")
        )

    def _watched(self) -> Callable[[Progress], None]:
        """Progress for whoever watches, of something that is no step of an operation."""
        speed = Speedometer()
        return lambda progress: self._scribe.progress(None, progress, speed(progress))

    def run(self, kind: OperationKind, mode: str | None = None, *, asked: Mapping[str, Any] | None = None) -> Operation:
        """Begins an operation and walks it. Raises RefusedInput when another one is unfinished."""
        asked = asked or unreadable.asked(self.project, self.records.tenant(self.tenant), kind)
        with self._acting(of_a_sealed="ended" in asked):
            tenant = self.records.tenant(self.tenant)
            self._refuse_unfinished()
            return self._walk(self._begin(tenant, kind, mode, asked))

    def take_over(
        self, ended: Operation, kind: OperationKind, *, state: str, asked: Mapping[str, Any] | None = None
    ) -> Operation:
        """Ends an operation that waits, as `state`, and begins one of `kind` from the layout that it has reached.

        Raises RefusedInput when `ended` is not the tenant's unfinished operation any more.
        """
        with self._acting():
            tenant, unfinished = self.records.tenant(self.tenant), self.records.unfinished(self.tenant)
            if unfinished is None or unfinished.id != ended.id:
                raise RefusedInput(
                    f"{ended.id} has ended meanwhile; nothing was changed",
                    hint=f"keyshift status {self.tenant}",
                    code="operation-ended",
                )
            plan(Request(operation=f"{self.tenant}-{kind}", kind=kind, **(asked or {})), tenant.layout)
            durable.give_up(self.folder, self.tenant, ended.id)
            said = f"{kind} goes on from here" if state == "done" else f"overtaken by another {kind}"
            operation = self.records.begin(tenant, kind, ended.mode, asked=asked, ends=(ended, state, said))
            about = {"operation": operation.id, "kind": str(kind), "takes_over": ended.id}
            self.log.append({"event": "operation-begun", **about})
            return self._walk(operation)

    def preview_abort(self) -> Plan:
        """The plan of aborting the unfinished operation. Changes nothing. Raises RefusedInput where it is too late."""
        return self._way_back(self._abortable())

    def _way_back(self, aborted: Operation) -> Plan:
        request = Request(operation=f"{aborted.id}{ABORT}", kind=OperationKind.ABORT)
        made = plan(request, self.records.tenant(self.tenant).layout)
        policing.refuse_plan(made, self._owners(made))
        return made

    def abort(self) -> Operation:
        """Gives the unfinished operation up and goes back to where it began. Raises RefusedInput where it is too late."""
        with self._acting():
            aborted = self._abortable()
            self._way_back(aborted)
            operation = self.records.begin_abort(self.records.tenant(self.tenant), aborted)
            if aborted.kind is OperationKind.ROTATE:
                self.pending.withdraw(self.tenant)
            about = {"operation": operation.id, "kind": str(operation.kind), "aborts": aborted.id}
            self.log.append({"event": "operation-begun", **about})
            return self._walk(operation)

    def _abortable(self) -> Operation:
        """The unfinished operation, if it can still be undone."""
        operation = self.records.unfinished(self.tenant)
        if operation is None:
            raise RefusedInput(
                f"tenant {self.tenant} has no unfinished operation",
                hint=f"keyshift operations {self.tenant}",
                code="nothing-to-abort",
            )
        reached = (operation.step or "").partition("/")[0]
        is_reversible = all(p.reversible for p in self._plan(operation.id).phases if p.name == reached)
        if operation.kind not in ABORTABLE or not is_reversible:
            why = (
                "the customer has rotated their key already, and only they could go back"
                if operation.kind is OperationKind.CONFIRM or operation.request.key is not None
                else f"it has come to {operation.step}: the new side serves or is about to"
                if operation.kind in ABORTABLE
                else f"an operation of the kind {operation.kind} has no way back"
            )
            raise RefusedInput(
                f"{operation.id} cannot be aborted: {why}; nothing was changed",
                hint=f"the way is forward: keyshift resume {self.tenant}",
                code="not-reversible",
            )
        return operation

    def _refuse_unfinished(self) -> None:
        unfinished = self.records.unfinished(self.tenant)
        if unfinished is not None:
            raise RefusedInput(
                f"tenant {self.tenant} is in the middle of {unfinished.id} ({unfinished.state}, "
                f"step {unfinished.step or 'none yet'})",
                hint=f"go on with it: keyshift resume {self.tenant}",
                code="operation-unfinished",
            )

    def resume(self) -> Operation:
        """Goes on with the tenant's unfinished operation. Raises RefusedInput when there is none.

        A byok tenant that a plain `pulumi up` made has none either, and is not whole: its creation begins here. So does
        a rotation whose key was uploaded while another operation ran.
        """
        operation = self.records.unfinished(self.tenant)
        with self._acting(of_a_sealed=operation is not None and bool(operation.request.ended)):
            operation = self.records.unfinished(self.tenant)
            tenant = self.records.tenant(self.tenant)
            if operation is None and tenant.layout.serves is None:
                operation = self._begin(tenant, OperationKind.CREATE, None)
            if operation is None and self.pending.of(tenant.layout):
                operation = self._begin(tenant, OperationKind.ROTATE, None)
            if operation is None:
                raise RefusedInput(
                    f"tenant {self.tenant} has no unfinished operation", hint=f"keyshift status {self.tenant}"
                )
            if operation.state == "waiting":
                self._back = time.monotonic()  # whoever resumes has just brought back what was waited for
            return self._walk(operation)

    # walking ----------------------------------------------------------------------------------

    @contextmanager
    def _acting(self, *, of_a_sealed: bool = False) -> Iterator[None]:
        """`of_a_sealed`: of a tenant that nobody can read any more, which stays closed while it is deleted."""
        if not of_a_sealed:
            self.records.refuse_sealed(
                self.tenant
            )  # before the lock, which a runner that the seal stops may still hold
        alone = durable.single_runner(
            self.folder,
            self.tenant,
            is_overdue=lambda pid: self.records.is_overdue(self.tenant, pid),
            working_on=self.records.working_on,
        )
        with alone, self.records.lease(self.tenant, of_a_sealed=of_a_sealed) as fence:
            self._fence = fence
            stop = threading.Event()
            renewer = threading.Thread(target=self._renew, args=(stop,), daemon=True)
            renewer.start()
            try:
                yield
            finally:
                stop.set()
                renewer.join()

    def _renew(self, stop: threading.Event) -> None:
        """Keeps the lease through long steps. Who has lost it stops at the next step, which renews it too."""
        while not stop.wait(RENEW_SECONDS):
            try:
                self.records.renew(self.tenant, self._fence)
            except Conflict:
                return
            except SQLAlchemyError as error:
                structlog.get_logger().warning("the lease was not renewed", because=str(error))

    def _begin(
        self, tenant: TenantRecord, kind: OperationKind, mode: str | None, asked: Mapping[str, Any] | None = None
    ) -> Operation:
        self.preview(kind, mode, asked)
        operation = self.records.begin(tenant, kind, mode, asked=asked)
        self.log.append({"event": "operation-begun", "operation": operation.id, "kind": str(kind), "mode": mode})
        return operation

    def _walk(self, operation: Operation) -> Operation:
        self.records.note(operation.id, fence=self._fence, state="running", message=None, hint=None)
        planned = self._plan(operation.id)
        self._scribe = Scribe(self._tell, tenant=self.tenant, operation=operation.id, plan=planned)
        self._scribe.begun(kind=operation.kind, mode=operation.mode, resumed=operation.step is not None)
        try:
            done = self._walked(operation, [name for phase in planned.phases for name in step_names(phase)])
        except Exception as error:
            self._tell_end(operation.id, failures.explained(error))
            raise
        self._tell_end(operation.id, None)
        return done

    def _tell_end(self, operation_id: str, error: KeyshiftError | None) -> None:
        operation = self.records.operation(operation_id)
        self._scribe.ended(
            error,
            step=operation.step,
            seconds=((operation.ended_at or datetime.now(UTC)) - operation.started_at).total_seconds(),
            jobs_disabled_seconds=operation.jobs_disabled_seconds,
        )

    def _walked(self, operation: Operation, steps: list[str]) -> Operation:
        try:
            if operation.aborts is not None:
                durable.give_up(self.folder, self.tenant, operation.aborts)
            outcome = durable.walk(self.folder, self.tenant, operation.id, steps, self._act)
        except Conflict:
            raise  # the lease is somebody else's, and so is the operation's state
        except Exception as error:
            failed = failures.explained(error)
            hint = failures.going_on(failed.hint, self.tenant)
            self.records.note(operation.id, fence=self._fence, state="failed", message=failed.message, hint=hint)
            raise
        if outcome["state"] == "done":
            self.records.note(
                operation.id, fence=self._fence, state="done", ended_at=datetime.now(UTC), message=None, hint=None
            )
            self.log.append({"event": "operation-done", "operation": operation.id})
            if operation.kind is OperationKind.DELETE:
                self.records.archive(self.tenant, self._fence)
            return self.records.operation(operation.id)
        told = {"message": outcome.get("message"), "hint": outcome.get("hint")}
        if outcome.get("code") == "sealed":
            self.records.note_sealed(operation.id, state=outcome["state"], **told)
        else:
            self.records.note(operation.id, fence=self._fence, state=outcome["state"], **told)
        raise _as_error(outcome)

    def _plan(self, operation_id: str) -> Plan:
        operation = self.records.operation(operation_id)
        return plan(operation.request, operation.start)

    def _act(self, operation_id: str, step: str) -> Outcome:
        """One step. An error that an operator can do something about is an outcome, not an exception."""
        if (sealed := self._sealed()) is not None:
            return sealed
        self.records.renew(self.tenant, self._fence)
        began = time.monotonic()
        self._begin_step(operation_id, step)
        try:
            found = self._do_with_patience(operation_id, step)
            self.records.result(operation_id, step, found, fence=self._fence)
        except Waiting as waiting:
            if (sealed := self._sealed()) is not None:
                return sealed
            self.records.check(self.tenant, self._fence)
            return Outcome(
                state="waiting",
                message=waiting.message,
                hint=waiting.hint,
                code=waiting.code,
                waits_for=waiting.waits_for,
            )
        except Exception as error:
            if (sealed := self._sealed()) is not None:
                return sealed  # whatever the error is, it comes from what the seal denies
            failed = failures.understood(error)
            if failed is None:
                raise
            self.records.check(self.tenant, self._fence)  # else the operation's outcome is not ours to tell
            self.log.append({"event": "step-failed", "operation": operation_id, "step": step, "code": failed.code})
            hint = failures.going_on(failed.hint, self.tenant)
            outcome = Outcome(state="failed", message=failed.message, hint=hint, code=failed.code)
            if again_from := goes_on_at(self._plan(operation_id), step, failed.code):
                outcome["again_from"] = again_from
            return outcome
        self._scribe.step_done(step, time.monotonic() - began)
        return Outcome(state="done")

    def _begin_step(self, operation_id: str, step: str) -> None:
        """Notes where the operation is and since when; a phase that is gone on with keeps its beginning."""
        before, now = self.records.operation(operation_id), datetime.now(UTC).isoformat()
        is_same = before.step is not None and before.step.split("/")[0] == step.split("/", maxsplit=1)[0]
        self._speed = Speedometer()
        self._began = {"step_began_at": now, "phase_began_at": now}
        if is_same and before.progress:
            self._began["phase_began_at"] = before.progress.get("phase_began_at", now)
        self.records.note(operation_id, fence=self._fence, step=step, progress=self._began)
        self._scribe.step(step)

    @property
    def _guard(self) -> Guard:
        return Guard(self.records, self.tenant, self._fence)

    def _sealed(self) -> Outcome | None:
        """What a step comes to whose tenant was sealed meanwhile; None if it was not."""
        stopped = self._guard.stopped()
        if stopped is None or stopped.code != "sealed":
            return None
        return Outcome(state="failed", message=stopped.message, hint=stopped.hint, code=stopped.code)

    def _do_with_patience(self, operation_id: str, step: str) -> dict[str, Any]:
        """Does a step; while a key in use is lost or a service is down, waits for it and does the step again."""
        until = time.monotonic() + self._patience
        outage = outages.Window(self._patience)
        while True:
            try:
                return self._do(operation_id, step)
            except Exception as error:
                failed = failures.understood(error)
                if not isinstance(failed, CloudError | KeyLost):
                    raise
                lost = error if isinstance(error, KeyLost) else self._moves(operation_id, step).lost_key()
                if lost is not None:
                    self._wait_for_key(operation_id, step, lost, until)
                    self._back = time.monotonic()
                elif outages.passes_by_itself(failed) and outage.allows_another_look():
                    self._reporter(operation_id, step)(Progress(move="wait", waiting=failed.message))
                elif self._back is None or time.monotonic() - self._back > AFTERMATH_SECONDS:
                    raise
                else:
                    what = f"what hangs on the key that is back: {failed.message}"
                    self._reporter(operation_id, step)(Progress(move="wait", waiting=what))
                time.sleep(POLL_SECONDS)

    def _wait_for_key(self, operation_id: str, step: str, lost: KeyLost, until: float) -> None:
        """Returns once no key in use is lost; raises KeyLost when the patience is over, Conflict if it was sealed."""
        self._guard.check()
        self.log.append({"event": "waiting", "operation": operation_id, "step": step, "because": lost.message})
        self.records.note(operation_id, fence=self._fence, state="waiting", message=lost.message, hint=lost.hint)
        moves = self._moves(operation_id, step)
        still: KeyLost | None = lost
        while still is not None:
            self._guard.check()
            if time.monotonic() > until:
                raise still
            moves.report(Progress(move="wait", waiting=still.message))
            time.sleep(POLL_SECONDS)
            found = moves.lost_key()
            # The step knows more of the same key than a look at the key does: what still lies under it.
            still = lost if found is not None and found.key == lost.key else found
        self.records.note(operation_id, fence=self._fence, state="running", message=None, hint=None)

    def _do(self, operation_id: str, step: str) -> dict[str, Any]:
        phase_name, what = step.split("/", 1)
        phase = self._phase(operation_id, phase_name)
        if what == "up":
            return self._up(operation_id, phase)
        if what.endswith("-remove-stack"):
            return self._remove_stack()
        moves = self._moves(operation_id, step)
        number = int(what.split("-", 1)[0])
        if number <= len(phase.waits):
            return moves.wait(phase.waits[number - 1])
        return moves.do(phase.moves[number - len(phase.waits) - 1])

    def _remove_stack(self) -> dict[str, Any]:
        """The end of a tenant whose layout holds nothing any more: what is left in its stack names no data."""
        recovered = self.stack.recover() if self.stack.exists() else []
        self._guard.check()
        return {"removed": self.stack.remove(fence=self._fence), "recovered": recovered}

    def _moves(self, operation_id: str, step: str) -> Moves:
        return Moves(
            live=Live(
                self._phase(operation_id, step.split("/", 1)[0]).layout,
                self.stack.outputs(),
                Fence(self.records, self.tenant, self._fence),
            ),
            operation=self.records.operation(operation_id),
            folder=self.folder,
            verdicts=self.verdicts,
            log=self.log,
            report=self._reporter(operation_id, step),
            guard=self._guard.check,
        )

    def _phase(self, operation_id: str, name: str) -> Phase:
        phase = next(p for p in self._plan(operation_id).phases if p.name == name)
        operation = self.records.operation(operation_id)
        now = datetime.now(UTC)
        if phase.layout.gate.jobs == "closed" and operation.jobs_closed_at is None:
            self.records.note_once(operation_id, "jobs_closed_at", now, fence=self._fence)
        limits = any(move.kind == "limit-search" for move in phase.moves)
        if limits and operation.cutoff is None:
            self.records.note_once(
                operation_id, "cutoff", now.replace(microsecond=now.microsecond // 1000 * 1000), fence=self._fence
            )
            phase = next(p for p in self._plan(operation_id).phases if p.name == name)
        return phase

    def _up(self, operation_id: str, phase: Phase) -> dict[str, Any]:
        """The stack becomes the phase's layout: record, stack file, preview, judgement, constrained up."""
        self._refuse_unproven(phase.layout)
        before = self.records.tenant(self.tenant).layout
        policing.refuse_change(
            before, phase.layout, self.records.key_owners([phase.layout]), what=f"phase {phase.name}"
        )
        report = self._reporter(operation_id, f"{phase.name}/up")
        generation = self.records.advance(phase.layout, self._fence)
        self.stack.render(phase.layout, generation)
        steps, recovered = self._brought_up(operation_id, phase, report)
        if self.stack.outputs().get("generation") != generation:
            raise KeyshiftError(
                f"the program of tenant {self.tenant} ended before its last line in {operation_id}",
                hint=f"look for what ended it: pulumi preview -s tenant-{self.tenant}",
                code="program-incomplete",
            )
        self._note_jobs_open(self.records.operation(operation_id), phase.layout)
        changes = {op: sum(step.op == op for step in steps) for op in sorted({step.op for step in steps})}
        self.log.append({"event": "up", "operation": operation_id, "phase": phase.name, "generation": generation})
        return {"generation": generation, "changes": changes, "recovered": recovered}

    def _note_jobs_open(self, operation: Operation, layout: Layout) -> None:
        """An abort opens what the operation that it aborts had closed, a confirmation what the rotation had."""
        if layout.gate.jobs != "open":
            return
        for closed_by in self.records.operations(operation.tenant):
            if closed_by.jobs_closed_at and not closed_by.jobs_opened_at:
                self.records.note_once(closed_by.id, "jobs_opened_at", datetime.now(UTC), fence=self._fence)

    def _brought_up(
        self, operation_id: str, phase: Phase, report: Callable[[Progress], None]
    ) -> tuple[list[Step], list[str]]:
        """The steps that were taken, and what was recovered. An engine, plugin or program that dies is replaced."""
        recovered: list[str] = []
        for attempt in range(1, UP_ATTEMPTS + 1):
            try:
                recovered += self.stack.recover()
                with tempfile.TemporaryDirectory() as folder:
                    plan_file = Path(folder) / "plan.json"
                    report(Progress(move="preview"))
                    steps = self.stack.preview(fence=self._fence, plan_file=plan_file)
                    judge(steps, phase.layout)
                    self._guard.check()
                    report(Progress(move="up"))
                    self.stack.up(fence=self._fence, plan_file=plan_file)
            except EngineDied as died:
                self.log.append({"event": "engine-died", "operation": operation_id, "phase": phase.name})
                if attempt == UP_ATTEMPTS:
                    raise
                again = f"{died.message}; once again ({attempt + 1} of {UP_ATTEMPTS})"
                recovered.append(again)
                report(Progress(move="wait", waiting=again))
            else:
                return steps, recovered
        raise AssertionError("the last attempt either returns or raises")

    def _refuse_unproven(self, layout: Layout) -> None:
        """No unit is released or dropped while the verdict that the layout names is not stored and good."""
        named = {unit.release for unit in (*layout.keys, *layout.storages, *layout.searches) if unit.release}
        named |= {dropped.verdict for dropped in layout.dropped}
        named |= {key.archived_under for key in layout.keys if key.archived_under}
        for id in sorted(named):
            verdict = self.verdicts.load(id)
            if verdict is None or not verdict.passed:
                raise VerificationFailed(
                    f"the layout of tenant {self.tenant} would free something under the verdict {id}, "
                    f"which {'does not exist' if verdict is None else 'did not pass'}; nothing was changed",
                    hint=f"keyshift verdict list {self.tenant}",
                    code="no-verdict",
                )

    def _reporter(self, operation_id: str, step: str) -> Callable[[Progress], None]:
        asked = time.monotonic()

        def report(progress: Progress) -> None:
            nonlocal asked
            if time.monotonic() - asked > GUARD_SECONDS:
                asked = time.monotonic()
                self._guard.check()
            pace = self._speed(progress)
            kept = {**self._began, "reported_at": datetime.now(UTC).isoformat(), **asdict(progress), **asdict(pace)}
            self.records.note(operation_id, fence=self._fence, progress=kept)
            self._scribe.progress(step, progress, pace)

        return report


def _as_error(outcome: Outcome) -> KeyshiftError:
    message, hint, code = outcome.get("message", ""), outcome.get("hint", ""), outcome.get("code")
    if outcome.get("state") == "waiting":
        return Waiting(message, waits_for=outcome.get("waits_for", ""), hint=hint, code=code)
    return KeyshiftError(message, hint=hint, code=code)
