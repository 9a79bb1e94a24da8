"""Is the storage at rest? Writers refused, and two listings that are the same."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from migrate.copy.store import Entry, Store
from migrate.errors import Waiting
from migrate.progress import Meter, Progress, Report

PROBES = ".keyshift/probe/"
"""Below the prefix; the pipeline works on `records/` and `attachments/` only."""
LISTINGS = 5


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


def probe_write_refused(writer: Store, cleaner: Store) -> WriteProbe:
    """Try to write, tag, begin an upload and delete as `writer` (a side with that role's client), until one gets through.

    On an object that `cleaner` makes for it: of one that is not there a cloud tells some callers nothing but a
    denial. What gets through is removed for good. An answer that is neither success nor a denial
    (throttling, a lost key, a missing bucket) proves nothing and is raised as CloudError.
    """
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    code = ""
    with probe_object(cleaner) as key:
        for action, attempt in writer.write_attempts(key):
            code = writer.denial(action, attempt)
            if not code:
                return WriteProbe(str(writer.storage), refused=False, code="", at=at, action=action)
    return WriteProbe(str(writer.storage), refused=True, code=code, at=at)


@contextmanager
def probe_object(side: Store) -> Iterator[str]:
    """An empty object of our own, by its relative key; at the end nothing of it is left, neither versions nor uploads."""
    key = PROBES + secrets.token_hex(16)
    side.put(key, b"", {})
    try:
        yield key
    finally:
        remove_probes(side, key)


def remove_probes(side: Store, below: str = PROBES) -> None:
    """Remove for good what probes left: all of them, where a kill cut one off."""
    for entry in list(side.list_versions(below)):
        side.delete_version(entry.key, entry.version_id)
    side.abort_uploads(below)


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


def listing(side: Store, report: Report) -> Listing:
    """Fingerprint everything below the prefix."""
    meter, whole = Meter(report, Progress(move="list")), Fingerprint()
    for _ in whole.over(side.list_versions()):
        meter.add(1)
    meter.tell()
    return Listing(meter.now.objects, whole.hex())


def two_equal_listings(side: Store, report: Report) -> Listing:
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
