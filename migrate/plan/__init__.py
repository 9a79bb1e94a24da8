"""The planner: operation + layout -> phases. Pure: no I/O, no clock.

Blue-green falls out of it: the middle layouts hold both storages and both searches; destroying the
old is the last layout, without them. Verdict ids are made here from the operation's id, so that a
layout can name the verdict that frees a unit before that verdict exists; the runner refuses to go
on while the named verdict is not stored. One file a family of operations; `parts` is what they share.
"""

from __future__ import annotations

from collections.abc import Callable

from migrate.operations import OperationKind, Phase, Plan, Request
from migrate.plan.abort import abort
from migrate.plan.blue_green import change, enable, remove
from migrate.plan.create import create, onboard, request_key
from migrate.plan.customer_rotation import confirm, pause
from migrate.plan.delete import delete
from migrate.plan.revocation import restore, revoke
from migrate.plan.rotate import rotate
from migrate.plan.upgrade import upgrade
from stacks.layout import Layout


def plan(request: Request, layout: Layout) -> Plan:
    """The phases that carry `layout` to where `request` wants it.

    Raises RefusedInput when the operation does not fit the layout; nothing has been changed then.
    """
    phases = _PLANNERS[request.kind](request, layout)
    return Plan(operation=request.operation, kind=request.kind, start=layout, phases=tuple(phases))


def _rotate(request: Request, layout: Layout) -> list[Phase]:
    """In place for a key in our account; a pause for one in the customer's, who rotates it."""
    return rotate(request, layout) if request.key is None else pause(request, layout)


_PLANNERS: dict[OperationKind, Callable[[Request, Layout], list[Phase]]] = {
    OperationKind.ABORT: abort,
    OperationKind.CREATE: create,
    OperationKind.REQUEST: request_key,
    OperationKind.ENABLE: enable,
    OperationKind.CHANGE: change,
    OperationKind.REMOVE: remove,
    OperationKind.ONBOARD: onboard,
    OperationKind.ROTATE: _rotate,
    OperationKind.CONFIRM: confirm,
    OperationKind.UPGRADE: upgrade,
    OperationKind.DELETE: delete,
    OperationKind.REVOKE: revoke,
    OperationKind.RESTORE: restore,
}
