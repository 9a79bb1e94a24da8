"""Storage against index, on demand: what differs, and the index mended from the storage.

The storage is right by definition. The pipeline works on meanwhile, so a difference counts only if it is still there
when both sides are looked at again. A repair is the event that never came: it goes through the worker's own code, with
external versions, so that it can neither bring back what is gone nor set a newer document back.
"""

from __future__ import annotations

import base64
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from elasticsearch import Elasticsearch

from components.index import INDEX
from components.worker.core import Worker
from components.worker.document import Document, NotIndexable, document_id, is_searchable, revision_of
from components.worker.edits import Held
from components.worker.elastic import CREATED, OK, Elastic
from migrate.copy.store import Entry, Store
from migrate.copy.verify import hash_of
from migrate.errors import RefusedInput, VerificationFailed
from migrate.fence import Fence
from migrate.guard import Check, Guard, unguarded
from migrate.index.scan import scan, search_errors
from migrate.live import Live
from migrate.log import Log
from migrate.pipeline import connection_to, objects_of, told
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report
from migrate.records import LEASE, Records
from migrate.stack import Project
from stacks.record import connect

Data = dict[str, Any]

THREADS = 16
TOGETHER = 200
AGAIN_LIMIT = 10_000
"""More differences than a pipeline has under way: looking again would only take time."""
AGAIN_SECONDS = 2.0
EXAMPLES = 20

MISSING, STALE, ALTERED, AHEAD, SURPLUS, UNREADABLE = "missing", "stale", "altered", "ahead", "surplus", "unreadable"
"""No document; of an earlier revision; of this revision but of other bytes; of a revision that the object does not
have; of no object; and an object of which no document can be made."""
KINDS = (MISSING, STALE, ALTERED, AHEAD, SURPLUS, UNREADABLE)


@dataclass(frozen=True)
class Difference:
    """One document that is not what the storage says. `key` is below the prefix, "" where nobody knows it."""

    kind: str
    id: str
    key: str
    revision: int | None = None
    indexed: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Comparison:
    """`objects` have a document, `documents` are live in the index."""

    objects: int
    documents: int
    differences: tuple[Difference, ...]

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(one.kind for one in self.differences)
        return {kind: found[kind] for kind in KINDS}


@dataclass(frozen=True)
class Sides:
    """A storage and the search that shows it. `elastic` is reached with the pipeline's rights."""

    side: Store
    search: Elasticsearch
    elastic: Elastic
    index: str = INDEX
    report: Report = field(default=lambda _: None)

    @property
    def worker(self) -> Worker:
        return Worker(objects_of(self.side), self.elastic)


def compare(sides: Sides, patience: float) -> Comparison:
    """Every current object against its document, by revision and content hash. Changes nothing.

    `patience`: for how many seconds a difference may be under way. Raises VerificationFailed if there is nothing on
    either side: a comparison of nothing proves nothing.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        database.executescript(_SCHEMA)
        _take_documents(sides, database)
        _take_objects(sides, database)
        objects, documents = database.execute(_COUNTS).fetchone()
        differences = [Difference(*row) for row in database.execute(_DIFFERENCES)]
    if not objects and not documents:
        raise VerificationFailed(
            f"there is nothing to compare: {sides.side.storage} has no object that has a document, {sides.index} none",
            hint="a comparison of nothing proves nothing; see whether the tenant is the right one",
            code="nothing-compared",
        )
    return Comparison(objects, documents, tuple(_still(sides, differences, patience)))


def mend(sides: Sides, found: Sequence[Difference], guard: Check = unguarded) -> list[Difference]:
    """Write what the storage says into the index; what could not be mended, with the reason.

    `guard` is asked before each bulk. A document that is ahead is left: no lower revision replaces a higher one.
    """
    meter = Meter(sides.report, Progress(move="repair", objects_total=len(found)))
    left: list[Difference] = []
    for some in _chunks(found):
        guard()
        with told(f"mending {sides.index}"):
            # As they are now: a key that the index alone knows is found here, and what has come right by itself is left.
            left += _mended(sides, list(_again(sides, some)))
        meter.add(len(some))
    meter.tell()
    return left


def _mended(sides: Sides, some: Sequence[Difference]) -> list[Difference]:
    worker = sides.worker
    by_key = {one.key: one for one in some if one.key and one.kind not in {ALTERED, AHEAD, UNREADABLE}}
    failed = worker.bring_up_to_date(by_key)
    left = [replace(by_key[key], reason=reason) for key, reason in failed.items()]
    left += [replace(one, reason=one.reason or _AHEAD) for one in some if one.kind in {AHEAD, UNREADABLE}]
    for one in some:
        if one.kind == ALTERED:
            left += _written_anew(sides, worker, one)
        elif not one.key:
            left += _hidden(sides, one)
    return left


_AHEAD = "the index has a later revision than the storage; archive the record again, or delete it there"


def _written_anew(sides: Sides, worker: Worker, one: Difference) -> list[Difference]:
    """The same revision again: here, and nowhere else, a document may replace one that is as new."""
    try:
        made = worker.document_of(one.key)
    except ValueError as error:
        return [replace(one, reason=str(error))]
    return _result(sides, one, made)


def _hidden(sides: Sides, one: Difference) -> list[Difference]:
    """A document that names no object: nobody but us could have known which."""
    return _result(sides, one, Document(one.id, one.indexed or 1, {"deleted": True, "revision": one.indexed or 1}))


def _result(sides: Sides, one: Difference, made: Document | None) -> list[Difference]:
    if made is None:
        return []
    (answer,) = sides.elastic.write([made], or_equal=True)
    return [] if answer.status in {OK, CREATED} else [replace(one, reason=f"{answer.status}: {answer.reason}")]


# looking --------------------------------------------------------------------------------------

_SCHEMA = """
CREATE TABLE objects (id TEXT PRIMARY KEY, key TEXT NOT NULL, revision INTEGER, hash TEXT, reason TEXT) WITHOUT ROWID;
CREATE TABLE documents (id TEXT PRIMARY KEY, version INTEGER NOT NULL, hash TEXT NOT NULL, is_live INTEGER NOT NULL)
    WITHOUT ROWID;
"""
_COUNTS = "SELECT (SELECT COUNT(*) FROM objects), (SELECT COUNT(*) FROM documents WHERE is_live)"
_DIFFERENCES = f"""
SELECT CASE
    WHEN o.revision IS NULL THEN '{UNREADABLE}'
    WHEN d.id IS NULL THEN '{MISSING}'
    WHEN d.version > o.revision THEN '{AHEAD}'
    WHEN NOT d.is_live THEN '{MISSING}'
    WHEN d.version < o.revision THEN '{STALE}'
    ELSE '{ALTERED}' END,
    o.id, o.key, o.revision, d.version, COALESCE(o.reason, '')
FROM objects o LEFT JOIN documents d ON d.id = o.id
WHERE o.revision IS NULL OR d.id IS NULL OR NOT d.is_live OR d.version != o.revision OR d.hash != o.hash
UNION ALL
SELECT '{SURPLUS}', d.id, '', NULL, d.version, '' FROM documents d LEFT JOIN objects o ON o.id = d.id
WHERE o.id IS NULL AND d.is_live
ORDER BY 2
"""  # noqa: S608 - constants


def _take_documents(sides: Sides, database: sqlite3.Connection) -> None:
    meter = Meter(sides.report, Progress(move="scan"))
    for page in scan(sides.search, sides.index):
        rows = [(one.id, one.version, one.content_hash, not one.is_tombstone) for one in page]
        database.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", rows)
        meter.add(len(page))
    meter.tell()


def _take_objects(sides: Sides, database: sqlite3.Connection) -> None:
    meter = Meter(sides.report, Progress(move="verify"))
    current = (e for e in sides.side.list_versions() if e.is_latest and not e.is_delete_marker and is_searchable(e.key))
    for row in in_threads(current, lambda entry: _read(sides.side, entry), threads=THREADS, name="verify"):
        database.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", row)
        meter.add(1)
    meter.tell()


def _read(side: Store, entry: Entry) -> tuple[Any, ...]:
    """(id, key, revision, hash, why it is unreadable) of an object, by its HEAD where that has a SHA-256."""
    found = side.describe(entry.key, entry.version_id)
    try:
        revision = revision_of(entry.key, found.metadata)
    except NotIndexable as error:
        return document_id(entry.key), entry.key, None, None, str(error)
    kind, _, checksum = (found.checksum or "").partition(":")
    if kind == "SHA256":
        return document_id(entry.key), entry.key, revision, base64.b64decode(checksum).hex(), None
    return document_id(entry.key), entry.key, revision, _hash(side, entry.key, entry.version_id), None


def _hash(side: Store, key: str, version_id: str) -> str:
    return hash_of(side, key, version_id).partition(":")[2]


def _still(sides: Sides, found: list[Difference], patience: float) -> list[Difference]:
    """Those that are there still, once what was under way has had its time."""
    if len(found) > AGAIN_LIMIT:
        return found
    until = time.monotonic() + patience
    while True:
        found = _looked_at_again(sides, found)
        left = until - time.monotonic()
        if not found or left <= 0:
            return found
        sides.report(Progress(move="verify", waiting=f"{len(found)} differences that may be under way"))
        time.sleep(min(AGAIN_SECONDS, left))


def _looked_at_again(sides: Sides, found: Sequence[Difference]) -> list[Difference]:
    return [still for some in _chunks(found) for still in _again(sides, some)]


def _again(sides: Sides, some: Sequence[Difference]) -> Iterator[Difference]:
    """Both sides as they are this moment, the document before the object."""
    with search_errors(f"reading {sides.index}"):
        answer = sides.search.mget(
            index=sides.index,
            ids=[one.id for one in some],
            source_includes=["key", "content_hash", "deleted"],
        )
    documents = {doc["_id"]: doc for doc in answer["docs"] if doc.get("found")}
    objects = objects_of(sides.side)

    def now(one: Difference) -> Difference | None:
        document = documents.get(one.id)
        key = one.key or str((document or {}).get("_source", {}).get("key", ""))
        if not key or not is_searchable(key) or document_id(key) != one.id:
            is_live = document is not None and not document["_source"].get("deleted")
            return replace(one, indexed=document["_version"]) if document is not None and is_live else None
        return _difference(sides.side, key, objects.held(key), document)

    for still in in_threads(some, now, threads=THREADS, name="again"):
        if still is not None:
            yield still


def _difference(side: Store, key: str, held: Held | None, document: Mapping[str, Any] | None) -> Difference | None:
    id, indexed = document_id(key), document["_version"] if document else None
    source = document["_source"] if document else {"deleted": True}
    if held is None:
        return None if source.get("deleted") else Difference(SURPLUS, id, key, None, indexed)
    try:
        revision = revision_of(key, held.metadata)
    except NotIndexable as error:
        return Difference(UNREADABLE, id, key, None, indexed, str(error))
    if indexed is not None and indexed > revision:
        return Difference(AHEAD, id, key, revision, indexed)
    if source.get("deleted"):
        return Difference(MISSING, id, key, revision, indexed)
    if indexed is None or indexed < revision:
        return Difference(STALE, id, key, revision, indexed)
    same = source.get("content_hash") == _hash(side, key, held.version_id)
    return None if same else Difference(ALTERED, id, key, revision, indexed)


def _chunks(found: Sequence[Difference]) -> Iterator[Sequence[Difference]]:
    for start in range(0, len(found), TOGETHER):
        yield found[start : start + TOGETHER]


# a tenant's -----------------------------------------------------------------------------------


def verify(project: Project, name: str, patience: float, report: Report) -> Data:
    """Hold what serves against its index. Changes nothing."""
    records = Records(connect(project.home))
    records.refuse_sealed(name)
    live = Live.find(project, name)
    return _facts(live, compare(_sides(live, report), patience))


def repair(project: Project, name: str, patience: float, report: Report) -> Data:
    """Mend the index of what serves, and look again. Under the tenant's lease, and written into its log.

    Raises RefusedInput while an operation is unfinished (its layouts are no place to mend), while another acts on the
    tenant, and while it is sealed; nothing was changed then.
    """
    records = Records(connect(project.home))
    _refuse_unfinished(records, name)
    with records.lease(name) as fence:
        _refuse_unfinished(records, name)
        guard = Guard(records, name, fence).check
        live = replace(Live.find(project, name), fence=Fence(records, name, fence))
        sides = _sides(live, _renewing(records, name, fence, report))
        found = compare(sides, patience)
        left = mend(sides, found.differences, guard)
        mended = [one for one in found.differences if one.id not in {other.id for other in left}]
        # What is left was told; of the rest each is looked at once more.
        left += [replace(one, reason=one.reason or "it is so again") for one in _looked_at_again(sides, mended)]
        facts = _facts(live, found) | {"mended": len(found.differences) - len(left), "left": len(left)}
        if found.differences:
            told = {key: facts[key] for key in ("storage", "search", "counts", "mended", "left")}
            Log(project.home / "tenants" / name).append({"event": "index-repaired", **told})
    return facts | {"left_examples": [asdict(one) for one in left[:EXAMPLES]]}


def _refuse_unfinished(records: Records, name: str) -> None:
    unfinished = records.unfinished(name)
    if unfinished is not None:
        raise RefusedInput(
            f"tenant {name} is in the middle of {unfinished.id} (step {unfinished.step or 'none yet'}), "
            "which fills and proves its indices itself; nothing was changed",
            hint=f"go on with it: keyshift resume {name}",
            code="operation-unfinished",
        )


def _sides(live: Live, report: Report) -> Sides:
    serves = live.serves
    elastic = Elastic(connection_to(live, serves.search), INDEX)
    return Sides(live.storage(serves.storage), live.search(serves.search), elastic, INDEX, report)


def _facts(live: Live, found: Comparison) -> Data:
    return {
        "tenant": live.layout.tenant,
        "storage": live.serves.storage,
        "search": live.serves.search,
        "objects": found.objects,
        "documents": found.documents,
        "differences": len(found.differences),
        "counts": found.counts,
        "examples": [asdict(one) for one in found.differences[:EXAMPLES]],
    }


def _renewing(records: Records, name: str, fence: int, report: Report) -> Report:
    """The same report, which keeps the lease on the way. Raises Conflict once it has gone to somebody else."""
    last = time.monotonic()

    def renewing(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last > LEASE.total_seconds() / 4:
            records.renew(name, fence)
            last = time.monotonic()
        report(progress)

    return renewing
