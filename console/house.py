"""What every call of the Console works with, made once at the start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import sqlalchemy as sql
from fastapi import Depends, Request

from console.callers import Caller, Right
from console.limits import READS, WRITES, Limits
from console.oidc import Issuer
from console.orders import Orders
from console.problems import Refused, not_found
from console.sessions import Session, Sessions
from console.settings import Settings
from console.stream import Hub
from migrate.errors import RefusedInput
from migrate.records import Records
from migrate.stack import Project
from stacks.record import TenantRecord

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class House:
    project: Project
    settings: Settings
    records: Records
    engine: sql.Engine
    issuer: Issuer
    orders: Orders = field(init=False)
    sessions: Sessions = field(init=False)
    limits: Limits = field(init=False)
    hub: Hub = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "orders", Orders(self.engine))
        object.__setattr__(self, "sessions", Sessions(self.engine))
        object.__setattr__(self, "limits", Limits())
        object.__setattr__(self, "hub", Hub(self.orders))

    @property
    def cookie(self) -> str:
        """With the prefix that a browser takes from https and this very host only."""
        return "__Host-keyshift" if self.settings.is_secure else "keyshift"

    def tenant(self, caller: Caller, name: str) -> TenantRecord:
        """Raises Refused (404) alike for what does not exist and for what is another customer's."""
        try:
            found = self.records.tenant(name)
        except RefusedInput as error:
            raise not_found() from error
        if not caller.sees(found.customer):
            raise not_found()
        return found

    def tenants(self, caller: Caller) -> list[TenantRecord]:
        return [one for one in self.records.tenants() if caller.sees(one.customer)]


def house_of(request: Request) -> House:
    return request.app.state.house


def session_of(request: Request) -> Session | None:
    house = house_of(request)
    cookie = request.cookies.get(house.cookie)
    return house.sessions.find(cookie) if cookie else None


def caller_of(request: Request) -> Caller:
    """Who calls: by a bearer token, or by the session of a browser. Raises Refused (401, 403, 429)."""
    house = house_of(request)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme:
        if scheme.lower() != "bearer":
            raise _not_signed_in()
        caller = house.issuer.bearer(token.strip())
    else:
        session = session_of(request)
        if session is None:
            raise _not_signed_in()
        if request.method not in SAFE:
            require_own_page(request, session, request.headers.get("x-csrf-token", ""))
        caller = session.caller
    house.limits.take(caller.id, READS if request.method in SAFE else WRITES)
    return caller


def require_own_page(request: Request, session: Session, given: str) -> None:
    """Raises Refused (403) unless one of our own pages has sent this."""
    from hmac import compare_digest  # noqa: PLC0415 - used here alone

    origin, house = request.headers.get("origin"), house_of(request)
    is_foreign = origin is not None and origin != house.settings.url.rstrip("/")
    is_foreign |= request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}
    if is_foreign or not compare_digest(session.csrf.encode(), given.encode()):
        raise Refused(
            "this was not sent by a page of the Console; nothing was done",
            code="csrf",
            hint="load the page again and send it from there",
        )


def require(caller: Caller, right: Right) -> None:
    if not caller.may(right):
        raise Refused(
            f"the role {caller.role} may not do this; nothing was done",
            code="not-allowed",
            hint="ask an administrator of the customer",
        )


def require_fresh(house: House, caller: Caller) -> None:
    """Raises Refused (401, RFC 9470) when the caller proved who they are too long ago for what destroys or closes."""
    seconds = house.settings.fresh_seconds
    if not caller.is_fresh(seconds):
        raise Refused(
            f"this takes a sign-in of the last {seconds // 60} minutes; nothing was done",
            code="sign-in-stale",
            hint="sign in again, then send it once more",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_user_authentication", max_age="{seconds}"'},
        )


def _not_signed_in() -> Refused:
    return Refused(
        "nobody is signed in",
        code="not-signed-in",
        hint="sign in on the Console's page, or send a bearer token of its issuer",
        headers={"WWW-Authenticate": "Bearer"},
    )


TheHouse = Annotated[House, Depends(house_of)]
TheCaller = Annotated[Caller, Depends(caller_of)]
