"""The moves of an operation that stays on its storage: re-key, drain, list, and verify an index while jobs write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrate.copy.manifest import Manifest
from migrate.copy.s3 import Side, in_s3
from migrate.copy.store import Store
from migrate.errors import KeyUnavailable
from migrate.index.live import verify_live_index
from migrate.operations import Move
from migrate.progress import Meter, Progress
from migrate.rekey.engine import Job, census, drain, redirected, rekey_pass
from migrate.verdict import VerdictKind

if TYPE_CHECKING:
    from migrate.moves import Moves

Found = dict[str, Any]

REDIRECTED_WITHIN_SECONDS = 900
"""How long a bucket's new default may take to hold; S3 documents no bound, for versioning it names 15 minutes."""
DRAINED = "drained.sqlite"
"""The listing that a drain's verdict is over, apart from the one that the fill and its verdict are over."""


def actions(moves: Moves) -> dict[str, Callable[[Move], Found]]:
    """What `Moves.do` does for the moves of this module."""
    return {
        **moves.live.cloud.in_place(moves),
        "list": lambda move: _list(moves, move),
        "verify-live-index": lambda move: _verify_live_index(moves, move),
    }


def in_place_manifest(path: Path, side: Store) -> Manifest:
    """The manifest of a storage that is its own target. Without its key, which changes and may change back."""
    storage = side.storage.keyless()
    return Manifest.open(path, storage, storage)


def rekey(moves: Moves, move: Move) -> Found:
    side = _side(moves, move)
    with in_place_manifest(moves.manifest_path, side) as manifest:
        job = Job(side, manifest, moves.guard)
        since, waited = _redirected(moves, job)
        with _counting_what_a_lost_key_holds(moves, move, job):
            # The second pass takes what came while the first one ran; what the bucket's default did not catch, too.
            first = rekey_pass(job, moves.report)
            last = rekey_pass(job, moves.report)
    return {
        **asdict(first),
        "rekeyed": first.rekeyed + last.rekeyed,
        "written_meanwhile": last.already + last.rekeyed,
        "redirected_at": since.isoformat(),
        "redirected_after": waited,
    }


def _redirected(moves: Moves, job: Job) -> tuple[datetime, float]:
    """When new writes came under the key, and how many seconds were waited for it."""
    at: list[datetime] = []

    def has_come() -> bool:
        at.extend(found for found in [redirected(job)] if found is not None)
        return bool(at)

    what = f"new writes to {job.side.storage} to come under the new key"
    waited = moves.until(has_come, what, REDIRECTED_WITHIN_SECONDS)
    return at[-1], waited


def drain_old(moves: Moves, move: Move) -> Found:
    """With a verdict: from an empty list, so that what it signs was all seen now."""
    started, side, operation = datetime.now(UTC), _side(moves, move), moves.operation
    subject = move.key or str(move.storage)
    if move.verdict and (signed := moves.verdicts.load(move.verdict)) is not None:
        # A kill came between the signature and the note of it: another listing would not be the one that was signed.
        id = moves.sign(move, VerdictKind.DRAINED, subject, started)
        return {**signed.counts, **signed.details, "verdict": id}
    with in_place_manifest(moves.manifest_path, side) as manifest:
        since, _ = _redirected(moves, Job(side, manifest))
    path = moves.folder / "operations" / operation.id / DRAINED if move.verdict else moves.manifest_path
    with in_place_manifest(path, side) as manifest:
        job = Job(side, manifest, moves.guard)
        with _counting_what_a_lost_key_holds(moves, move, job):
            found = drain(job, f"{operation.id}:{move.verdict}", since, moves.report)
    if move.verdict is None:
        return asdict(found)
    old = moves.live.key_arn(move.key) if move.key else ""
    details = {"storage": str(side.storage), "unit": move.storage, "left": move.key, "from": old, "to": job.key_arn}
    verdict = moves.sign(
        move,
        VerdictKind.DRAINED,
        subject,
        started,
        counts={
            "versions": found.versions,
            "delete_markers": found.delete_markers,
            "under_another_key": 0,
            "uploads_aborted": found.uploads_aborted,
        },
        bytes=found.bytes,
        merkle_root=found.merkle_root,
        manifest_sha256=found.manifest_sha256,
        details=details,
    )
    return {**asdict(found), "verdict": verdict, **details}


def _list(moves: Moves, move: Move) -> Found:
    side = moves.live.storage(str(move.storage))
    meter = Meter(moves.report, Progress(move="list"))
    with in_place_manifest(moves.manifest_path, side) as manifest:
        manifest.take(side.list_versions(), meter.add)
    meter.tell()
    return {"versions": meter.now.objects}


def _verify_live_index(moves: Moves, move: Move) -> Found:
    started, side, search = datetime.now(UTC), moves.live.storage(str(move.storage)), str(move.search)
    with in_place_manifest(moves.manifest_path, side) as manifest:
        index = moves.live.outputs["searches"][search]["index"]
        found = verify_live_index(side, manifest, moves.live.search(search), index, moves.report)
        digest = manifest.digest()
    serving = moves.operation.start.serves
    verdict = moves.sign(
        move,
        VerdictKind.INDEX,
        serving.search if serving else search,
        started,
        counts={"expected": found.expected, "found": found.found, "changed": found.changed},
        merkle_root="",
        manifest_sha256=digest,
        details={"target": search, "storage": move.storage},
    )
    return {**asdict(found), "verdict": verdict}


def _side(moves: Moves, move: Move) -> Side:
    return in_s3(moves.live.storage(str(move.storage)))


@contextmanager
def _counting_what_a_lost_key_holds(moves: Moves, move: Move, job: Job) -> Iterator[None]:
    """A key that was disabled too early is waited for by name, with what still lies under it."""
    try:
        yield
    except KeyUnavailable as error:
        lost = moves.lost_key()
        if lost is None:
            raise
        under = census(job, moves.report)
        arn = moves.live.key_arn(lost.key)
        lost.message = (
            f"the key {lost.key} of tenant {moves.live.layout.tenant} cannot be used, and {under[arn]} of "
            f"{under.total()} versions in {move.storage} still lie under it: KMS answered {lost.said}"
        )
        raise lost from error
