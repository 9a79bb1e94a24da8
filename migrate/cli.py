"""`keyshift`: what an operator of the vendor and, for `key wrap`, a customer types.

Exit codes: 0 done, 1 failed, 2 usage or refused input, 3 waiting for a person or a key.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from migrate import (
    cli_azure,
    cli_backup,
    cli_byokms,
    cli_fleet,
    cli_gate,
    cli_life,
    cli_pipeline,
    cli_policy,
    cli_revoke,
    cli_rotate,
    cli_stamp,
    cli_upgrade,
    cli_watch,
    failures,
    show,
    tenants,
)
from migrate.errors import KeyshiftError
from migrate.gate import ArchiveClient
from migrate.intake import Ids
from migrate.keys import wrap as wrapping
from migrate.operations import OperationKind
from migrate.redaction import configure_logging
from migrate.stack import Project
from migrate.terminal import (
    PATIENCE_SECONDS,
    REFUSED_WITHIN_SECONDS,
    AsJson,
    TenantName,
    WaitSeconds,
    begin,
    err,
    interruptible,
    out,
    printed,
    reporter,
    run,
    runner_of,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
)
tenant_app = typer.Typer(no_args_is_help=True, help="Tenants and what they are made of (vendor).")
key_app = typer.Typer(no_args_is_help=True, help="Customer keys, uploaded or in their own account.")
archive_app = typer.Typer(no_args_is_help=True, help="What the Archive service does (vendor).")
verdict_app = typer.Typer(no_args_is_help=True, help="Signed proofs of copies and purges (vendor).")
stack_app = typer.Typer(no_args_is_help=True, help="The tenant's Pulumi stack (vendor).")
app.add_typer(tenant_app, name="tenant")
app.add_typer(key_app, name="key")
app.add_typer(archive_app, name="archive")
app.add_typer(verdict_app, name="verdict")
app.add_typer(stack_app, name="stack")
app.add_typer(cli_gate.app)
app.add_typer(cli_fleet.app, name="fleet")
app.add_typer(cli_stamp.app, name="stamp")
app.add_typer(cli_backup.app, name="backup")


def main() -> None:
    """The console script. The one place that turns an error into an exit code."""
    configure_logging()
    try:
        app()
    except Exception as error:  # noqa: BLE001 - whatever it is, a person gets a sentence and not a traceback
        structlog.get_logger().debug("stopped", exc_info=error)
        raise SystemExit(_told(failures.explained(error), as_json="--json" in sys.argv)) from None


def _told(error: KeyshiftError, *, as_json: bool) -> int:
    """Says what went wrong, once; returns the exit code."""
    show.clear_line(err)
    if as_json:
        out.print_json(json.dumps({"error": {"code": error.code, "message": error.message, "hint": error.hint}}))
    else:
        err.print(f"keyshift: {show.kind_of(error)}: {error.message}", markup=False)
        if error.hint:
            err.print(f"keyshift: hint: {error.hint}", markup=False)
    return error.exit_code


# tenant ---------------------------------------------------------------------------------------


@tenant_app.command("create")
def tenant_create(
    name: TenantName,
    customer: Annotated[str, typer.Option(help="The customer who owns the tenant and its keys.")],
    mode: Annotated[str, typer.Option(help="standard or byok (byokms, byokv where offered).")] = "standard",
    cloud: Annotated[str, typer.Option(help="aws or azure.")] = "aws",
    stamp: Annotated[str | None, typer.Option(help="Its stamp; else the region's first with room.")] = None,
    region: Annotated[str, typer.Option(help="The cloud's region.")] = "eu-west-1",
    up: Annotated[bool, typer.Option(help="Also bring it up; without it, pulumi up does.")] = True,
    as_json: AsJson = False,
) -> None:
    """Make a tenant's record and stack, and bring it up (vendor)."""
    project = Project.find()
    said = {"customer": customer, "keyMode": mode, "cloud": cloud, "region": region}
    tenants.create(project, name, said if stamp is None else {**said, "stamp": stamp})
    if up:
        run(name, OperationKind.CREATE, None, as_json=as_json)
    else:
        printed(tenants.describe(project, name), as_json, show.tenant)


@tenant_app.command("list")
def tenant_list(as_json: AsJson = False) -> None:
    """List the tenants, their mode and what serves (vendor)."""
    printed(tenants.describe_all(Project.find()), as_json, show.tenants)


@tenant_app.command("show")
def tenant_show(name: TenantName, as_json: AsJson = False) -> None:
    """Show a tenant's layout: keys, storages, searches, pipelines, gate (vendor)."""
    printed(tenants.describe(Project.find(), name), as_json, show.tenant)


# key ------------------------------------------------------------------------------------------


@key_app.command("request")
def key_request(
    name: TenantName,
    output: Annotated[Path, typer.Option("--out", help="Folder for the wrapping public key to send.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Make an empty key and get the public key that the customer wraps with (vendor)."""
    project = Project.find()
    if not tenants.has_empty_key(project, name):
        runner_of(name).run(OperationKind.REQUEST)
    printed(tenants.key_request(project, name, output), as_json, show.key_request)


@key_app.command("wrap")
def key_wrap(
    public_key: Annotated[Path, typer.Argument(help="The wrapping public key that the vendor sent.")],
    output: Annotated[Path, typer.Option("--out", help="Where to write the wrapped key.")] = Path("wrapped-key.bin"),
    key: Annotated[
        Path | None, typer.Option(help="Your own key: 32 bytes, or an RSA private key; made when left out.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Where to keep the plaintext key; needed to import again.")] = None,
    openssl: Annotated[bool, typer.Option("--openssl", help="Only print the same as openssl commands.")] = False,
    azure: Annotated[bool, typer.Option("--azure", help="An RSA key, as a .byok file for Azure Key Vault.")] = False,
    as_json: AsJson = False,
) -> None:
    """Wrap a key for the vendor; run it on your own machine (customer)."""
    if azure:
        cli_azure.key_wrap(public_key, output, key, keep, only_openssl=openssl, as_json=as_json)
        return
    if openssl:
        out.print("\n".join(wrapping.openssl_lines(public_key, output)), markup=False)
        return
    printed(tenants.wrap_key(public_key, output, key, keep), as_json, show.wrapped)


@key_app.command("upload")
def key_upload(
    name: TenantName,
    wrapped: Annotated[Path, typer.Argument(help="The wrapped key, as `key wrap` wrote it.")],
    sha256: Annotated[str, typer.Option(help="The SHA-256 that `key wrap` printed.")],
    as_json: AsJson = False,
) -> None:
    """Import the wrapped key that the customer sent (vendor)."""
    printed(tenants.key_upload(Project.find(), name, wrapped, sha256), as_json, show.uploaded)


@key_app.command("list")
def key_list(name: TenantName, as_json: AsJson = False) -> None:
    """List a tenant's keys with state and use (vendor)."""
    printed(tenants.keys(Project.find(), name), as_json, show.keys)


# operations -----------------------------------------------------------------------------------


@app.command()
def enable(
    name: TenantName,
    mode: Annotated[str, typer.Option(help="The mode to move to.")] = "byok",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, previews of its layouts and a price; change nothing.")
    ] = False,
    no_preview: Annotated[bool, typer.Option("--no-preview", "--quick", help="Dry run without previews.")] = False,
    wait: WaitSeconds = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Move a living tenant under the customer's own key (vendor)."""
    begin(name, OperationKind.ENABLE, mode, dry_run=dry_run, no_preview=no_preview, wait=wait, as_json=as_json)


cli_life.register(app)
cli_rotate.register(app)
cli_upgrade.register(app)
cli_byokms.register(app, key_app)
cli_pipeline.register(app, archive_app)
app.add_typer(cli_policy.app, name="policy")


@app.command()
def resume(name: TenantName, wait: WaitSeconds = PATIENCE_SECONDS, as_json: AsJson = False) -> None:
    """Go on with the tenant's unfinished operation; safe to run at any time (vendor)."""
    with interruptible(name):
        operation = runner_of(name, wait=wait, as_json=as_json).resume()
    printed(tenants.report(Project.find(), operation), as_json, show.report)


@app.command()
def abort(
    name: TenantName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the way back and change nothing.")] = False,
    wait: WaitSeconds = PATIENCE_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Undo the unfinished operation, until the new side serves (vendor)."""
    runner = runner_of(name, wait=wait, as_json=as_json)
    if dry_run:
        printed(runner.preview_abort().model_dump(mode="json"), as_json, show.plan)
        return
    with interruptible(name):
        operation = runner.abort()
    printed(tenants.report(Project.find(), operation), as_json, show.report)


@app.command()
def seal(
    name: TenantName,
    reason: Annotated[str, typer.Option(help="Why; everybody who finds the tenant closed reads it.")],
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to go on trying paths that are not refused yet.")
    ] = REFUSED_WITHIN_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Close a tenant at once, whatever runs: emergency lock (vendor)."""
    found = tenants.seal(Project.find(), name, reason, wait, reporter(name, as_json=as_json))
    printed(found, as_json, show.seal)
    if found["still_open"]:
        raise typer.Exit(1)


cli_revoke.register(app, key_app)
cli_watch.register(app)


@app.command()
def status(
    name: TenantName,
    watch: Annotated[bool, typer.Option("--watch", help="Go on printing until the operation ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell where a tenant and its operation stand; reads only (vendor)."""
    project = Project.find()
    last: dict[str, Any] = {}
    ticker = show.Ticker(out)
    while True:
        now = tenants.status(project, name)
        if now != last and (as_json or not show.is_only_step(last, now)):
            printed(now, as_json, show.status)
        elif now != last and not show.is_only_progress(last, now):
            ticker.line(show.place_text(now["operation"]))
        elif now != last:
            ticker.progress(*show.progress_of(now["operation"]))
        last = now
        if not watch or now["worked_on_by"] is None:
            return
        time.sleep(0.5)


@app.command()
def operations(name: TenantName, as_json: AsJson = False) -> None:
    """List a tenant's operations: how they ended, how long they took (vendor)."""
    printed(tenants.operations(Project.find(), name), as_json, show.operations)


# archive, search, verdicts --------------------------------------------------------------------


@archive_app.command("import")
def archive_import(
    name: TenantName,
    path: Annotated[Path, typer.Argument(help="NDJSON or CSV files, a folder of attachments, or a folder of both.")],
    id_columns: Annotated[
        list[str] | None,
        typer.Option("--id", help="TYPE=COLUMN[,COLUMN] or COLUMN[,COLUMN]: what names a record; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load records and attachments as the Archive service would (vendor)."""
    printed(
        tenants.archive_import(Project.find(), name, path, _ids(id_columns or []), reporter(name, as_json=as_json)),
        as_json,
        show.imported,
    )


@app.command()
def search(
    name: TenantName,
    query: Annotated[str, typer.Argument(help="Words to look for.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many records to print.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Search the deployment that serves, through the read alias (vendor)."""
    printed(ArchiveClient(Project.find(), name).search(query, limit), as_json, show.found)


@verdict_app.command("list")
def verdict_list(name: TenantName, as_json: AsJson = False) -> None:
    """List a tenant's verdicts (vendor)."""
    printed(tenants.verdicts(Project.find(), name), as_json, show.verdicts)


@verdict_app.command("show")
def verdict_show(
    name: TenantName,
    id: Annotated[str, typer.Argument(metavar="VERDICT", help="Its id.")],
    key: Annotated[
        str | None, typer.Option("--object", metavar="KEY", help="Only prove that this object is covered.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one verdict after checking its signature (vendor)."""
    if key is not None:
        printed(tenants.verdict_proof(Project.find(), name, id, key), as_json, show.proof)
        return
    printed(tenants.verdict(Project.find(), name, id), as_json, show.verdict)


@verdict_app.command("check")
def verdict_check(
    name: TenantName,
    id: Annotated[
        str | None, typer.Argument(metavar="[VERDICT]", help="Its id; all of the tenant if left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute proofs from what lives now (vendor)."""
    found = tenants.check_verdicts(Project.find(), name, id, reporter(name, as_json=as_json))
    printed(found, as_json, show.checks)
    if not found["holds"]:
        raise SystemExit(1)


@stack_app.command("render")
def stack_render(name: TenantName, as_json: AsJson = False) -> None:
    """Write the stack file anew from the tenant's record (vendor)."""
    printed(tenants.render(Project.find(), name), as_json, show.rendered)


def _ids(options: list[str]) -> Ids:
    named = [option.rpartition("=") for option in options]
    return Ids(
        by_type={type_: tuple(columns.split(",")) for type_, _, columns in named if type_},
        default=next((tuple(columns.split(",")) for type_, _, columns in named if not type_), ()),
    )
