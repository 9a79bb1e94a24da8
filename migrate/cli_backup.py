"""`keyshift backup`: everything that the vendor's side knows, kept elsewhere and brought back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from migrate import backup, show_backup
from migrate.stack import Project
from migrate.terminal import AsJson, printed


class _Group(TyperGroup):
    """`keyshift backup FOLDER` is `keyshift backup create FOLDER`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["create", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(no_args_is_help=True, cls=_Group, help="Backups of records, logs, proofs and stacks (vendor).")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The backup's folder.")]
SignedBy = Annotated[str | None, typer.Option("--signed-by", help="The fingerprint that was printed when it was made.")]


@app.command()
def create(folder: Folder, as_json: AsJson = False) -> None:
    """Write a signed backup into a new folder (vendor)."""
    printed(backup.make(Project.find(), folder.absolute()), as_json, show_backup.made)


@app.command()
def check(folder: Folder, signed_by: SignedBy = None, as_json: AsJson = False) -> None:
    """Check that every file of a backup is what was signed (vendor)."""
    printed(backup.check_backup(folder.absolute(), signed_by), as_json, show_backup.checked)


@app.command()
def restore(folder: Folder, signed_by: SignedBy = None, as_json: AsJson = False) -> None:
    """Put a backup into a home that holds nothing yet (vendor)."""
    found = backup.restore(Project.find(), folder.absolute(), signed_by)
    printed(found, as_json, show_backup.restored)
