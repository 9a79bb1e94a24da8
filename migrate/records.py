"""The tenant record and its operations: who holds the truth, who may act, how far an operation is.

SQLite by default, any SQLAlchemy URL for a fleet (KEYSHIFT_DATABASE_URL). The tenants table itself is
in `stacks.record`, because the program's guard reads it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sql

from migrate import bindings
from migrate.errors import Conflict, RefusedInput
from migrate.operations import LOCKS, OperationKind, Request
from migrate.seals import newest
from migrate.stack import is_alive
from stacks import record
from stacks.layout import Layout
from stacks.record import METADATA, TENANTS, TenantRecord

MIN_LEASE_SECONDS = 2.0


def _lease_length() -> timedelta:
    """KEYSHIFT_LEASE_SECONDS, else a minute; never under two seconds, in which a busy machine renews it."""
    return timedelta(seconds=max(MIN_LEASE_SECONDS, float(os.environ.get("KEYSHIFT_LEASE_SECONDS") or 60)))


LEASE = _lease_length()
WATCH_SECONDS = LEASE.total_seconds() / 2
"""How long a lease that has run out by the clock is watched before it is taken: two renewals of a live holder."""
WATCH_POLL_SECONDS = 0.1

ABORT = "-abort"
"""What the id of an abort has after that of the operation that it aborts."""
ENDED = frozenset({"done", "aborted"})

OPERATIONS = sql.Table(
    "operations",
    METADATA,
    sql.Column("id", sql.String, primary_key=True),
    sql.Column("tenant", sql.String, nullable=False, index=True),
    sql.Column("kind", sql.String, nullable=False),
    sql.Column("mode", sql.String),
    sql.Column("asked", sql.Text),  # JSON of what else was asked for: the key as it was seen, the customer's terms
    sql.Column("start", sql.Text, nullable=False),  # the layout it started from, canonical JSON
    sql.Column("state", sql.String, nullable=False),  # running | waiting | failed | done | aborted
    sql.Column("step", sql.String),
    sql.Column("cutoff", sql.String),
    sql.Column("jobs_closed_at", sql.String),
    sql.Column("jobs_opened_at", sql.String),
    sql.Column("started_at", sql.String, nullable=False),
    sql.Column("ended_at", sql.String),
    sql.Column("message", sql.Text),
    sql.Column("hint", sql.Text),
    sql.Column("progress", sql.Text),  # JSON of the last Progress
    sql.Column("results", sql.Text, nullable=False, default="{}"),  # JSON: step -> what it found
)


@dataclass(frozen=True, kw_only=True)
class Operation:
    id: str
    tenant: str
    kind: OperationKind
    mode: str | None
    asked: dict[str, Any]
    start: Layout
    state: str
    step: str | None
    cutoff: datetime | None
    jobs_closed_at: datetime | None
    jobs_opened_at: datetime | None
    started_at: datetime
    ended_at: datetime | None
    message: str | None
    hint: str | None
    progress: dict[str, Any] | None
    results: dict[str, Any]

    @property
    def request(self) -> Request:
        waited = (found for found in self.results.values() if isinstance(found, dict) and found.get("filled"))
        return Request(
            operation=self.id,
            kind=self.kind,
            mode=self.mode,
            cutoff=self.cutoff,
            materials={found["filled"]: found["material"] for found in waited},
            **self.asked,
        )

    @property
    def aborts(self) -> str | None:
        """The operation that this one aborts."""
        return self.id.removesuffix(ABORT) if self.kind is OperationKind.ABORT else None

    @property
    def moves_of(self) -> str:
        """Whose manifest its moves work on."""
        return self.aborts or self.id

    @property
    def jobs_disabled_seconds(self) -> float | None:
        """How long it kept jobs disabled; None while it does, or if it never did."""
        closed, opened = self.jobs_closed_at, self.jobs_opened_at
        return (opened - closed).total_seconds() if closed and opened else None


class Records:
    """All reads and writes of the record database. Every write that needs the lease checks the fence."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine
        METADATA.create_all(engine)

    # tenants ---------------------------------------------------------------------------------

    def tenants(self) -> list[TenantRecord]:
        """The tenants that are not archived, by name."""
        return record.living(self._engine)

    def tenant(self, name: str) -> TenantRecord:
        """Raises RefusedInput when there is no such tenant."""
        found = record.find(self._engine, name)
        if found is None or found.archived:
            raise unknown(name, self.tenants())
        return found

    def refuse_foreign_keys(self, layouts: Iterable[Layout], *, also: Iterable[str] = ()) -> None:
        """Raises RefusedInput for a layout with a key that is another customer's, or that would be given one of `also`.

        Reads only.
        """
        with self._engine.connect() as connection:
            bindings.refuse_foreign(connection, layouts, also)

    def key_owners(self, layouts: Iterable[Layout], *, also: Iterable[str] = ()) -> dict[str, str]:
        """ARN or alias -> the customer whose it is or was, of the keys of these layouts and of `also`. Reads only."""
        named = {reference for layout in layouts for reference in bindings.references(layout)}
        with self._engine.connect() as connection:
            return bindings.owners(connection, {*named, *also})

    def create(self, layout: Layout) -> TenantRecord:
        """A new tenant at generation 1. Raises RefusedInput when the name was ever used."""
        try:
            return record.insert(self._engine, layout)
        except record.NameTaken as error:
            raise _taken(layout.tenant) from error

    def refuse_taken(self, name: str) -> None:
        """Raises RefusedInput when the name was ever used."""
        if record.find(self._engine, name) is not None:
            raise _taken(name)

    def advance(self, layout: Layout, fence: int) -> int:
        """Makes `layout` the tenant's layout under a new generation; the same layout keeps its number.

        Raises Conflict when `fence` is no longer the lease's: somebody else acts now.
        """
        with self._engine.begin() as connection:
            held = self._held(connection, layout.tenant, fence)
            if held["digest"] == layout.digest():
                return int(held["generation"])
            bindings.bind(connection, layout)
            generation = int(held["generation"]) + 1
            connection.execute(
                TENANTS.update()
                .where(TENANTS.c.name == layout.tenant, TENANTS.c.lease_fence == fence)
                .values(generation=generation, digest=layout.digest(), layout=layout.canonical())
            )
            return generation

    def archive(self, tenant: str, fence: int) -> None:
        """The tenant is no more; its record stays, so that its name is not used again. Raises Conflict."""
        with self._engine.begin() as connection:
            self._held(connection, tenant, fence)
            connection.execute(
                TENANTS.update().where(TENANTS.c.name == tenant, TENANTS.c.lease_fence == fence).values(archived=True)
            )

    # the lease -------------------------------------------------------------------------------

    @contextmanager
    def lease(self, tenant: str, *, of_a_sealed: bool = False) -> Iterator[int]:
        """The right to act on a tenant; yields its fence, a number that only grows.

        A lease whose holder is a dead process of this host is taken over at once, any other one when
        it has run out and was not renewed while we looked on. Raises RefusedInput while another holder's lease
        lives, or while the tenant is sealed: then only a restore may act (`of_a_sealed`).
        """
        owner = f"{socket.gethostname()}:{os.getpid()}"
        fence = self._take(tenant, owner, of_a_sealed=of_a_sealed)
        try:
            yield fence
        finally:
            with self._engine.begin() as connection:
                connection.execute(
                    TENANTS.update()
                    .where(TENANTS.c.name == tenant, TENANTS.c.lease_fence == fence)
                    .values(lease_owner=None, lease_until=None)
                )

    def worker(self, tenant: str) -> str | None:
        """Who holds the lease on a tenant now, or None. Reads only."""
        return _holder(self.tenant(tenant))

    def renew(self, tenant: str, fence: int) -> None:
        """Raises Conflict when the lease has gone to somebody else."""
        with self._engine.begin() as connection:
            self._held(connection, tenant, fence)
            connection.execute(
                TENANTS.update()
                .where(TENANTS.c.name == tenant, TENANTS.c.lease_fence == fence)
                .values(lease_until=_text(datetime.now(UTC) + LEASE))
            )

    def refuse_sealed(self, tenant: str) -> None:
        """Raises RefusedInput (code `sealed`) while the tenant is sealed."""
        if self.tenant(tenant).sealed:
            raise RefusedInput(
                f"tenant {tenant} is {self._seal(tenant)}; nothing was changed",
                hint=f"once it may be opened again: keyshift restore {tenant}",
                code="sealed",
            )

    def lost(self, tenant: str, fence: int) -> Conflict | None:
        """Why who acts under `fence` may not go on; None while the lease is theirs. Reads only."""
        try:
            self.check(tenant, fence)
        except Conflict as lost:
            return lost
        return None

    def _seal(self, tenant: str) -> str:
        with self._engine.connect() as connection:
            return str(newest(connection, tenant) or "sealed")

    def _take(self, tenant: str, owner: str, *, of_a_sealed: bool) -> int:
        if not of_a_sealed:
            self.refuse_sealed(tenant)
        held = self.tenant(tenant)
        holder = _holder(held)
        if holder is None and self.is_renewed(held):
            holder = held.lease_owner
        if holder is not None:
            raise RefusedInput(
                f"tenant {tenant} is being worked on by {holder}{self.working_on(tenant)} "
                f"(lease until {held.lease_until:%H:%M:%S} UTC)",
                hint=f"watch it: keyshift status {tenant} --watch",
                code="lease-held",
            )
        fence = held.lease_fence + 1
        with self._engine.begin() as connection:
            taken = connection.execute(
                TENANTS.update()
                .where(TENANTS.c.name == tenant, TENANTS.c.lease_fence == held.lease_fence)
                .values(lease_owner=owner, lease_fence=fence, lease_until=_text(datetime.now(UTC) + LEASE))
            )
        if taken.rowcount != 1:
            raise RefusedInput(
                f"another runner has just taken tenant {tenant}",
                hint=f"watch it: keyshift status {tenant} --watch",
                code="lease-held",
            )
        return fence

    def is_renewed(self, held: TenantRecord) -> bool:
        """Whether a lease that has run out by the clock is renewed all the same, within WATCH_SECONDS.

        Clocks jump, and those of two hosts differ: only a holder that was seen to be silent has lost its lease.
        """
        if held.lease_owner is None or _is_dead_here(held.lease_owner):
            return False
        until = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < until:
            now = self.tenant(held.name)
            if (now.lease_fence, now.lease_until) != (held.lease_fence, held.lease_until):
                return now.lease_owner is not None
            time.sleep(WATCH_POLL_SECONDS)
        return False

    def is_overdue(self, tenant: str, pid: int) -> bool:
        """Whether the process `pid` of this host holds a lease that has run out and does not renew it."""
        held = self.tenant(tenant)
        is_its = held.lease_owner == f"{socket.gethostname()}:{pid}"
        return is_its and _has_run_out(held.lease_until) and not self.is_renewed(held)

    def working_on(self, tenant: str) -> str:
        """ ", in acme-enable-1 (step …)", for a message about who works on a tenant; empty without an operation."""
        operation = self.unfinished(tenant)
        return "" if operation is None else f", in {operation.id} (step {operation.step or 'none yet'})"

    def check(self, tenant: str, fence: int) -> None:
        """Raises Conflict when the lease has gone to somebody else. Reads only."""
        with self._engine.connect() as connection:
            self._held(connection, tenant, fence)

    @staticmethod
    def _held(connection: sql.Connection, tenant: str, fence: int) -> sql.RowMapping:
        row = connection.execute(sql.select(TENANTS).where(TENANTS.c.name == tenant)).mappings().one()
        if row["lease_fence"] != fence and row["sealed"]:
            raise Conflict(
                f"tenant {tenant} is {newest(connection, tenant) or 'sealed'}; this runner stops and changes nothing more",
                hint=f"once it may be opened again: keyshift restore {tenant}, then keyshift resume {tenant}",
                code="sealed",
            )
        if row["lease_fence"] != fence:
            raise Conflict(
                f"the lease on tenant {tenant} went to {row['lease_owner'] or 'nobody'} (fence {row['lease_fence']}, "
                f"ours was {fence}); this runner stops and changes nothing more",
                hint=f"keyshift status {tenant}",
                code="lease-lost",
            )
        return row

    # operations ------------------------------------------------------------------------------

    def begin(
        self,
        tenant: TenantRecord,
        kind: OperationKind,
        mode: str | None,
        *,
        asked: Mapping[str, Any] | None = None,
        ends: tuple[Operation, str, str] | None = None,
    ) -> Operation:
        """A new operation `<tenant>-<kind>-<n>`.

        `ends`: (operation, state, message) of one that the new one takes over from; both are written or neither.
        """
        with self._engine.begin() as connection:
            if ends is not None:
                ended, state, message = ends
                connection.execute(
                    OPERATIONS.update()
                    .where(OPERATIONS.c.id == ended.id)
                    .values(state=state, ended_at=_text(datetime.now(UTC)), message=message, hint=None)
                )
            number = connection.execute(
                sql.select(sql.func.count()).where(OPERATIONS.c.tenant == tenant.name, OPERATIONS.c.kind == str(kind))
            ).scalar_one()
            id = f"{tenant.name}-{kind}-{number + 1}"
            connection.execute(
                OPERATIONS.insert().values(
                    id=id,
                    tenant=tenant.name,
                    kind=str(kind),
                    mode=mode,
                    asked=json.dumps(asked) if asked else None,
                    start=tenant.layout.canonical(),
                    state="running",
                    started_at=_text(datetime.now(UTC)),
                    results="{}",
                )
            )
        return self.operation(id)

    def begin_abort(self, tenant: TenantRecord, aborted: Operation) -> Operation:
        """Ends an operation as aborted and begins `<its id>-abort`, both or neither."""
        id, now = f"{aborted.id}{ABORT}", _text(datetime.now(UTC))
        with self._engine.begin() as connection:
            connection.execute(
                OPERATIONS.update()
                .where(OPERATIONS.c.id == aborted.id)
                .values(state="aborted", ended_at=now, message=f"aborted by {id}", hint=None)
            )
            connection.execute(
                OPERATIONS.insert().values(
                    id=id,
                    tenant=tenant.name,
                    kind=str(OperationKind.ABORT),
                    mode=None,
                    start=tenant.layout.canonical(),
                    state="running",
                    started_at=now,
                    results="{}",
                )
            )
        return self.operation(id)

    def operation(self, id: str) -> Operation:
        with self._engine.connect() as connection:
            row = connection.execute(sql.select(OPERATIONS).where(OPERATIONS.c.id == id)).mappings().one()
        return _operation(row)

    def operations(self, tenant: str) -> list[Operation]:
        """Oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                sql.select(OPERATIONS).where(OPERATIONS.c.tenant == tenant).order_by(OPERATIONS.c.started_at)
            ).mappings()
            return [_operation(row) for row in rows]

    def unfinished(self, tenant: str) -> Operation | None:
        """The operation that a runner has to go on with."""
        return next((op for op in self.operations(tenant) if op.state not in ENDED and op.kind not in LOCKS), None)

    def note(self, operation: str, *, fence: int | None = None, **values: object) -> None:
        """Writes columns of an operation; datetimes and dictionaries as text.

        Raises Conflict when `fence` is no longer the lease's, as every write here does that is given one.
        """
        with self._engine.begin() as connection:
            written = connection.execute(
                OPERATIONS.update()
                .where(OPERATIONS.c.id == operation, _is_fenced(fence))
                .values({name: _column(value) for name, value in values.items()})
            )
            self._refuse_overtaken(connection, operation, fence, written.rowcount)

    def note_sealed(self, operation: str, **values: object) -> None:
        """As `note`, by a runner whose fence a seal has overtaken; while the seal stands nobody else writes there."""
        is_sealed = sql.exists().where(TENANTS.c.name == OPERATIONS.c.tenant, TENANTS.c.sealed)
        with self._engine.begin() as connection:
            connection.execute(
                OPERATIONS.update()
                .where(OPERATIONS.c.id == operation, is_sealed)
                .values({name: _column(value) for name, value in values.items()})
            )

    def note_once(self, operation: str, column: str, instant: datetime, *, fence: int | None = None) -> datetime:
        """Writes an instant unless one stands there; returns what stands there now."""
        with self._engine.begin() as connection:
            connection.execute(
                OPERATIONS.update()
                .where(OPERATIONS.c.id == operation, OPERATIONS.c[column].is_(None), _is_fenced(fence))
                .values({column: _text(instant)})
            )
            text = connection.execute(sql.select(OPERATIONS.c[column]).where(OPERATIONS.c.id == operation)).scalar_one()
            self._refuse_overtaken(connection, operation, fence, 0 if text is None else 1)
        assert text is not None  # noqa: S101 - it was written, or the line above has raised
        return datetime.fromisoformat(text)

    def result(self, operation: str, step: str, found: dict[str, Any], *, fence: int | None = None) -> None:
        """Adds what a step found to the operation's results."""
        with self._engine.begin() as connection:
            text = connection.execute(
                sql.select(OPERATIONS.c.results).where(OPERATIONS.c.id == operation).with_for_update()
            ).scalar_one()
            results = {**json.loads(text), step: found}
            written = connection.execute(
                OPERATIONS.update()
                .where(OPERATIONS.c.id == operation, _is_fenced(fence))
                .values(results=json.dumps(results))
            )
            self._refuse_overtaken(connection, operation, fence, written.rowcount)

    def _refuse_overtaken(self, connection: sql.Connection, operation: str, fence: int | None, rows: int) -> None:
        """Raises Conflict when nothing was written because the fence was too old."""
        if rows == 0 and fence is not None:
            tenant = connection.execute(sql.select(OPERATIONS.c.tenant).where(OPERATIONS.c.id == operation))
            self._held(connection, tenant.scalar_one(), fence)


def _is_fenced(fence: int | None) -> sql.ColumnElement[bool]:
    """Within the statement that writes: between a look and a write the lease could go."""
    if fence is None:
        return sql.true()
    return sql.exists().where(TENANTS.c.name == OPERATIONS.c.tenant, TENANTS.c.lease_fence == fence)


def unknown(name: str, living: Iterable[TenantRecord]) -> RefusedInput:
    """The refusal of a name that no tenant has."""
    known = ", ".join(tenant.name for tenant in living) or "none yet"
    return RefusedInput(
        f"there is no tenant {name} (known: {known})",
        hint=f"keyshift tenant create {name} --customer NAME",
        code="unknown-tenant",
    )


def _taken(name: str) -> RefusedInput:
    return RefusedInput(
        f"the tenant name {name} is taken, or was and is archived; names are not used twice",
        hint="choose another name; these are taken: keyshift tenant list",
        code="tenant-exists",
    )


def _holder(tenant: TenantRecord) -> str | None:
    """The owner of the tenant's lease while it lives: not run out, and no dead process of this host."""
    owner, until = tenant.lease_owner, tenant.lease_until
    if owner is None or _has_run_out(until) or _is_dead_here(owner):
        return None
    return owner


def _has_run_out(until: datetime | None) -> bool:
    """Also an end that lies too far ahead is none: the clock was put back since."""
    now = datetime.now(UTC)
    return until is None or not now < until <= now + 2 * LEASE


def _is_dead_here(owner: str) -> bool:
    host, _, pid = owner.rpartition(":")
    return host == socket.gethostname() and pid.isdigit() and not is_alive(int(pid))


def _operation(row: sql.RowMapping) -> Operation:
    instants = ("cutoff", "jobs_closed_at", "jobs_opened_at", "started_at", "ended_at")
    values: dict[str, Any] = {**row, **{name: _instant(row[name]) for name in instants}}
    values["kind"] = OperationKind(row["kind"])
    values["start"] = Layout.model_validate_json(row["start"])
    values["progress"] = json.loads(row["progress"]) if row["progress"] else None
    values["asked"] = json.loads(row["asked"] or "{}")
    values["results"] = json.loads(row["results"])
    return Operation(**values)


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat()


def _instant(value: str | datetime | None) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    return datetime.fromisoformat(value)


def _column(value: object) -> object:
    if isinstance(value, datetime):
        return _text(value)
    return json.dumps(value) if isinstance(value, dict) else value
