"""Asking for something: every check that needs no cloud, then an order. Nothing is begun here."""

from __future__ import annotations

import re
from collections.abc import Callable
from hmac import compare_digest
from typing import Any

from console import views
from console.callers import Caller
from console.house import House, require, require_fresh
from console.orders import DESTRUCTIVE, QUEUED, TO_APPROVE, Kind, Lane, Order, Wanted, lane_of
from console.problems import Refused
from migrate.errors import RefusedInput
from migrate.events import Event
from migrate.keys.check import Alias
from migrate.operations import OperationKind
from migrate.pending import PendingRotations
from migrate.runner import Runner
from stacks.layout import OFFERED, Mode
from stacks.record import TenantRecord, connect

Data = dict[str, Any]
REPEAT = re.compile(r"[A-Za-z0-9_-]{8,80}")
PLANNED = frozenset({Kind.ENABLE, Kind.CHANGE, Kind.ROTATE, Kind.REMOVE, Kind.REQUEST})
SEALED_TOO = frozenset({Kind.REVOKE, Kind.RESTORE, Kind.CHECK})


def ask(  # noqa: PLR0913 - what one request carries
    house: House,
    caller: Caller,
    tenant: TenantRecord,
    kind: Kind,
    values: Data,
    *,
    repeat: str | None,
    if_match: str | None,
    phrase: str | None = None,
) -> Order:
    """Puts an order. Raises Refused or RefusedInput; then nothing was changed.

    `repeat`: the idempotency key. `if_match`: the ETag of what the caller has seen.
    """
    require(caller, views.right_for(kind))
    if repeat is None or not REPEAT.fullmatch(repeat):
        raise Refused(
            "the Idempotency-Key is missing, or is not 8 to 80 letters, digits, - and _; nothing was begun",
            code="idempotency-key-missing",
            hint="send a new random one with each thing that you ask for, and the same one when you repeat it",
        )
    wanted = Wanted(tenant=tenant.name, customer=tenant.customer, kind=kind, values=values)
    if (before := house.orders.repeated(caller, wanted, repeat)) is not None:
        return before
    if kind in DESTRUCTIVE:
        require_fresh(house, caller)
        _require_phrase(kind, tenant.name, phrase)
    _require_seen(house, tenant, kind, if_match)
    _require_possible(house, tenant, kind, values)
    is_shared = kind in DESTRUCTIVE and house.settings.needs_second_person(tenant.customer)
    return house.orders.put(wanted, caller, state=TO_APPROVE if is_shared else QUEUED, repeat=repeat)


def _require_phrase(kind: Kind, tenant: str, given: str | None) -> None:
    wanted = views.phrase(kind, tenant) or ""
    if not compare_digest((given or "").strip().encode(), wanted.encode()):
        raise Refused(
            f"to {kind} tenant {tenant} its phrase has to be typed; nothing was begun",
            code="not-confirmed",
            hint=f"the phrase is: {wanted}",
        )


def _require_seen(house: House, tenant: TenantRecord, kind: Kind, if_match: str | None) -> None:
    """A revocation is for an emergency, and a look changes nothing: neither has to have seen the newest state."""
    if if_match is None and lane_of(kind) is not Lane.WORK:
        return
    if if_match is None:
        raise Refused(
            "the If-Match header is missing, so it is not known what you have seen; nothing was begun",
            code="if-match-missing",
            hint="get the tenant and send its ETag",
        )
    if if_match.strip() not in {"*", views.etag(house, tenant)}:
        raise Refused(
            f"tenant {tenant.name} has changed since you looked at it; nothing was begun",
            code="tenant-changed",
            hint="look at it once more, then ask again",
        )


def _require_possible(house: House, tenant: TenantRecord, kind: Kind, values: Data) -> None:
    """What the records say against it, told at once and not by the worker minutes later."""
    if kind not in SEALED_TOO:
        house.records.refuse_sealed(tenant.name)
    if kind is Kind.PLAN:
        _require_planned(house, tenant, OperationKind(values["of"]), values.get("mode"))
    elif kind in PLANNED:
        _require_planned(house, tenant, OperationKind(kind), values.get("mode"))
    elif kind in _REQUIRED:
        _REQUIRED[kind](house, tenant, values)


def _to_onboard(house: House, tenant: TenantRecord, values: Data) -> None:
    _refuse_unfinished(house, tenant)
    if Mode.BYOKMS not in OFFERED[tenant.layout.cloud]:
        raise RefusedInput(
            f"tenant {tenant.name} is on {tenant.layout.cloud}, where there is no mode {Mode.BYOKMS}",
            code="mode-not-offered",
        )
    Alias.parse(str(values["alias"]), region=tenant.layout.region)


def _to_confirm(house: House, tenant: TenantRecord, values: Data) -> None:
    waits = views.to_confirm(tenant.layout, house.records.unfinished(tenant.name))
    if waits is None or waits["token"] is None:
        raise Refused(
            f"tenant {tenant.name} does not wait for a confirmation; nothing was begun",
            code="not-waiting",
            hint="look at the tenant once more",
        )
    if not compare_digest(waits["token"].encode(), str(values["token"]).encode()):
        raise Refused(
            "the token is not that of the rotation that waits; nothing was begun",
            code="token-stale",
            hint="somebody may have rotated again: the tenant shows the present token",
        )


def _to_abort(house: House, tenant: TenantRecord, _values: Data) -> None:
    Runner(house.project, tenant.name, _nobody).preview_abort()


def _to_resume(house: House, tenant: TenantRecord, _values: Data) -> None:
    if house.records.unfinished(tenant.name) is not None or tenant.layout.serves is None:
        return
    if PendingRotations(connect(house.project.home)).of(tenant.layout) is None:
        raise Refused(
            f"tenant {tenant.name} has no unfinished operation; nothing was begun",
            code="nothing-to-resume",
            hint="look at its operations",
        )


def _to_restore(_house: House, tenant: TenantRecord, _values: Data) -> None:
    if not tenant.sealed:
        raise Refused(f"tenant {tenant.name} is not closed", code="not-sealed", hint="look at the tenant once more")


def _require_planned(house: House, tenant: TenantRecord, kind: OperationKind, mode: str | None) -> None:
    """As the runner plans it, but for what only a listing in the cloud can tell."""
    _refuse_unfinished(house, tenant)
    Runner(house.project, tenant.name, _nobody).planned(kind, mode)


def _refuse_unfinished(house: House, tenant: TenantRecord) -> None:
    unfinished = house.records.unfinished(tenant.name)
    if unfinished is not None:
        raise RefusedInput(
            f"tenant {tenant.name} is in the middle of {unfinished.id} ({unfinished.state}); nothing was begun",
            hint="go on with it first",
            code="operation-unfinished",
        )


def _nobody(_event: Event) -> None:
    """Who only looks at a plan is told of nothing."""


_REQUIRED: dict[Kind, Callable[[House, TenantRecord, Data], None]] = {
    Kind.ONBOARD: _to_onboard,
    Kind.CONFIRM: _to_confirm,
    Kind.ABORT: _to_abort,
    Kind.RESUME: _to_resume,
    Kind.RESTORE: _to_restore,
}
