"""`keyshift rotate`: to a new key that its customer has uploaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from migrate.errors import RefusedInput
from migrate.operations import OperationKind


def register(app: typer.Typer, run: Callable[..., None], dry_run: Callable[..., None]) -> None:
    """Adds the verb. `run` and `dry_run` do so with an operation of any kind."""

    @app.command()
    def rotate(
        name: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")],
        dry: Annotated[
            bool, typer.Option("--dry-run", help="Print the plan, previews of its layouts and a price; change nothing.")
        ] = False,
        no_preview: Annotated[bool, typer.Option("--no-preview", "--quick", help="Dry run without previews.")] = False,
        wait: Annotated[
            float, typer.Option("--wait", min=0, help="Seconds to wait for a key that is lost midway, before stopping.")
        ] = 600.0,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    ) -> None:
        """Re-key a byok tenant in place to the key uploaded last; jobs go on (vendor)."""
        if no_preview and not dry:
            raise RefusedInput(
                "--no-preview belongs to --dry-run", hint=f"keyshift rotate {name} --dry-run --no-preview"
            )
        if dry:
            dry_run(name, OperationKind.ROTATE, None, with_previews=not no_preview, as_json=as_json)
            return
        run(name, OperationKind.ROTATE, None, wait=wait, as_json=as_json)
