"""The pipelines for people: lag each way, dead letters, what differs between a storage and its index."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from migrate.show import Data, seconds_text

NEVER = "not known"


def status(data: Data) -> RenderableType:
    table = _table("pipeline", "way", "state", "behind", "oldest", "dead letters / told")
    lines: list[str] = []
    for unit in data["pipelines"]:
        to_search, to_bucket = unit["to_search"], unit["to_bucket"]
        if to_search is not None:
            behind = f"{to_search['waiting']:,} waiting, {to_search['in_flight']:,} in work"
            oldest = _seconds(to_search["oldest_at_most_seconds"], "at most ")
            way = f"{unit['storage']} -> {unit['search']}"
            table.add_row(unit["id"], way, unit["state"], behind, oldest, f"{to_search['dead_letters']:,}")
        if to_bucket is not None:
            settled = to_bucket["settled"]
            told = f"{settled['refused']:,} refused, {settled['overrode']:,} overrode"
            behind, oldest = f"{to_bucket['unapplied']:,} edits", _seconds(to_bucket["oldest_seconds"])
            table.add_row(unit["id"], f"{unit['search']} -> {unit['storage']}", unit["state"], behind, oldest, told)
            lines += [_edit(one) for one in to_bucket["told"]]
    dead = sum(unit["to_search"]["dead_letters"] for unit in data["pipelines"] if unit["to_search"])
    if dead:
        lines.append(f"to give dead letters back: keyshift pipeline replay {data['tenant']}")
    return Group(table, *([Text("\n".join(lines))] if lines else []))


def _edit(one: Data) -> str:
    what = one["reason"] or f"applied over a newer {', '.join(one['overrode'])} that its author had not seen"
    return f"  {one['key']}, edited by {one['author'] or 'nobody named'} at {one['edited_at']}: {what}"


def _seconds(value: float | None, before: str = "") -> str:
    if value is None:
        return NEVER
    return f"{before}{seconds_text(value)}" if value else "-"


def replayed(data: Data) -> RenderableType:
    if not data["pipelines"]:
        return f"no pipeline of tenant {data['tenant']} is attached"
    table = _table("pipeline", "given back", "dead letters left")
    for row in data["pipelines"]:
        table.add_row(row["pipeline"], f"{row['replayed']:,}", f"{row['left']:,}")
    return table


def verified(data: Data) -> RenderableType:
    head = f"{data['objects']:,} objects in {data['storage']}, {data['documents']:,} documents in {data['search']}"
    if not data["differences"]:
        return Group(head, "no difference")
    hint = f"to mend the index: keyshift repair {data['tenant']}"
    return Group(head, _counts(data["counts"]), Text("\n".join([*_examples(data["examples"]), hint])))


def repaired(data: Data) -> RenderableType:
    head = f"{data['mended']:,} documents of {data['search']} mended from {data['storage']}, {data['left']:,} left"
    parts: list[RenderableType] = [head]
    if data["differences"]:
        parts += [_counts(data["counts"]), Text("\n".join(_examples(data["examples"])))]
    if data["left"]:
        parts += ["not mended:", Text("\n".join(_examples(data["left_examples"])))]
    return Group(*parts)


def _counts(counts: Data) -> RenderableType:
    table = _table("difference", "documents")
    for kind, count in counts.items():
        if count:
            table.add_row(kind, f"{count:,}")
    return table


def _examples(rows: list[Data]) -> list[str]:
    return [f"  {row['key'] or row['id']} is {row['kind']}{_revisions(row)}" for row in rows]


def _revisions(row: Data) -> str:
    said = f" (object {row['revision'] or 'none'}, document {row['indexed'] or 'none'})"
    return f"{said}: {row['reason']}" if row["reason"] else said


def edited(data: Data) -> RenderableType:
    return f"edit {data['edit']} of {data['key']} is written; see it applied: keyshift pipeline status {data['tenant']}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    return table
