"""The worker on AWS: a Lambda function that takes batches of a queue, and a tenant's objects in S3."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import boto3
from botocore.exceptions import ClientError

from .core import Found, Way, Worker, is_tick, take_ticks
from .document import revision_of
from .edits import Held
from .edits_index import NOT_FOUND, EditsIndex
from .elastic import FORBIDDEN, Connection, Elastic

KEY_LIMIT_BYTES = 1024
SPARE_MILLISECONDS = 20_000
"""What a poll leaves of the function's time: no copy is begun that may be cut off."""
_NOT_KEPT = (
    *("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType"),
    *("StorageClass", "WebsiteRedirectLocation"),
)
"""What a copy that replaces metadata has to be told again (API_CopyObject); and ExpiresString, under another name."""
_CHANGED_MEANWHILE = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "NoSuchVersion"})

CHUNK_BYTES = 64 * 1024


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
