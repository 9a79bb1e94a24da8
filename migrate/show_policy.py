"""Policies for people."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def rules(found: list[dict[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for title in ("RULE", "SEVERITY", "CLOUD", "SENTENCE"):
        table.add_column(title, overflow="fold")
    for one in found:
        table.add_row(one["id"], one["severity"], one["cloud"], one["sentence"])
    return table


def rule(one: dict[str, Any]) -> RenderableType:
    said = {
        "to do": one["remediation"],
        "severity": one["severity"],
        "looks at": ", ".join(one["types"]) or {"plan": "plans", "stack": "the whole stack"}[one["looks_at"]],
        "unknown": one["unknown"],
        "modes": f"{', '.join(one['modes'])} ({one['cloud']})",
        "settings": ", ".join(one["settings"]) or "none",
        "controls": ", ".join(one["controls"]),
        "proved as": one["proof"],
        "source": one["url"],
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in said.items():
        table.add_row(name, value)
    return Group(Text(f"{one['id']}: {one['sentence']}"), table)


def checked(found: dict[str, Any]) -> RenderableType:
    if not found["violations"]:
        undecided = f"; {len(found['undecided'])} things are judged in the update" if found["undecided"] else ""
        return Text(f"{found['stack']} keeps all {found['rules']} policies{undecided}")
    table = Table(box=None, pad_edge=False)
    for title in ("RULE", "RESOURCE", "WHAT"):
        table.add_column(title, overflow="fold")
    for one in found["violations"]:
        table.add_row(one["rule"], one["resource"], one["message"])
    return table
