"""The proof of a fill: every current object has its document, of its revision and its bytes, and no other is live."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from elasticsearch import Elasticsearch

from migrate.copy.manifest import Manifest
from migrate.copy.merkle import MerkleRoot
from migrate.copy.store import Store
from migrate.errors import VerificationFailed
from migrate.index.documents import Documents, Pair
from migrate.index.scan import Indexed, scan
from migrate.progress import Meter, Progress, Report

EXAMPLES = 10


@dataclass(frozen=True)
class IndexVerification:
    """The index is what the storage says. `newer`: changed or archived at or after the watermark."""

    expected: int
    found: int
    missing: int
    stale: int
    extra: int
    newer: int
    merkle_root: str


def verify_index(  # noqa: PLR0913 - the two sides, who watches, and since when
    side: Store,
    manifest: Manifest,
    search: Elasticsearch,
    index: str,
    report: Report,
    *,
    watermark: datetime | None = None,
) -> IndexVerification:
    """Compare the index with the current objects of `side`, by id, version and content hash.

    Without a `watermark` they have to be equal. With one (the time of the listing, while the pipeline
    goes on writing) a higher revision, and a document archived since, are fine and counted as `newer`.
    Raises VerificationFailed for any other difference, or if there was nothing to compare.
    """
    documents = Documents(manifest, side.storage)
    meter = Meter(report, Progress(move="verify-index", objects_total=documents.count("expected")))
    documents.take(_metered(scan(search, index), meter))
    since = _rfc3339(watermark) if watermark else None
    counts, examples, root = _compared(documents, since)
    meter.tell()
    verified = IndexVerification(
        expected=documents.count("expected"),
        found=counts["equal"] + counts["newer"] + counts["stale"] + counts["extra"],
        missing=counts["missing"],
        stale=counts["stale"],
        extra=counts["extra"],
        newer=counts["newer"],
        merkle_root=root,
    )
    if verified.missing or verified.stale or verified.extra:
        raise VerificationFailed(
            f"{index} is not what {side.storage} says: {verified.missing} documents missing,"
            f" {verified.stale} stale, {verified.extra} too many, of {verified.expected}: {'; '.join(examples)}",
            hint="fill again, then verify again",
            code="index-differs",
        )
    if not verified.expected:
        raise VerificationFailed(
            f"there is nothing to compare: {side.storage} has no object that has a document",
            hint="a comparison of nothing proves nothing; see whether the storage is the right one",
            code="nothing-compared",
        )
    return verified


def _metered(pages: Iterator[list[Indexed]], meter: Meter) -> Iterator[list[Indexed]]:
    for page in pages:
        meter.add(len(page))
        yield page


def _compared(documents: Documents, since: str | None) -> tuple[Counter[str], list[str], str]:
    counts: Counter[str] = Counter()
    examples: list[str] = []
    root = MerkleRoot()
    for pair in documents.pairs():
        what = _judged(pair, since)
        counts[what] += 1
        root.add(json.dumps((pair.id, pair.revision, pair.content_hash)).encode())
        if what in {"missing", "stale"} and len(examples) < EXAMPLES:
            examples.append(f"{pair.id} is {what}")
    for indexed in documents.unexpected():
        what = "newer" if since is not None and indexed.archived_at >= since else "extra"
        counts[what] += 1
        if what == "extra" and len(examples) < EXAMPLES:
            examples.append(f"{indexed.id} is too many")
    return counts, examples, root.hex()


def _judged(pair: Pair, since: str | None) -> str:
    indexed = pair.indexed
    if pair.revision is None or indexed is None:
        return "missing"
    if since is not None and indexed.version > pair.revision:
        return "newer"
    if indexed.is_tombstone:
        return "missing"
    same = indexed.version == pair.revision and indexed.content_hash == pair.content_hash
    return "equal" if same else "stale"


def _rfc3339(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
