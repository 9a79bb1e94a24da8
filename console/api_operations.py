"""The API, version 1: asking for operations and following them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import JSONResponse, StreamingResponse

from console import models, views
from console.api import TheTenant, problems, require_right
from console.asking import ask
from console.callers import Right
from console.house import TheCaller, TheHouse, require_fresh
from console.orders import Kind, Order
from console.problems import Refused

router = APIRouter(prefix="/api/v1", tags=["operations"])
OrderId = Annotated[str, Path(pattern=r"^op-[0-9a-f]{20}$", examples=["op-5f0c9d3a7be24c6d1e2f"])]
Repeat = Annotated[
    str | None,
    Header(alias="Idempotency-Key", description="8 to 80 letters, digits, - and _: the same for a repeated request."),
]
Seen = Annotated[str | None, Header(alias="If-Match", description="The ETag of the tenant as you have seen it.")]
TAKEN = {202: {"description": "Taken; follow it at Location", "model": models.Operation}}
_ASKED = problems(400, 403, 404, 409, 412, 413, 422, 428)


@router.get("/tenants/{name}/operations", responses=problems(404, 422))
def list_operations(tenant: TheTenant, house: TheHouse) -> models.Operations:
    """What was asked for here, and every operation of the tenant; newest first."""
    return models.Operations.model_validate(views.operations(house, tenant))


@router.post("/tenants/{name}/plans", status_code=202, responses={**TAKEN, **_ASKED})
def make_plan(
    tenant: TheTenant, house: TheHouse, caller: TheCaller, body: models.Plan, repeat: Repeat = None, seen: Seen = None
) -> JSONResponse:
    """What an operation would do, with objects, bytes, time and cost; nothing is changed. Its result is the plan."""
    values = body.model_dump(exclude_none=True)
    return _taken(ask(house, caller, tenant, Kind.PLAN, values, repeat=repeat, if_match=seen))


@router.post("/tenants/{name}/operations", status_code=202, responses={**TAKEN, **_ASKED})
def ask_for_operation(
    tenant: TheTenant, house: TheHouse, caller: TheCaller, body: models.Ask, repeat: Repeat = None, seen: Seen = None
) -> JSONResponse:
    """Asks for an operation. It is written down when you are answered, and done by a worker.

    What destroys or closes (`remove`, `revoke`, `restore`) takes its phrase, "revoke acme", and a sign-in of the last
    minutes; where the customer wants it, a second administrator has to approve it.
    """
    phrase = getattr(body, "phrase", None)
    order = ask(house, caller, tenant, Kind(body.kind), body.values_(), repeat=repeat, if_match=seen, phrase=phrase)
    return _taken(order)


@router.get("/tenants/{name}/operations/{order_id}", responses=problems(404, 422))
def get_operation(tenant: TheTenant, house: TheHouse, order_id: OrderId) -> models.Operation:
    """How far it is; poll it, or follow its events."""
    return models.Operation.model_validate(views.order(house, tenant, order_id).data())


@router.get(
    "/tenants/{name}/operations/{order_id}/events",
    responses={200: {"content": {"text/event-stream": {}}}, **problems(404, 422)},
    response_class=StreamingResponse,
)
def follow_operation(
    tenant: TheTenant,
    house: TheHouse,
    order_id: OrderId,
    request: Request,
    last_event_id: Annotated[str | None, Header(description="The last event that you have.")] = None,
) -> StreamingResponse:
    """Server-sent events, all of them or from Last-Event-ID on; the last one is `end`. See docs/events.md."""
    order = views.order(house, tenant, order_id)
    if last_event_id is not None and not (last_event_id.isascii() and last_event_id.isdigit()):
        raise Refused("Last-Event-ID is no number of an event", code="last-event-id", hint="leave it out")
    after = min(int(last_event_id or 0), 2**31)
    stream = request.app.state.house.hub.follow(order.id, after)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


@router.post(
    "/tenants/{name}/operations/{order_id}/approval",
    dependencies=[require_right(Right.OWN)],
    responses=problems(403, 404, 409, 422),
)
def approve_operation(tenant: TheTenant, house: TheHouse, caller: TheCaller, order_id: OrderId) -> models.Operation:
    """The second person's yes; it takes a sign-in of the last minutes too."""
    order = views.order(house, tenant, order_id)
    require_fresh(house, caller)
    return models.Operation.model_validate(house.orders.approve(order, caller).data())


@router.post(
    "/tenants/{name}/operations/{order_id}/withdrawal",
    dependencies=[require_right(Right.OWN)],
    responses=problems(403, 404, 409, 422),
)
def withdraw_operation(tenant: TheTenant, house: TheHouse, order_id: OrderId) -> models.Operation:
    """Takes back what waits for a second person."""
    return models.Operation.model_validate(house.orders.withdraw(views.order(house, tenant, order_id)).data())


def _taken(order: Order) -> JSONResponse:
    body = models.Operation.model_validate(order.data()).model_dump(mode="json")
    return JSONResponse(
        body, status_code=202, headers={"Location": f"/api/v1/tenants/{order.tenant}/operations/{order.id}"}
    )
