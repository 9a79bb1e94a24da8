"""`keyshift pipeline`, `verify`, `repair`, `archive edit`: both ways between a storage and its search."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from typing import Annotated, Any

import typer

from migrate import pipeline, repair, show_pipeline
from migrate.errors import RefusedInput
from migrate.live import Live
from migrate.records import Records
from migrate.stack import Project
from migrate.terminal import AsJson, TenantName, printed, reporter
from stacks.record import connect

Patience = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds that a difference may be under way in the pipeline.")
]
PATIENCE_SECONDS = 20.0
LETTERS = 1000


def register(app: typer.Typer, archive_app: typer.Typer) -> None:
    """Adds the commands to `keyshift` and to `keyshift archive`."""
    pipeline_app = typer.Typer(no_args_is_help=True, help="The pipelines between storage and search (vendor).")
    pipeline_app.command()(status)
    pipeline_app.command()(replay)
    app.add_typer(pipeline_app, name="pipeline")
    app.command()(verify)
    app.command("repair")(mend)
    archive_app.command()(edit)


def status(name: TenantName, as_json: AsJson = False) -> None:
    """Tell how far behind each pipeline is, each way; reads only (vendor)."""
    printed(pipeline.status(Live.find(Project.find(), name)), as_json, show_pipeline.status)


def replay(
    name: TenantName,
    limit: Annotated[int, typer.Option(min=1, help="At most so many of each pipeline.")] = LETTERS,
    as_json: AsJson = False,
) -> None:
    """Give dead letters back to their pipeline; safe to repeat (vendor)."""
    project = Project.find()
    Records(connect(project.home)).refuse_sealed(name)
    found = [asdict(one) for one in pipeline.replay(Live.find(project, name), limit)]
    printed({"tenant": name, "pipelines": found}, as_json, show_pipeline.replayed)


def verify(name: TenantName, wait: Patience = PATIENCE_SECONDS, as_json: AsJson = False) -> None:
    """Hold the index against the storage; changes nothing (vendor)."""
    found = repair.verify(Project.find(), name, wait, reporter(name, as_json=as_json))
    printed(found, as_json, show_pipeline.verified)
    if found["differences"]:
        raise typer.Exit(1)


def mend(name: TenantName, wait: Patience = PATIENCE_SECONDS, as_json: AsJson = False) -> None:
    """Mend the index from the storage, and say what differed (vendor)."""
    found = repair.repair(Project.find(), name, wait, reporter(name, as_json=as_json))
    printed(found, as_json, show_pipeline.repaired)
    if found["left"]:
        raise typer.Exit(1)


def edit(
    name: TenantName,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="The record's type.")],
    id: Annotated[str, typer.Argument(metavar="ID", help="The record's id.")],
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be repeated; '' for none at all.")] = None,
    note: Annotated[str | None, typer.Option(help="A note; '' takes it away.")] = None,
    legal_hold: Annotated[bool | None, typer.Option(help="The record's legal-hold flag.")] = None,
    author: Annotated[str, typer.Option(help="Who edits; the account's name if left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """Edit a record's tags, note or flag on the search side, as Archive does (vendor)."""
    changes: dict[str, Any] = {}
    if tag is not None:
        changes["tags"] = [one for one in tag if one] or None
    if note is not None:
        changes["note"] = note or None
    if legal_hold is not None:
        changes["legal_hold"] = legal_hold
    if not changes:
        raise RefusedInput(
            f"{type}/{id} was not edited: neither --tag, --note nor --legal-hold was given",
            hint="keyshift archive edit --help",
            code="edit",
        )
    made = pipeline.edit(Live.find(Project.find(), name), type, id, changes, author or getpass.getuser())
    printed(made, as_json, show_pipeline.edited)
