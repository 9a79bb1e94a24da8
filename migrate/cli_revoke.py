"""`keyshift revoke`, `restore`, `key destroy` and `key declare-lost`: what closes a tenant on purpose, and opens it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from migrate import show_revoke
from migrate.errors import RefusedInput
from migrate.progress import Report
from migrate.stack import Project

Print = Callable[[Any, bool, Callable[[Any], object]], None]
Reporter = Callable[[str, bool], Report]

REFUSED_WITHIN_SECONDS = 300.0
BACK_WITHIN_SECONDS = 1800.0
"""Elastic says that a deployment whose key came back may need up to 30 minutes."""

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")]
KeyName = Annotated[str, typer.Argument(metavar="KEY", help="The key's number in the layout, k1 and so on.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Probing = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to go on trying paths that are not refused yet.")
]


def register(app: typer.Typer, key_app: typer.Typer, say: Print, reporter: Reporter) -> None:
    """Adds the verbs to the command and to its group `key`."""
    _register_access(app, say, reporter)
    _register_keys(key_app, say, reporter)


def _register_access(app: typer.Typer, say: Print, reporter: Reporter) -> None:
    @app.command()
    def revoke(
        name: TenantName,
        reason: Annotated[str, typer.Option(help="Why; everybody who finds the tenant closed reads it.")],
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the tenant's name.")] = False,
        wait: Probing = REFUSED_WITHIN_SECONDS,
        as_json: AsJson = False,
    ) -> None:
        """Withdraw a tenant's keys and close all access, measured, until a restore (vendor)."""
        from migrate.revoke import Revoker, StillOpen  # noqa: PLC0415 - a second of imports that only operations need

        revoker = Revoker(Project.find(), name, reporter(name, as_json))
        _confirm(name, given=name if yes else None, what=f"revoking closes {name} to everybody", flag="--yes")
        try:
            found = revoker.revoke(reason, limit=wait)
        except StillOpen as still_open:
            say(still_open.found, as_json, show_revoke.revoked)
            raise typer.Exit(1) from None
        say(found, as_json, show_revoke.revoked)

    @app.command()
    def restore(
        name: TenantName,
        reason: Annotated[str, typer.Option(help="Why it may be opened again; goes into the log.")] = "",
        read_all: Annotated[
            bool, typer.Option("--read-all", help="Read every object whole before it is opened, not a sample.")
        ] = False,
        accept: Annotated[
            bool, typer.Option("--accept-changes", help="Open it also when more or less lies there than was closed.")
        ] = False,
        wait: Annotated[
            float, typer.Option("--wait", min=0, help="Seconds to wait for keys and searches to come back.")
        ] = BACK_WITHIN_SECONDS,
        as_json: AsJson = False,
    ) -> None:
        """Open a sealed or revoked tenant again, once its data was compared and read (vendor)."""
        from migrate.integrity import Wanted  # noqa: PLC0415 - as above
        from migrate.revoke import Revoker  # noqa: PLC0415 - as above

        revoker = Revoker(Project.find(), name, reporter(name, as_json))
        found = revoker.restore(reason, limit=wait, wanted=Wanted(read_all=read_all, accept=accept))
        say(found, as_json, show_revoke.restored)


def _register_keys(key_app: typer.Typer, say: Print, reporter: Reporter) -> None:
    @key_app.command("destroy")
    def key_destroy(
        name: TenantName,
        key: KeyName,
        reason: Annotated[str, typer.Option(help="Why; stands in the certificate.")],
        days: Annotated[int, typer.Option(help="Days until KMS deletes the key, 7 to 30.")] = 30,
        now: Annotated[
            bool, typer.Option("--now", help="Delete the imported material at once; the empty key ends after --days.")
        ] = False,
        confirm: Annotated[
            str | None, typer.Option(metavar="PHRASE", help='"destroy KEY of TENANT", instead of being asked for it.')
        ] = None,
        wait: Probing = REFUSED_WITHIN_SECONDS,
        as_json: AsJson = False,
    ) -> None:
        """Destroy a customer's key in our account, and all that lies under it, under a certificate (vendor)."""
        from migrate.destroy import Destroyer, Order, phrase  # noqa: PLC0415 - as above

        destroyer = Destroyer(Project.find(), name, reporter(name, as_json))
        order = Order(key=key, reason=reason, days=days, at_once=now)
        if not destroyer.is_done(key):
            destroyer.refuse(order)
            _confirm(
                phrase(name, key),
                given=confirm,
                what=f"destroying {key} cannot be undone",
                flag=f'--confirm "{phrase(name, key)}"',
            )
        say(destroyer.destroy(order, limit=wait), as_json, show_revoke.destroyed)

    @key_app.command("declare-lost")
    def key_declare_lost(
        name: TenantName,
        key: KeyName,
        reason: Annotated[str, typer.Option(help="How it was lost, and who says so.")],
        wait: Probing = REFUSED_WITHIN_SECONDS,
        as_json: AsJson = False,
    ) -> None:
        """Record that a key is lost, seal the tenant, and say what is lost with it (vendor)."""
        from migrate.destroy import Destroyer  # noqa: PLC0415 - as above

        found = Destroyer(Project.find(), name, reporter(name, as_json)).declare_lost(key, reason, limit=wait)
        say(found, as_json, show_revoke.declared_lost)
        if found["still_open"]:
            raise typer.Exit(1)


def _confirm(wanted: str, *, given: str | None, what: str, flag: str) -> None:
    """Raises RefusedInput unless `wanted` was given, or is typed by whoever sits at the terminal."""
    if given is None and sys.stdin.isatty():
        given = typer.prompt(f"{what}; to go on type: {wanted}\n", default="", show_default=False, err=True)
    if (given or "").strip() != wanted:
        raise RefusedInput(f"{what}, and was not confirmed; nothing was changed", hint=flag, code="not-confirmed")
