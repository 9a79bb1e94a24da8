"""Stamps for people: one line a quota."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from migrate.show import Data, pairs


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


def rotation_plan(data: Data) -> RenderableType:
    tenants, searches = data["tenants"], data["searches"]
    return pairs(
        [
            ("stamp", data["stamp"]),
            ("goes on", "with a rotation that was begun" if data["goes_on"] else "no: nothing was begun"),
            ("under", data["vendor_key"]),
            ("comes under", f"vendor key {data['new_vendor_key']} of the stamp"),
            ("re-keyed", "every version in the shared bucket, in place, and proven"),
            ("brought up twice", f"{len(tenants)} tenants: {', '.join(tenants) or 'none'}"),
            ("new searches", f"{len(searches)} at most: {', '.join(searches) or 'none'}"),
        ]
    )


def rotated(data: Data) -> RenderableType:
    return pairs(
        [
            ("stamp", data["stamp"]),
            ("under", data["to"]),
            ("archived", data["archived"]),
            ("left under it", f"{data['left']} of {data['versions']:,} versions, each asked for"),
            ("uploads aborted", f"{data['uploads_aborted']:,}"),
            ("new searches", ", ".join(data["searches"]) or "none were needed"),
            ("verdict", f"{data['verdict']} in {data['file']}"),
        ]
    )
