"""Tags that change while a copy goes on: heard from S3's events, set at the target, compared again.

A tag change moves no ETag, so that no listing shows it. S3 delivers each change at least once, in any
order, mostly within seconds, at times after a minute or longer. An event is never believed: what
counts are the tags that the source has when it is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from migrate.copy.manifest import Manifest, Row
from migrate.copy.s3 import Side, StorageRef, called, tags
from migrate.copy.transfer import Transfer
from migrate.errors import CloudError
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report
from migrate.queues import SqsQueues

TOGETHER = 500
_GONE = frozenset({"NoSuchVersion", "NoSuchKey", "MethodNotAllowed"})


@dataclass(frozen=True)
class TagChange:
    """`key` is relative to the storage's prefix; `version_id` is None where the event names none."""

    key: str
    version_id: str | None


@dataclass(frozen=True)
class Heard:
    """Some messages of the queue, and what it takes to remove them."""

    changes: frozenset[TagChange]
    receipts: tuple[str, ...]


@dataclass(frozen=True)
class TagQueue:
    """The queue that hears of tag changes in a storage. Needs an SQS client of the runner's."""

    sqs: Any = field(repr=False)
    url: str
    storage: StorageRef

    def make_one(self, side: Any, key: str) -> None:
        """Change a tag of an object of our own, to hear of it."""
        called(
            f"tagging a probe in {self.storage}",
            side.s3.put_object_tagging,
            **side.place(key),
            Tagging={"TagSet": [{"Key": "probe", "Value": "tags"}]},
        )

    def hear(self) -> Heard | None:
        """The next messages, or None if there are none now. They come again unless they are forgotten."""
        # A long poll asks all of SQS's servers, a short one only some.
        answer = called(
            f"hearing of tag changes in {self.storage}",
            self.sqs.receive_message,
            QueueUrl=self.url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=1,
        )
        messages = answer.get("Messages", [])
        if not messages:
            return None
        changes = frozenset(change for message in messages for change in self._changes(message["Body"]))
        return Heard(changes, tuple(message["ReceiptHandle"] for message in messages))

    def forget(self, heard: Heard) -> None:
        entries = [{"Id": str(n), "ReceiptHandle": receipt} for n, receipt in enumerate(heard.receipts)]
        # What could not be removed comes again, and changes nothing then.
        called("removing events", self.sqs.delete_message_batch, QueueUrl=self.url, Entries=entries)

    def is_empty(self) -> bool:
        """By SQS's own count, which is approximate: ask twice."""
        return not any(SqsQueues(self.sqs).counted(self.url))

    def _changes(self, body: str) -> Iterator[TagChange]:
        """EventBridge gives the key as it is; S3 encodes it in its own notifications only."""
        try:
            detail = json.loads(body)["detail"]
            bucket, changed = detail["bucket"]["name"], detail["object"]
            key, version_id = changed["key"], changed.get("version-id")
        except (ValueError, KeyError, TypeError) as error:
            raise CloudError(
                f"the queue for tag changes in {self.storage} holds a message that is no event of S3's ({error!r})",
                hint=f"only the rule of that name may send to it; look at the policy of {self.url}",
                code="not-an-event",
            ) from error
        if bucket == self.storage.bucket and key.startswith(self.storage.prefix):
            yield TagChange(key.removeprefix(self.storage.prefix), version_id)


def follow(queue: TagQueue, transfer: Transfer[Side], report: Report) -> tuple[int, set[str]]:
    """Take in every tag change that waits; (target versions whose tags were set, all keys that were heard of).

    A message goes only once what it says has been done: killed and called again, nothing is missed.
    """
    followed, keys = 0, set[str]()
    meter = Meter(report, Progress(move="follow-tags"))
    while heard := queue.hear():
        keys |= {change.key for change in heard.changes}
        followed += set_again(transfer, rows_of(transfer.manifest, heard.changes))
        queue.forget(heard)
        meter.add(len(heard.receipts))
    meter.tell()
    return followed, keys


def sweep(transfer: Transfer[Side], report: Report) -> int:
    """The same without events: read the tags of every version on both sides. Exact, but two requests a version."""
    meter = Meter(report, Progress(move="compare-tags", objects_total=transfer.manifest.totals().versions))
    rows, changed = transfer.manifest.rows(), 0
    while page := list(islice(rows, TOGETHER)):
        changed += set_again(transfer, page)
        meter.add(len(page))
    meter.tell()
    return changed


def rows_of(manifest: Manifest, changes: Iterable[TagChange]) -> list[Row]:
    """The versions that these changes speak of; of what the manifest does not know there are none yet."""
    found = {
        row.id: row
        for change in changes
        for row in manifest.of_key(change.key)
        if change.version_id in (None, row.version_id)
    }
    return list(found.values())


def set_again(transfer: Transfer[Side], rows: Iterable[Row]) -> int:
    """Give target versions the tags that their sources have now; what was changed counts as not compared any more."""
    differing = differing_tags(transfer, rows)
    transfer.manifest.unverified([row.id for row, _ in differing])

    def put(found: tuple[Row, dict[str, str]]) -> None:
        row, wanted = found
        target = transfer.target
        called(
            f"setting the tags of {target.storage}{row.key}",
            target.s3.put_object_tagging,
            Bucket=target.storage.bucket,
            Key=target.storage.prefix + row.key,
            VersionId=row.target_version_id,
            Tagging={"TagSet": [{"Key": name, "Value": value} for name, value in wanted.items()]},
        )

    for _ in in_threads(differing, put, threads=transfer.threads, name="tags"):
        pass
    return len(differing)


def differing_tags(transfer: Transfer[Side], rows: Iterable[Row]) -> list[tuple[Row, dict[str, str]]]:
    """The copied versions whose tags differ between the two sides, each with those of the source."""
    copied = (row for row in rows if row.target_version_id is not None and not row.is_delete_marker)

    def look(row: Row) -> tuple[Row, dict[str, str]] | None:
        wanted = _tags_now(transfer.source, row.key, row.version_id)
        there = _tags_now(transfer.target, row.key, row.target_version_id or "")
        return None if wanted is None or wanted == there else (row, wanted)

    return [found for found in in_threads(copied, look, threads=transfer.threads, name="tags") if found]


def _tags_now(side: Side, key: str, version_id: str) -> dict[str, str] | None:
    """None for a version that is not there any more: the next listing says so."""
    try:
        return tags(side, key, version_id)
    except CloudError as error:
        if error.cloud_code in _GONE:
            return None
        raise
