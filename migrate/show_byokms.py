"""What people see of a key in the customer's own account."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Data = dict[str, Any]


def policy(data: Data) -> RenderableType:
    """The document alone on top: it can be cut out as it stands."""
    lines = [json.dumps(data["policy"], indent=2), "", "What each statement is for:"]
    lines += [f"  {sid:25} {why}" for sid, why in data["why"].items()]
    if len(data["shared_by"]) > 1:
        lines += ["", f"It covers every tenant that shares the key: {', '.join(data['shared_by'])}"]
    saved = "The document is in" if data["written"] else "Save the document (or print it with --out) as"
    lines += ["", f"{saved} {data['file']}; the customer then makes a key:"]
    lines += [f"  {line}" for line in data["commands"]]
    lines += ["or, for a key that they have (KEY is its id; add what its policy says of others):"]
    lines += [f"  {line}" for line in data["commands_for_an_existing_key"]]
    lines += ["and sends the alias alone; then:", f"  {data['next']}"]
    return Text("\n".join(lines))


def check(data: Data) -> RenderableType:
    """One line a check, then what is missing and what comes next."""
    table = Table(box=None, pad_edge=False)
    for name in ("check", "came to", "found"):
        table.add_column(name, overflow="fold")
    for one in data["findings"]:
        missing = f" [statement {one['statement']}]" if one["statement"] else ""
        table.add_row(one["check"], one["came"], Text(one["says"] + missing))
    fit = "is fit for use" if data["fit"] else "CANNOT BE USED"
    head = f"{data['alias']} of tenant {data['tenant']} {fit}" + ("" if data["bound"] else "; it is not bound")
    rows: list[RenderableType] = [Text(head), "", table]
    if data["missing_statements"]:
        rows += ["", Text(f"missing or changed in the key's policy: {', '.join(data['missing_statements'])}")]
    if data["next"]:
        rows += ["", Text(f"next: {data['next']}")]
    return Group(*rows)


def followed(data: Data) -> RenderableType:
    words = {
        "unchanged": "the alias leads where it led before",
        "noted": "the new material was noted; nothing waits",
        "paused": "THE CUSTOMER HAS ROTATED THEIR KEY: archiving is paused",
        "waits": "archiving is paused until the customer confirms",
        "queued": "the customer has rotated their key; another operation comes first",
    }
    lines = [f"tenant {data['tenant']}: {words[data['came']]}"]
    lines += [f"warning: {text}" for text in data["warnings"]]
    if data["missing"]:
        lines.append(f"missing: {data['missing']}")
    if data["next"]:
        lines.append(f"next: {data['next']}")
    return Text("\n".join(lines))
