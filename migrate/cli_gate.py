"""`keyshift gate`: what Archive may do now."""

from __future__ import annotations

import typer

from migrate import gate, show_gate
from migrate.stack import Project
from migrate.terminal import AsJson, TenantName, printed

app = typer.Typer()


@app.command("gate")
def gate_(name: TenantName, as_json: AsJson = False) -> None:
    """Tell what Archive may do with a tenant now, and why not (vendor)."""
    found = gate.describe(Project.find(), name)
    printed(found, as_json, show_gate.gate)
    if not found["is_known"]:
        raise typer.Exit(1)
