"""The copy between containers: inside the cloud, pinned to the source's ETag, create-only, resumable.

Bytes do not come through us: Copy Blob From URL up to 256 MiB, Put Block From URL above. Only where Storage itself says
that it cannot read the source (an account behind a firewall answers the other with CannotVerifyCopySource) are they
read and written here. A blob that changed at the source is another version: what was copied of it goes first.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import stamina
from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.storage.blob import BlobBlock, BlobProperties, StandardBlobTier

from components.worker.azure.blob import code_of
from migrate.azure.errors import called, explained
from migrate.copy.blob import ARCHIVE_TIER, SNAPSHOT, BlobSide, entry_of, etag_of, exactly, with_tags_of
from migrate.copy.manifest import Copied, Row
from migrate.copy.passes import follow_deletions, list_source
from migrate.copy.store import Entry
from migrate.copy.transfer import CopyPass, Transfer
from migrate.copy.verify import hash_of
from migrate.errors import CloudError, Conflict, RefusedInput
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report

MEBIBYTE = 1024**2
AT_ONCE = 256 * MEBIBYTE
"""REST reference, "Copy Blob From URL": the source may have up to 256 MiB."""
BLOCK_BYTES = 100 * MEBIBYTE
BLOCKS_LIMIT = 50_000
PATIENCE_SECONDS = 120.0
THROTTLED = frozenset({"ServerBusy", "OperationTimedOut", "InternalError"})
UNVERIFIED = "CannotVerifyCopySource"
SOURCE_MOVED = frozenset({"SourceConditionNotMet", "ConditionNotMet", "BlobNotFound", UNVERIFIED})
IS_MISSING: dict[str, Any] = {"match_condition": MatchConditions.IfMissing}


def copy_pass(transfer: Transfer[BlobSide], report: Report) -> CopyPass:
    """List the source, copy what is new, and end with a target that has what the source had at the listing.

    Killed at any instant and called again it goes on where it was. Raises Conflict if something else wrote to the
    target, RefusedInput for what cannot be copied.
    """
    uploads, adopted = _mend(transfer)
    number, listed, source = list_source(transfer, report)
    removed = follow_deletions(transfer)
    copied, copied_bytes, found = _copy_new(transfer, report)
    return CopyPass(number, listed, copied, copied_bytes, 0, removed, adopted + found, uploads, source)


def tidy(transfer: Transfer[BlobSide]) -> None:
    """Put in order what an interrupted pass left, without copying more: the manifest then says what the target holds."""
    transfer.target.abort_uploads()
    _mend(transfer)
    follow_deletions(transfer)


def _copy_new(transfer: Transfer[BlobSide], report: Report) -> tuple[int, int, int]:
    manifest, totals = transfer.manifest, transfer.manifest.totals()
    meter = Meter(report, Progress(move="copy", objects_total=totals.pending, bytes_total=totals.pending_bytes))
    adopted = 0

    def copy_all(rows: list[Row]) -> list[tuple[Row, _Came | None]]:
        return [(row, _copied(transfer, row)) for row in rows if row.target_version_id is None]

    for came in in_threads(manifest.hand_out(), copy_all, threads=transfer.threads, name="copy"):
        done = [(row, one) for row, one in came if one is not None]
        manifest.copied([one.copied for _, one in done])
        adopted += sum(one.is_adopted for _, one in done)
        meter.add(len(done), sum(row.size for row, _ in done))
    meter.tell()
    return meter.now.objects, meter.now.bytes, adopted


# one blob -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Came:
    copied: Copied
    is_adopted: bool = False


def _copied(transfer: Transfer[BlobSide], row: Row) -> _Came | None:
    """The copy of one blob; None if it is not at the source any more as it was listed: the next pass sees what is."""
    _refuse_unfit(transfer, row)
    try:
        etag = _patiently(lambda: _copy(transfer, row))
    except HttpResponseError as error:
        if code_of(error) == "BlobAlreadyExists":
            return _Came(_reconciled(transfer, row), is_adopted=True)
        if code_of(error) not in SOURCE_MOVED:
            raise explained(
                error, f"copying {transfer.source.storage}{row.key} to {transfer.target.storage}"
            ) from error
        found = _as_listed(transfer.source, row)
        if found is None:
            return None
        if code_of(error) != UNVERIFIED:
            raise explained(
                error, f"copying {transfer.source.storage}{row.key} to {transfer.target.storage}"
            ) from error
        return _streamed(transfer, row, found)
    except AzureError as error:
        raise explained(error, f"copying {transfer.source.storage}{row.key} to {transfer.target.storage}") from error
    return _Came(Copied(row.id, with_tags_of(row.version_id, etag), etag_of(etag)))


def _refuse_unfit(transfer: Transfer[BlobSide], row: Row) -> None:
    problem = transfer.target.name_problem(row.key)
    if row.version_id.startswith(SNAPSHOT):
        problem = "it is a snapshot"
    if row.storage_class == ARCHIVE_TIER:
        problem = "it is in the archive tier, from where nothing can be copied"
    if problem:
        raise RefusedInput(
            f"{transfer.source.storage}{row.key} cannot be copied to {transfer.target.storage}: {problem}",
            hint="rehydrate it, write it under another name, or delete it; then run this again",
            code="unfit",
        )


def _copy(transfer: Transfer[BlobSide], row: Row) -> str:
    """The new ETag. Raises HttpResponseError as Storage gave it."""
    if row.size > min(transfer.multipart_above, AT_ONCE):
        return _copy_in_blocks(transfer, row)
    answer = transfer.target.blob(row.key).start_copy_from_url(
        transfer.source.blob(row.key).url,
        requires_sync=True,
        tags="COPY",
        source_etag=exactly(row.version_id)["etag"],
        source_match_condition=MatchConditions.IfNotModified,
        **_tier(row),
        **IS_MISSING,
        **transfer.source.right(),
    )
    return str(answer["etag"])


def _tier(row: Row) -> dict[str, Any]:
    return {"standard_blob_tier": StandardBlobTier(row.storage_class)} if row.storage_class else {}


def _copy_in_blocks(transfer: Transfer[BlobSide], row: Row) -> str:
    """What a kill leaves is blocks without a list, which the next pass discards."""
    source, target = transfer.source.blob(row.key), transfer.target.blob(row.key)
    about: BlobProperties = source.get_blob_properties(**exactly(row.version_id))
    tags = source.get_blob_tags()
    size = max(min(transfer.part_bytes, BLOCK_BYTES), -(-row.size // BLOCKS_LIMIT))
    blocks = []
    for number, first in enumerate(range(0, row.size, size)):
        block = _block_id(number)
        target.stage_block_from_url(
            block,
            source.url,
            source_offset=first,
            source_length=min(size, row.size - first),
            # Put Block From URL takes it, but the SDK's method has no parameter for it.
            headers={"x-ms-source-if-match": exactly(row.version_id)["etag"]},
            **transfer.source.right(),
        )
        blocks.append(BlobBlock(block))
    return _commit(transfer, row, about, tags, blocks)


def _commit(
    transfer: Transfer[BlobSide], row: Row, about: BlobProperties, tags: dict[str, str], blocks: list[BlobBlock]
) -> str:
    """With all that the source says of itself, its MD5 too: blocks alone carry nothing."""
    answer = transfer.target.blob(row.key).commit_block_list(
        blocks,
        metadata=about.metadata,
        content_settings=about.content_settings,
        tags=tags,
        **_tier(row),
        **IS_MISSING,
    )
    return str(answer["etag"])


def _block_id(number: int) -> str:
    return base64.b64encode(f"{number:08}".encode()).decode()


def _streamed(transfer: Transfer[BlobSide], row: Row, about: BlobProperties) -> _Came:
    """Through us, because Storage could not read the source by itself."""
    source, target = transfer.source, transfer.target
    tags = source.tags(row.key, row.version_id)

    def send(content: Any) -> str:
        blocks = []
        for number, chunk in enumerate(_pieces(content.chunks, min(transfer.part_bytes, BLOCK_BYTES))):
            target.blob(row.key).stage_block(_block_id(number), chunk)
            blocks.append(BlobBlock(_block_id(number)))
        return _commit(transfer, row, about, tags, blocks)

    etag = source.read_version(row.key, row.version_id, send)
    return _Came(Copied(row.id, with_tags_of(row.version_id, etag), etag_of(etag)))


def _pieces(chunks: Iterator[bytes], size: int) -> Iterator[bytes]:
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def _as_listed(source: BlobSide, row: Row) -> BlobProperties | None:
    """The blob at the source, None if it is gone or another one."""
    try:
        return source.blob(row.key).get_blob_properties(**exactly(row.version_id))
    except HttpResponseError as error:
        if code_of(error) in {"ConditionNotMet", "BlobNotFound"}:
            return None
        raise explained(error, f"reading {source.storage}{row.key}") from error


def _patiently(call: Callable[[], str]) -> str:
    for attempt in stamina.retry_context(on=_asks_for_patience, attempts=None, timeout=PATIENCE_SECONDS):
        with attempt:
            return call()
    raise AssertionError("a retry context either returns or raises")


def _asks_for_patience(error: Exception) -> bool:
    return isinstance(error, ServiceRequestError | ServiceResponseError) or code_of(error) in THROTTLED


# after a kill ---------------------------------------------------------------------------------


def _mend(transfer: Transfer[BlobSide]) -> tuple[int, int]:
    """Settle what an interrupted pass left: blocks are discarded, copies that were made are noted."""
    interrupted = transfer.manifest.interrupted()
    if not interrupted:
        return 0, 0
    uploads, adopted = transfer.target.abort_uploads(), 0
    for rows in interrupted:
        pending = [row for row in rows if row.target_version_id is None]
        found = [_reconciled(transfer, row) for row in pending if _at(transfer.target, row.key) is not None]
        transfer.manifest.copied(found)
        transfer.manifest.put_back(rows[0].key)
        adopted += len(found)
    return uploads, adopted


def _reconciled(transfer: Transfer[BlobSide], row: Row) -> Copied:
    """A copy at the target that the manifest has not noted. Raises Conflict if what is there is no true copy."""
    there = _at(transfer.target, row.key)
    if there is None or not _is_copy(transfer, row, there):
        raise Conflict(
            f"{transfer.target.storage}{row.key} holds something that this move did not put there; it was left as it is",
            hint="find out who wrote it: only this move may write there until the target serves",
            code="target-written",
        )
    return Copied(row.id, there.version_id, there.etag)


def _at(side: BlobSide, key: str) -> Entry | None:
    """What a listing would say of one blob."""
    found = called(f"looking for {side.storage}{key}", lambda: list(side.list_blobs(key, "tags")))
    return next((entry_of(one) for one in found if one.name == key), None)


def _is_copy(transfer: Transfer[BlobSide], row: Row, there: Entry) -> bool:
    try:
        source = transfer.source.describe(row.key, row.version_id)
        target = transfer.target.describe(row.key, there.version_id)
        if (source.size, source.metadata, source.headers) != (target.size, target.metadata, target.headers):
            return False
        return hash_of(transfer.source, row.key, row.version_id) == hash_of(transfer.target, row.key, there.version_id)
    except CloudError as error:
        if error.cloud_code in {"ConditionNotMet", "BlobNotFound"}:
            return False
        raise
