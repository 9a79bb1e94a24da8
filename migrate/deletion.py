"""What a deletion may delete: everything that was there once nobody could write any more, listed and signed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from migrate.copy.manifest import Where
from migrate.copy.settle import two_equal_listings
from migrate.errors import KeyUnavailable, VerificationFailed
from migrate.freeze import Freeze
from migrate.progress import Meter, Progress, Report


@dataclass(frozen=True)
class Inventory:
    """`how`: what showed that nothing moves any more."""

    versions: int
    delete_markers: int
    objects: int
    bytes: int
    manifest_sha256: str
    how: dict[str, Any]


def inventory(freeze: Freeze, report: Report, unreadable: dict[str, Any] | None = None) -> Inventory:
    """Takes everything in the storage into the manifest. Raises VerificationFailed if it goes on changing.

    A storage whose key is lost cannot be probed with writes, because none can succeed: a deletion needs no key,
    and is all that such a tenant has left. `unreadable`: what is known of its key's end; it is sealed then, and the
    seal has seen every path refused.
    """
    source, manifest = freeze.source, freeze.manifest
    if unreadable is not None:
        how = {**unreadable, "uploads_aborted": source.abort_uploads()}
    else:
        try:
            how = freeze.stand_still()
        except KeyUnavailable as lost:
            how = {"key_lost": lost.message, "uploads_aborted": source.abort_uploads()}
    listing = two_equal_listings(source, report)
    meter = Meter(report, Progress(move="list", objects_total=listing.versions))
    manifest.take(source.list_versions(), meter.add)
    differences = manifest.compare(Where.SOURCE, source.list_versions(), meter.add)
    if not differences.none:
        raise VerificationFailed(
            f"{source.storage} goes on changing past the closed gate of tenant {freeze.tenant}: "
            f"{'; '.join(differences.examples)}; nothing was deleted",
            hint=f"find out who writes there and stop it, then: keyshift resume {freeze.tenant}",
            code="not-settled",
        )
    totals = manifest.totals()
    return Inventory(
        versions=totals.versions,
        delete_markers=totals.delete_markers,
        objects=totals.objects,
        bytes=totals.bytes,
        manifest_sha256=manifest.digest(),
        how={**how, **asdict(listing)},
    )
