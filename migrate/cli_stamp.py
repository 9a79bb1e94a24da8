"""`keyshift stamp`: the vendor's shared sides and their room."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from migrate import placement, show_stamp
from migrate.errors import RefusedInput
from migrate.stack import Project
from migrate.terminal import PATIENCE_SECONDS, AsJson, WaitSeconds, err, printed, reporter, teller
from stacks.record import connect

app = typer.Typer(no_args_is_help=True, help="Stamps, on which tenants sit, and their room (vendor).")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the stamps: who sits there, what is used of each quota (vendor)."""
    project = Project.find()
    found = placement.overview(project, placement.Placements(connect(project.home)))
    printed(found, as_json, show_stamp.stamps)


@app.command()
def rotate(
    stamp: Annotated[str, typer.Argument(metavar="STAMP", help="The stamp's name.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do; change nothing.")] = False,
    wait: WaitSeconds = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Bring a stamp under a new vendor key, prove it, archive the old one; run again to go on (vendor)."""
    from migrate.stamp_rotation import StampRotation  # noqa: PLC0415 - a second of imports that only operations need

    report = reporter(stamp, as_json=as_json)
    rotation = StampRotation(Project.find(), stamp, teller(as_json=as_json), report, patience=wait)
    if dry_run:
        printed(rotation.plan(), as_json, show_stamp.rotation_plan)
        return
    try:
        found = rotation.run()
    except KeyboardInterrupt:
        err.print(f"\nkeyshift: stopped; nothing is lost. Go on with: keyshift stamp rotate {stamp}", markup=False)
        os._exit(130)
    printed(found, as_json, show_stamp.rotated)


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
