"""Stamps for people: one line a quota."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from migrate.show import Data


def stamps(data: Data) -> RenderableType:
    if not data["stamps"]:
        return "no stamp has been brought up yet"
    table = Table(box=None, pad_edge=False)
    for column in ("stamp", "tenants", "quota", "used", "kept", "limit", "counted in", ""):
        table.add_column(column)
    for row in data["stamps"]:
        name, tenants = row["stamp"], str(len(row["tenants"]))
        for quota in row["quotas"]:
            numbers = (str(quota[column]) for column in ("used", "kept", "limit"))
            full = "" if quota["has_room"] else "full"
            table.add_row(name, tenants, quota["name"], *numbers, quota["scope"], full)
            name = tenants = ""
    return Group(table, "kept: left free for the moves of the tenants that sit there")
