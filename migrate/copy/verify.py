"""The proof of a copy: every version on both sides, and nothing but these.

Never by ETag: it is no hash of the content under SSE-KMS, nor of a multipart object. Bytes are
compared by the checksums that S3 stored on both sides, where both cover the whole object and are of
one algorithm; else both sides are read and hashed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from migrate.copy.manifest import NEWER, Differences, Row, Where
from migrate.copy.merkle import MerkleRoot
from migrate.copy.s3 import class_at_target, same_algorithm
from migrate.copy.store import Content, Description, Store
from migrate.copy.transfer import Transfer
from migrate.errors import VerificationFailed
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report

NOTED_TOGETHER = 200


@dataclass(frozen=True)
class StorageVerification:
    """Both sides are equal. `streamed` counts the versions whose bytes were read, for want of checksums."""

    versions: int
    delete_markers: int
    objects: int
    bytes: int
    streamed: int
    merkle_root: str
    manifest_sha256: str


@dataclass(frozen=True)
class Untouched:
    """The source still has every version that was listed, in its order. `newer`: what came since."""

    versions: int
    newer: int
    manifest_sha256: str


@dataclass(frozen=True)
class _Compared:
    row: Row
    checksum: str | None
    streamed: bool
    difference: str


def verify_storage(transfer: Transfer[Any], run: str, report: Report) -> StorageVerification:
    """Compare the two storages, version by version. Raises VerificationFailed for any difference, or for nothing.

    `run` names this verification: killed and called again under the same name it goes on, under
    another name everything is compared anew.
    """
    _refuse_nothing(transfer)
    _same_versions(transfer, report)
    streamed = _same_contents(transfer, run, report)
    totals = transfer.manifest.totals()
    return StorageVerification(
        versions=totals.versions,
        delete_markers=totals.delete_markers,
        objects=totals.objects,
        bytes=totals.bytes,
        streamed=streamed,
        merkle_root=_root(transfer),
        manifest_sha256=transfer.manifest.digest(),
    )


def verify_copied(transfer: Transfer[Any], run: str, report: Report) -> int:
    """Compare the contents of what is copied so far, while the source still changes; returns how many versions.

    `verify_storage` under the same `run` then compares only what was copied since: what takes long is
    done before the freeze. Raises VerificationFailed for a difference.
    """
    _same_contents(transfer, run, report)
    return sum(1 for row in transfer.manifest.rows() if row.verified_in == run)


def verify_untouched(transfer: Transfer[Any], report: Report) -> Untouched:
    """Prove that the source still holds all that the manifest lists: what allows a half-made target to be purged.

    Jobs may be writing: what is newer was never copied. Raises VerificationFailed for a version that is missing or
    out of order: its copy may be the only one. An empty manifest covers an empty target, and nothing else.
    """
    manifest = transfer.manifest
    meter = Meter(report, Progress(move="list-source", objects_total=manifest.totals().versions))
    found = manifest.compare(Where.SOURCE, transfer.source.list_versions(), meter.add)
    if found.missing or found.disordered:
        examples = [one for one in found.examples if not one.endswith(NEWER)]
        raise VerificationFailed(
            f"{transfer.source.storage} no longer holds all that was copied from it: {found.missing} versions missing,"
            f" {found.disordered} out of order: {'; '.join(examples)}; nothing was deleted",
            hint=f"their copies in {transfer.target.storage} may be the only ones: put them back, then run this again",
            code="source-lacks-versions",
        )
    return Untouched(manifest.totals().versions, found.unknown, manifest.digest())


def _refuse_nothing(transfer: Transfer[Any]) -> None:
    if transfer.manifest.totals().versions == 0:
        raise VerificationFailed(
            f"there is nothing to compare: the manifest of {transfer.source.storage} lists no version at all",
            hint="a comparison of nothing proves nothing; see whether the storage is the right one",
            code="nothing-compared",
        )


def _same_versions(transfer: Transfer[Any], report: Report) -> None:
    pending = transfer.manifest.totals().pending
    if pending:
        raise VerificationFailed(
            f"{pending} versions of {transfer.source.storage} are not copied yet", code="not-copied"
        )
    _hold(transfer, Where.SOURCE, transfer.source, report)
    _hold(transfer, Where.TARGET, transfer.target, report)


def _hold(transfer: Transfer[Any], where: Where, side: Store, report: Report) -> None:
    meter = Meter(report, Progress(move=f"list-{where}", objects_total=transfer.manifest.totals().versions))
    found = transfer.manifest.compare(where, side.list_versions(), meter.add)
    if not found.none:
        raise _differs(side, where, found)


def _differs(side: Store, where: Where, found: Differences) -> VerificationFailed:
    hint = "copy what changed, then verify again" if where is Where.SOURCE else "find out who wrote there"
    return VerificationFailed(
        f"{side.storage} is not what the manifest lists: {found.unknown} versions too many, {found.missing} missing,"
        f" {found.disordered} out of order: {'; '.join(found.examples)}",
        hint=hint,
        code=f"{where}-differs",
    )


def _same_contents(transfer: Transfer[Any], run: str, report: Report) -> int:
    _require_tags_readable(transfer)
    manifest, totals = transfer.manifest, transfer.manifest.totals()
    meter = Meter(report, Progress(move="verify", objects_total=totals.versions, bytes_total=totals.bytes))
    streamed, bad, examples = 0, 0, []
    good: list[tuple[int, str | None]] = []
    for compared in in_threads(
        _not_verified_in(transfer, run), lambda row: _compare(transfer, row), threads=transfer.threads, name="verify"
    ):
        meter.add(1, compared.row.size)
        streamed += compared.streamed
        if compared.difference:
            bad += 1
            examples = [*examples, compared.difference][:10]
            continue
        good.append((compared.row.id, compared.checksum))
        if len(good) >= NOTED_TOGETHER:
            manifest.verified(good, run)
            good = []
    manifest.verified(good, run)
    meter.tell()
    if bad:
        raise VerificationFailed(
            f"{bad} of {totals.versions} versions differ between {transfer.source.storage} and"
            f" {transfer.target.storage}: {'; '.join(examples)}",
            hint="the source is whole; nothing of it was deleted",
            code="versions-differ",
        )
    return streamed


def _require_tags_readable(transfer: Transfer[Any]) -> None:
    """Raise CloudError unless tags can be read: HEAD hides their number from who may not, as if there were none."""
    row = next((row for row in transfer.manifest.rows() if row.target_version_id and not row.is_delete_marker), None)
    if row is not None:
        transfer.source.tags(row.key, row.version_id)
        transfer.target.tags(row.key, row.target_version_id or "")


def _not_verified_in(transfer: Transfer[Any], run: str) -> Iterator[Row]:
    rows = transfer.manifest.rows()
    return (row for row in rows if row.target_version_id is not None and row.verified_in != run)


def _compare(transfer: Transfer[Any], row: Row) -> _Compared:
    if row.is_delete_marker:
        return _Compared(row, None, streamed=False, difference="")
    target_id = row.target_version_id or ""
    source = transfer.source.describe(row.key, row.version_id)
    target = transfer.target.describe(row.key, target_id)
    wrong = list(_unequal(source, target))
    if problem := transfer.target.key_problem(target):
        wrong.append(problem)
    if target.storage_class != class_at_target(row.storage_class):
        wrong.append(f"storage class {row.storage_class} and {target.storage_class}")
    if (source.tag_count or target.tag_count) and (
        transfer.source.tags(row.key, row.version_id) != transfer.target.tags(row.key, target_id)
    ):
        wrong.append("tags")
    checksum, streamed = target.checksum, False
    if not wrong and not same_algorithm(source.checksum, target.checksum):
        checksum, streamed = hash_of(transfer.target, row.key, target_id), True
        if checksum != hash_of(transfer.source, row.key, row.version_id):
            wrong.append("bytes")
    difference = f"{row.key} (version {row.version_id}): {', '.join(wrong)}" if wrong else ""
    return _Compared(row, checksum, streamed, difference)


def _unequal(source: Description, target: Description) -> Iterator[str]:
    if source.size != target.size:
        yield f"size {source.size} and {target.size}"
    if source.metadata != target.metadata:
        yield "metadata"
    for name in sorted(source.headers.keys() | target.headers.keys()):
        if source.headers.get(name) != target.headers.get(name):
            yield name
    if same_algorithm(source.checksum, target.checksum) and source.checksum != target.checksum:
        yield "checksum"


def hash_of(side: Store, key: str, version_id: str) -> str:
    """`sha256:` and the SHA-256 of one version's bytes, read in pieces."""

    def hashed(content: Content) -> str:
        whole = hashlib.sha256()
        for chunk in content.chunks:
            whole.update(chunk)
        return f"sha256:{whole.hexdigest()}"

    return side.read_version(key, version_id, hashed)


def _root(transfer: Transfer[Any]) -> str:
    """Over (key, place among its versions, delete marker, size, hash), by key and age."""
    root = MerkleRoot()
    for row in transfer.manifest.rows():
        root.add(leaf(row))
    return root.hex()


def leaf(row: Row) -> bytes:
    """What the Merkle tree holds of one version."""
    facts = (row.key, row.ordinal, row.is_delete_marker, row.size, row.checksum)
    return json.dumps(facts, ensure_ascii=True).encode()
