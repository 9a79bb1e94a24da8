"""Verbs that change a tenant's mode or end the tenant."""

from __future__ import annotations

from typing import Annotated

import typer

from migrate.errors import RefusedInput
from migrate.operations import OperationKind
from migrate.terminal import PATIENCE_SECONDS, AsJson, TenantName, WaitSeconds, begin

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan, previews of its layouts and a price; change nothing.")
]
NoPreview = Annotated[bool, typer.Option("--no-preview", "--quick", help="Dry run without previews.")]


def register(app: typer.Typer) -> None:
    """Adds the verbs to `keyshift`."""
    app.command()(change)
    app.command()(remove)
    app.command()(delete)


def change(
    name: TenantName,
    mode: Annotated[str, typer.Option(help="The mode to move to: standard, byok or byokms.")],
    dry_run: DryRun = False,
    no_preview: NoPreview = False,
    wait: WaitSeconds = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Move a living tenant from its mode to another one (vendor)."""
    begin(name, OperationKind.CHANGE, mode, dry_run=dry_run, no_preview=no_preview, wait=wait, as_json=as_json)


def remove(
    name: TenantName,
    dry_run: DryRun = False,
    no_preview: NoPreview = False,
    wait: WaitSeconds = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Move a living tenant from its customer's key back to the vendor's (vendor)."""
    begin(name, OperationKind.REMOVE, None, dry_run=dry_run, no_preview=no_preview, wait=wait, as_json=as_json)


def delete(
    name: TenantName,
    confirm: Annotated[str, typer.Option(metavar="TENANT", help="The tenant's name once more: this ends it.")] = "",
    dry_run: DryRun = False,
    no_preview: NoPreview = False,
    wait: WaitSeconds = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Delete a tenant for good: all it archived, its search, its stack (vendor)."""
    if not dry_run and confirm != name:
        raise RefusedInput(
            f"deleting tenant {name} takes everything that it has archived, for good; nothing was changed",
            hint=f"see what it would do: keyshift delete {name} --dry-run; then: keyshift delete {name} --confirm {name}",
            code="not-confirmed",
        )
    begin(name, OperationKind.DELETE, None, dry_run=dry_run, no_preview=no_preview, wait=wait, as_json=as_json)
