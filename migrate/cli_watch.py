"""`keyshift watch`: are the customers' keys still there?"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from migrate import show_watch
from migrate.errors import RefusedInput
from migrate.stack import Project
from migrate.terminal import out

INTERVAL_SECONDS = 60.0
MIN_INTERVAL_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Adds the verb to `keyshift`."""
    app.command()(watch)


def watch(
    tenant: Annotated[
        list[str] | None, typer.Option(help="Watch only this tenant; may be repeated. All if left out.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once; the exit code says what was found.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.")] = INTERVAL_SECONDS,
    looks: Annotated[int, typer.Option(min=2, help="Refused looks in a row before a tenant is closed.")] = 2,
    breaker_customers: Annotated[
        int, typer.Option(min=1, help="Close nothing when so many customers fail at once,")
    ] = 3,
    breaker_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="and so large a part of those that were looked at.")
    ] = 0.25,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON event a line.")] = False,
) -> None:
    """Look at customers' keys; close what one took away, open it when it is back (vendor).

    With --once it ends with 0 when all keys work, 3 when a customer has to act, 1 when something failed or so
    many keys are gone at once that nothing was closed.
    """
    from migrate.watching.decide import Rules  # noqa: PLC0415 - a second of imports that only the watch needs
    from migrate.watching.round import Watch  # noqa: PLC0415 - as above

    if interval < MIN_INTERVAL_SECONDS:
        raise RefusedInput(
            f"an interval of {interval:g} s would only throttle KMS",
            hint=f"keyshift watch --interval {MIN_INTERVAL_SECONDS:g} or more",
            code="interval",
        )
    rules = Rules(looks=looks, breaker_customers=breaker_customers, breaker_fraction=breaker_fraction)

    def tell(event: dict[str, Any]) -> None:
        out.print(json.dumps(event, default=str) if as_json else show_watch.event(event), markup=False)

    watching = Watch(Project.find(), tell, rules, tuple(tenant or ()))
    if once:
        raise SystemExit(watching.round().exit_code)
    while True:
        began = time.monotonic()
        watching.round()
        time.sleep(max(0.0, interval - (time.monotonic() - began)))
