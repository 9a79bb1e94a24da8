"""`keyshift rotate`: to a new key that its customer has uploaded."""

from __future__ import annotations

from typing import Annotated

import typer

from migrate.operations import OperationKind
from migrate.terminal import PATIENCE_SECONDS, AsJson, TenantName, WaitSeconds, begin


def register(app: typer.Typer) -> None:
    """Adds the verb to `keyshift`."""
    app.command()(rotate)


def rotate(
    name: TenantName,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, previews of its layouts and a price; change nothing.")
    ] = False,
    no_preview: Annotated[bool, typer.Option("--no-preview", "--quick", help="Dry run without previews.")] = False,
    wait: WaitSeconds = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Re-key a byok tenant in place to the key uploaded last; jobs go on (vendor)."""
    begin(name, OperationKind.ROTATE, None, dry_run=dry_run, no_preview=no_preview, wait=wait, as_json=as_json)
