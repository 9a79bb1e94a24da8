"""Re-checking a verdict: is it what was signed and logged, and does what it says still hold where the data lives now?

A verdict is about the moment at which it was made; a tenant lives on. So what came later on top (new
versions, new documents) is counted and named as such; that something which the verdict covers is gone
or is something else is a difference, and nothing that a job may do explains it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from migrate.copy.manifest import Manifest, Row, Where
from migrate.copy.merkle import MerkleProofs, MerkleRoot, root_of
from migrate.copy.purge import residue
from migrate.copy.store import Place, Store
from migrate.copy.verify import hash_of, leaf
from migrate.errors import NEVER_MADE, NOT_THERE, CloudError, RefusedInput, VerificationFailed
from migrate.index.documents import Documents, Pair
from migrate.index.scan import scan
from migrate.live import Live
from migrate.log import Log
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report
from migrate.rekey.moves import DRAINED
from migrate.verdict import Verdict, VerdictKind

HOLDS, SUPERSEDED, UNDER_WAY, DIFFERS = "holds", "superseded", "under way", "differs"
STREAMED = "sha256:"
"""How a checksum begins that the runner made by reading, for want of one that S3 stored."""
TOGETHER = 512
THREADS = 16
EXAMPLES = 10


@dataclass(frozen=True)
class Check:
    """What came of a check. `later`: what jobs did since, by kind; `facts`: what was recomputed."""

    verdict: str
    kind: str
    result: str
    because: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    later: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()


def check_log(log: Log, verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """The whole log's chain and signatures, and that every verdict is noted in it as it is stored.

    Raises VerificationFailed.
    """
    chain = log.verify_chain()
    noted = {line["event"]["verdict"]: line["event"] for line in log.events() if line["event"]["event"] == "verdict"}
    for verdict in verdicts:
        event = noted.get(verdict.id)
        if event is None:
            raise VerificationFailed(
                f"the verdict {verdict.id} is signed, but the log knows nothing of it", code="verdict-unlogged"
            )
        digest = hashlib.sha256(verdict.signed_bytes()).hexdigest()
        if event.get("sha256", digest) != digest:
            raise VerificationFailed(
                f"the verdict {verdict.id} is signed, but it is not the one that was logged: it was replaced later",
                hint="nothing may be deleted under it; verify again",
                code="verdict-replaced",
            )
    return {"lines": chain.lines, "head": chain.head}


def check(live: Live, folder: Path, verdict: Verdict, report: Report, *, under_way: str | None = None) -> Check:
    """Recompute what a verdict says from what lives now. `folder`: the tenant's state folder.

    `under_way`: the unfinished operation, whose manifest belongs to its runner until it ends.
    """
    if not verdict.passed:
        return Check(verdict.id, str(verdict.kind), DIFFERS, "it did not pass when it was made")
    if verdict.operation == under_way:
        return Check(verdict.id, str(verdict.kind), UNDER_WAY, f"{under_way} has not ended; check again then")
    path = folder / "operations" / verdict.operation / _FILES.get(verdict.kind, MANIFEST)
    with closing(Manifest.existing(path)) as manifest:
        job = _Job(live, verdict, manifest, report)
        if verdict.manifest_sha256 and manifest.digest() != verdict.manifest_sha256:
            return job.says(DIFFERS, "the manifest in the state folder is not the one that was signed")
        return _CHECKS[verdict.kind](job)


@dataclass(frozen=True)
class _Job:
    live: Live
    verdict: Verdict
    manifest: Manifest
    report: Report

    def says(self, result: str, because: str, **more: Any) -> Check:
        return Check(self.verdict.id, str(self.verdict.kind), result, because, **more)

    def unit_at(self, storage: Place) -> str | None:
        """The storage of the layout that lies at this place now, if any."""
        found = self.live.outputs.get("storages", {})
        alive = {unit.id for unit in self.live.layout.storages}
        return next((id for id in found if id in alive and str(self.live.storage(id).storage) == str(storage)), None)


# a copy, an untouched source ------------------------------------------------------------------


def _storage(job: _Job, where: Where = Where.TARGET) -> Check:
    place = job.manifest.storage(where)
    unit = job.unit_at(place)
    if unit is None:
        return job.says(SUPERSEDED, f"{place} is not the tenant's any more; a later verdict covers what took its place")
    side = job.live.storage(unit)
    meter = Meter(job.report, Progress(move="list", objects_total=job.manifest.totals().versions))
    found = job.manifest.compare(where, side.list_versions(), meter.add, with_purged=True)
    root, wrong, streamed = _recomputed(job, side, where)
    facts = {"storage": unit, "versions": job.manifest.totals().versions, "streamed": streamed, "merkle_root": root}
    later = {"new versions": found.unknown}
    examples = tuple(example for example in found.examples if not example.endswith(_LATER)) + tuple(wrong)
    signed = job.verdict.merkle_root
    if found.missing or found.disordered or wrong or (signed and root != signed):
        because = (
            f"{found.missing} versions that it covers are gone, {found.disordered} are in another order,"
            f" {len(wrong)} have other contents; the Merkle root is {'another' if root != signed else 'the same'}"
        )
        return job.says(DIFFERS, because, facts=facts, later=later, examples=examples[:EXAMPLES])
    because = f"every version that it covers is in {unit} as it was"
    return job.says(HOLDS, because, facts=facts, later=later)


_LATER = "is there, but not in the manifest"


def _recomputed(job: _Job, side: Store, where: Where) -> tuple[str, list[str], int]:
    """The Merkle root over what lives at one side now, what differs, and how many versions had to be read."""
    root, wrong, streamed = MerkleRoot(), list[str](), 0
    totals = job.manifest.totals()
    meter = Meter(job.report, Progress(move="check", objects_total=totals.versions, bytes_total=totals.bytes))
    rows = job.manifest.rows()
    while batch := list(islice(rows, TOGETHER)):
        lived = dict(in_threads(batch, lambda row: (row.id, _lives(side, where, row)), threads=THREADS, name="check"))
        for row in batch:
            now = lived[row.id]
            streamed += bool(now and now.checksum and now.checksum.startswith(STREAMED))
            if now is None or leaf(now) != leaf(row):
                wrong.append(f"{row.key} (version {row.version_id}) {'is gone' if now is None else 'has other bytes'}")
            if now is not None:
                root.add(leaf(now))
            meter.add(1, row.size)
    meter.tell()
    return root.hex(), wrong, streamed


def _lives(side: Store, where: Where, row: Row) -> Row | None:
    """The row as it would be written now, None if there is no such version. A marker's place says the listing."""
    if row.is_delete_marker:
        return row
    version_id = row.version_id if where is Where.SOURCE else row.target_version_id or ""
    try:
        found = side.describe(row.key, version_id)
        checksum = found.checksum
        if row.checksum is not None and row.checksum.startswith(STREAMED):
            checksum = hash_of(side, row.key, version_id)
    except CloudError as error:
        if error.cloud_code in NOT_THERE:
            return None
        raise
    return replace(row, size=found.size, checksum=checksum if row.checksum is not None else None)


def _untouched(job: _Job) -> Check:
    return _storage(job, Where.SOURCE)


# an index -------------------------------------------------------------------------------------


def _index(job: _Job) -> Check:
    unit = str(job.verdict.details.get("target", ""))
    place = job.manifest.storage(Where.TARGET)
    storage = job.unit_at(place)
    if unit not in {search.id for search in job.live.layout.searches} or storage is None:
        return job.says(SUPERSEDED, f"{unit or 'its search'} was dropped; a later verdict covers what took its place")
    side, index = job.live.storage(storage), job.live.outputs["searches"][unit]["index"]
    documents = Documents(job.manifest, place)
    meter = Meter(job.report, Progress(move="scan", objects_total=documents.count("expected")))
    documents.take(_metered(scan(job.live.search(unit), index), meter))
    meter.tell()
    counts = {"as they were": 0, "superseded": 0, "deleted": 0}
    wrong: list[str] = []
    for pair in documents.pairs():
        what = _judged(pair, lambda pair: _is_deleted(side, documents.key_of(pair.id)))
        if what in counts:
            counts[what] += 1
        else:
            wrong.append(f"{pair.id} {what}")
    added = sum(1 for _ in documents.unexpected())
    facts = {"search": unit, "documents": documents.count("expected"), "as they were": counts.pop("as they were")}
    later = {**counts, "new documents": added}
    if wrong:
        because = f"{len(wrong)} documents that it covers are missing or differ, and no later revision explains it"
        return job.says(DIFFERS, because, facts=facts, later=later, examples=tuple(wrong[:EXAMPLES]))
    return job.says(
        HOLDS, f"every document that it covers is in {unit}, or has a later revision", facts=facts, later=later
    )


def _judged(pair: Pair, is_deleted: Callable[[Pair], bool]) -> str:
    found = pair.indexed
    if pair.revision is None:
        return "was never filled"
    if found is None:
        return "is missing"
    if found.is_tombstone:
        return "deleted" if is_deleted(pair) else "is hidden, but its object is not deleted"
    if found.version > pair.revision:
        return "superseded"
    same = found.version == pair.revision and found.content_hash == pair.content_hash
    return "as they were" if same else "is of another revision or has another hash"


def _is_deleted(side: Store, key: str) -> bool:
    newest = next((entry for entry in side.list_versions(key) if entry.key == key), None)
    return newest is None or newest.is_delete_marker


def _metered(pages: Iterable[list[Any]], meter: Meter) -> Iterator[list[Any]]:
    for page in pages:
        meter.add(len(page))
        yield page


# a purge --------------------------------------------------------------------------------------


def _purge(job: _Job) -> Check:
    place = job.manifest.storage(Where.SOURCE)
    unit = job.unit_at(place)
    if unit is not None and unit != job.verdict.subject:
        return job.says(SUPERSEDED, f"{place} was taken into use again, as {unit}")
    # As the operator: the tenant's own roles have lost the place that was dropped.
    side = job.live.cloud.as_operator(place)
    try:
        left = residue(side)
    except CloudError as error:
        if error.cloud_code in NEVER_MADE:
            return job.says(HOLDS, f"{place} is gone")
        raise
    facts = {"storage": str(place), **vars(left), "snapshots": job.verdict.details.get("snapshots", "not asked for")}
    if not left.none:
        because = f"{place} holds something: {left.versions} versions, {left.delete_markers} delete markers, {left.uploads} uploads"
        return job.says(DIFFERS, because, facts=facts)
    return job.says(HOLDS, f"{place} is empty", facts=facts)


# a key that nothing is under ------------------------------------------------------------------


def _drained(job: _Job) -> Check:
    place, old = job.manifest.storage(Where.SOURCE), str(job.verdict.details.get("from", ""))
    unit = job.unit_at(place)
    if unit is None:
        return job.says(SUPERSEDED, f"{place} is not the tenant's any more; a later verdict covers what took its place")
    found = job.live.cloud.left_under(unit, old, job.report)
    facts = {"storage": unit, "key": old, "versions": found.versions, "under it": found.count}
    if found.count:
        because = f"{found.count} of {found.versions} versions in {unit} are under {old}"
        return job.says(DIFFERS, because, facts=facts, examples=found.examples)
    return job.says(HOLDS, f"none of {found.versions} versions in {unit} is under {old}", facts=facts)


_CHECKS: Mapping[VerdictKind, Callable[[_Job], Check]] = {
    VerdictKind.STORAGE: _storage,
    VerdictKind.UNTOUCHED: _untouched,
    VerdictKind.INDEX: _index,
    VerdictKind.PURGE: _purge,
    VerdictKind.DRAINED: _drained,
}
MANIFEST = "manifest.sqlite"
_FILES = {VerdictKind.DRAINED: DRAINED}
"""Where the rows are that a verdict signs, if not in the manifest of its operation."""


# one object -----------------------------------------------------------------------------------


def proof(folder: Path, verdict: Verdict, key: str) -> list[dict[str, Any]]:
    """For every version of one object: its leaf, its way up the tree, and the signed root that it leads to.

    Raises RefusedInput if the verdict does not cover the object, VerificationFailed if a way leads elsewhere.
    """
    if not verdict.merkle_root:
        raise RefusedInput(
            f"the verdict {verdict.id} is of the kind {verdict.kind}, which has no tree of objects",
            hint=f"keyshift verdict list {verdict.tenant} shows which is of the kind storage",
            code="no-tree",
        )
    with closing(Manifest.existing(folder / "operations" / verdict.operation / "manifest.sqlite")) as manifest:
        rows = {place: row for place, row in enumerate(manifest.rows()) if row.key == key}
        if not rows:
            raise RefusedInput(
                f"the verdict {verdict.id} covers no object {key!r}",
                hint="name it as it stands below the storage's prefix, for example records/people/1.json",
                code="not-covered",
            )
        tree = MerkleProofs(rows)
        for row in manifest.rows():
            tree.add(leaf(row))
    tree.root()
    shown = []
    for place, row in rows.items():
        if root_of(leaf(row), tree.paths[place]) != verdict.merkle_root:
            raise VerificationFailed(
                f"version {row.ordinal} of {key} does not lead to the root that was signed: the manifest was changed",
                code="not-in-the-tree",
            )
        steps = [{"sibling": step.sibling, "side": "left" if step.is_left else "right"} for step in tree.paths[place]]
        shown.append(
            {
                "version": row.ordinal,
                "version_id": row.version_id,
                "target_version_id": row.target_version_id,
                "leaf": leaf(row).decode(),
                "path": steps,
                "root": verdict.merkle_root,
            }
        )
    return shown
