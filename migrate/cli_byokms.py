"""Commands about a key in the customer's own AWS account."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrate import show, show_byokms
from migrate.errors import RefusedInput
from migrate.events import Tell
from migrate.operations import OperationKind
from migrate.stack import Project
from stacks.layout import OnRotation

if TYPE_CHECKING:
    from migrate.runner import Runner

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
WAITS = 3


@dataclass(frozen=True)
class Terminal:
    """What the command line shares with its parts."""

    print: Callable[[Any, bool, Callable[[Any], object]], None]
    runner: Callable[..., Runner]
    teller: Callable[..., Tell]
    interruptible: Callable[[str], AbstractContextManager[None]]
    report: Callable[[Project, Any], Any]


def register(app: typer.Typer, key_app: typer.Typer, terminal: Terminal) -> None:
    """Adds the commands."""

    @key_app.command("policy")
    def key_policy(
        name: TenantName,
        account: Annotated[str | None, typer.Option(help="The customer's AWS account, 12 digits.")] = None,
        output: Annotated[Path | None, typer.Option("--out", help="Also write the document into this file.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Print the policy that a customer attaches to a KMS key of their own (vendor)."""
        from migrate.keys import onboarding  # noqa: PLC0415 - Pulumi's SDK, which only this needs

        found = onboarding.print_policy(Project.find(), name, account, output)
        terminal.print(found, as_json, show_byokms.policy)

    @key_app.command("check")
    def key_check(
        name: TenantName,
        alias: Annotated[str | None, typer.Option(help="The alias ARN; the bound one if left out.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Try a key of the customer's account in every way; changes nothing (vendor)."""
        from migrate.keys import onboarding  # noqa: PLC0415 - as above

        found = onboarding.check_key(Project.find(), name, alias)
        terminal.print(found, as_json, show_byokms.check)
        if not found["fit"]:
            raise typer.Exit(1)

    @key_app.command("onboard")
    def key_onboard(
        name: TenantName,
        alias: Annotated[str, typer.Option(help="The ARN of the customer's KMS alias, and nothing else.")],
        pause_on: Annotated[
            str | None, typer.Option(help="any: each rotation pauses Archive. alias: only a moved alias does.")
        ] = None,
        rebuild_search: Annotated[
            bool | None,
            typer.Option("--rebuild-search/--keep-search", help="A new search also where the key's ARN stays."),
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Check the key behind a customer's alias and bind it to the tenant (vendor)."""
        from migrate.keys import onboarding  # noqa: PLC0415 - as above

        project = Project.find()
        terms = _terms(project, name, pause_on, rebuild_search)

        def bind(asked: dict[str, Any]) -> object:
            with terminal.interruptible(name):
                return terminal.runner(name, as_json=as_json).run(OperationKind.ONBOARD, asked=asked)

        found = onboarding.onboard(project, name, alias, terms, bind)
        terminal.print(found, as_json, show_byokms.check)
        if not found["fit"]:
            raise typer.Exit(1)

    @key_app.command("follow")
    def key_follow(name: TenantName, as_json: AsJson = False) -> None:
        """Look where the customer's alias leads; a rotation pauses the tenant (vendor)."""
        with terminal.interruptible(name):
            found = _rotations(terminal, name, as_json=as_json).follow()
        terminal.print(found, as_json, show_byokms.followed)
        if found["came"] in {"paused", "waits", "queued"}:
            raise typer.Exit(WAITS)

    @app.command("confirm")
    def confirm(
        name: TenantName,
        token: Annotated[str, typer.Option(help="What `status` and `key follow` tell; it dies with a new rotation.")],
        as_json: AsJson = False,
    ) -> None:
        """Confirm a rotation in the customer's account; the tenant goes on under it (customer)."""
        with terminal.interruptible(name):
            operation = _rotations(terminal, name, as_json=as_json).confirm(token, _who())
        terminal.print(terminal.report(Project.find(), operation), as_json, show.report)


def _rotations(terminal: Terminal, name: str, *, as_json: bool) -> Any:
    from migrate.rotation import Rotations  # noqa: PLC0415 - a second of imports that only operations need

    return Rotations(Project.find(), name, terminal.teller(as_json=as_json), patience=600.0)


def _terms(project: Project, name: str, pause_on: str | None, rebuild_search: bool | None) -> OnRotation | None:
    """What the customer wants at a rotation; what is not said stays as it is."""
    if pause_on is None and rebuild_search is None:
        return None
    if pause_on not in {None, "any", "alias"}:
        raise RefusedInput(f"--pause-on takes any or alias, not {pause_on!r}", hint="keyshift key onboard --help")
    from migrate.tenants import records  # noqa: PLC0415 - as above

    now = records(project).tenant(name).layout.on_rotation
    return OnRotation(
        pause=pause_on or now.pause,
        rebuilds_search=now.rebuilds_search if rebuild_search is None else rebuild_search,
    )


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
