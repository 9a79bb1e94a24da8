"""Backups for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from migrate.show import Data, bytes_text


def made(data: Data) -> RenderableType:
    return Group(_table(data), f"keep the fingerprint apart from the backup: {data['signed_by']}")


def checked(data: Data) -> RenderableType:
    return Group(_table(data), "every file is what was signed")


def restored(data: Data) -> RenderableType:
    names = list(data["tenants"])
    lines = [f"every fence was raised by {data['fences_raised_by']:,}: whoever acted before acts no more"]
    if data["compared_with"] is None:
        lines.append("who signed it was not compared with anything: --signed-by does that")
    if names:
        # What was done after the backup is in the clouds and not in what was restored.
        lines.append(f"see of each tenant that nothing was done since: pulumi preview -s tenant-{names[0]} --refresh")
    return Group(_table(data), *lines)


def _table(data: Data) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("backup", data["folder"])
    table.add_row("made at", data["made_at"])
    table.add_row("signed by", data["signed_by"])
    table.add_row("files", f"{data['files']} ({bytes_text(data['bytes'])})")
    table.add_row(
        "Pulumi's state", {"here": "in it", "elsewhere": "not in it: it lies in a backend of its own"}[data["state"]]
    )
    tenants = (
        f"{name} (generation {one['generation']}, {one['lines']} log lines)" for name, one in data["tenants"].items()
    )
    table.add_row("tenants", ", ".join(tenants) or "none")
    return table
