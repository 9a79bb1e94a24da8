"""`keyshift revoke`, `restore`, `key destroy` and `key declare-lost`: what closes a tenant on purpose, and opens it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from migrate import show_revoke
from migrate.errors import RefusedInput
from migrate.stack import Project
from migrate.terminal import BACK_WITHIN_SECONDS, REFUSED_WITHIN_SECONDS, AsJson, TenantName, printed, reporter

KeyName = Annotated[str, typer.Argument(metavar="KEY", help="The key's number in the layout, k1 and so on.")]
Probing = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to go on trying paths that are not refused yet.")
]


def register(app: typer.Typer, key_app: typer.Typer) -> None:
    """Adds the verbs to `keyshift` and to its group `key`."""
    app.command()(revoke)
    app.command()(restore)
    key_app.command("destroy")(key_destroy)
    key_app.command("declare-lost")(key_declare_lost)


def revoke(
    name: TenantName,
    reason: Annotated[str, typer.Option(help="Why; everybody who finds the tenant closed reads it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the tenant's name.")] = False,
    wait: Probing = REFUSED_WITHIN_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Withdraw a tenant's keys and close all access, until a restore (vendor)."""
    from migrate.revoke import Revoker, StillOpen  # noqa: PLC0415 - a second of imports that only operations need

    revoker = Revoker(Project.find(), name, reporter(name, as_json=as_json))
    _confirm(name, given=name if yes else None, what=f"revoking closes {name} to everybody", flag="--yes")
    try:
        found = revoker.revoke(reason, limit=wait)
    except StillOpen as still_open:
        printed(still_open.found, as_json, show_revoke.revoked)
        raise typer.Exit(1) from None
    printed(found, as_json, show_revoke.revoked)


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
    """Open a sealed or revoked tenant again, once its data was read (vendor)."""
    from migrate.integrity import Wanted  # noqa: PLC0415 - as above
    from migrate.revoke import Revoker  # noqa: PLC0415 - as above

    revoker = Revoker(Project.find(), name, reporter(name, as_json=as_json))
    found = revoker.restore(reason, limit=wait, wanted=Wanted(read_all=read_all, accept=accept))
    printed(found, as_json, show_revoke.restored)


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
    """Destroy a key in our account with all that lies under it; signs a certificate (vendor)."""
    from migrate.destroy import Destroyer, Order, phrase  # noqa: PLC0415 - as above

    destroyer = Destroyer(Project.find(), name, reporter(name, as_json=as_json))
    order = Order(key=key, reason=reason, days=days, at_once=now)
    if not destroyer.is_done(key):
        destroyer.refuse(order)
        _confirm(
            phrase(name, key),
            given=confirm,
            what=f"destroying {key} cannot be undone",
            flag=f'--confirm "{phrase(name, key)}"',
        )
    printed(destroyer.destroy(order, limit=wait), as_json, show_revoke.destroyed)


def key_declare_lost(
    name: TenantName,
    key: KeyName,
    reason: Annotated[str, typer.Option(help="How it was lost, and who says so.")],
    wait: Probing = REFUSED_WITHIN_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Record that a key is lost, seal the tenant, say what is lost (vendor)."""
    from migrate.destroy import Destroyer  # noqa: PLC0415 - as above

    found = Destroyer(Project.find(), name, reporter(name, as_json=as_json)).declare_lost(key, reason, limit=wait)
    printed(found, as_json, show_revoke.declared_lost)
    if found["still_open"]:
        raise typer.Exit(1)


def _confirm(wanted: str, *, given: str | None, what: str, flag: str) -> None:
    """Raises RefusedInput unless `wanted` was given, or is typed by whoever sits at the terminal."""
    if given is None and sys.stdin.isatty():
        given = typer.prompt(f"{what}; to go on type: {wanted}\n", default="", show_default=False, err=True)
    if (given or "").strip() != wanted:
        raise RefusedInput(f"{what}, and was not confirmed; nothing was changed", hint=flag, code="not-confirmed")
