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
from migrate.plan.create import create, request_key
from migrate.plan.delete import delete
from stacks.layout import Layout


def plan(request: Request, layout: Layout) -> Plan:
    """The phases that carry `layout` to where `request` wants it.

    Raises RefusedInput when the operation does not fit the layout; nothing has been changed then.
    """
    phases = _PLANNERS[request.kind](request, layout)
    return Plan(operation=request.operation, kind=request.kind, start=layout, phases=tuple(phases))


_PLANNERS: dict[OperationKind, Callable[[Request, Layout], list[Phase]]] = {
    OperationKind.ABORT: abort,
    OperationKind.CREATE: create,
    OperationKind.REQUEST: request_key,
    OperationKind.ENABLE: enable,
    OperationKind.CHANGE: change,
    OperationKind.REMOVE: remove,
    OperationKind.DELETE: delete,
}
