"""The purge: deletes exactly the versions that a passed verdict covers, and proves that nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from migrate.copy.manifest import Manifest, State, Where
from migrate.copy.store import Store
from migrate.errors import Conflict, VerificationFailed
from migrate.guard import Check, unguarded
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report
from migrate.verdict import Verdict, VerdictKind

BATCH = 1000
"""What DeleteObjects takes at most (S3 API)."""
THREADS = 4
EXAMPLES = 5
ALLOWS = {
    Where.SOURCE: (VerdictKind.STORAGE, VerdictKind.INVENTORY),
    Where.TARGET: (VerdictKind.UNTOUCHED,),
}
"""The source goes once its copy is proven, or once all of it is listed where the tenant ends; a half-made target
goes once the source is proven untouched."""


@dataclass(frozen=True)
class Purge:
    """What to empty (`side`), which of the manifest's two storages it is, and what allows it.

    `verdict` comes from `Verdicts.load`, which has checked its signature. `guard` is asked before each
    batch is deleted whether this runner may still act.
    """

    side: Store
    where: Where
    manifest: Manifest
    verdict: Verdict
    guard: Check = unguarded


@dataclass(frozen=True)
class Purged:
    deleted: int
    bytes: int


@dataclass(frozen=True)
class Residue:
    """What is left below a prefix."""

    versions: int
    delete_markers: int
    uploads: int

    @property
    def none(self) -> bool:
        return not (self.versions or self.delete_markers or self.uploads)


@dataclass(frozen=True)
class _Doomed:
    key: str
    version_id: str
    size: int


def purge(job: Purge, report: Report) -> Purged:
    """Delete the versions of the manifest from the storage, and no other.

    Before the first deletion everything there is compared with the manifest: a version or an upload
    that the manifest does not know raises Conflict, and nothing is deleted. Called again after a kill
    it deletes the rest. Raises VerificationFailed if the verdict does not cover this.
    """
    _refuse_unproven(job)
    _refuse_unknown(job, report)
    meter = Meter(report, Progress(move="purge", objects_total=job.manifest.totals().versions))
    deleted = size = 0
    for batch in in_threads(_batches(job), lambda batch: _delete(job, batch), threads=THREADS, name="purge"):
        job.manifest.purged(job.where, [(entry.key, entry.version_id) for entry in batch])
        deleted += len(batch)
        size += sum(entry.size for entry in batch)
        meter.add(len(batch), sum(entry.size for entry in batch))
    meter.tell()
    return Purged(deleted, size)


def residue(side: Store) -> Residue:
    """Count what is left: versions, delete markers, unfinished uploads."""
    versions = markers = 0
    for entry in side.list_versions():
        markers += entry.is_delete_marker
        versions += not entry.is_delete_marker
    return Residue(versions, markers, sum(1 for _ in side.list_uploads()))


def prove_empty(side: Store) -> Residue:
    """Raise VerificationFailed unless nothing at all is left below the prefix."""
    left = residue(side)
    if not left.none:
        versions = [f"{entry.key} (version {entry.version_id})" for entry in islice(side.list_versions(), EXAMPLES)]
        uploads = [f"{key} (an unfinished upload)" for key, _ in islice(side.list_uploads(), EXAMPLES)]
        raise VerificationFailed(
            f"{side.storage} is not empty: {left.versions} versions, {left.delete_markers} delete markers,"
            f" {left.uploads} unfinished uploads are left; they came after the purge had begun, and were kept:"
            f" {'; '.join([*versions, *uploads])}",
            hint=way_out(side),
            code="not-empty",
        )
    return left


def _refuse_unproven(job: Purge) -> None:
    verdict, needed = job.verdict, ALLOWS[job.where]
    reasons = []
    if verdict.kind not in needed:
        reasons.append(f"is of the kind {verdict.kind}, and {' or '.join(needed)} is needed")
    if not verdict.passed:
        reasons.append("did not pass")
    if verdict.manifest_sha256 != job.manifest.digest():
        reasons.append("is over another manifest than this one")
    if reasons:
        raise VerificationFailed(
            f"{job.side.storage} would have been purged under the verdict {verdict.id}, which {' and '.join(reasons)};"
            " nothing was deleted",
            hint="verify again, and purge under that verdict",
            code="no-verdict",
        )


def _refuse_unknown(job: Purge, report: Report) -> None:
    meter = Meter(report, Progress(move="list-before-purge"))
    found = job.manifest.compare(job.where, job.side.list_versions(), meter.add)
    uploads = list(islice(job.side.list_uploads(), 1))
    if found.unknown or uploads:
        examples = [*found.examples, *(f"{key} (an unfinished upload)" for key, _ in uploads)]
        raise Conflict(
            f"{job.side.storage} holds {found.unknown} versions that the manifest does not know, and"
            f" {'an' if uploads else 'no'} unfinished upload; nothing was deleted: {'; '.join(examples)}",
            hint=way_out(job.side),
            code="unknown-versions",
        )


def way_out(side: Store) -> str:
    """What a person does about a write that landed in the old storage after the new one had begun to serve.

    Nothing carries it over by itself: Archive may have written the same key to the new storage since.
    """
    return f"{side.way_out()}, then resume"


def _batches(job: Purge) -> Iterator[list[_Doomed]]:
    doomed = _doomed(job)
    while batch := list(islice(doomed, BATCH)):
        yield batch


def _doomed(job: Purge) -> Iterator[_Doomed]:
    """From the manifest, not from a listing: what is not in it cannot be deleted, even by mistake."""
    for row in job.manifest.rows():
        version_id = row.version_id if job.where is Where.SOURCE else row.target_version_id
        if row.state is not State.PURGED and version_id is not None:
            yield _Doomed(row.key, version_id, row.size)


def _delete(job: Purge, batch: list[_Doomed]) -> list[_Doomed]:
    job.side.delete_versions([(entry.key, entry.version_id) for entry in batch], job.guard)
    return batch
