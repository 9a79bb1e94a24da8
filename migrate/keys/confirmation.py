"""A key of the customer's own account, as a living tenant meets it: is it fit, and have they confirmed a rotation?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from elasticsearch import ApiError

from migrate import aws
from migrate.copy.s3 import in_s3
from migrate.errors import KeyshiftError, Waiting
from migrate.keys.check import Alias, Came, Finding, Report, Ways, check, direct, trial
from migrate.live import Live
from migrate.operations import Request
from stacks.layout import KeyState, Layout, Mode
from stacks.units import CUSTOMERS

TOKEN_LENGTH = 16


def token(operation: str, layout: Layout) -> str:
    """What a confirmation of `operation` must say. It is bound to every key and material that was seen, old and new.

    No secret: it keeps somebody from confirming another rotation than the one they were told about.
    """
    keys = [[k.id, k.alias, k.arn, k.material] for k in layout.keys if k.alias is not None]
    seen = json.dumps([operation, layout.tenant, keys], separators=(",", ":"))
    return hashlib.sha256(seen.encode()).hexdigest()[:TOKEN_LENGTH]


def require_confirmed(request: Request, layout: Layout) -> dict[str, Any]:
    """Raises Waiting always: `keyshift confirm` does not end this wait, it takes the operation over."""
    name, warnings = layout.tenant, "; ".join(layout.gate.warnings)
    if request.is_barred:
        raise Waiting(
            f"tenant {name} is paused: {warnings}",
            waits_for="the customer to make the key behind the alias fit for us, or to move the alias back",
            hint=f"keyshift key follow {name} says what is missing; keyshift key policy {name} prints what to attach",
            code="key-barred",
        )
    raise Waiting(
        f"tenant {name} is paused: {warnings}",
        waits_for="the customer's confirmation",
        hint=f"keyshift confirm {name} --token {token(request.operation, layout)}",
        code="not-confirmed",
    )


def require_fit(live: Live, key: str) -> dict[str, Any]:
    """Returns what was found once the key can be used and its alias still leads to it. Raises Waiting until then."""
    layout = live.layout
    report = check(alias_of(layout, key), ways(live, key))
    if report.seen is not None and report.seen.arn != layout.key(key).arn:
        raise Waiting(
            f"{report.alias} leads to {report.seen.arn} now, no longer to {layout.key(key).arn}, which {key} stands for",
            waits_for="the alias to lead to the key that was bound",
            hint=f"keyshift key follow {layout.tenant}; where nothing serves under it yet: keyshift abort, key onboard",
            code="alias-moved",
        )
    if not report.is_fit:
        raise unfit(layout, key, report)
    return {"key": live.key_arn(key), "material": report.seen and report.seen.material}


def unfit(layout: Layout, key: str, report: Report) -> Waiting:
    return Waiting(
        f"the key {key} of tenant {layout.tenant} cannot be used: {report.summary()}",
        waits_for=f"the customer to mend the policy of {layout.key(key).arn}",
        hint=f"keyshift key policy {layout.tenant} prints what is missing; then keyshift resume {layout.tenant}",
        code="key-unfit",
    )


def require_through_s3(live: Live, key: str) -> None:
    """One object goes into each bucket under a customer's own key and comes out. Raises Waiting where it does not.

    The bucket's settings prove nothing: S3 takes any key there and asks KMS at the first object only.
    """
    if live.layout.key(key).alias is None:
        return
    for storage in _storages(live, key):
        side = live.storage(storage)
        found = trial(in_s3(side), storage, live.key_arn(key))
        if found.came is Came.FAILED:
            raise unfit(live.layout, key, Report(alias_of(live.layout, key).arn, None, [found]))


def alias_of(layout: Layout, key: str) -> Alias:
    """Raises KeyshiftError for a key that has none."""
    alias = layout.key(key).alias
    if alias is None:
        raise KeyshiftError(
            f"{key} of tenant {layout.tenant} lies in our account and has no alias of the customer's",
            hint=f"keyshift key list {layout.tenant}",
            code="no-alias",
        )
    return Alias.parse(alias, region=layout.region)


def ways(live: Live, key: str | None, *, is_writable: bool = False) -> Ways:
    """By which ways a living tenant can try a key. Nobody but Lambda may take the pipeline's role."""
    storages = {}
    for storage in _storages(live, key) if key else ():
        is_serving = live.layout.serves is not None and live.layout.serves.storage == storage
        roles = ("archive", "runner") if is_serving else ("runner",)
        storages[storage] = {role: in_s3(live.storage(storage, role)) for role in roles}
    searches = [u.id for u in live.layout.searches if key and u.key == key and u.id in live.outputs.get("searches", {})]
    return Ways(
        describer=aws.client(live.operator, "kms"),
        prober=live.client("runner", "kms") if key and "roles" in live.outputs else None,
        storages=storages,
        is_writable=is_writable,
        searches={search: _asking(live, search) for search in searches},
    )


def _storages(live: Live, key: str) -> list[str]:
    made = live.outputs.get("storages", {})
    return [unit.id for unit in live.layout.storages if unit.key == key and unit.id in made]


def _asking(live: Live, search: str) -> Callable[[], str]:
    def ask() -> str:
        try:
            live.search(search).cluster.health()
        except ApiError as error:
            return " ".join(str(error).split())
        return ""

    return ask


def next_command(layout: Layout) -> str | None:
    """What comes next for a tenant whose key lies, or is to lie, in the customer's account; None where nothing does."""
    name = layout.tenant
    bound = [k for k in layout.keys if k.alias is not None and k.state is KeyState.PENDING]
    if bound and layout.serves is None:
        return f"keyshift resume {name}"
    if bound and layout.mode is Mode.STANDARD:
        return f"keyshift enable {name} --mode {CUSTOMERS[layout.cloud]}"
    if bound and layout.mode is Mode.BYOK:
        return f"keyshift change {name} --mode {CUSTOMERS[layout.cloud]}"
    if layout.mode is Mode.BYOKMS and not layout.keys:
        return f"keyshift key policy {name} --account NUMBER, then keyshift key onboard {name} --alias ARN"
    if layout.mode is Mode.BYOKV and not layout.keys:
        return f"keyshift key onboard {name} --vault URI --key NAME --directory ID"
    return None


def bare(ways: Ways) -> Ways:
    """The same ways for a key under which nothing lies yet."""
    return replace(ways, storages={}, searches={})


def try_key(ways: Ways, arn: str) -> list[Finding]:
    """What fails when a key is used by its ARN, whatever its alias says."""
    return [one for one in direct(ways.prober, arn) if one.came is Came.FAILED]
