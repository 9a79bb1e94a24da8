"""What Archive may do with a tenant now, and Archive's own client, which does no more than that.

The answer comes from the record alone and is kept for seconds. It fails closed: while the record cannot
be read, or is older than one that was read before, there are no jobs and no searches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sql

from components.index import READ_ALIAS
from components.worker.document import document_id
from migrate import archive, failures
from migrate.copy.store import Store
from migrate.errors import KeyshiftError, Waiting
from migrate.index import aliases
from migrate.live import Live
from migrate.records import OPERATIONS, unknown
from migrate.seals import SEALS, newest
from migrate.stack import Project
from stacks import record
from stacks.record import TenantRecord, connect

FRESH_SECONDS = 2.0
"""How long an answer is good for. The cloud refuses at once what was closed meanwhile; this is for Archive's manners."""

Data = dict[str, Any]


class GateClosed(Waiting):
    """The gate lets nobody do this now. It opens by itself, or `waits_for` says who has to act."""

    default_code = "gate-closed"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`jobs`, `searches` and `access` are None where it is open, else why it is not.

    `storage` and `search` are the units that serve. Only what was archived before `cutoff` may be shown.
    """

    tenant: str
    jobs: str | None
    searches: str | None
    access: str | None
    storage: str | None = None
    search: str | None = None
    alias: str = READ_ALIAS
    cutoff: datetime | None = None
    warnings: tuple[str, ...] = ()
    generation: int | None = None
    read_at: datetime
    is_known: bool = True
    """False if the record could not be read or believed: then everything is closed."""

    def shows(self, archived_at: str) -> bool:
        """Whether something archived at this instant (RFC 3339) may be shown."""
        return self.cutoff is None or datetime.fromisoformat(archived_at) < self.cutoff


def _unknown(tenant: str, because: str) -> Answer:
    return Answer(
        tenant=tenant, jobs=because, searches=because, access=because, read_at=datetime.now(UTC), is_known=False
    )


class Gate:
    """Asks the record what Archive may do. One object a tenant, kept as long as Archive runs; threads may share it."""

    def __init__(
        self,
        engine: sql.Engine,
        tenant: str,
        *,
        fresh_seconds: float = FRESH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._tenant = tenant
        self._fresh = fresh_seconds
        self._clock = clock
        self._kept: tuple[float, Answer] | None = None
        self._newest_seen = (0, 0)  # fence and generation
        self._failure: KeyshiftError | None = None

    def now(self) -> Answer:
        """What may be done now. Never raises: what goes wrong is why all is closed."""
        began = self._clock()
        if self._kept is not None and began - self._kept[0] < self._fresh:
            return self._kept[1]
        try:
            answer = self._asked()
            self._failure = None
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody knows what is allowed
            self._failure = failures.explained(error)
            answer = _unknown(self._tenant, self._failure.message)
        self._kept = began, answer
        return answer

    def require_jobs(self) -> Answer:
        """Raises GateClosed while no job may run, and why the record cannot be believed while it cannot."""
        return self._required("run jobs on", "jobs", lambda answer: answer.jobs)

    def require_searches(self) -> Answer:
        """The same for searching and reading."""
        return self._required("search", "searches", lambda answer: answer.searches)

    def _required(self, doing: str, what: str, because: Callable[[Answer], str | None]) -> Answer:
        answer = self.now()
        reason = because(answer)
        if reason is None:
            return answer
        if self._failure is not None:
            raise self._failure
        raise GateClosed(
            f"nobody may {doing} tenant {self._tenant} now: {reason}",
            waits_for=f"the gate of tenant {self._tenant}",
            hint=f"see what it waits for: keyshift gate {self._tenant}",
            code=f"{what}-closed",
        )

    def _asked(self) -> Answer:
        held = record.find(self._engine, self._tenant)
        if held is None or held.archived:
            raise unknown(self._tenant, record.living(self._engine))
        read = (held.lease_fence, held.generation)
        if read < self._newest_seen:
            fence, generation = self._newest_seen
            raise KeyshiftError(
                f"the record of tenant {self._tenant} is older (generation {held.generation}, fence {held.lease_fence}) "
                f"than it was when read before (generation {generation}, fence {fence})",
                hint="point KEYSHIFT_DATABASE_URL at the record itself and not at a copy that lags behind",
                code="record-stale",
            )
        self._newest_seen = read
        with self._engine.connect() as connection:
            return _judged(held, _seal(connection, held), _opening(connection, self._tenant))


def _judged(held: TenantRecord, seal: str | None, opening: str | None) -> Answer:
    layout, gate = held.layout, held.layout.gate
    access = jobs = None
    if seal is not None:
        access = seal
    elif gate.access == "closed":
        access = gate.reason or "access is closed"
    elif layout.serves is None:
        access = "nothing serves yet: the customer's key is not in"
    if gate.jobs == "closed":
        jobs = gate.reason or "jobs are closed"
    elif opening is not None:
        jobs = f"{opening} is about to open the gate; the cloud still refuses"
    return Answer(
        tenant=held.name,
        jobs=access or jobs,
        searches=access,
        access=access,
        storage=layout.serves.storage if layout.serves else None,
        search=layout.serves.search if layout.serves else None,
        cutoff=gate.search_cutoff,
        warnings=gate.warnings,
        generation=held.generation,
        read_at=datetime.now(UTC),
    )


def _seal(connection: sql.Connection, held: TenantRecord) -> str | None:
    if not held.sealed:
        return None
    has_table = sql.inspect(connection).has_table(SEALS.name)
    return str((newest(connection, held.name) if has_table else None) or "sealed")


def _opening(connection: sql.Connection, tenant: str) -> str | None:
    """The operation that closed the gate and has not seen it open in the cloud: the record opens before the stack."""
    if not sql.inspect(connection).has_table(OPERATIONS.name):
        return None
    columns = (OPERATIONS.c[name] for name in ("id", "state", "jobs_closed_at", "jobs_opened_at", "ended_at"))
    operations = connection.execute(sql.select(*columns).where(OPERATIONS.c.tenant == tenant)).all()
    closed = max(
        ((datetime.fromisoformat(one.jobs_closed_at), one.id) for one in operations if one.jobs_closed_at), default=None
    )
    # One that took over from another opens what that one had closed, and one that is done leaves nothing behind.
    opened = [one.jobs_opened_at or (one.ended_at if one.state == "done" else None) for one in operations]
    newest_opened = max((datetime.fromisoformat(at) for at in opened if at), default=None)
    if closed is None or (newest_opened is not None and newest_opened >= closed[0]):
        return None
    return closed[1]


def describe(project: Project, name: str) -> Data:
    """The answer with the places that it speaks of: what an Archive in any language needs."""
    answer = Gate(connect(project.home), name).now()
    live = None
    if answer.is_known and answer.storage is not None and answer.access is None:
        try:
            live = Live.find(project, name)
            _ = live.serves
        except Exception as error:  # noqa: BLE001 - without the places nobody can do anything
            because = failures.explained(error).message
            answer, live = replace(answer, jobs=because, searches=because, access=because), None
    storage = live.outputs["storages"][answer.storage] if live else {}
    search = live.outputs["searches"][answer.search] if live else {}
    return {
        "tenant": name,
        "is_known": answer.is_known,
        "access": {"allowed": answer.access is None, "reason": answer.access},
        "jobs": {
            "allowed": answer.jobs is None,
            "reason": answer.jobs,
            "storage": answer.storage,
            "bucket": storage.get("bucket"),
            "prefix": storage.get("prefix"),
        },
        "searches": {
            "allowed": answer.searches is None,
            "reason": answer.searches,
            "search": answer.search,
            "endpoint": search.get("endpoint"),
            "secret": search.get("secrets", {}).get("archive"),
            "alias": answer.alias,
            "cutoff": answer.cutoff and answer.cutoff.isoformat(),
        },
        "warnings": list(answer.warnings),
        "generation": answer.generation,
        "read_at": answer.read_at.isoformat(timespec="milliseconds"),
        "good_for_seconds": FRESH_SECONDS,
    }


class ArchiveClient:
    """What the Archive service does with one tenant: writes, reads, searches. Follows what serves, heeds the gate."""

    def __init__(self, project: Project, name: str, *, fresh_seconds: float = FRESH_SECONDS) -> None:
        self._project = project
        self._name = name
        self.gate = Gate(connect(project.home), name, fresh_seconds=fresh_seconds)
        self._live: Live | None = None
        self._before: Live | None = None

    def write(self, type: str, id: str, data: Mapping[str, Any]) -> int:
        """Archives a record; returns its revision. Raises GateClosed, and CloudError when the cloud refuses."""
        self.gate.require_jobs()
        return archive.write_record(self.side(), type, id, data).revision

    def has(self, type: str, id: str) -> bool:
        """Whether the storage that serves holds this record."""
        return archive.read(self.side(), f"records/{type}/{id}.json") is not None

    def read_first(self) -> tuple[str, int]:
        """Key and length of the first object of a listing, really read. Raises CloudError, KeyUnavailable where its key is lost."""
        side = self.side()
        key = next(entry.key for entry in side.list_versions("records/") if not entry.is_delete_marker)
        return key, len(archive.read(side, key) or b"")

    def search(self, query: str, limit: int = 10) -> Data:
        """Searches the deployment that serves, through the read alias. Raises GateClosed."""
        answer = self.gate.require_searches()
        live, found = self._asked(lambda client: aliases.search(client, answer.alias, query, limit, answer.cutoff))
        cutoff = answer.cutoff and answer.cutoff.isoformat()
        return {"tenant": self._name, "search": live.serves.search, "cutoff": cutoff, **asdict(found)}

    def get(self, type: str, id: str) -> Mapping[str, Any] | None:
        """The record of this id as the search holds it, or None. Raises GateClosed.

        A get by id passes the alias' filter, so that what it hides is hidden here.
        """
        answer = self.gate.require_searches()
        _, found = self._asked(
            lambda client: aliases.get(client, answer.alias, document_id(f"records/{type}/{id}.json"))
        )
        if found is None or found.get("deleted") or not answer.shows(found["archived_at"]):
            return None
        return found

    def pages(self, query: str, size: int = 100) -> Iterator[tuple[Mapping[str, Any], ...]]:
        """Everything that a query finds, in pages, by key. Raises GateClosed, also between two pages.

        The gate is asked before each page, and no point in time is opened: it would go on showing what the
        alias hides by then. So what is archived meanwhile may be found, in its place.
        """
        after: str | None = None
        while True:
            answer, last = self.gate.require_searches(), after
            _, page = self._asked(
                lambda client, answer=answer, last=last: aliases.page(
                    client, answer.alias, query, size, answer.cutoff, after=last
                )
            )
            if not page:
                return
            yield page
            after = page[-1]["key"]

    def side(self) -> Store:
        """The storage that serves, as the Archive's role; whether jobs may write there says the gate."""
        live = self._current()
        return live.storage(live.serves.storage, "archive")

    def _asked(self, ask: Callable[[Any], Any]) -> tuple[Live, Any]:
        """While the serving side is switched, the old search answers until the new one lets Archive in."""
        live = self._current()
        try:
            return live, ask(live.search(live.serves.search, "archive"))
        except KeyshiftError:
            if self._before is None:
                raise
            return self._before, ask(self._before.search(self._before.serves.search, "archive"))

    def _current(self) -> Live:
        """The tenant as the gate has it now; the stack's outputs are read anew only when another side serves."""
        answer = self.gate.now()
        serving = None if self._live is None or self._live.layout.serves is None else self._live.layout.serves
        if (
            self._live is None
            or serving is None
            or (serving.storage, serving.search) != (answer.storage, answer.search)
        ):
            self._before, self._live = self._live, Live.find(self._project, self._name)
        return self._live
