"""Verbs about a key in the customer's own AWS account."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrate import show, show_azure, show_byokms, tenants
from migrate.errors import RefusedInput
from migrate.operations import OperationKind
from migrate.stack import Project
from migrate.terminal import PATIENCE_SECONDS, AsJson, TenantName, interruptible, printed, runner_of, teller
from stacks.layout import OnRotation

if TYPE_CHECKING:
    from migrate.rotation import Rotations

WAITS = 3
WAITING = frozenset({"paused", "waits", "queued"})


def register(app: typer.Typer, key_app: typer.Typer) -> None:
    """Adds the verbs to `keyshift` and to `keyshift key`."""
    key_app.command("policy")(key_policy)
    key_app.command("onboard")(key_onboard)
    key_app.command("check")(key_check)
    key_app.command("follow")(key_follow)
    app.command()(confirm)


def key_policy(
    name: TenantName,
    account: Annotated[str | None, typer.Option(help="The customer's AWS account, 12 digits.")] = None,
    output: Annotated[Path | None, typer.Option("--out", help="Also write the document into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the policy a customer attaches to their own key (vendor)."""
    from migrate.keys import onboarding  # noqa: PLC0415 - Pulumi's SDK, which only these verbs need

    printed(onboarding.print_policy(Project.find(), name, account, output), as_json, show_byokms.policy)


def key_onboard(
    name: TenantName,
    alias: Annotated[str | None, typer.Option(help="AWS: the ARN of the customer's KMS alias.")] = None,
    vault: Annotated[str | None, typer.Option(help="Azure: the address of the customer's vault.")] = None,
    key: Annotated[str | None, typer.Option(help="Azure: the name of their key, without a version.")] = None,
    directory: Annotated[str | None, typer.Option(help="Azure: the id of their Entra tenant.")] = None,
    pause_on: Annotated[
        str | None, typer.Option(help="any: each rotation pauses Archive. alias: only a moved alias does.")
    ] = None,
    rebuild_search: Annotated[
        bool | None,
        typer.Option("--rebuild-search/--keep-search", help="A new search also where the key's ARN stays."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bind a key in the customer's own account or vault (vendor)."""
    project = Project.find()
    terms = _terms(project, name, pause_on, rebuild_search)

    def bind(asked: dict[str, Any]) -> object:
        with interruptible(name):
            return runner_of(name, as_json=as_json).run(OperationKind.ONBOARD, asked=asked)

    if vault is not None and key is not None and directory is not None and alias is None:
        from migrate.keys import vault_onboarding  # noqa: PLC0415 - Azure's SDK, which only this needs

        bound = vault_onboarding.onboard(
            project, name, vault=vault, key=key, directory=directory, on_rotation=terms, bind=bind
        )
        printed(bound, as_json, show_azure.onboarded)
        return
    if alias is None or (vault, key, directory) != (None, None, None):
        raise RefusedInput(
            "a key of the customer's own is named by --alias (AWS), or by --vault, --key and --directory (Azure)",
            hint="keyshift key onboard --help",
            code="no-key-named",
        )
    from migrate.keys import onboarding  # noqa: PLC0415 - Pulumi's SDK, which only these verbs need

    found = onboarding.onboard(project, name, alias, terms, bind)
    printed(found, as_json, show_byokms.check)
    if not found["fit"]:
        raise typer.Exit(1)


def key_check(
    name: TenantName,
    alias: Annotated[str | None, typer.Option(help="The alias ARN; the bound one if left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try a customer's own key in every way; changes nothing (vendor)."""
    from migrate.keys import onboarding  # noqa: PLC0415 - as above

    found = onboarding.check_key(Project.find(), name, alias)
    printed(found, as_json, show_byokms.check)
    if not found["fit"]:
        raise typer.Exit(1)


def key_follow(name: TenantName, as_json: AsJson = False) -> None:
    """Look where the alias leads; a rotation pauses the tenant (vendor)."""
    with interruptible(name):
        found = _rotations(name, as_json=as_json).follow()
    printed(found, as_json, show_byokms.followed)
    if found["came"] in WAITING:
        raise typer.Exit(WAITS)


def confirm(
    name: TenantName,
    token: Annotated[str, typer.Option(help="What `status` and `key follow` tell; a new rotation ends it.")],
    as_json: AsJson = False,
) -> None:
    """Confirm a rotation of the customer's own key (customer)."""
    with interruptible(name):
        operation = _rotations(name, as_json=as_json).confirm(token, f"{getpass.getuser()}@{socket.gethostname()}")
    printed(tenants.report(Project.find(), operation), as_json, show.report)


def _rotations(name: str, *, as_json: bool) -> Rotations:
    from migrate.rotation import Rotations  # noqa: PLC0415 - a second of imports that only operations need

    return Rotations(Project.find(), name, teller(as_json=as_json), patience=PATIENCE_SECONDS)


def _terms(project: Project, name: str, pause_on: str | None, rebuild_search: bool | None) -> OnRotation | None:
    """What the customer wants at a rotation; what is not said stays as it is."""
    if pause_on is None and rebuild_search is None:
        return None
    if pause_on not in {None, "any", "alias"}:
        raise RefusedInput(f"--pause-on takes any or alias, not {pause_on!r}", hint="keyshift key onboard --help")
    now = tenants.records(project).tenant(name).layout.on_rotation
    return OnRotation(
        pause=pause_on or now.pause,
        rebuilds_search=now.rebuilds_search if rebuild_search is None else rebuild_search,
    )
