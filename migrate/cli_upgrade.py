"""`keyshift upgrade`: a tenant's search at another version of Elasticsearch."""

from __future__ import annotations

from typing import Annotated

import typer

from migrate.cli_life import DryRun, NoPreview
from migrate.operations import OperationKind
from migrate.terminal import PATIENCE_SECONDS, AsJson, TenantName, WaitSeconds, begin


def register(app: typer.Typer) -> None:
    """Adds the verb to `keyshift`."""
    app.command()(upgrade)


def upgrade(
    name: TenantName,
    version: Annotated[
        str, typer.Option("--search-version", metavar="VERSION", help="Elasticsearch's, such as 8.19.3.")
    ],
    dry_run: DryRun = False,
    no_preview: NoPreview = False,
    wait: WaitSeconds = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Move a tenant to a new search of a newer version; jobs go on (vendor)."""
    begin(
        name,
        OperationKind.UPGRADE,
        None,
        asked={"search_version": version},
        dry_run=dry_run,
        no_preview=no_preview,
        wait=wait,
        as_json=as_json,
    )
