"""The gate for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from migrate.show import Data


def gate(data: Data) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    jobs, searches = data["jobs"], data["searches"]
    table.add_row("access", _said(data["access"], "open"))
    table.add_row("jobs", _said(jobs, f"may run, on {jobs['storage']} ({jobs['bucket']}/{jobs['prefix']})"))
    limit = f"what was archived before {searches['cutoff']}" if searches["cutoff"] else "all"
    table.add_row("searches", _said(searches, f"see {limit}, by {searches['search']}'s alias {searches['alias']}"))
    for warning in data["warnings"]:
        table.add_row("warning", warning)
    return Group(f"tenant {data['tenant']}, generation {data['generation'] or 'unknown'}", table)


def _said(part: Data, when_open: str) -> str:
    return when_open if part["allowed"] else f"closed: {part['reason']}"
