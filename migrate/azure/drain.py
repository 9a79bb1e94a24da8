"""Nothing is under the old version of a key any more: on Azure that is a fact of the account, not of each blob.

Storage keeps every blob under keys of its own and wraps those with the account's key. Pinned to another version it wraps
them anew, and says in `currentVersionedKeyIdentifier` under which it holds them (Storage Accounts, Properties).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from migrate.errors import VerificationFailed
from migrate.operations import Move
from migrate.progress import Meter, Progress
from migrate.rekey.engine import Left
from migrate.rekey.moves import DRAINED, in_place_manifest
from migrate.verdict import VerdictKind

if TYPE_CHECKING:
    from migrate.live import Live
    from migrate.moves import Moves
    from migrate.progress import Report

Found = dict[str, Any]


def drain(moves: Moves, move: Move) -> Found:
    """Signs under which key version the account says that it holds its data, once an object of it was really read."""
    started, live, storage = datetime.now(UTC), moves.live, str(move.storage)
    subject = move.key or storage
    if move.verdict and (signed := moves.verdicts.load(move.verdict)) is not None:
        return {**signed.counts, **signed.details, "verdict": moves.sign(move, VerdictKind.DRAINED, subject, started)}
    current = _require_pinned(live, storage)
    side = live.storage(storage)
    meter = Meter(moves.report, Progress(move="list"))
    path = moves.folder / "operations" / moves.operation.id / DRAINED
    with in_place_manifest(path, side) as manifest:
        manifest.take(side.list_versions(), meter.add)
        first = next(manifest.rows(), None)
        if first is not None:
            side.read_version(first.key, first.version_id, lambda content: sum(map(len, content.chunks)))
        totals, digest = manifest.totals(), manifest.digest()
    meter.tell()
    details = {"storage": str(side.storage), "unit": storage, "left": move.key, "to": current, "from": ""}
    if move.key is not None:
        details["from"] = f"{live.cloud.key_id(move.key)}/{live.layout.key(move.key).material or ''}"
    counts = {"versions": totals.versions, "under_another_key": 0, "read": int(first is not None)}
    if move.verdict is None:
        return {**counts, **details}
    verdict = moves.sign(
        move, VerdictKind.DRAINED, subject, started, counts=counts, bytes=totals.bytes, manifest_sha256=digest,
        details=details,
    )  # fmt: skip
    return {**counts, **details, "verdict": verdict}


def _require_pinned(live: Live, storage: str) -> str:
    """The version that the account says it uses. Raises VerificationFailed if it is not the one of the layout."""
    key, current = live.layout.storage(storage).key, str(live.outputs["storages"][storage]["current_key"] or "")
    wanted = f"/{live.layout.key(key).material}" if key else ""
    if not current or not current.endswith(wanted):
        raise VerificationFailed(
            f"the account of {storage} says that it is under {current or 'no key of a vault'}, not under the version"
            f" {wanted.lstrip('/')} of {key}; the old version stays in use",
            hint=f"pulumi refresh -s tenant-{live.layout.tenant}, then: keyshift resume {live.layout.tenant}",
            code="not-redirected",
        )
    return current


def left_under(live: Live, storage: str, old: str, report: Report) -> Left:
    """All of an account, or nothing: it says under which version it is."""
    meter = Meter(report, Progress(move="check"))
    for entry in live.storage(storage).list_versions():
        meter.add(1, entry.size)
    meter.tell()
    current = live.outputs["storages"][storage]["current_key"]
    versions = meter.now.objects
    return Left(versions, versions if current == old else 0, (f"the account is under {old}",) if current == old else ())
