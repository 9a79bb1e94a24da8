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
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import orjson
from botocore.exceptions import ClientError

from components.worker.annotations import CARRIED
from migrate.aws import code_of, explained, is_about_a_key, status_of
from migrate.copy.s3 import Side, called, list_versions
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


def import_path(side: Side, path: Path, ids: Ids, report: Report, *, threads: int = THREADS) -> Imported:
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


def write_record(side: Side, type: str, id: str, data: Mapping[str, Any]) -> Stored:
    """Archive one record, as a job does. The same data again changes nothing."""
    return _store(side, Record(type, id, data, where=f"{type}/{id}"), known=True)


def delete_record(side: Side, type: str, id: str) -> None:
    """Delete a record: a delete marker on top of its versions."""
    key = Record(type, id, {}, where="").key
    called(f"deleting {key}", side.s3.delete_object, Bucket=side.storage.bucket, Key=side.storage.prefix + key)


def read(side: Side, key: str) -> bytes | None:
    """The bytes of an object below the prefix, or None if there is none now. Raises ClientError as S3 gave it."""
    try:
        answer = side.s3.get_object(Bucket=side.storage.bucket, Key=side.storage.prefix + key)
    except ClientError as error:
        if _is_absent(side, key, error):
            return None
        raise
    with closing(answer["Body"]) as body:
        return body.read()


def _is_absent(side: Side, key: str, error: ClientError) -> bool:
    """Whether a read failed because there is no object now.

    S3 answers 403 instead of 404 to a role that may list one prefix only (API_GetObject, Permissions).
    """
    if status_of(error) == 404:
        return True
    if status_of(error) != 403 or is_about_a_key(error):
        return False
    newest = next((entry for entry in list_versions(side, key) if entry.key == key), None)
    return newest is None or newest.is_delete_marker


# one object -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Current:
    """What stands under a key: the condition for replacing it, its revision, its content if there is one.

    `carried`: metadata that the next revision takes over, so that what people added to a record outlives an archive run.
    """

    condition: Mapping[str, str]
    revision: int
    content: Any
    carried: Mapping[str, str] = field(default_factory=dict)


def _store(side: Side, item: Record | Attachment, *, known: bool) -> Stored:
    """Write what is not there yet. `known`: the key has had a version, so what stands there is read first."""
    content = _data(item)
    fresh = _Current({"IfNoneMatch": "*"}, 0, None)
    for attempt in range(ATTEMPTS):
        current = _current(side, item) if known or attempt else fresh
        if current.content == content:
            return Stored(item.key, UNCHANGED, current.revision, 0)
        size = _put(side, item, current)
        if size is not None:
            revision = current.revision + 1
            return Stored(item.key, CREATED if revision == 1 else UPDATED, revision, size)
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


def _current(side: Side, item: Record | Attachment) -> _Current:
    place = {"Bucket": side.storage.bucket, "Key": side.storage.prefix + item.key}
    try:
        answer = side.s3.get_object(**place, ChecksumMode="ENABLED")
    except ClientError as error:
        if _is_absent(side, item.key, error):
            return _Current({"IfNoneMatch": "*"}, _last_revision(side, item.key), None)
        raise explained(error, f"reading {side.storage}{item.key}") from error
    with closing(answer["Body"]) as body:
        content = orjson.loads(body.read())["data"] if isinstance(item, Record) else _stored_sha256(answer, body)
    metadata = answer["Metadata"]
    carried = {name: metadata[name] for name in CARRIED if name in metadata}
    return _Current({"IfMatch": answer["ETag"]}, int(metadata["revision"]), content, carried)


def _stored_sha256(answer: Mapping[str, Any], body: Any) -> str:
    stored = answer.get("ChecksumSHA256")
    if stored and answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        return stored
    return _base64_sha256(body.iter_chunks(CHUNK))


def _last_revision(side: Side, key: str) -> int:
    """The revision that a deleted object had, 0 if there never was one."""
    for entry in list_versions(side, key):
        if entry.key != key:
            break
        if not entry.is_delete_marker:
            place = {"Bucket": side.storage.bucket, "Key": side.storage.prefix + key, "VersionId": entry.version_id}
            return int(called(f"reading {side.storage}{key}", side.s3.head_object, **place)["Metadata"]["revision"])
    return 0


def _put(side: Side, item: Record | Attachment, current: _Current) -> int | None:
    """Write the next revision; the number of bytes, or None if the key was changed in between."""
    revision = current.revision + 1
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    metadata = {**current.carried, "archived-at": now, "revision": str(revision)}
    if isinstance(item, Record):
        facts = {"type": item.type, "id": item.id, "archived_at": now, "revision": revision, "data": item.data}
        metadata |= {"type": quote(item.type, safe=""), "id": quote(item.id, safe="")}
        body = orjson.dumps(facts)
        return _sent(side, item.key, metadata, current, body, hashed=_base64_sha256([body]), size=len(body))
    with item.open() as body:
        hashed = _sha256(body)
        body.seek(0)
        return _sent(side, item.key, metadata, current, body, hashed=hashed, size=item.size)


def _sent(  # noqa: PLR0913 - the parts of one request
    side: Side, key: str, metadata: Mapping[str, str], current: _Current, body: Any, *, hashed: str, size: int
) -> int | None:
    try:
        side.s3.put_object(
            Bucket=side.storage.bucket,
            Key=side.storage.prefix + key,
            Body=body,
            Metadata=metadata,
            ChecksumSHA256=hashed,
            **current.condition,
        )
    except ClientError as error:
        if status_of(error) in {404, 409, 412} and code_of(error) != "NoSuchBucket":
            return None
        raise explained(error, f"archiving {side.storage}{key}") from error
    return size


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
def _taken(side: Side) -> Iterator[_Taken]:
    database = sqlite3.connect("", isolation_level=None)
    try:
        database.execute("CREATE TABLE taken (key TEXT PRIMARY KEY) WITHOUT ROWID")
        database.execute("BEGIN")
        database.executemany("INSERT OR IGNORE INTO taken VALUES (?)", ((entry.key,) for entry in list_versions(side)))
        yield _Taken(database)
    finally:
        database.close()
