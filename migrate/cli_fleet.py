"""`keyshift fleet`: one release over all tenants."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from migrate import fleet, show, show_fleet, tenants
from migrate.events import Scribe
from migrate.progress import Progress, Speedometer
from migrate.stack import Project
from migrate.terminal import AsJson, err, printed, teller

app = typer.Typer(no_args_is_help=True, help="One release over many tenants (vendor).")

Where = Annotated[
    str, typer.Option("--where", help=f"Only tenants that fit NAME=VALUE,…; names: {', '.join(fleet.WHERE)}.")
]
Parallel = Annotated[int, typer.Option("--parallel", min=1, max=64, help="How many tenants at a time.")]


@app.command()
def preview(where: Where = "", parallel: Parallel = 2, as_json: AsJson = False) -> None:
    """Show what the release would change, tenant by tenant; changes no resource (vendor)."""
    _run(where, parallel, bring_up=False, as_json=as_json)


@app.command()
def up(where: Where = "", parallel: Parallel = 2, as_json: AsJson = False) -> None:
    """Bring the tenants up, stop at the first failure; run it again to go on (vendor)."""
    _run(where, parallel, bring_up=True, as_json=as_json)


def _run(where: str, parallel: int, *, bring_up: bool, as_json: bool) -> None:
    project = Project.find()
    records = tenants.records(project)
    chosen = fleet.choose(records, where)
    done: list[fleet.Row] = []
    tell, speed = teller(as_json=as_json), Speedometer()

    def told(row: fleet.Row) -> None:
        done.append(row)
        if isinstance(tell, show.Ticker):
            tell.line(f"{len(done)} of {len(chosen)} · {row.tenant}: {row.came}")
        else:
            progress = Progress(move=f"fleet: {row.came}", objects=len(done), objects_total=len(chosen))
            Scribe(tell, tenant=row.tenant).progress(None, progress, speed(progress))

    try:
        rows = fleet.Fleet(project, records, bring_up=bring_up, told=told).run(chosen, parallel)
    except KeyboardInterrupt:
        verb = "up" if bring_up else "preview"
        err.print(f"\nkeyshift: stopped; run it again to go on: keyshift fleet {verb}", markup=False)
        os._exit(130)
    found = fleet.summary(rows, where=where, bring_up=bring_up)
    printed(found, as_json, show_fleet.fleet)
    if found["failed"]:
        raise typer.Exit(1)
