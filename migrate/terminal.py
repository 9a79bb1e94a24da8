"""What every verb of `keyshift` shares: its common arguments, running an operation, printing a result."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from migrate import show, tenants
from migrate.errors import RefusedInput
from migrate.events import Scribe, Tell
from migrate.events import as_json as as_json_line
from migrate.operations import OperationKind
from migrate.progress import Progress, Speedometer
from migrate.stack import Project

if TYPE_CHECKING:
    from migrate.runner import Runner

Asked = Mapping[str, Any]
TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")]
WaitSeconds = Annotated[
    float, typer.Option("--wait", min=0, help="Seconds to wait for a key that is lost midway, before stopping.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

PATIENCE_SECONDS = 600.0
REFUSED_WITHIN_SECONDS = 300.0
BACK_WITHIN_SECONDS = 1800.0
"""Elastic says that a deployment whose key came back may need up to 30 minutes."""

# Not on a terminal nothing is cut or folded: a script may read it.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def printed(value: Any, as_json: bool, people: Callable[[Any], object]) -> None:
    show.clear_line(err)
    if as_json:
        out.print_json(json.dumps(value, default=str))
    else:
        with out.capture() as shown:
            out.print(people(value))
        # A table pads its last column, which wraps where a line is narrower.
        out.file.write("".join(f"{line.rstrip()}\n" for line in shown.get().splitlines()))


def runner_of(name: str, *, wait: float = PATIENCE_SECONDS, as_json: bool = False) -> Runner:
    from migrate.runner import Runner  # noqa: PLC0415 - a second of imports that only operations need

    return Runner(Project.find(), name, teller(as_json=as_json), patience=wait)


def run(  # noqa: PLR0913 - as below
    name: str,
    kind: OperationKind,
    mode: str | None,
    *,
    asked: Asked | None = None,
    wait: float = PATIENCE_SECONDS,
    as_json: bool = False,
) -> None:
    """Begins an operation, walks it to its end, prints its closing table."""
    with interruptible(name):
        operation = runner_of(name, wait=wait, as_json=as_json).run(kind, mode, asked=asked)
    printed(tenants.report(Project.find(), operation), as_json, show.report)


def begin(  # noqa: PLR0913 - the options that every move has
    name: str,
    kind: OperationKind,
    mode: str | None,
    *,
    dry_run: bool,
    no_preview: bool,
    wait: float,
    as_json: bool,
    asked: Asked | None = None,
) -> None:
    """An operation with a dry run: prints that, or runs it. `asked`: what it is asked for beside a mode."""
    if no_preview and not dry_run:
        named = f" --mode {mode}" if mode else ""
        raise RefusedInput(
            "--no-preview belongs to --dry-run", hint=f"keyshift {kind} {name}{named} --dry-run --no-preview"
        )
    if dry_run:
        dry_run_of(name, kind, mode, asked=asked, with_previews=not no_preview, as_json=as_json)
        return
    run(name, kind, mode, asked=asked, wait=wait, as_json=as_json)


def dry_run_of(  # noqa: PLR0913 - as above
    name: str,
    kind: OperationKind,
    mode: str | None,
    *,
    with_previews: bool,
    as_json: bool,
    asked: Asked | None = None,
) -> None:
    """Prints the plan, previews of its layouts and a price; changes nothing."""
    from migrate import dry_run, show_dry_run  # noqa: PLC0415 - as for the runner

    runner = runner_of(name, as_json=as_json)
    plan = runner.preview(kind, mode, asked)
    report = reporter(name, as_json=as_json)
    found = dry_run.dry_run(Project.find(), plan, report, with_previews=with_previews)
    printed({**found, "preflight": runner.preflight}, as_json, show_dry_run.dry_run)


@contextmanager
def interruptible(name: str) -> Iterator[None]:
    """Ctrl-C ends the process at once, as a kill would: every step can be cut off and done again."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"\nkeyshift: stopped; nothing is lost. Go on with: keyshift resume {name}", markup=False)
        os._exit(130)


def teller(*, as_json: bool) -> Tell:
    if as_json:
        return lambda event: err.print(as_json_line(event), markup=False)
    return show.Ticker(err)


def reporter(name: str, *, as_json: bool) -> Callable[[Progress], None]:
    """For what is no operation but takes as long as one."""
    scribe, speed = Scribe(teller(as_json=as_json), tenant=name), Speedometer()
    return lambda progress: scribe.progress(None, progress, speed(progress))
