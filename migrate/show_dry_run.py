"""A dry run for people: the plan, what each layout would change, what the moves would cost."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from migrate.show import Data, bytes_text, plan

SIGNS = {"create": "+", "update": "~", "delete": "-"}


def dry_run(data: Data) -> RenderableType:
    parts: list[RenderableType] = [plan(data), ""]
    if data["previews"] is None:
        parts += ["previews: left out", ""]
    else:
        parts += [*_previews(data["previews"]), ""]
    return Group(*parts, *_price(data["price"]))


def _previews(previews: list[Data]) -> list[RenderableType]:
    """Counts for each layout; each change by name under the first layout that has it."""
    counts = _table("phase", "create", "update", "delete", "other", "the runner would")
    listed: list[RenderableType] = []
    told: set[tuple[str, str]] = set()
    for preview in previews:
        found = preview["counts"]
        other = sum(count for op, count in found.items() if op not in SIGNS)
        counts.add_row(
            preview["phase"],
            *(str(found[op]) for op in SIGNS),
            str(other),
            "carry it out" if preview["refused"] is None else "refuse it",
        )
        new = [change for change in preview["changes"] if (change["op"], change["name"]) not in told]
        told |= {(change["op"], change["name"]) for change in new}
        listed += [f"  {preview['phase']}: {_change(change)}" for change in new]
        if preview["refused"]:
            listed.append(f"  {preview['phase']}: refused: {preview['refused']}")
    head = "previews of each layout, compared with now: a later one holds the changes of the earlier ones"
    return [head, "", counts, "", *listed]


def _change(change: Data) -> str:
    return f"{SIGNS.get(change['op'], change['op'])} {change['name']} ({change['type']})"


def _price(price: Data) -> list[RenderableType]:
    requests = _table("request", "count", "dollars")
    for row in price["requests"]:
        requests.add_row(row["kind"], f"{row['count']:,}", _dollars(row["dollars"]))
    rows = [
        *((f"storage {id}", _held(held)) for id, held in price["storages"].items()),
        ("bytes copied", bytes_text(price["bytes_copied"])),
        ("expected", f"{price['expected_minutes']} min of moves"),
        ("requests", f"{_dollars(price['dollars'])} in all"),
    ]
    if price["standing"]:
        standing = price["standing"]
        rows += [
            ("second copy", f"{_dollars(standing['second_copy_per_hour'])} an hour while both exist"),
            ("new keys", f"{_dollars(standing['new_keys_per_month'])} a month"),
        ]
    listing = price["this_dry_run"]
    rows.append(("this dry run", f"{listing['requests']['LIST']:,} LIST, {_dollars(listing['dollars'])}"))
    return [
        f"what the moves cost in {price['region']}",
        "",
        requests,
        "",
        _pairs(rows),
        "",
        *(f"  assumed: {text}" for text in price["assumed"]),
        *(f"  not priced: {text}" for text in price["not_priced"]),
        *_sources(price["prices"]),
    ]


def _sources(prices: list[Data] | str) -> list[str]:
    if isinstance(prices, str):
        return [f"  not priced: {prices}"]
    return [f"  list price: {one['source']}, {one['as_of']}, {one['regions']}" for one in prices]


def _held(held: Data) -> str:
    return f"{held['objects']:,} objects in {held['versions']:,} versions, {bytes_text(held['bytes'])}"


def _dollars(amount: float | None) -> str:
    if amount is None:
        return "not priced"
    return "< $0.01" if 0 < amount < 0.01 else f"${amount:,.2f}"


def _table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def _pairs(rows: list[tuple[str, str]]) -> Table:
    made = _table("", "")
    for row in rows:
        made.add_row(*row)
    return made
