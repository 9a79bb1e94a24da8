"""The worker of a pipeline, on any cloud: queue messages in, the search brought up to date.

An event says only that something happened to a key. The worker reads what the object is *now* and
writes that, so that doubled, late and disordered events all lead to the same documents.

A deleted object becomes a tombstone document at the last revision that the object had, written
with `external_gte`: it wins over that revision and over every lower one that a slow worker may
still write, and loses to a later revision of an object that was archived again. So revisions of a
key go on counting over a delete.

A tick is a message of the pipeline's own, sent by a schedule through the same queue: it makes the worker look
for edits, and tells how long the queue is by how long it took.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import unquote_plus

from . import edits
from .document import Document, document, document_id, is_searchable, tombstone
from .edits import poll
from .edits_index import EditsIndex
from .elastic import CONFLICT, CREATED, FORBIDDEN, OK, UNAUTHORIZED, SearchError, Stored, Written

TICK = {"source": "keyshift.pipeline", "detail-type": "Tick"}
BULK_LIMIT_BYTES = 4 * 1024 * 1024
IN_CONTAINER = "/blobServices/default/containers/"
BLOB_CHANGES = frozenset({"Microsoft.Storage.BlobCreated", "Microsoft.Storage.BlobDeleted"})

log = logging.getLogger("keyshift.worker")
log.setLevel(logging.INFO)


class Retry(Exception):
    """The state did not settle in this attempt; the queue gives the message again."""


@dataclass(frozen=True)
class Found:
    """An object as it is now."""

    metadata: Mapping[str, str]
    size: int
    body: Iterable[bytes]


class Objects(Protocol):
    def read(self, key: str) -> Found | None:
        """The object under `key`, or None when there is none now."""
        ...

    def last_revision(self, key: str) -> int | None:
        """The revision of the newest version that the bucket still holds of `key`, or None."""
        ...


class WorkerObjects(Objects, edits.Objects, Protocol):
    """Both ways of a pipeline."""

    def refusals(self, key: str) -> dict[str, str]:
        """What this role is answered when it writes to `key`: the code by action, "" where it gets through."""
        ...


class Index(Protocol):
    def write(self, documents: list[Document]) -> list[Written]: ...

    def stored(self, ids: Iterable[str]) -> Mapping[str, Stored]: ...


@dataclass
class Batch:
    """What one invocation is about: which messages wait for which key, and what went wrong."""

    waiting: dict[str, set[str]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)
    """Key -> what went wrong with it."""

    def fail(self, key: str, error: Exception) -> None:
        log.error("%r was not brought up to date: %s", key, error)
        self.failed |= self.waiting[key]
        self.reasons[key] = str(error)


class Worker:
    """Brings the documents of some keys up to date. `prefix` is the tenant's part of a shared bucket.

    `bucket` and `prefix` are of the messages; who gives it keys needs neither.
    """

    def __init__(self, objects: Objects, index: Index, bucket: str = "", prefix: str = "") -> None:
        self._objects = objects
        self._index = index
        self._bucket = bucket
        self._prefix = prefix
        self.was_refused = False
        """Whether the search refused the credential: it may have been renewed since it was read."""

    def work(self, messages: list[Mapping[str, Any]]) -> list[str]:
        """The ids of the messages that must be given again; after some times they become dead letters."""
        batch = Batch()
        for message in messages:
            try:
                for key in self._keys(message["body"]):
                    batch.waiting.setdefault(key, set()).add(message["messageId"])
            except ValueError as error:
                log.error("message %s cannot be understood: %s", message["messageId"], error)  # noqa: TRY400 - no trace of a customer's data
                batch.failed.add(message["messageId"])
        self._bring_up_to_date(batch)
        return sorted(batch.failed)

    def bring_up_to_date(self, keys: Iterable[str]) -> Mapping[str, str]:
        """As for an event of each of `keys` (below the prefix); those that failed, with the reason."""
        batch = Batch({key: {key} for key in keys})
        self._bring_up_to_date(batch)
        return batch.reasons

    def _keys(self, body: str) -> Iterator[str]:
        for bucket, key in changed_objects(json.loads(body)):
            if bucket != self._bucket or not key.startswith(self._prefix):
                raise ValueError(f"{bucket}/{key} is not below {self._bucket}/{self._prefix}")
            below = key.removeprefix(self._prefix)
            if is_searchable(below):
                yield below

    def _bring_up_to_date(self, batch: Batch) -> None:
        documents: dict[str, Document] = {}
        held = 0
        for key in sorted(batch.waiting):
            try:
                made = self.document_of(key)
            # Whatever is wrong with one object must not hold up the others; the queue counts the attempts.
            except Exception as error:  # noqa: BLE001
                batch.fail(key, error)
                continue
            if made is None:
                continue
            documents[key] = made
            held += _weight(made)
            if held >= BULK_LIMIT_BYTES:
                self._write(batch, documents)
                documents, held = {}, 0
        self._write(batch, documents)

    def document_of(self, key: str) -> Document | None:
        """What should stand in the index for `key`; None when the key was never known to anyone."""
        found = self._objects.read(key)
        if found is not None:
            return document(key, found.metadata, found.size, found.body)
        # The index first, then the object again: a revision archived between the two is then higher
        # than the one read here, and the tombstone loses to it.
        stored = self._index.stored([document_id(key)]).get(document_id(key))
        found = self._objects.read(key)
        if found is not None:
            return document(key, found.metadata, found.size, found.body)
        known = [self._objects.last_revision(key), stored.version if stored else None]
        last = max((revision for revision in known if revision is not None), default=None)
        return None if last is None else tombstone(key, last)

    def _write(self, batch: Batch, documents: Mapping[str, Document]) -> None:
        if not documents:
            return
        try:
            answers = dict(zip(documents, self._index.write(list(documents.values())), strict=True))
            refused = [documents[key].id for key, answer in answers.items() if answer.status == CONFLICT]
            stored = self._index.stored(refused) if refused else {}
        except SearchError as error:
            self.was_refused = self.was_refused or error.status in {UNAUTHORIZED, FORBIDDEN}
            for key in documents:
                batch.fail(key, error)
            return
        for key, answer in answers.items():
            wanted = documents[key]
            if answer.status == CONFLICT:
                if not is_settled(wanted, stored.get(wanted.id)):
                    batch.fail(key, Retry(f"revision {wanted.revision} met {stored.get(wanted.id)}"))
            elif answer.status not in {OK, CREATED}:
                batch.fail(key, Retry(f"the search answered {answer.status}: {answer.reason}"))


def is_settled(written: Document, stored: Stored | None) -> bool:
    """Whether a refused write (409) left what it wanted: the same revision or a later one.

    A tombstone of the same revision is not it: the object was there when it was read, so either it
    has gone since or it has come back. The next attempt reads which.
    """
    if stored is None or stored.version < written.revision:
        return False
    return stored.version > written.revision or stored.is_tombstone == written.is_tombstone


def changed_objects(event: Any) -> Iterator[tuple[str, str]]:
    """Bucket (container) and key of every object that a message speaks of.

    S3's own notification, where the key is encoded; EventBridge's event, or Event Grid's of a blob, where it is not.
    Raises ValueError for anything else but S3's test message.
    """
    if not isinstance(event, dict):
        raise ValueError("the message is not an object")  # noqa: TRY004 - one kind of error for one kind of poison
    if event.get("Event") == "s3:TestEvent":
        return
    try:
        if event.get("source") == "aws.s3":
            yield event["detail"]["bucket"]["name"], event["detail"]["object"]["key"]
            return
        if event.get("eventType") in BLOB_CHANGES:
            yield _blob_of(event["subject"])
            return
        for record in event["Records"]:
            yield record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the message is no event of a bucket: {error!r} is missing") from error


def _blob_of(subject: str) -> tuple[str, str]:
    """Container and name; a name may hold slashes, and "/blobs/" too."""
    container, blobs, name = subject.removeprefix(IN_CONTAINER).partition("/blobs/")
    if not subject.startswith(IN_CONTAINER) or not blobs or not name:
        raise ValueError(f"{subject!r} is no blob's")
    return container, name


@dataclass(frozen=True)
class Way:
    """Both ways of a pipeline, and the connection that they share."""

    worker: Worker
    objects: WorkerObjects
    edits: EditsIndex
    search: str


def is_tick(body: str) -> bool:
    try:
        return json.loads(body) == TICK
    except ValueError:
        return False


def take_ticks(current: Way, ticks: list[Mapping[str, Any]], may_go_on: Callable[[], bool]) -> bool:
    """Look for edits; False if the search refused the credential. A tick is never given again: the next one comes.

    What goes wrong stands in the log and shows as edits that are not applied (`keyshift pipeline status`).
    """
    sent = max(int(tick["attributes"]["SentTimestamp"]) for tick in ticks)
    try:
        current.edits.note_tick(datetime.fromtimestamp(sent / 1000, UTC))
        polled = poll(current.edits, current.objects, current.search, may_go_on)
    except SearchError as error:
        log.error("the edits could not be read: %s", error)  # noqa: TRY400 - no trace of a customer's data
        return error.status not in {UNAUTHORIZED, FORBIDDEN}
    # Whatever it is, the events in the same batch have been worked on and must not come again for it.
    except Exception as error:  # noqa: BLE001
        log.error("an edit could not be applied: %s", error)  # noqa: TRY400 - as above
        return True
    log.info("%d edits settled, all of them: %s", len(polled.outcomes), polled.is_done)
    return True


def _weight(made: Document) -> int:
    """About how many bytes a document is in a bulk; its body stands there twice."""
    return 1024 + (0 if made.is_tombstone or "data" not in made.source else 2 * made.source["size"])
