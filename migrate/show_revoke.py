"""Revocations, restores and the end of keys, as people read them."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from migrate import show

Data = dict[str, Any]


def revoked(data: Data) -> RenderableType:
    """The seal's tables, then what the stack says."""
    up = data["up"]
    agrees = (
        "the stack agrees: pulumi up shows no change"
        if up is not None
        else "an operation is unfinished: the stack agrees once it goes on after a restore"
    )
    counted = [f"{one['storage']}: {one['versions']} versions, {one['bytes']} bytes" for one in data["counted"]]
    lines = [*(f"counted in {one}" for one in counted), *data["uncounted"], agrees, f"operation {data['operation']}"]
    return Group(show.seal(data), *(Text(line) for line in lines))


def restored(data: Data) -> RenderableType:
    """What was compared and read before anybody was let in."""
    ways = ", ".join(f"{one['name']} of {one['unit']}" for one in data["paths"])
    rows = [("tenant", f"{data['tenant']}, open again"), ("was sealed for", data["was_sealed_for"])]
    rows += [(one["storage"], _checked(one)) for one in data["checked"]]
    rows += [("found again", ", ".join(data["found_again"]))] if data["found_again"] else []
    return show.pairs([*rows, ("as Archive", ways or "serves nothing yet"), ("next", data["next"])])


def _checked(one: Data) -> str:
    read = f"{one['objects_read']} objects read whole" + ("" if one.get("read_all") else " (a sample)")
    compared = {
        True: f"{one.get('versions')} versions, exactly those that were closed",
        False: f"{one.get('versions')} versions, {one.get('versions_then')} were closed: accepted",
        None: "not compared: nothing was counted, or a move was under way",
    }
    return f"{read}; {compared[one['same']]}"


def destroyed(data: Data) -> RenderableType:
    under = [f"{one['storage']} ({one['versions']} versions)" for one in data["under_it"]["storages"]]
    rows = [
        ("key", f"{data['key']} of {data['tenant']}, {data['arn']}"),
        (
            "destroyed",
            f"{data['at'][:19]} UTC by {data['by']}" + (" (before; nothing was done)" if data["already"] else ""),
        ),
        ("by", data["method"]),
        ("refused", f"after {data['refused_after']} s here: {data['refused_with']}"),
        ("ends for good", data["deletion_date"] or "it is gone"),
        ("lay under it", ", ".join([*under, *data["under_it"]["searches"]]) or "nothing"),
        ("certificate", data["file"]),
    ]
    return Group(show.pairs(rows), Text(data["says"]), Text(show.MEASURED))


def declared_lost(data: Data) -> RenderableType:
    lost = data["lost"]
    rows = [("key", f"{data['key']} of {data['tenant']} is recorded as lost: {data['reason']}")]
    rows += [("KMS says", f"{data['state']} ({data['said']})")]
    rows += [(one["storage"], f"{one['versions']} versions, {one['bytes']} bytes") for one in lost["storages"]]
    rows += [(search, "all its documents; they cannot be counted") for search in lost["searches"]]
    return Group(show.pairs(rows), Text("what remains"), *(Text(f"  {one}") for one in data["remains"]))
