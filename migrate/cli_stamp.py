"""`keyshift stamp`: the vendor's shared sides and their room."""

from __future__ import annotations

from typing import Annotated

import typer

from migrate import placement, show_stamp
from migrate.errors import RefusedInput
from migrate.stack import Project
from migrate.terminal import AsJson, printed
from stacks.record import connect

app = typer.Typer(no_args_is_help=True, help="Stamps, on which tenants sit, and their room (vendor).")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the stamps: who sits there, what is used of each quota (vendor)."""
    project = Project.find()
    found = placement.overview(project, placement.Placements(connect(project.home)))
    printed(found, as_json, show_stamp.stamps)


@app.command()
def quota(
    stamp: Annotated[str, typer.Argument(metavar="STAMP", help="The stamp's name.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="rules, roles, buckets, keys or secrets.")],
    value: Annotated[int, typer.Argument(metavar="VALUE", min=1, help="What the cloud has granted.")],
    as_json: AsJson = False,
) -> None:
    """Note a quota that was raised, for all stamps of that account (vendor)."""
    known = [one.name for one in placement.AWS_QUOTAS]
    if name not in known:
        raise RefusedInput(
            f"{name!r} is no quota that placement counts", hint=f"one of: {', '.join(known)}", code="unknown-quota"
        )
    project = Project.find()
    held = placement.Placements(connect(project.home))
    held.set_quota(placement.find(project, stamp), name, value)
    printed(placement.overview(project, held), as_json, show_stamp.stamps)
