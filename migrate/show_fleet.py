"""A run over the fleet for people: one table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from migrate.show import Data, seconds_text


def fleet(data: Data) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for column in ("tenant", "came to", "changes", "took", "because"):
        table.add_column(column)
    for row in data["tenants"]:
        changes = ", ".join(f"{count} {op}" for op, count in row["changes"].items())
        because = "; ".join(filter(None, (row["because"], row["hint"])))
        table.add_row(row["tenant"], row["came"], changes or "-", seconds_text(row["seconds"]), because)
    counts = ", ".join(f"{count} {came}" for came, count in data["counts"].items() if count)
    return Group(table, f"{len(data['tenants'])} tenants: {counts}", _next(data))


def _next(data: Data) -> str:
    where = f" --where {data['where']}" if data["where"] else ""
    if data["failed"]:
        return f"mend the cause, then: keyshift fleet {data['verb']}{where}"
    if data["verb"] == "preview" and data["counts"]["would change"]:
        return f"to carry it out: keyshift fleet up{where}"
    return "nothing is left to do" if data["is_done"] else f"once they may be worked on: keyshift fleet up{where}"
