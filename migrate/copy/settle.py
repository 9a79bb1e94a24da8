"""Is the storage at rest? Writers refused, and two listings that are the same."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from botocore.exceptions import ClientError

from migrate.aws import code_of, explained, is_about_a_key
from migrate.copy.s3 import Side, delete_version, list_versions
from migrate.errors import Waiting
from migrate.progress import Meter, Progress, Report

PROBES = ".keyshift/probe/"
"""Below the prefix; the pipeline works on `records/` and `attachments/` only."""
LISTINGS = 5


@dataclass(frozen=True)
class WriteProbe:
    """What a writer's attempt came to. `refused` means: by permission, not by a fault."""

    storage: str
    refused: bool
    code: str
    at: str


@dataclass(frozen=True)
class Listing:
    """A listing's fingerprint: equal fingerprints mean equal versions."""

    versions: int
    sha256: str


def probe_write_refused(writer: Side, cleaner: Side) -> WriteProbe:
    """Try to write one empty object as `writer` (a side with that role's client).

    If it succeeds, `cleaner` removes it for good. An answer that is neither success nor a denial
    (throttling, a lost key, a missing bucket) proves nothing and is raised as CloudError.
    """
    key, storage = PROBES + secrets.token_hex(16), writer.storage
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    try:
        answer = writer.s3.put_object(Bucket=storage.bucket, Key=storage.prefix + key, Body=b"")
    except ClientError as error:
        # A role that could not even be assumed says nothing about what its holders may do.
        is_denied = error.operation_name == "PutObject" and code_of(error) in {"AccessDenied", "403"}
        if is_denied and not is_about_a_key(error):
            return WriteProbe(str(storage), refused=True, code=code_of(error), at=at)
        raise explained(error, f"probing whether {storage} can still be written") from error
    delete_version(cleaner, key, answer.get("VersionId", "null"))
    return WriteProbe(str(storage), refused=False, code="", at=at)


def listing(side: Side, report: Report) -> Listing:
    """Fingerprint everything below the prefix: keys, versions, order, sizes, ETags."""
    meter, whole = Meter(report, Progress(move="list")), hashlib.sha256()
    for entry in list_versions(side):
        facts = (entry.key, entry.version_id, entry.etag, entry.size, entry.is_delete_marker)
        whole.update(json.dumps(facts).encode() + b"\n")
        meter.add(1)
    meter.tell()
    return Listing(meter.now.objects, whole.hexdigest())


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
