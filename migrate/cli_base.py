"""What every part of the command line shares: where it prints, common parameters, how progress is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from migrate import show
from migrate.events import Scribe, Tell
from migrate.events import as_json as as_json_line
from migrate.progress import Progress, Speedometer

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

# Not on a terminal nothing is cut or folded: a script may read it.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_result(value: Any, as_json: bool, people: Callable[[Any], object]) -> None:
    """Prints what a command found: as JSON, or as `people` makes it."""
    show.clear_line(err)
    if as_json:
        out.print_json(json.dumps(value, default=str))
    else:
        with out.capture() as shown:
            out.print(people(value))
        # A table pads its last column, which wraps where a line is narrower.
        out.file.write("".join(f"{line.rstrip()}\n" for line in shown.get().splitlines()))


def teller(*, as_json: bool) -> Tell:
    if as_json:
        return lambda event: err.print(as_json_line(event), markup=False)
    return show.Ticker(err)


def reporter(name: str, *, as_json: bool) -> Callable[[Progress], None]:
    """For what is no operation but takes as long as one."""
    scribe, speed = Scribe(teller(as_json=as_json), tenant=name), Speedometer()
    return lambda progress: scribe.progress(None, progress, speed(progress))
