"""The proof of a fill while jobs write and the new pipeline works: nobody stands still to be compared.

What the listing showed has its document, of its revision and its bytes. Whatever differs from the listing has
changed since, or has not: it is held against the bucket as it is now, again and again, until both say the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from elasticsearch import Elasticsearch

from components.worker.document import Document, NotIndexable, document, document_id
from migrate.copy.manifest import Manifest
from migrate.copy.merkle import MerkleRoot
from migrate.copy.store import Content, Store
from migrate.errors import VerificationFailed
from migrate.index.documents import Documents, Pair
from migrate.index.scan import Indexed, scan, search_errors
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report

EXAMPLES = 10
THREADS = 16
TOGETHER = 500
AGREES_WITHIN_SECONDS = 180.0
"""How long the pipeline has to bring one change; typically it takes seconds."""
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class LiveVerification:
    """`found` are as they were listed; `changed` are not, and were compared with the bucket as it is now."""

    expected: int
    found: int
    changed: int
    merkle_root: str


@dataclass(frozen=True)
class _Job:
    side: Store
    search: Elasticsearch
    index: str


def verify_live_index(  # noqa: PLR0913 - the two sides, who watches, and for how long
    side: Store,
    manifest: Manifest,
    search: Elasticsearch,
    index: str,
    report: Report,
    *,
    within: float = AGREES_WITHIN_SECONDS,
) -> LiveVerification:
    """Compare the index with the last listing of `side`, and what changed since with `side` itself.

    Raises VerificationFailed for what still differs after `within` seconds, or if there was nothing to compare.
    """
    job, documents = _Job(side, search, index), Documents(manifest, side.storage)
    expected = documents.count("expected")
    if not expected:
        raise VerificationFailed(
            f"there is nothing to compare: {side.storage} has no object that has a document",
            hint="a comparison of nothing proves nothing; see whether the storage is the right one",
            code="nothing-compared",
        )
    meter = Meter(report, Progress(move="verify-live-index", objects_total=expected))
    documents.take(_metered(scan(search, index), meter))
    found, root, changed = _held_against_the_listing(documents)
    changed |= set(_keys_of(job, documents.unexpected()))
    meter.tell()
    _until_all_agree(job, changed, within, report)
    return LiveVerification(expected, found, len(changed), root)


def _metered(pages: Iterator[list[Indexed]], meter: Meter) -> Iterator[list[Indexed]]:
    for page in pages:
        meter.add(len(page))
        yield page


def _held_against_the_listing(documents: Documents) -> tuple[int, str, set[str]]:
    root, found, changed = MerkleRoot(), 0, set[str]()
    for pair in documents.pairs():
        root.add(json.dumps((pair.id, pair.revision, pair.content_hash)).encode())
        if _is_as_listed(pair):
            found += 1
        else:
            changed.add(documents.key_of(pair.id))
    return found, root.hex(), changed


def _is_as_listed(pair: Pair) -> bool:
    there = pair.indexed
    if there is None or there.is_tombstone or pair.revision is None:
        return False
    return (there.version, there.content_hash) == (pair.revision, pair.content_hash)


def _keys_of(job: _Job, indexed: Iterable[Indexed]) -> Iterator[str]:
    """The object keys of documents that no listed object stands for; the scan reads no sources."""
    ids = [one.id for one in indexed]
    for start in range(0, len(ids), TOGETHER):
        with search_errors(f"reading {job.index}"):
            answer = job.search.mget(index=job.index, ids=ids[start : start + TOGETHER], source_includes=["key"])
        for doc in answer["docs"]:
            if doc.get("found"):
                yield str(doc["_source"]["key"])


def _until_all_agree(job: _Job, changed: set[str], within: float, report: Report) -> None:
    began, left = time.monotonic(), sorted(changed)
    while left := _differing(job, left):
        if time.monotonic() - began > within:
            raise VerificationFailed(
                f"{job.index} is not what {job.side.storage} says: {len(left)} documents still differ after"
                f" {within:.0f} s: {'; '.join(left[:EXAMPLES])}",
                hint="see whether the new pipeline works (its dead-letter queue), then run this again",
                code="index-differs",
            )
        report(Progress(move="wait", waiting=f"the pipeline to bring {len(left)} changes to {job.index}"))
        time.sleep(POLL_SECONDS)


def _differing(job: _Job, keys: list[str]) -> list[str]:
    looked = in_threads(keys, lambda key: (key, _agrees(job, key)), threads=THREADS, name="verify-live")
    return sorted(key for key, agrees in looked if not agrees)


def _agrees(job: _Job, key: str) -> bool:
    """Whether the document of one object is what the object says at this moment; by id, so without a refresh."""
    with search_errors(f"reading {job.index}"):
        stored = job.search.options(ignore_status=404).get(index=job.index, id=document_id(key))
    there = stored["_source"] if stored.get("found") else {"deleted": True}
    is_deleted = bool(there.get("deleted", False))
    made = _made_now(job, key)
    if made is None or is_deleted:
        return made is None and is_deleted
    return (stored["_version"], there["content_hash"]) == (made.revision, made.source["content_hash"])


def _made_now(job: _Job, key: str) -> Document | None:
    """The document that the object would have now, None if there is no object."""
    side = job.side

    def made(content: Content) -> Document:
        return document(key, content.metadata, content.size, content.chunks)

    try:
        return side.read_now(key, made)
    except NotIndexable as error:
        raise VerificationFailed(
            f"{side.storage}{key} has no document: {error}",
            hint="it is not what Archive writes; mend or remove it, then run this again",
            code="not-indexable",
        ) from error
