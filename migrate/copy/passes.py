"""What every pass of a copy begins with, whatever cloud: the source listed, what was deleted there taken away."""

from __future__ import annotations

from typing import Any

from migrate.copy.settle import Fingerprint
from migrate.copy.transfer import Transfer
from migrate.progress import Meter, Progress, Report


def list_source(transfer: Transfer[Any], report: Report) -> tuple[int, int, str]:
    """(number of the pass, versions listed, fingerprint of the listing)."""
    meter, whole = Meter(report, Progress(move="list")), Fingerprint()
    number = transfer.manifest.take(whole.over(transfer.source.list_versions()), meter.add)
    meter.tell()
    return number, meter.now.objects, whole.hex()


def follow_deletions(transfer: Transfer[Any]) -> int:
    """Versions deleted for good at the source, after they were copied, go from the target too."""
    gone = transfer.manifest.vanished()
    for row in gone:
        if row.target_version_id is not None:
            transfer.target.delete_version(row.key, row.target_version_id)
        transfer.manifest.forget(row)
    return len(gone)
