"""Is the storage at rest? Writers refused, and two listings that are the same."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from migrate.aws import code_of, explained, is_about_a_key
from migrate.copy.s3 import Entry, Side, called, delete_version, list_versions
from migrate.errors import Waiting
from migrate.progress import Meter, Progress, Report

PROBES = ".keyshift/probe/"
"""Below the prefix; the pipeline works on `records/` and `attachments/` only."""
LISTINGS = 5
DENIALS = frozenset({"AccessDenied", "403"})


@dataclass(frozen=True)
class WriteProbe:
    """What a writer's attempts came to. `refused` means: every one by permission, not by a fault.

    `action`: the attempt that got through, "" if none did.
    """

    storage: str
    refused: bool
    code: str
    at: str
    action: str = ""


@dataclass(frozen=True)
class Listing:
    """A listing's fingerprint: equal fingerprints mean equal versions."""

    versions: int
    sha256: str


def probe_write_refused(writer: Side, cleaner: Side) -> WriteProbe:
    """Try to write, tag, begin an upload and delete as `writer` (a side with that role's client), until one gets through.

    On an object that `cleaner` makes for it: of one that is not there S3 tells some callers nothing but a
    denial. What gets through is removed for good. An answer that is neither success nor a denial
    (throttling, a lost key, a missing bucket) proves nothing and is raised as CloudError.
    """
    storage = writer.storage
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    code = ""
    with probe_object(cleaner) as key:
        place = {"Bucket": storage.bucket, "Key": storage.prefix + key}
        for action, attempt in _attempts(writer, place):
            code = _denial(storage, action, attempt)
            if not code:
                return WriteProbe(str(storage), refused=False, code="", at=at, action=action)
    return WriteProbe(str(storage), refused=True, code=code, at=at)


def _attempts(writer: Side, place: dict[str, str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """One action of each kind that changes what a copy copies; a part of an upload needs PutObject."""
    s3, tagging = writer.s3, {"TagSet": [{"Key": "probe", "Value": "write"}]}
    yield "PutObject", lambda: s3.put_object(**place, Body=b"")
    yield "PutObjectTagging", lambda: s3.put_object_tagging(**place, Tagging=tagging)
    yield "CreateMultipartUpload", lambda: s3.create_multipart_upload(**place)
    yield "DeleteObject", lambda: s3.delete_object(**place)


def _denial(storage: Any, action: str, attempt: Callable[[], Any]) -> str:
    """The code with which an attempt is denied, "" if it gets through."""
    try:
        attempt()
    except ClientError as error:
        # A role that could not even be assumed says nothing about what its holders may do.
        is_denied = error.operation_name == action and code_of(error) in DENIALS
        if is_denied and not is_about_a_key(error):
            return code_of(error)
        raise explained(error, f"probing whether {storage} can still be written") from error
    return ""


@contextmanager
def probe_object(side: Side) -> Iterator[str]:
    """An empty object of our own, by its relative key; at the end nothing of it is left, neither versions nor uploads."""
    key = PROBES + secrets.token_hex(16)
    called(
        f"making a probe in {side.storage}",
        side.s3.put_object,
        Bucket=side.storage.bucket,
        Key=side.storage.prefix + key,
        Body=b"",
    )
    try:
        yield key
    finally:
        remove_probes(side, key)


def remove_probes(side: Side, below: str = PROBES) -> None:
    """Remove for good what probes left: all of them, where a kill cut one off."""
    for entry in list(list_versions(side, below)):
        delete_version(side, entry.key, entry.version_id)
    place = {"Bucket": side.storage.bucket, "Prefix": side.storage.prefix + below}
    for upload in called("listing uploads", side.s3.list_multipart_uploads, **place).get("Uploads", ()):
        called(
            "aborting the upload of a probe",
            side.s3.abort_multipart_upload,
            Bucket=side.storage.bucket,
            Key=upload["Key"],
            UploadId=upload["UploadId"],
        )


class Fingerprint:
    """SHA-256 over a listing: keys, versions, order, sizes, ETags."""

    def __init__(self) -> None:
        self._whole = hashlib.sha256()

    def over(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The same entries; each is counted in as it passes."""
        for entry in entries:
            facts = (entry.key, entry.version_id, entry.etag, entry.size, entry.is_delete_marker)
            self._whole.update(json.dumps(facts).encode() + b"\n")
            yield entry

    def hex(self) -> str:
        return self._whole.hexdigest()


def listing(side: Side, report: Report) -> Listing:
    """Fingerprint everything below the prefix."""
    meter, whole = Meter(report, Progress(move="list")), Fingerprint()
    for _ in whole.over(list_versions(side)):
        meter.add(1)
    meter.tell()
    return Listing(meter.now.objects, whole.hex())


def two_equal_listings(side: Side, report: Report) -> Listing:
    """List until two listings in a row are the same. Raises Waiting if five are not enough: it is still written to."""
    last = listing(side, report)
    for _ in range(LISTINGS - 1):
        now = listing(side, report)
        if now == last:
            return now
        last = now
    raise Waiting(
        f"{side.storage} still changes: {LISTINGS} listings, no two in a row the same",
        waits_for=f"the writers of {side.storage} to stop",
        hint="find out who writes; every writer has to be refused before the last copy",
        code="still-written",
    )
