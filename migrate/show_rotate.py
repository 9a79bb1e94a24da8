"""A rotation for people: what waits to be begun, and what it came to."""

from __future__ import annotations

from typing import Any


def pending_rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    """For `status`: a key that was uploaded and is not in use yet."""
    pending = data.get("pending_rotation")
    if not pending:
        return []
    waits = f", begins with keyshift resume once {pending['behind']} has ended" if pending["behind"] else ""
    return [("pending rotation", f"to {pending['key']}, uploaded {pending['at'][:19].replace('T', ' ')} UTC{waits}")]


def report_rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    """For the closing table: versions that were re-keyed, and the proof that nothing is under the old key."""
    rekeyed, drained = data.get("rekeyed"), data.get("drained")
    rows = []
    if rekeyed:
        rows.append(("re-keyed", f"{rekeyed['rekeyed']:,} versions in place, none copied"))
    if drained:
        left = drained.get("left") or "the old key"
        rows.append((f"left under {left}", f"0 of {drained['versions']:,} versions, each asked for"))
    return rows
