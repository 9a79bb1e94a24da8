"""The Lambda function of a pipeline: a batch of queue messages in, the search brought up to date.

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

import functools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import unquote_plus

import boto3
from botocore.exceptions import ClientError

from .document import Document, document, document_id, is_searchable, revision_of, tombstone
from .edits import Held, poll
from .edits_index import NOT_FOUND, EditsIndex
from .elastic import (
    CONFLICT,
    CREATED,
    FORBIDDEN,
    OK,
    UNAUTHORIZED,
    Connection,
    Elastic,
    SearchError,
    Stored,
    Written,
)

TICK = {"source": "keyshift.pipeline", "detail-type": "Tick"}
KEY_LIMIT_BYTES = 1024
SPARE_MILLISECONDS = 20_000
"""What a poll leaves of the function's time: no copy is begun that may be cut off."""
_NOT_KEPT = (
    *("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType"),
    *("StorageClass", "WebsiteRedirectLocation"),
)
"""What a copy that replaces metadata has to be told again (API_CopyObject); and ExpiresString, under another name."""
_CHANGED_MEANWHILE = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "NoSuchVersion"})

BULK_LIMIT_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 64 * 1024

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
    """Brings the documents of some keys up to date. `prefix` is the tenant's part of a shared bucket."""

    def __init__(self, objects: Objects, index: Index, bucket: str, prefix: str) -> None:
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
    """Bucket and key of every object that a message speaks of: S3's own notification or EventBridge's event.

    S3 encodes the key in its own notifications and not in EventBridge's. Raises ValueError for
    anything else but S3's test message.
    """
    if not isinstance(event, dict):
        raise ValueError("the message is not an object")  # noqa: TRY004 - one kind of error for one kind of poison
    if event.get("Event") == "s3:TestEvent":
        return
    try:
        if event.get("source") == "aws.s3":
            yield event["detail"]["bucket"]["name"], event["detail"]["object"]["key"]
            return
        for record in event["Records"]:
            yield record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"the message is no event of a bucket: {error!r} is missing") from error


class S3Objects:
    """The tenant's objects in S3."""

    def __init__(self, s3: Any, bucket: str, prefix: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix

    def read(self, key: str) -> Found | None:
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + key)
        except ClientError as error:
            code = _code(error)
            # Where a role may list one prefix only, S3 answers 403 for an object that is not there.
            if code == "NoSuchKey" or (code == "AccessDenied" and not self._is_listed(key)):
                return None
            raise
        return Found(answer["Metadata"], answer["ContentLength"], answer["Body"].iter_chunks(CHUNK_BYTES))

    def last_revision(self, key: str) -> int | None:
        newest = next(self._versions(key), None)
        if newest is None:
            return None
        head = self._s3.head_object(Bucket=self._bucket, Key=self._prefix + key, VersionId=newest["VersionId"])
        return revision_of(key, head["Metadata"])

    def held(self, key: str) -> Held | None:
        """As `edits.Objects` wants it."""
        if len((self._prefix + key).encode()) > KEY_LIMIT_BYTES:
            return None
        try:
            head = self._s3.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except ClientError as error:
            # A HEAD has no body and so no code but the status; 403 as in `read`.
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == NOT_FOUND or (status == FORBIDDEN and not self._is_listed(key)):
                return None
            raise
        headers = {name: head[name] for name in _NOT_KEPT if head.get(name)}
        if head.get("ExpiresString"):
            headers["Expires"] = head["ExpiresString"]
        return Held(head["Metadata"], head["ContentLength"], head["ETag"], head["VersionId"], headers)

    def annotate(self, key: str, held: Held, metadata: Mapping[str, str]) -> bool:
        """As `edits.Objects` wants it: a copy of the object onto itself, a new version under the bucket's key."""
        place = {"Bucket": self._bucket, "Key": self._prefix + key}
        try:
            self._s3.copy_object(
                **place,
                CopySource={**place, "VersionId": held.version_id},
                CopySourceIfMatch=held.etag,
                IfMatch=held.etag,
                Metadata=dict(metadata),
                MetadataDirective="REPLACE",
                TaggingDirective="COPY",
                **held.headers,
            )
        except ClientError as error:
            if _code(error) in _CHANGED_MEANWHILE:
                return False
            raise
        return True

    def refusals(self, key: str) -> dict[str, str]:
        """What this role is answered when it writes to `key`: the code by action, "" where it gets through.

        A freeze asks so: nobody but Lambda may take the worker's role.
        """
        place = {"Bucket": self._bucket, "Key": self._prefix + key}
        tagging = {"TagSet": [{"Key": "probe", "Value": "write"}]}
        attempts: dict[str, Callable[[], object]] = {
            "PutObject": lambda: self._s3.put_object(**place, Body=b""),
            "PutObjectTagging": lambda: self._s3.put_object_tagging(**place, Tagging=tagging),
        }
        return {action: self._refusal(attempt) for action, attempt in attempts.items()}

    def _refusal(self, attempt: Callable[[], object]) -> str:
        try:
            attempt()
        except ClientError as error:
            return _code(error)
        return ""

    def _is_listed(self, key: str) -> bool:
        return any(version["IsLatest"] for version in self._versions(key))

    def _versions(self, key: str) -> Iterator[Mapping[str, Any]]:
        """Newest first; delete markers are not among them."""
        pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=self._prefix + key)
        for page in pages:
            for version in page.get("Versions", []):
                if version["Key"] != self._prefix + key:
                    # Listings are in the order of the keys: from here on they are longer ones.
                    return
                yield version


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@dataclass(frozen=True)
class Way:
    """Both ways of a pipeline, and the connection that they share."""

    worker: Worker
    objects: S3Objects
    edits: EditsIndex
    search: str


@functools.cache
def way() -> Way:
    """What this process works with, from the function's environment."""
    bucket, prefix = os.environ["BUCKET"], os.environ["PREFIX"]
    secrets = boto3.client("secretsmanager")
    secret = json.loads(secrets.get_secret_value(SecretId=os.environ["SEARCH_SECRET"])["SecretString"])
    connection = Connection(secret["endpoint"], secret["api_key"])
    objects = S3Objects(boto3.client("s3"), bucket, prefix)
    return Way(
        Worker(objects, Elastic(connection, os.environ["INDEX"]), bucket, prefix),
        objects,
        EditsIndex(connection, os.environ["EDITS"], os.environ["KEPT"]),
        os.environ["SEARCH"],
    )


def handle(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """Lambda's entry: `ReportBatchItemFailures` makes the queue give only the failed messages again."""
    if "probe" in event:
        return way().objects.refusals(event["probe"])
    current = way()
    ticks = [record for record in event["Records"] if is_tick(record["body"])]
    failed = set(current.worker.work([record for record in event["Records"] if record not in ticks]))
    was_refused = current.worker.was_refused
    if ticks:
        was_refused |= not take_ticks(
            current, ticks, lambda: context.get_remaining_time_in_millis() > SPARE_MILLISECONDS
        )
    if was_refused:
        way.cache_clear()
    give_again_soon(boto3.client("sqs"), [record for record in event["Records"] if record["messageId"] in failed])
    return {"batchItemFailures": [{"itemIdentifier": id} for id in sorted(failed)]}


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


def give_again_soon(sqs: Any, records: Iterable[Mapping[str, Any]]) -> None:
    """Let failed messages come back after 2, 10, 50 and 250 seconds instead of after the queue's own time.

    Most failures are a race with a writer and gone at once; a freeze waits until the queue is empty.
    """
    for record in records:
        attempt = int(record["attributes"]["ApproximateReceiveCount"])
        sqs.change_message_visibility(
            QueueUrl=os.environ["QUEUE_URL"],
            ReceiptHandle=record["receiptHandle"],
            VisibilityTimeout=min(2 * 5 ** (attempt - 1), 300),
        )


def _weight(made: Document) -> int:
    """About how many bytes a document is in a bulk; its body stands there twice."""
    return 1024 + (0 if made.is_tombstone or "data" not in made.source else 2 * made.source["size"])
