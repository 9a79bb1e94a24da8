"""The preflight: what a storage holds that cannot be moved, found by one listing before anything is changed.

A listing shows names, version ids and storage classes. Locks it does not show; a bucket without an
object lock configuration cannot hold any (S3 user guide, "Object Lock considerations"), so only in one
that has it every version is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from botocore.exceptions import ClientError

from migrate.aws import code_of, explained
from migrate.copy.s3 import ASLEEP, NULL_VERSION, Side, describe, list_versions, name_problem
from migrate.copy.store import Entry, Store
from migrate.errors import RefusedInput
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report

LISTED_TOGETHER = 1000
"""What one call of ListObjectVersions returns at most (S3 API)."""
THREADS = 16
EXAMPLES = 3
_MAY_SLEEP = ASLEEP | {"INTELLIGENT_TIERING"}

REMEDIES = {
    "locked": "wait until the retention ends, or have whoever set the legal hold lift it (aws s3api"
    " put-object-legal-hold)",
    "asleep": "restore them first (aws s3api restore-object)",
    "without a version id": "they were written before the bucket kept versions: write them anew and delete the"
    " version named null",
    "held": "have the legal hold cleared or wait until the policy ends (az storage container legal-hold clear)",
    "leased": "have whoever leased them release them (az storage blob lease break)",
    "of another kind": "write them anew as block blobs, the only kind that Archive writes",
    "snapshots": "delete them (az storage blob delete --delete-snapshots only): a copy would not take them along",
    "not to be named there": "delete them for good, or write them under other names",
}


@dataclass(frozen=True)
class Obstacle:
    """Versions that cannot be moved for one reason, which is a key of `REMEDIES`."""

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Preflight:
    """What the source holds and what the look at it cost, in requests."""

    versions: int
    delete_markers: int
    bytes: int
    list_requests: int
    head_requests: int
    obstacles: tuple[Obstacle, ...]


@dataclass
class Look:
    """What a survey has seen so far."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def found(self, reason: str, entry: Entry, why: str) -> None:
        self.counts[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(f"{entry.key!r} (version {entry.version_id}, {why})")


def survey(source: Side, target_prefix: str, report: Report) -> Preflight:
    """Look at everything below the source's prefix. Reads only; raises CloudError where it may not read.

    `target_prefix`: what the names will begin with at the target, "" for a dedicated bucket.
    """
    meter, look, seen = Meter(report, Progress(move="preflight")), Look(), Counter[str]()
    is_lockable = _has_lock_configuration(source)
    asked = in_threads(
        _judged_by_listing(list_versions(source), look, seen, target_prefix, meter, is_lockable=is_lockable),
        lambda entry: (entry, _hidden_obstacles(source, entry)),
        threads=THREADS,
        name="preflight",
    )
    for entry, obstacles in asked:
        if is_lockable and not seen["asked"]:
            _require_locks_readable(source, entry)
        seen["asked"] += 1
        for reason, why in obstacles:
            look.found(reason, entry, why)
    meter.tell()
    return Preflight(
        versions=seen["versions"],
        delete_markers=seen["markers"],
        bytes=seen["bytes"],
        list_requests=-(-max(seen["versions"], 1) // LISTED_TOGETHER),
        head_requests=seen["asked"],
        obstacles=tuple(Obstacle(r, count, tuple(look.examples[r])) for r, count in sorted(look.counts.items())),
    )


def require_movable(found: Preflight, source: Store, again: str) -> Preflight:
    """Raise RefusedInput if anything stands in the way. `again`: the command to run once it is out of it."""
    if not found.obstacles:
        return found
    said = "; ".join(f"{one.count} {one.reason}: {', '.join(one.examples)}" for one in found.obstacles)
    remedies = "; ".join(f"{one.reason}: {REMEDIES[one.reason]}" for one in found.obstacles)
    count = sum(one.count for one in found.obstacles)
    raise RefusedInput(
        f"{count} of {found.versions} versions in {source.storage} cannot be moved ({said}); nothing was changed",
        hint=f"{remedies}; then: {again}",
        code="not-movable",
    )


def require_something(found: Preflight, source: Store, again: str) -> Preflight:
    """Raise RefusedInput if there is nothing at all: the proof of a copy needs something to compare."""
    if found.versions:
        return found
    raise RefusedInput(
        f"{source.storage} holds nothing yet, and a move that compares nothing would prove nothing",
        hint=f"archive something first; then: {again}",
        code="nothing-to-move",
    )


def _judged_by_listing(  # noqa: PLR0913 - one pass that fills what the caller reads
    entries: Iterable[Entry], look: Look, seen: Counter[str], prefix: str, meter: Meter, *, is_lockable: bool
) -> Iterator[Entry]:
    """Notes what a listing shows; gives on the versions that have to be asked for."""
    for entry in entries:
        seen["versions"] += 1
        seen["markers"] += entry.is_delete_marker
        seen["bytes"] += entry.size
        meter.add(1, entry.size)
        if entry.version_id == NULL_VERSION:
            look.found("without a version id", entry, "from before the bucket kept versions")
        if problem := name_problem(entry.key, prefix):
            look.found("not to be named there", entry, problem)
        if not entry.is_delete_marker and (is_lockable or entry.storage_class in _MAY_SLEEP):
            yield entry


def _hidden_obstacles(source: Side, entry: Entry) -> list[tuple[str, str]]:
    described = describe(source, entry.key, entry.version_id)
    found = []
    if described.is_asleep:
        found.append(("asleep", described.storage_class))
    if "ObjectLockRetainUntilDate" in described.headers:
        found.append(("locked", f"retained until {described.headers['ObjectLockRetainUntilDate']}"))
    if "ObjectLockLegalHoldStatus" in described.headers:
        found.append(("locked", "under a legal hold"))
    return found


def _has_lock_configuration(side: Side) -> bool:
    try:
        side.s3.get_object_lock_configuration(Bucket=side.storage.bucket)
    except ClientError as error:
        if code_of(error) == "ObjectLockConfigurationNotFoundError":
            return False
        raise explained(error, f"reading the object lock configuration of {side.storage.bucket}") from error
    return True


def _require_locks_readable(side: Side, entry: Entry) -> None:
    """A HEAD hides locks from who may not read them, as if there were none; these two calls do not."""
    reads: tuple[Callable[..., object], ...] = (side.s3.get_object_retention, side.s3.get_object_legal_hold)
    place = {
        "Bucket": side.storage.bucket,
        "Key": side.storage.prefix + entry.key,
        "VersionId": entry.version_id,
    }
    for read in reads:
        try:
            read(**place)
        except ClientError as error:
            if code_of(error) != "NoSuchObjectLockConfiguration":
                raise explained(error, f"reading the locks of {side.storage}{entry.key}") from error
