"""What the Archive service does to a storage: write records and attachments, read them, delete them.

Every write is conditional and every record carries its revision, so an import that was cut off is
simply run again: what is there stays as it is, what changed becomes the next revision. Revisions go
on counting over a delete, because the search keeps a deleted record's last revision as a tombstone.
"""

from __future__ import annotations

import base64
import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import orjson

from components.worker.annotations import CARRIED
from migrate.copy.store import Content, Store
from migrate.errors import Conflict
from migrate.intake import Attachment, Ids, Record, items, survey
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report

THREADS = 16
ATTEMPTS = 5
CHUNK = 1024 * 1024
CREATED, UPDATED, UNCHANGED = "created", "updated", "unchanged"


@dataclass(frozen=True)
class Stored:
    """What a write came to: `created`, `updated` (the next revision) or `unchanged`."""

    key: str
    outcome: str
    revision: int
    bytes: int


@dataclass(frozen=True)
class Imported:
    """What an import did. `bytes` counts what was sent, not what stood there already."""

    records: int
    attachments: int
    created: int
    updated: int
    unchanged: int
    bytes: int
    by_type: Mapping[str, int]


def import_path(side: Store, path: Path, ids: Ids, report: Report, *, threads: int = THREADS) -> Imported:
    """Load NDJSON, CSV, attachments, or a folder or zip of them, as the Archive service would.

    Everything is read and checked first; one broken record and nothing is loaded (RefusedInput).
    """
    found = survey(path, ids, prefix_bytes=len(side.storage.prefix.encode()))
    meter = Meter(report, Progress(move="import", objects_total=found.records + found.attachments))
    outcomes: Counter[str] = Counter()
    with _taken(side) as taken:
        work = ((item, item.key in taken) for item in items(path, ids, found))
        for stored in in_threads(work, lambda one: _store(side, one[0], known=one[1]), threads=threads, name="import"):
            outcomes[stored.outcome] += 1
            meter.add(1, stored.bytes)
    meter.tell()
    counts = {outcome: outcomes[outcome] for outcome in (CREATED, UPDATED, UNCHANGED)}
    return Imported(found.records, found.attachments, **counts, bytes=meter.now.bytes, by_type=found.by_type)


def write_record(side: Store, type: str, id: str, data: Mapping[str, Any]) -> Stored:
    """Archive one record, as a job does. The same data again changes nothing."""
    return _store(side, Record(type, id, data, where=f"{type}/{id}"), known=True)


def delete_record(side: Store, type: str, id: str) -> None:
    """Delete a record; where the storage keeps versions they stay, below a marker."""
    side.remove(Record(type, id, {}, where="").key)


def read(side: Store, key: str) -> bytes | None:
    """The bytes of an object, or None if there is none now. Raises CloudError, KeyUnavailable where its key is lost."""
    return side.read_now(key, lambda content: b"".join(content.chunks))


# one object -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Current:
    """What stands under a key: the condition for replacing it ("" where nothing does), its revision, its content.

    `carried`: metadata that the next revision takes over, so that what people added to a record outlives an archive
    run. `is_new`: nothing is known to have stood there before.
    """

    condition: str
    revision: int
    content: Any
    carried: Mapping[str, str] = field(default_factory=dict)
    is_new: bool = False


def _store(side: Store, item: Record | Attachment, *, known: bool) -> Stored:
    """Write what is not there yet. `known`: the key has had a version, so what stands there is read first."""
    content = _data(item)
    fresh = _Current("", side.counts_from, None, is_new=True)
    for attempt in range(ATTEMPTS):
        current = _current(side, item) if known or attempt else fresh
        if current.content == content:
            return Stored(item.key, UNCHANGED, current.revision, 0)
        size = _put(side, item, current)
        if size is not None:
            return Stored(item.key, CREATED if current.is_new else UPDATED, current.revision + 1, size)
    raise Conflict(
        f"{side.storage}{item.key} was changed by someone else {ATTEMPTS} times while it was written",
        hint="see which other job writes it, then run this again",
        code="write-conflict",
    )


def _data(item: Record | Attachment) -> Any:
    """What makes two writes of a key the same: a record's data, an attachment's SHA-256."""
    if isinstance(item, Record):
        return orjson.loads(orjson.dumps(item.data))
    with item.open() as file:
        return _sha256(file)


def _current(side: Store, item: Record | Attachment) -> _Current:
    def made(content: Content) -> _Current:
        if isinstance(item, Record):
            held = orjson.loads(b"".join(content.chunks))["data"]
        else:
            held = content.sha256 or _base64_sha256(content.chunks)
        carried = {name: content.metadata[name] for name in CARRIED if name in content.metadata}
        return _Current(content.condition, int(content.metadata["revision"]), held, carried=carried)

    if (found := side.read_now(item.key, made)) is not None:
        return found
    last = side.last_revision(item.key)
    return _Current("", side.counts_from if last is None else last, None, is_new=last is None)


def _put(side: Store, item: Record | Attachment, current: _Current) -> int | None:
    """Write the next revision; the number of bytes, or None if the key was changed in between."""
    revision = current.revision + 1
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    metadata = {**current.carried, "archived-at": now, "revision": str(revision)}
    if isinstance(item, Record):
        facts = {"type": item.type, "id": item.id, "archived_at": now, "revision": revision, "data": item.data}
        metadata |= {"type": quote(item.type, safe=""), "id": quote(item.id, safe="")}
        body = orjson.dumps(facts)
        hashed, size = _base64_sha256([body]), len(body)
        is_written = side.write(item.key, body, metadata, condition=current.condition, sha256=hashed, size=size)
        return size if is_written else None
    with item.open() as body:
        hashed = _sha256(body)
        body.seek(0)
        is_written = side.write(item.key, body, metadata, condition=current.condition, sha256=hashed, size=item.size)
        return item.size if is_written else None


def _sha256(file: IO[bytes]) -> str:
    return _base64_sha256(iter(lambda: file.read(CHUNK), b""))


def _base64_sha256(chunks: Any) -> str:
    whole = hashlib.sha256()
    for chunk in chunks:
        whole.update(chunk)
    return base64.b64encode(whole.digest()).decode()


class _Taken:
    """The keys that have or had a version, on disk."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    def __contains__(self, key: str) -> bool:
        return self._db.execute("SELECT 1 FROM taken WHERE key = ?", (key,)).fetchone() is not None


@contextmanager
def _taken(side: Store) -> Iterator[_Taken]:
    database = sqlite3.connect("", isolation_level=None)
    try:
        database.execute("CREATE TABLE taken (key TEXT PRIMARY KEY) WITHOUT ROWID")
        database.execute("BEGIN")
        database.executemany("INSERT OR IGNORE INTO taken VALUES (?)", ((entry.key,) for entry in side.list_versions()))
        yield _Taken(database)
    finally:
        database.close()
