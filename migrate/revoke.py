"""Access withdrawn by us, and given back: a seal, then a layout that agrees with it, as an operation in the log.

The seal closes at once and needs no engine; the layout follows, so that `pulumi up` shows no change. Both can be
killed anywhere and done again by the same command.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from migrate import durable, failures
from migrate.errors import KeyshiftError, RefusedInput, Waiting
from migrate.fates import Fate, Fates
from migrate.guard import Guard
from migrate.integrity import Wanted
from migrate.operations import OperationKind, Request
from migrate.plan import plan
from migrate.plan.revocation import given_back, is_revoked
from migrate.progress import Progress, Report
from migrate.records import ENDED, Operation
from migrate.seal import POLL_SECONDS, Sealer, who
from migrate.stack import Project
from stacks.layout import Layout
from stacks.record import connect

Data = dict[str, Any]


class Revoker:
    """Revokes and restores one tenant."""

    def __init__(self, project: Project, tenant: str, report: Report) -> None:
        self.sealer = Sealer(project, tenant, report)
        self.tenant, self.report = tenant, report
        self.records, self.log = self.sealer.records, self.sealer.log
        self.fates = Fates(connect(project.home))

    # revoke -----------------------------------------------------------------------------------

    def revoke(self, reason: str, *, limit: float) -> Data:
        """Closes the tenant, tries every path, and makes its layout agree. Does what is missing when it is run again.

        `still_open` lists what was not refused within `limit` seconds. Raises RefusedInput without a reason.
        """
        if not reason.strip():
            raise RefusedInput(
                "a revocation needs a reason, for those who find it",
                hint=f'keyshift revoke {self.tenant} --reason "…"',
                code="no-reason",
            )
        operation = self._begun(OperationKind.REVOKE, reason)
        with self._ending(operation):
            found = self.sealer.seal(reason, limit=limit, count_at_most=None)
            self.records.result(operation.id, "probe", {"paths": found["paths"], "still_open": found["still_open"]})
            agreed = self._agree(operation, limit)
            if found["still_open"]:
                raise StillOpen(found | {"operation": operation.id, "up": agreed})
        return found | {"operation": operation.id, "up": agreed}

    def _agree(self, operation: Operation, limit: float) -> Data | None:
        """The stack as the layout with every key withdrawn; what changed by that."""
        with self._alone(limit), self.sealer.lease() as guard:
            layout = self.records.tenant(self.tenant).layout
            if not is_revoked(layout):
                layout = plan(Request(operation=operation.id, kind=OperationKind.REVOKE), layout).end
            return self._up(layout, guard, "revoke")

    def _up(self, layout: Layout, guard: Guard, phase: str) -> Data | None:
        generation = self.records.advance(layout, guard.fence)
        return self.sealer.bring_up(layout, generation, guard, phase)

    @contextlib.contextmanager
    def _alone(self, limit: float) -> Iterator[None]:
        """Once the runner that the seal has stopped is gone: it ends within a second or so.

        Raises Waiting after `limit` seconds: access is closed by then, only the stack does not say so yet.
        """
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(durable.single_runner(self.sealer.folder, self.tenant))
                    break
                except RefusedInput as busy:
                    if time.monotonic() - began > limit:
                        raise Waiting(
                            f"tenant {self.tenant} is closed, but its stack could not be made to agree: {busy.message}",
                            waits_for="the runner that was stopped",
                            hint=f"end that process, then run the same again: keyshift revoke {self.tenant}",
                            code="runner-busy",
                        ) from busy
                    self.report(Progress(move="wait", waiting="the runner that was stopped to end"))
                    time.sleep(POLL_SECONDS)
            yield

    # restore ----------------------------------------------------------------------------------

    def restore(self, reason: str, *, limit: float, wanted: Wanted) -> Data:
        """Opens a tenant that was sealed or revoked, once the runner has compared and read what lies there.

        Raises what `Sealer.restore` raises, and RefusedInput when a key that something lies under was destroyed.
        """
        self.sealer.to_lift()
        self._refuse_destroyed()
        deletion = self._deletion()
        before = self._revocation()
        operation = self._begun(OperationKind.RESTORE, reason)
        with self._ending(operation):
            found = self.sealer.restore(
                reason,
                limit=limit,
                wanted=wanted,
                opened=lambda layout: _opened(deletion.start if deletion else layout, before),
            )
            if deletion is not None:
                durable.give_up(self.sealer.folder, self.tenant, deletion.id)
                self._end(deletion, "its key was found again")
            self.records.result(operation.id, "check", {"checked": found["checked"]})
            self._end_revocations()
            again = self.fates.found_again(self.tenant)
            if again:
                self.log.append({"event": "keys-found-again", "keys": again, "by": who()})
        return found | {"operation": operation.id, "found_again": again}

    def _revocation(self) -> Operation | None:
        """The newest revocation: what the keys were before it stands in it."""
        every = self.records.operations(self.tenant)
        return next((op for op in reversed(every) if op.kind is OperationKind.REVOKE), None)

    def _deletion(self) -> Operation | None:
        """The deletion that the end of a key began, which a restore takes back. Raises RefusedInput once it purges."""
        unfinished = self.records.unfinished(self.tenant)
        if unfinished is None or not unfinished.request.ended:
            return None
        reached = (unfinished.step or "").partition("/")[0]
        if any(p.name == reached and not p.reversible for p in plan(unfinished.request, unfinished.start).phases):
            raise RefusedInput(
                f"{unfinished.id} has come to {unfinished.step}: what lay there is being deleted; nothing was changed",
                hint=f"the way is forward: keyshift resume {self.tenant}",
                code="not-reversible",
            )
        return unfinished

    def _end_revocations(self) -> None:
        for op in self.records.operations(self.tenant):
            if op.kind is OperationKind.REVOKE and op.state not in ENDED:
                self._end(op, "restored")

    def _end(self, operation: Operation, because: str) -> None:
        self.records.note(operation.id, state="aborted", ended_at=datetime.now(UTC), message=because, hint=None)

    def _refuse_destroyed(self) -> None:
        layout, fates = self.records.tenant(self.tenant).layout, self.fates.of(self.tenant)
        units = (*layout.storages, *layout.searches)
        for unit in units:
            fate = fates.get(unit.key or "")
            if fate is not None and fate.fate is Fate.DESTROYED:
                raise RefusedInput(
                    f"{fate}; {unit.id} lies under it and can never be read again, so there is nothing to restore",
                    hint=f"what is left can be deleted: keyshift delete {self.tenant} --confirm {self.tenant}",
                    code="key-destroyed",
                )

    # the operation ----------------------------------------------------------------------------

    def _begun(self, kind: OperationKind, reason: str) -> Operation:
        """The operation of that kind that did not come to its end, else a new one.

        One that stopped before it had closed anything is given up: the tenant may have changed since. A tenant
        that is revoked has its revocation already, which goes on.
        """
        record = self.records.tenant(self.tenant)
        stands = self._revocation() if kind is OperationKind.REVOKE and is_revoked(record.layout) else None
        if stands is not None:
            self.records.note(stands.id, state="running", message=None, hint=None)
            return stands
        for op in self.records.operations(self.tenant):
            if op.kind is kind and op.state not in ENDED:
                if record.sealed:
                    self.records.note(op.id, state="running", message=None, hint=None)
                    return op
                self.records.note(op.id, state="aborted", ended_at=datetime.now(UTC), message="begun anew", hint=None)
        operation = self.records.begin(record, kind, None)
        about = {"operation": operation.id, "kind": str(kind), "by": who(), "reason": reason}
        self.log.append({"event": "operation-begun", **about})
        return operation

    @contextlib.contextmanager
    def _ending(self, operation: Operation) -> Iterator[None]:
        """Notes how the operation ends, whatever happens in the block."""
        try:
            yield
        except Exception as error:
            said = failures.explained(error)
            state = "waiting" if isinstance(said, Waiting) else "failed"
            self.records.note(operation.id, state=state, message=said.message, hint=said.hint)
            raise
        self.records.note(operation.id, state="done", ended_at=datetime.now(UTC), message=None, hint=None)
        self.log.append({"event": "operation-done", "operation": operation.id})


def _opened(layout: Layout, revocation: Operation | None) -> Layout:
    return given_back(layout, revocation.start) if revocation and is_revoked(layout) else layout


class StillOpen(KeyshiftError):
    """Closed by the record, but some path was not seen to be refused. Carries what was found."""

    default_code = "still-open"

    def __init__(self, found: Data) -> None:
        open_ = "; ".join(found["still_open"])
        super().__init__(
            f"tenant {found['tenant']} is closed in the record, but not everything was refused: {open_}",
            hint=f"mend what it names, then run the same again: keyshift revoke {found['tenant']}",
        )
        self.found = found
