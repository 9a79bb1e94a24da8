"""`keyshift policy`: what the rules are, what one says, whether a stack keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from migrate import show_policy
from migrate.errors import RefusedInput
from migrate.stack import Project, Stack, write_atomically
from migrate.terminal import AsJson, printed
from policies import report
from policies.catalogue import RULES, rule

app = typer.Typer(no_args_is_help=True, help="What may never be provisioned (vendor).")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the policies (vendor)."""
    printed([report.explained(one) for one in RULES], as_json, show_policy.rules)


@app.command()
def explain(
    id: Annotated[str, typer.Argument(metavar="RULE", help="A policy's id, as an error or the list names it.")],
    as_json: AsJson = False,
) -> None:
    """Say what a policy demands, why, and what to do (vendor)."""
    found = rule(id)
    if found is None:
        near = [one.id for one in RULES if set(id.split("-")) & set(one.id.split("-"))]
        raise RefusedInput(
            f"there is no policy {id}", hint=f"one of {', '.join(near[:6])}" if near else "keyshift policy list"
        )
    printed(report.explained(found), as_json, show_policy.rule)


@app.command()
def check(
    stack: Annotated[str, typer.Argument(metavar="STACK", help="A stack: tenant-acme, stamp-aws-eu-west-1-01.")],
    sarif: Annotated[Path | None, typer.Option(help="Also write what is found as SARIF to this file.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write what is found as JUnit XML to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Preview a stack under the policies; changes nothing (vendor)."""
    found = Stack(Project.find(), stack).examine()
    broken = [
        report.Finding(rule=one.rule, stack=stack, resource=one.resource, message=one.message)
        for one in found
        if one.is_mandatory
    ]
    if sarif:
        write_atomically(sarif, json.dumps(report.sarif(broken), indent=1) + "\n")
    if junit:
        write_atomically(junit, report.junit(stack, broken))
    told = {
        "stack": stack,
        "rules": sum(one.check_change is None for one in RULES),
        "violations": [{"rule": one.rule, "resource": one.resource, "message": one.message} for one in broken],
        "undecided": [{"resource": one.resource, "message": one.message} for one in found if not one.is_mandatory],
    }
    printed(told, as_json, show_policy.checked)
    if broken:
        raise typer.Exit(1)
