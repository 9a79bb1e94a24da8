"""The fill: a document for every current object of a storage, into an index that nobody reads yet.

`_bulk` with external versions, so that nothing newer is ever overwritten and a repeated bulk does no
harm. Replicas are 0 and refresh is off meanwhile, and restored in the end, also after a kill.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import stamina
from elastic_transport import ConnectionError as Unreachable
from elasticsearch import ApiError, Elasticsearch

from components.worker.document import Document, NotIndexable, document
from migrate.copy.manifest import Manifest
from migrate.copy.store import Content, Store
from migrate.errors import CloudError, Conflict, VerificationFailed
from migrate.index.documents import Documents, Made, ObjectRef
from migrate.index.scan import scan, search_errors
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report

READERS = 16
SENDERS = 3
BULK_DOCUMENTS = 2000
BULK_BYTES = 8 * 1024 * 1024
"""Well under a tenth of the smallest heap: above it the node refuses a bulk whole."""
CHUNK = 1024 * 1024
PATIENCE_SECONDS = 300.0
_SETTINGS_NOTE = "settings-before-fill"
_FILLING = {"number_of_replicas": 0, "refresh_interval": "-1"}


@dataclass(frozen=True)
class Filled:
    """`sent` were missing or older; `held` the index already had as new or newer; `hidden` became tombstones."""

    expected: int
    sent: int
    held: int
    hidden: int
    bytes: int


@dataclass(frozen=True)
class _Lines:
    """A document as it goes into a bulk."""

    document: Document
    ref: ObjectRef | None
    payload: bytes


@dataclass(frozen=True)
class _Job:
    side: Store
    manifest: Manifest
    search: Elasticsearch
    index: str


def fill(side: Store, manifest: Manifest, search: Elasticsearch, index: str, report: Report) -> Filled:
    """Send every document of `side` that `index` does not hold, or holds of an earlier revision.

    `side` is one of the manifest's two storages. Raises VerificationFailed for an object that has no
    document, Conflict if the index refuses a revision without holding one as high, CloudError if it
    cannot be reached or stays overloaded.
    """
    job = _Job(side, manifest, search, index)
    _speed_up(job)
    documents = Documents(manifest, side.storage)
    documents.take(scan(search, index))
    expected = documents.count("expected")
    sent, held, size = _send_objects(job, documents, report)
    hidden = _hide(job, documents)
    _restore(job)
    return Filled(expected, sent, held, hidden, size)


def _restore(job: _Job) -> None:
    """Give the index back what it had before the fill, and make everything visible."""
    before = job.manifest.noted(_SETTINGS_NOTE)
    with search_errors(f"restoring the settings of {job.index}"):
        if before is not None:
            job.search.indices.put_settings(index=job.index, settings={"index": json.loads(before)})
            job.manifest.forget_note(_SETTINGS_NOTE)
        job.search.indices.refresh(index=job.index)


def _speed_up(job: _Job) -> None:
    with search_errors(f"preparing {job.index} for the fill"):
        found = job.search.indices.get_settings(index=job.index)[job.index]["settings"]["index"]
        # None resets a setting that was never given.
        before = {name: found.get(name) for name in _FILLING}
        job.manifest.note_once(_SETTINGS_NOTE, json.dumps(before))
        job.search.indices.put_settings(index=job.index, settings={"index": _FILLING})


def _send_objects(job: _Job, documents: Documents, report: Report) -> tuple[int, int, int]:
    meter = Meter(report, Progress(move="fill", objects_total=sum(1 for _ in documents.to_send())))
    held = 0
    read = in_threads(documents.to_send(), lambda ref: _read(job.side, ref), threads=READERS, name="read")
    for lines, conflicts in in_threads(_bulks(read), lambda bulk: _send(job, bulk), threads=SENDERS, name="bulk"):
        documents.sent(Made(line.ref, line.document) for line in lines if line.ref is not None)
        held += conflicts
        meter.add(len(lines), sum(line.ref.size for line in lines if line.ref is not None))
    meter.tell()
    return meter.now.objects - held, held, meter.now.bytes


def _hide(job: _Job, documents: Documents) -> int:
    """Objects deleted between two fills: their documents become tombstones, which the read alias hides."""
    hidden = documents.to_hide()
    for bulk in _bulks(_line(made, None) for made in hidden):
        _send(job, bulk)
    return len(hidden)


def _read(side: Store, ref: ObjectRef) -> _Lines:
    """The document of one object version; its bytes go through the hash and are not kept."""

    def made(content: Content) -> Document:
        return document(ref.key, content.metadata, content.size, content.chunks)

    try:
        return _line(side.read_version(ref.key, ref.version_id, made), ref)
    except NotIndexable as error:
        raise VerificationFailed(
            f"{side.storage}{ref.key} has no document: {error}",
            hint="it is not what Archive writes; mend or remove it, then run this again",
            code="not-indexable",
        ) from error


def _line(made: Document, ref: ObjectRef | None) -> _Lines:
    version_type = "external_gte" if made.is_tombstone else "external"
    action = {"index": {"_id": made.id, "version": made.revision, "version_type": version_type}}
    return _Lines(made, ref, orjson.dumps(action) + b"\n" + orjson.dumps(made.source) + b"\n")


def _bulks(lines: Iterable[_Lines]) -> Iterator[list[_Lines]]:
    bulk: list[_Lines] = []
    size = 0
    for line in lines:
        if bulk and (len(bulk) >= BULK_DOCUMENTS or size + len(line.payload) > BULK_BYTES):
            yield bulk
            bulk, size = [], 0
        bulk.append(line)
        size += len(line.payload)
    if bulk:
        yield bulk


def _send(job: _Job, bulk: Sequence[_Lines]) -> tuple[Sequence[_Lines], int]:
    """Send a bulk until every document of it is in the index; returns it and how many were there as new or newer."""
    waiting, conflicts = {line.document.id: line for line in bulk}, 0
    with search_errors(f"filling {job.index}"):
        for attempt in stamina.retry_context(on=_asks_for_patience, attempts=None, timeout=PATIENCE_SECONDS):
            with attempt:
                answers = _post(job, waiting.values())
                refused = [id_ for id_, answer in answers.items() if answer["status"] == 409]
                _check_refused(job, [waiting[id_].document for id_ in refused])
                conflicts += len(refused)
                busy = {id_ for id_, answer in answers.items() if answer["status"] == 429}
                _check_failed(job, answers)
                waiting = {id_: line for id_, line in waiting.items() if id_ in busy}
                if busy:
                    raise _Busy(len(busy))
    return bulk, conflicts


class _Busy(CloudError):
    """The node took some of a bulk and asked to have the rest again later."""

    def __init__(self, documents: int) -> None:
        super().__init__(f"the search is overloaded: {documents} documents of a bulk were put off", cloud_code="429")


def _asks_for_patience(error: Exception) -> bool:
    return isinstance(error, _Busy | Unreachable) or (isinstance(error, ApiError) and error.status_code == 429)


def _post(job: _Job, lines: Iterable[_Lines]) -> dict[str, Mapping[str, Any]]:
    """One `_bulk`; the client passes bytes on as they are. What Elasticsearch says of each document, by id."""
    operations: list[Any] = [line.payload for line in lines]
    answer = job.search.bulk(
        index=job.index,
        operations=operations,
        filter_path="items.*._id,items.*.status,items.*.error.reason",
    )
    return {item["index"]["_id"]: item["index"] for item in answer["items"]}


def _check_failed(job: _Job, answers: Mapping[str, Mapping[str, Any]]) -> None:
    failed = [answer for answer in answers.values() if answer["status"] not in {200, 201, 409, 429}]
    if failed:
        first = failed[0]
        raise CloudError(
            f"{job.index} took {len(answers) - len(failed)} of {len(answers)} documents; the first refused is"
            f" {first['_id']}: {first['status']} ({first.get('error', {}).get('reason', '')})",
            cloud_code=str(first["status"]),
        )


def _check_refused(job: _Job, documents: list[Document]) -> None:
    """409 means that the index holds a version as high. Believe it only after a look."""
    if not documents:
        return
    found = job.search.mget(index=job.index, ids=[made.id for made in documents], source=False)["docs"]
    versions = {answer["_id"]: answer.get("_version", 0) for answer in found if answer.get("found")}
    lower = [made for made in documents if versions.get(made.id, 0) < made.revision]
    if lower:
        raise Conflict(
            f"{job.index} refused {len(lower)} documents as not new, but does not hold them; the first is {lower[0].id}:"
            f" revision {lower[0].revision} refused, {versions.get(lower[0].id, 'none')} held",
            hint="something deleted documents there; make the index anew and fill it again",
            code="version-lost",
        )
