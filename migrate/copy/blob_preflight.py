"""What cannot be moved from a container, found by one listing before anything changes."""

from __future__ import annotations

from azure.storage.blob import BlobProperties

from migrate.azure.errors import called
from migrate.copy.blob import ARCHIVE_TIER, BLOCK_BLOB, BlobSide, entry_of
from migrate.copy.preflight import Look, Obstacle, Preflight
from migrate.progress import Meter, Progress, Report

LISTED_TOGETHER = 5000
"""What one List Blobs returns at most."""
HELD = "held"


def survey(source: BlobSide, report: Report) -> Preflight:
    """Look at everything in the container. Reads only; raises CloudError where it may not read."""
    meter, look, versions, size = Meter(report, Progress(move="preflight")), Look(), 0, 0
    about = called(f"reading {source.storage}", source.container.get_container_properties)
    is_held = bool(about.has_immutability_policy or about.has_legal_hold)
    for found in source.list_blobs("", "tags", "snapshots"):
        versions, size = versions + 1, size + found.size
        meter.add(1, found.size)
        for reason, why in _obstacles(source, found, is_held=is_held):
            look.found(reason, entry_of(found), why)
    meter.tell()
    return Preflight(
        versions=versions,
        delete_markers=0,
        bytes=size,
        list_requests=-(-max(versions, 1) // LISTED_TOGETHER),
        head_requests=1,
        obstacles=tuple(Obstacle(r, count, tuple(look.examples[r])) for r, count in sorted(look.counts.items())),
    )


def _obstacles(source: BlobSide, found: BlobProperties, *, is_held: bool) -> list[tuple[str, str]]:
    reasons = []
    if is_held:
        reasons.append((HELD, "the container has a legal hold or an immutability policy"))
    if found.snapshot:
        reasons.append(("snapshots", "taken of a blob"))
    if found.blob_type and getattr(found.blob_type, "value", found.blob_type) != BLOCK_BLOB:
        reasons.append(("of another kind", f"{getattr(found.blob_type, 'value', found.blob_type)}"))
    if found.blob_tier == ARCHIVE_TIER:
        reasons.append(("asleep", ARCHIVE_TIER))
    if found.lease.state == "leased":
        reasons.append(("leased", f"{found.lease.duration or 'some'} lease"))
    if problem := source.name_problem(found.name):
        reasons.append(("not to be named there", problem))
    return reasons
