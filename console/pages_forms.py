"""The pages: what their forms send. Each does what the API does, by the same functions, and leads to a page."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, UploadFile
from fastapi.responses import RedirectResponse, Response
from pydantic import TypeAdapter, ValidationError

from console import api_keys, models, views
from console.asking import ask
from console.callers import Right
from console.house import House, house_of, require, require_fresh
from console.orders import Kind
from console.pages import of_tenant, page, policy_for, sent_by_us
from console.problems import Refused
from console.sessions import Session
from migrate import failures
from migrate.keys import onboarding

router = APIRouter(include_in_schema=False)
Sender = Annotated[Session, Depends(sent_by_us)]
ASK: TypeAdapter[Any] = TypeAdapter(models.Ask)
WRAPPED_BYTES_AT_MOST = 4096


async def fields(request: Request) -> dict[str, str]:
    """What a form of ours has sent, files left out."""
    return {key: value for key, value in (await request.form()).items() if isinstance(value, str)}


@router.post("/tenants/{name}/ask")
def ask_for(request: Request, name: str, form: Annotated[dict[str, str], Depends(fields)]) -> Response:
    """Any operation: the fields of its form are those of the API."""
    session = sent_by_us(request, form.pop("csrf", ""))
    house = house_of(request)
    tenant = house.tenant(session.caller, name)
    repeat, seen = form.pop("repeat", None), form.pop("seen", None) or None
    values = {key: value for key, value in form.items() if value.strip()}
    if values.get("kind") == Kind.PLAN:
        values.pop("kind")
        plan = _valid(TypeAdapter(models.Plan), values)
        order = ask(
            house, session.caller, tenant, Kind.PLAN, plan.model_dump(exclude_none=True), repeat=repeat, if_match=seen
        )
    else:
        asked = _valid(ASK, values)
        order = ask(
            house, session.caller, tenant, Kind(asked.kind), asked.values_(), repeat=repeat, if_match=seen,
            phrase=getattr(asked, "phrase", None),
        )  # fmt: skip
    return _to(f"/tenants/{name}/operations/{order.id}")


def _valid(kind: TypeAdapter[Any], values: dict[str, str]) -> Any:
    try:
        return kind.validate_python(values)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc'][1:] or one['loc']))}: {one['msg']}" for one in error.errors())
        raise Refused(
            f"the form cannot be used: {wrong}; nothing was begun", code="invalid", hint="go back and fill it in"
        ) from None


@router.post("/tenants/{name}/byok/upload")
def upload(
    request: Request,
    name: str,
    session: Sender,
    file: UploadFile,
    sha256: Annotated[str, Form()] = "",
) -> Response:
    house = house_of(request)
    tenant = house.tenant(session.caller, name)
    require(session.caller, Right.OWN)
    wrapped = file.file.read(WRAPPED_BYTES_AT_MOST + 1)
    if len(wrapped) > WRAPPED_BYTES_AT_MOST:
        raise Refused("this is no wrapped key: it is too large; nothing was changed", code="too-large", hint="see byok")
    found = api_keys.upload(house, session.caller, tenant, wrapped, sha256.strip())
    return of_tenant(
        request, "byok.html", session, house.tenant(session.caller, name), about=None, uploaded=True, trouble=None,
        received=found,
    )  # fmt: skip


@router.post("/tenants/{name}/byokms/check")
def check(
    request: Request,
    name: str,
    session: Sender,
    alias: Annotated[str, Form()] = "",
    account: Annotated[str, Form()] = "",
) -> Response:
    house = house_of(request)
    tenant = house.tenant(session.caller, name)
    require(session.caller, Right.OWN)
    checked, trouble = None, None
    try:
        checked = onboarding.check_key(house.project, name, alias.strip() or None)
    except Exception as error:  # noqa: BLE001 - shown beside the field that it is about
        trouble = failures.explained(error)
    return of_tenant(
        request, "byokms.html", session, tenant, **policy_for(request, tenant, account or None), checked=checked,
        trouble=trouble, alias=alias,
    )  # fmt: skip


@router.post("/tenants/{name}/operations/{id}/approve")
def approve(request: Request, name: str, id: str, session: Sender) -> Response:
    house, order = _second(request, name, id, session)
    require_fresh(house, session.caller)
    house.orders.approve(order, session.caller)
    return _to(f"/tenants/{name}/operations/{id}")


@router.post("/tenants/{name}/operations/{id}/withdraw")
def withdraw(request: Request, name: str, id: str, session: Sender) -> Response:
    house, order = _second(request, name, id, session)
    house.orders.withdraw(order)
    return _to(f"/tenants/{name}/operations/{id}")


def _second(request: Request, name: str, id: str, session: Session) -> tuple[House, Any]:
    house = house_of(request)
    tenant = house.tenant(session.caller, name)
    require(session.caller, Right.OWN)
    return house, views.order(house, tenant, id)


def _to(path: str) -> Response:
    return RedirectResponse(path, status_code=303)


__all__ = ["page", "router"]
