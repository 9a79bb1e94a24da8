"""What the API and the pages show of a tenant: data from the records, and of keys from their cloud."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from console.callers import Caller, Right
from console.house import House
from console.orders import DESTRUCTIVE, Kind, Order, open_of
from migrate import tenants
from migrate.gate import Gate
from migrate.keys import confirmation
from migrate.log import Log
from migrate.operations import ABORTABLE, OperationKind
from migrate.records import Operation
from stacks.layout import OFFERED, KeyState, Layout, Mode
from stacks.record import TenantRecord, connect

Data = dict[str, Any]
LOG_LINES = 200


def etag(house: House, tenant: TenantRecord) -> str:
    """Changes whenever the tenant does, or what it is in the middle of."""
    operations = house.records.operations(tenant.name)
    newest = [(op.id, op.state) for op in operations[-2:]]
    facts = json.dumps([tenant.generation, tenant.digest, tenant.sealed, newest])
    return f'"{hashlib.sha256(facts.encode()).hexdigest()[:20]}"'


def summary(house: House, tenant: TenantRecord) -> Data:
    """One line of the list."""
    layout = tenant.layout
    unfinished = house.records.unfinished(tenant.name)
    return {
        "tenant": tenant.name,
        "customer": tenant.customer,
        "cloud": str(layout.cloud),
        "region": layout.region,
        "mode": str(layout.mode),
        "state": state_of(tenant, unfinished),
        "warnings": list(layout.gate.warnings),
        "operation": unfinished and unfinished.id,
    }


def state_of(tenant: TenantRecord, unfinished: Operation | None) -> str:
    """One word for the whole: closed, setting-up, paused, moving, in-service."""
    gate = tenant.layout.gate
    if tenant.sealed or gate.access == "closed":
        return "closed"
    if tenant.layout.serves is None:
        return "setting-up"
    if gate.jobs == "closed":
        return "paused"
    return "moving" if unfinished else "in-service"


def describe(house: House, caller: Caller, tenant: TenantRecord) -> Data:
    """The whole of a tenant, from the records alone: no cloud is asked."""
    status = tenants.status(house.project, tenant.name)
    layout, unfinished = tenant.layout, house.records.unfinished(tenant.name)
    orders = house.orders.of(tenant.name)
    return {
        **summary(house, tenant),
        "generation": tenant.generation,
        "sealed": status["sealed"],
        "gate": gate(house, tenant),
        "keys": [_key(layout, one.id) for one in layout.keys],
        "serves": layout.serves and layout.serves.model_dump(),
        "offered": sorted(str(mode) for mode in OFFERED[layout.cloud]),
        "operation": status["operation"],
        "unfinished": unfinished and unfinished.id,
        "pending_rotation": status["pending_rotation"],
        "confirm": to_confirm(layout, unfinished),
        "open_orders": [one.data() for one in open_of(orders)],
        "may": [str(kind) for kind in may(caller, tenant, unfinished)],
        "etag": etag(house, tenant),
    }


def gate(house: House, tenant: TenantRecord) -> Data:
    """What Archive itself is told, without the places and secrets that only its own program gets."""
    answer = Gate(connect(house.project.home), tenant.name, fresh_seconds=0).now()
    return {
        "access": {"allowed": answer.access is None, "reason": answer.access},
        "jobs": {"allowed": answer.jobs is None, "reason": answer.jobs},
        "searches": {
            "allowed": answer.searches is None,
            "reason": answer.searches,
            "cutoff": answer.cutoff and answer.cutoff.isoformat(),
        },
        "warnings": list(answer.warnings),
        "read_at": answer.read_at.isoformat(timespec="milliseconds"),
    }


def to_confirm(layout: Layout, unfinished: Operation | None) -> Data | None:
    """The rotation that waits for the customer's word; None if none does, or if its key is not fit yet."""
    if unfinished is None or unfinished.kind is not OperationKind.ROTATE or unfinished.request.key is None:
        return None
    seen = unfinished.request.key
    held = next((key for key in layout.keys if key.id == seen.id), None)
    is_fit = held is not None and held.state is KeyState.ACTIVE and not unfinished.request.is_barred
    return {
        "operation": unfinished.id,
        "alias": seen.alias,
        "key": seen.arn,
        "material": seen.material,
        "fit": is_fit,
        "reason": unfinished.message,
        "token": confirmation.token(unfinished.id, layout) if is_fit else None,
    }


def may(caller: Caller, tenant: TenantRecord, unfinished: Operation | None) -> list[Kind]:
    """What this caller could ask for now, by what the records tell."""
    layout = tenant.layout
    if tenant.sealed:
        found = [Kind.RESTORE, Kind.REVOKE]
    elif unfinished is not None:
        found = [Kind.RESUME, Kind.REVOKE]
        if unfinished.kind in ABORTABLE:
            found.append(Kind.ABORT)
        if to_confirm(layout, unfinished):
            found += [Kind.CONFIRM, Kind.FOLLOW]
    else:
        found = [Kind.PLAN, Kind.CHECK, *_by_mode(layout)]
    return [kind for kind in found if caller.may(right_for(kind))]


def _by_mode(layout: Layout) -> Iterable[Kind]:
    if layout.serves is None:
        return [Kind.RESUME, Kind.REQUEST]
    moves = {
        Mode.STANDARD: [Kind.REQUEST, Kind.ONBOARD, Kind.ENABLE],
        Mode.BYOK: [Kind.REQUEST, Kind.ONBOARD, Kind.ROTATE, Kind.CHANGE, Kind.REMOVE, Kind.REVOKE],
        Mode.BYOKMS: [Kind.FOLLOW, Kind.CHANGE, Kind.REMOVE, Kind.REVOKE],
        Mode.BYOKV: [Kind.CHANGE, Kind.REMOVE, Kind.REVOKE],
    }
    return moves[layout.mode]


def right_for(kind: Kind) -> Right:
    return Right.RUN if kind in {Kind.PLAN, Kind.CHECK, Kind.RESUME, Kind.FOLLOW} else Right.OWN


def phrase(kind: Kind, tenant: str) -> str | None:
    """What has to be typed for what destroys or closes, or opens again; None for the rest."""
    return f"{kind} {tenant}" if kind in DESTRUCTIVE else None


def keys(house: House, tenant: TenantRecord) -> list[Data]:
    """The keys as their cloud sees them: state, fingerprint, since and until when. Raises CloudError."""
    return [
        {**_key(tenant.layout, row["id"]), **row, "fingerprint": _known(row["fingerprint"])}
        for row in tenants.keys(house.project, tenant.name)
    ]


def _known(value: str) -> str | None:
    return None if value == "-" else value


def _key(layout: Layout, id: str) -> Data:
    key = layout.key(id)
    users = [unit.id for unit in (*layout.storages, *layout.searches) if unit.key == id]
    return {
        "id": id,
        "state": str(key.state),
        "kind": "customer-account" if key.alias else "uploaded",
        "alias": key.alias,
        "arn": key.arn,
        "fingerprint": key.material,
        "used_by": ", ".join(users) or "nothing",
    }


def operations(house: House, tenant: TenantRecord) -> Data:
    """`orders`: what was asked for here. `history`: every operation of the tenant, whoever began it. Newest first."""
    return {
        "orders": [one.data() for one in reversed(house.orders.of(tenant.name))],
        "history": list(reversed(tenants.operations(house.project, tenant.name))),
    }


def order(house: House, tenant: TenantRecord, id: str) -> Order:
    """An order of this tenant; another tenant's is not found, as one that never was."""
    from console.problems import Refused, not_found  # noqa: PLC0415 - used here alone

    try:
        found = house.orders.get(id)
    except Refused as error:
        raise not_found() from error
    if found.tenant != tenant.name:
        raise not_found()
    return found


def log(house: House, tenant: TenantRecord, *, before: int | None, limit: int) -> list[Data]:
    """Lines of the tenant's signed log, the newest first."""
    lines = Log(tenants.folder(house.project, tenant.name)).events()
    newest = [line for line in lines if before is None or line["number"] < before][-limit:]
    return list(reversed(newest))
