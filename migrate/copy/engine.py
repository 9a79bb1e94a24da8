"""The copy: object versions from one storage to another, inside the cloud, in order, resumable.

A pass lists the source and copies what the manifest does not have yet. Passes repeat until nothing
is new. Bytes never come through us: CopyObject up to 5 GB, UploadPartCopy above. Every copy is pinned
to the source's version id and ETag, and lands only on what the manifest put there: a first version
needs an absent key, a later one needs the version before it to be the current one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any
from urllib.parse import urlencode

import stamina
from botocore import exceptions as botocore_errors
from botocore.exceptions import ClientError

from migrate.aws import code_of, explained, is_unreadable, status_of
from migrate.copy.manifest import Copied, Row
from migrate.copy.passes import follow_deletions, list_source
from migrate.copy.s3 import (
    ASLEEP,
    CONTENT_HEADERS,
    Side,
    abort_uploads,
    called,
    class_at_target,
    delete_version,
    describe,
    list_versions,
    name_problem,
    refuse_null_version,
    require_versioning,
    same_algorithm,
    tags,
)
from migrate.copy.store import Description, Entry
from migrate.copy.transfer import CopyPass, Transfer
from migrate.errors import Conflict, RefusedInput
from migrate.outage import THROTTLED
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report

PATIENCE_SECONDS = 120.0
PARTS_LIMIT = 10_000
FULL_OBJECT_IN_PARTS = ("CRC64NVME", "CRC32C", "CRC32")
"""Checksums that S3 can compute over a whole object that is written in parts (SHA-256 it cannot)."""
COMPOSITE_IN_PARTS = ("SHA256", "SHA1")


def copy_pass(transfer: Transfer[Side], report: Report) -> CopyPass:
    """List the source, copy what is new, and end with a target that has what the source had at the listing.

    Killed at any instant and called again it goes on where it was. Raises Waiting while versioning has
    not taken effect, Conflict if something else wrote to the target, RefusedInput for what S3 cannot copy.
    """
    require_versioning(transfer.source)
    require_versioning(transfer.target)
    uploads, adopted = _mend(transfer)
    number, listed, source = list_source(transfer, report)
    removed = follow_deletions(transfer)
    copied, copied_bytes, markers, found = _copy_new(transfer, report)
    return CopyPass(number, listed, copied, copied_bytes, markers, removed, adopted + found, uploads, source)


def tidy(transfer: Transfer[Side]) -> None:
    """Put in order what an interrupted pass left, without copying more: the manifest then says what the target holds."""
    abort_uploads(transfer.target)
    _mend(transfer)
    follow_deletions(transfer)


def _copy_new(transfer: Transfer[Side], report: Report) -> tuple[int, int, int, int]:
    manifest, totals = transfer.manifest, transfer.manifest.totals()
    meter = Meter(report, Progress(move="copy", objects_total=totals.pending, bytes_total=totals.pending_bytes))
    markers = adopted = 0

    def copy_key(rows: list[Row]) -> tuple[list[Row], _KeyCopy]:
        return rows, _copy_key(transfer, rows)

    for rows, key_copy in in_threads(manifest.hand_out(), copy_key, threads=transfer.threads, name="copy"):
        manifest.copied(key_copy.copied)
        done = {copied.id for copied in key_copy.copied}
        markers += sum(row.is_delete_marker for row in rows if row.id in done)
        adopted += key_copy.adopted
        meter.add(len(done), sum(row.size for row in rows if row.id in done))
    meter.tell()
    return meter.now.objects - markers, meter.now.bytes, markers, adopted


# one key --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _KeyCopy:
    copied: tuple[Copied, ...]
    adopted: int = 0


@dataclass(frozen=True)
class _Below:
    """The version at the target that the next one is put on: it has to be the current one."""

    version_id: str
    etag: str
    is_delete_marker: bool

    @property
    def condition(self) -> dict[str, str]:
        return NOTHING_THERE if self.is_delete_marker else {"IfMatch": self.etag}


NOTHING_THERE = {"IfNoneMatch": "*"}
"""Also holds where the current version is a delete marker (S3 user guide, "Conditional writes")."""


def _copy_key(transfer: Transfer[Side], rows: list[Row]) -> _KeyCopy:
    """Copy the versions of one key that are not at the target yet, in order."""
    try:
        return _KeyCopy(tuple(_copies(transfer, rows)))
    except _TargetMoved:
        copied = _reconciled(transfer, rows)
    if not copied:
        raise _foreign(transfer, rows[0].key)
    at_target = {row.id: row for row in copied}
    known = [_with_copy(row, at_target.get(row.id)) for row in rows]
    try:
        return _KeyCopy((*copied, *_copies(transfer, known)), adopted=len(copied))
    except _TargetMoved as moved:
        raise _foreign(transfer, rows[0].key) from moved


def _copies(transfer: Transfer[Side], rows: list[Row]) -> Iterator[Copied]:
    below: _Below | None = None
    for row in rows:
        if row.target_version_id is not None:
            below = _Below(row.target_version_id, row.target_etag or "", row.is_delete_marker)
            continue
        try:
            copied = _copy_version(transfer, row, below)
        except _NotFound:
            if _of_key(transfer.source, row.key, row.version_id):
                raise _foreign(transfer, row.key) from None
            return  # deleted at the source after it was listed; the next pass lists what is left
        yield copied
        below = _Below(copied.target_version_id, copied.target_etag, row.is_delete_marker)


def _copy_version(transfer: Transfer[Side], row: Row, below: _Below | None) -> Copied:
    """Put one version on top of `below`, or where nothing is."""
    if problem := name_problem(row.key, transfer.target.storage.prefix):
        raise RefusedInput(
            f"{transfer.source.storage}{row.key} cannot lie in {transfer.target.storage}: {problem}",
            hint="delete it for good, or write it under another name; then run this again",
            code="unfit-name",
        )
    if row.is_delete_marker:
        return _mark_deleted(transfer, row, below)
    if row.storage_class in ASLEEP and describe(transfer.source, row.key, row.version_id).is_asleep:
        raise RefusedInput(
            f"{transfer.source.storage}{row.key} is in {row.storage_class}, from where S3 cannot copy",
            hint="restore it first (aws s3api restore-object), then run this again",
            code="archived-object",
        )
    condition = NOTHING_THERE if below is None else below.condition
    if row.size > transfer.multipart_above:
        answer = _copy_in_parts(transfer, row, condition)
        etag = answer["ETag"]
    else:
        answer = _copy_at_once(transfer, row, condition)
        etag = answer["CopyObjectResult"]["ETag"]
    return Copied(row.id, refuse_null_version(transfer.target, row.key, answer.get("VersionId")), etag)


def _copy_at_once(transfer: Transfer[Side], row: Row, condition: Mapping[str, str]) -> dict[str, Any]:
    target = transfer.target
    return _written(
        f"copying {transfer.source.storage}{row.key} to {target.storage}",
        target.s3.copy_object,
        Bucket=target.storage.bucket,
        Key=target.storage.prefix + row.key,
        CopySource=_pointer(transfer.source, row),
        CopySourceIfMatch=row.etag,
        MetadataDirective="COPY",
        TaggingDirective="COPY",
        StorageClass=class_at_target(row.storage_class),
        **_encryption(target),
        **condition,
    )


def _mark_deleted(transfer: Transfer[Side], row: Row, below: _Below | None) -> Copied:
    """Re-create a delete marker. On top of an object it is conditional; on nothing or a marker it cannot be."""
    target = transfer.target
    answer = _written(
        f"marking {target.storage}{row.key} as deleted",
        target.s3.delete_object,
        Bucket=target.storage.bucket,
        Key=target.storage.prefix + row.key,
        **({} if below is None or below.is_delete_marker else below.condition),
    )
    version_id = refuse_null_version(target, row.key, answer.get("VersionId"))
    if answer["ResponseMetadata"].get("RetryAttempts", 0):
        _drop_repeated_markers(target, row.key, version_id, below)
    return Copied(row.id, version_id, "")


def _drop_repeated_markers(target: Side, key: str, kept: str, below: _Below | None) -> None:
    """A delete whose answer was lost is sent again and marks twice: only the last mark stays."""
    for entry in _of_key(target, key):
        if not entry.is_delete_marker or (below is not None and entry.version_id == below.version_id):
            return
        if entry.version_id != kept:
            delete_version(target, key, entry.version_id)


def _pointer(source: Side, row: Row) -> dict[str, str]:
    return {"Bucket": source.storage.bucket, "Key": source.storage.prefix + row.key, "VersionId": row.version_id}


def _encryption(target: Side) -> dict[str, Any]:
    """The target's key, said explicitly: a bucket default may change under a copy. Bucket keys stay off."""
    if target.storage.key_arn is None:
        return {}
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": target.storage.key_arn, "BucketKeyEnabled": False}


# above 5 GB -----------------------------------------------------------------------------------


def _copy_in_parts(transfer: Transfer[Side], row: Row, condition: Mapping[str, str]) -> dict[str, Any]:
    """Copy one large version part by part. A kill leaves an upload, which the next pass aborts."""
    target = transfer.target
    place = {"Bucket": target.storage.bucket, "Key": target.storage.prefix + row.key}
    doing = f"copying {transfer.source.storage}{row.key} to {target.storage} in parts"
    described = describe(transfer.source, row.key, row.version_id)
    upload = called(doing, target.s3.create_multipart_upload, **place, **_upload_facts(transfer, row, described))
    place["UploadId"] = upload["UploadId"]
    size = max(transfer.part_bytes, -(-row.size // PARTS_LIMIT))
    parts = [
        _copy_part(transfer, row, place, number, (first, min(first + size, row.size) - 1))
        for number, first in enumerate(range(0, row.size, size), 1)
    ]
    return _written(doing, target.s3.complete_multipart_upload, **place, MultipartUpload={"Parts": parts}, **condition)


def _upload_facts(transfer: Transfer[Side], row: Row, described: Description) -> dict[str, Any]:
    if missing := described.headers.get("MissingMeta"):
        raise RefusedInput(
            f"{transfer.source.storage}{row.key} has {missing} metadata entries that S3 does not show, so that a copy"
            " in parts would lose them",
            hint="write it anew with metadata that can stand in a header, then run this again",
            code="hidden-metadata",
        )
    facts: dict[str, Any] = {
        "Metadata": dict(described.metadata),
        "StorageClass": class_at_target(row.storage_class),
        **{name: value for name, value in described.headers.items() if name in _WRITABLE_HEADERS},
        **_checksum_in_parts(described.algorithm),
        **_encryption(transfer.target),
    }
    if tagging := tags(transfer.source, row.key, row.version_id):
        facts["Tagging"] = urlencode(tagging)
    return facts


_WRITABLE_HEADERS = frozenset(name for name in CONTENT_HEADERS if not name.startswith(("ObjectLock", "Missing")))


def _checksum_in_parts(algorithm: str | None) -> dict[str, str]:
    """The source's algorithm where an upload can have it; else one over the whole object, which compares later."""
    if algorithm in COMPOSITE_IN_PARTS:
        return {"ChecksumAlgorithm": algorithm, "ChecksumType": "COMPOSITE"}
    known = algorithm if algorithm in FULL_OBJECT_IN_PARTS else FULL_OBJECT_IN_PARTS[0]
    return {"ChecksumAlgorithm": known, "ChecksumType": "FULL_OBJECT"}


def _copy_part(
    transfer: Transfer[Side], row: Row, place: Mapping[str, str], number: int, span: tuple[int, int]
) -> dict[str, Any]:
    answer = called(
        f"copying part {number} of {transfer.source.storage}{row.key}",
        transfer.target.s3.upload_part_copy,
        **place,
        PartNumber=number,
        CopySource=_pointer(transfer.source, row),
        CopySourceIfMatch=row.etag,
        CopySourceRange=f"bytes={span[0]}-{span[1]}",
    )["CopyPartResult"]
    checksums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
    return {"PartNumber": number, "ETag": answer["ETag"], **checksums}


# what a call may end in -----------------------------------------------------------------------


class _TargetMoved(Exception):
    """The target's current version is not the one that the manifest knows."""


class _NotFound(Exception):
    """The source version, or the target version that a condition names, does not exist."""


def _written(doing: str, call: Any, **parameters: Any) -> dict[str, Any]:
    """A write at the target, repeated while S3 asks for patience."""
    try:
        for attempt in stamina.retry_context(on=_asks_for_patience, attempts=None, timeout=PATIENCE_SECONDS):
            with attempt:
                return call(**parameters)
    except ClientError as error:
        if status_of(error) == 412:
            raise _TargetMoved from error
        if code_of(error) in {"NoSuchVersion", "NoSuchKey"}:
            raise _NotFound from error
        raise explained(error, doing) from error
    raise AssertionError("a retry context either returns or raises")


def _asks_for_patience(error: Exception) -> bool:
    """Throttled, overloaded, cut off, or 409: another conditional write of this key was under way."""
    if isinstance(error, botocore_errors.ConnectionError | botocore_errors.HTTPClientError):
        return True
    passes = THROTTLED | {"ConditionalRequestConflict"}
    return code_of(error) in passes or is_unreadable(error) or status_of(error) in {500, 502, 503, 504}


# after a kill ---------------------------------------------------------------------------------


def _mend(transfer: Transfer[Side]) -> tuple[int, int]:
    """Settle what an interrupted pass left: uploads are aborted, copies that were made are noted."""
    interrupted = transfer.manifest.interrupted()
    if not interrupted:
        return 0, 0
    uploads, adopted = abort_uploads(transfer.target), 0
    for rows in interrupted:
        copied = _reconciled(transfer, rows)
        transfer.manifest.copied(copied)
        transfer.manifest.put_back(rows[0].key)
        adopted += len(copied)
    return uploads, adopted


def _reconciled(transfer: Transfer[Side], rows: list[Row]) -> list[Copied]:
    """Find copies at the target that the manifest has not noted: the newest there, in the order of the rows.

    Raises Conflict if anything there is neither noted nor a true copy of the row it would have to be.
    """
    key = rows[0].key
    noted = {row.target_version_id for row in rows if row.target_version_id is not None}
    there = _of_key(transfer.target, key)
    unknown = [entry for entry in there if entry.version_id not in noted]
    pending = [row for row in rows if row.target_version_id is None]
    pairs = list(zip(pending, reversed(unknown), strict=False))
    in_place = there[: len(unknown)] == unknown and len(unknown) <= len(pending)
    if not in_place or not all(_is_copy(transfer, row, entry) for row, entry in pairs):
        raise _foreign(transfer, key)
    return [Copied(row.id, entry.version_id, entry.etag) for row, entry in pairs]


def _of_key(side: Side, key: str, version_id: str | None = None) -> list[Entry]:
    """The versions of exactly this key, newest first; only the one of that id, where one is given."""
    versions = takewhile(lambda entry: entry.key == key, list_versions(side, key))
    return [entry for entry in versions if version_id in (None, entry.version_id)]


def _is_copy(transfer: Transfer[Side], row: Row, entry: Entry) -> bool:
    if row.is_delete_marker or entry.is_delete_marker:
        return row.is_delete_marker and entry.is_delete_marker
    if row.size != entry.size:
        return False
    source = describe(transfer.source, row.key, row.version_id)
    target = describe(transfer.target, row.key, entry.version_id)
    same_bytes = not same_algorithm(source.checksum, target.checksum) or source.checksum == target.checksum
    key_arn = transfer.target.storage.key_arn
    return same_bytes and source.metadata == target.metadata and key_arn in (None, target.key_arn)


def _with_copy(row: Row, copied: Copied | None) -> Row:
    if copied is None:
        return row
    return replace(row, target_version_id=copied.target_version_id, target_etag=copied.target_etag)


def _foreign(transfer: Transfer[Side], key: str) -> Conflict:
    return Conflict(
        f"{transfer.target.storage}{key} holds something that this move did not put there; it was left as it is",
        hint="find out who wrote it: only this move may write there until the target serves",
        code="target-written",
    )
