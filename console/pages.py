"""The pages: what there is to see. Made on the server, so that they can be read without scripts."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from console import api_keys, views
from console.callers import Right, Role
from console.house import House, house_of, require, require_own_page, session_of
from console.limits import READS, SIGN_INS, WRITES
from console.orders import Kind
from console.problems import Refused, status_of
from console.sessions import SIGN_IN_SECONDS, Session
from migrate import failures, tenants
from migrate.errors import KeyshiftError
from migrate.gate import ArchiveClient
from migrate.keys import onboarding
from migrate.show import bytes_text, seconds_text
from stacks.record import TenantRecord

Data = dict[str, Any]
TEMPLATES = Jinja2Templates(directory=Path(__file__).parent / "templates")
SIGN_IN_COOKIE = "keyshift-sign-in"
NAME = r"^[a-z][a-z0-9-]{1,30}[a-z0-9]$"
STATES = {
    "in-service": "In service",
    "moving": "In service, an operation is under way",
    "paused": "Archiving is paused",
    "closed": "Closed",
    "setting-up": "Being set up",
    "to-approve": "Waits for a second person",
    "queued": "Queued",
    "running": "Running",
    "waiting": "Waits for you",
    "done": "Done",
    "failed": "Failed",
    "refused": "Refused, nothing was changed",
    "withdrawn": "Withdrawn",
}
TITLES = {
    Kind.PLAN: "Plan",
    Kind.CHECK: "Check the proofs",
    Kind.REQUEST: "Make an empty key",
    Kind.ONBOARD: "Bind your key",
    Kind.ENABLE: "Enable your key",
    Kind.CHANGE: "Change the mode",
    Kind.ROTATE: "Rotate",
    Kind.FOLLOW: "Look where the alias leads",
    Kind.CONFIRM: "Confirm the rotation",
    Kind.REMOVE: "Remove your key",
    Kind.RESUME: "Go on",
    Kind.ABORT: "Go back",
    Kind.REVOKE: "Revoke",
    Kind.RESTORE: "Restore",
}
router = APIRouter(include_in_schema=False)


def instant(text: str | None) -> str:
    """An RFC 3339 instant for people."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if text else "—"


def age(text: str | None) -> str:
    return seconds_text((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()) if text else "—"


def to_do(hint: str | None, session: Session | None) -> str:
    """A hint for who reads the page: the command line's words are for the vendor's people, who have it."""
    is_command = "keyshift " in (hint or "")
    is_theirs = session is not None and session.caller.role is Role.VENDOR_OPERATOR
    return "" if is_command and not is_theirs else hint or ""


TEMPLATES.env.filters |= {
    "to_do": to_do,
    "instant": instant,
    "age": age,
    "bytes": bytes_text,
    "seconds": seconds_text,
    "state": lambda name: STATES.get(name, name),
    "kind": lambda kind: TITLES.get(Kind(kind), kind) if kind in set(Kind) else kind,
    "pretty": lambda value: json.dumps(value, indent=2, sort_keys=True, default=str),
}


def signed_in(request: Request) -> Session:
    """The session of a page. Raises Refused when there is none; then the reader is sent to sign in."""
    session = session_of(request)
    if session is None:
        raise Refused("nobody is signed in", code="not-signed-in", hint="sign in")
    house_of(request).limits.take(session.caller.id, READS if request.method == "GET" else WRITES)
    return session


def sent_by_us(request: Request, csrf: Annotated[str, Form()] = "") -> Session:
    """The session of a form that one of our pages has sent."""
    session = signed_in(request)
    require_own_page(request, session, csrf)
    return session


TheSession = Annotated[Session, Depends(signed_in)]
TheHouse = Annotated[House, Depends(house_of)]


def page_tenant(name: str, house: TheHouse, session: TheSession) -> TenantRecord:
    return house.tenant(session.caller, name)


TheTenant = Annotated[TenantRecord, Depends(page_tenant)]


def page(request: Request, template: str, session: Session | None, *, status: int = 200, **data: Any) -> Response:
    """A page with what all of them show."""
    common = {
        "session": session,
        "csrf": session.csrf if session else "",
        "repeat": secrets.token_urlsafe(18),
        "here": request.url.path,
        "rights": {str(right): session.caller.may(right) for right in Right} if session else {},
    }
    return TEMPLATES.TemplateResponse(request, template, {**common, **data}, status_code=status)


def of_tenant(request: Request, template: str, session: Session, tenant: TenantRecord, **data: Any) -> Response:
    house = house_of(request)
    shown = views.describe(house, session.caller, tenant)
    return page(request, template, session, tenant=shown, etag=shown["etag"], **data)


def problem(request: Request, error: KeyshiftError, *, status: int | None = None) -> Response:
    """An error as a page; whoever is not signed in is asked to."""
    session = session_of(request)
    if session is None and error.code == "not-signed-in":
        return RedirectResponse(f"/?to={quote(request.url.path)}", status_code=303)
    back = request.headers.get("referer", "").partition(request.url.netloc)[2] or "/"
    code = status_of(error) if status is None else status
    return page(request, "problem.html", session, status=code, error=error, back=local(back))


def local(path: str) -> str:
    """A path of our own; anything that could lead elsewhere becomes the first page."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and "\\" not in path and path.isprintable()
    return path if is_ours else "/"


# signing in -----------------------------------------------------------------------------------


@router.get("/")
def first(request: Request, house: TheHouse, to: str = "/") -> Response:
    session = session_of(request)
    if session is None:
        return page(request, "welcome.html", None, to=local(to))
    rows = [views.summary(house, one) for one in house.tenants(session.caller)]
    return page(request, "tenants.html", session, tenants=rows)


@router.get("/sign-in")
def sign_in(request: Request, house: TheHouse, to: str = "/", fresh: bool = False) -> Response:
    house.limits.take(request.client.host if request.client else "?", SIGN_INS)
    begun = house.issuer.begin(fresh=fresh)
    answer = RedirectResponse(begun.url, status_code=303)
    cookie = house.sessions.begin_sign_in(begun, local(to))
    _set_cookie(house, answer, SIGN_IN_COOKIE, cookie, max_age=int(SIGN_IN_SECONDS))
    return answer


@router.get("/sign-in/back")
def signed(request: Request, house: TheHouse, state: str = "", code: str = "", error: str = "") -> Response:
    house.limits.take(request.client.host if request.client else "?", SIGN_INS)
    if error:
        raise Refused("the issuer did not sign you in", code="token-refused", hint="sign in again")
    browser = request.cookies.get(SIGN_IN_COOKIE, "")
    cookie, goes_to = house.sessions.end_sign_in(house.issuer, state=state, code=code, browser=browser)
    if before := request.cookies.get(house.cookie):
        house.sessions.close(before)
    answer = RedirectResponse(goes_to, status_code=303)
    _set_cookie(house, answer, house.cookie, cookie)
    answer.delete_cookie(SIGN_IN_COOKIE)
    return answer


@router.post("/sign-out")
def sign_out(request: Request, house: TheHouse, _session: Annotated[Session, Depends(sent_by_us)]) -> Response:
    house.sessions.close(request.cookies.get(house.cookie, ""))
    answer = RedirectResponse("/", status_code=303)
    answer.delete_cookie(house.cookie, secure=house.settings.is_secure)
    return answer


def _set_cookie(house: House, answer: Response, name: str, value: str, max_age: int | None = None) -> None:
    answer.set_cookie(
        name, value, max_age=max_age, secure=house.settings.is_secure, httponly=True, samesite="lax", path="/"
    )


# a tenant -------------------------------------------------------------------------------------


@router.get("/tenants/{name}")
def overview(request: Request, session: TheSession, tenant: TheTenant) -> Response:
    return of_tenant(request, "tenant.html", session, tenant, **_live_keys(house_of(request), tenant))


def _live_keys(house: House, tenant: TenantRecord) -> Data:
    """The keys as their cloud sees them; as the record has them, and why, where it cannot be asked."""
    try:
        return {"live_keys": views.keys(house, tenant), "keys_problem": None}
    except Exception as error:  # noqa: BLE001 - the rest of the page is worth reading without it
        return {"live_keys": None, "keys_problem": failures.explained(error)}


@router.get("/tenants/{name}/byok")
def byok(request: Request, session: TheSession, tenant: TheTenant) -> Response:
    house, about, trouble = house_of(request), None, None
    is_ours = any(key.state == "pending" and key.alias is None for key in tenant.layout.keys)
    if is_ours and session.caller.may(Right.OWN):
        try:
            about, _ = api_keys.wrapping_key(house, tenant)
        except KeyshiftError as error:
            trouble = error
    uploaded = trouble is not None and trouble.code == "key-already-imported"
    return of_tenant(
        request, "byok.html", session, tenant, about=about, uploaded=uploaded, trouble=None if uploaded else trouble
    )


@router.get("/tenants/{name}/byok/public-key")
def public_key(request: Request, session: TheSession, tenant: TheTenant) -> Response:
    require(session.caller, Right.OWN)
    return api_keys.download_wrapping_key(tenant, house_of(request))


@router.get("/tenants/{name}/byokms")
def byokms(
    request: Request,
    session: TheSession,
    tenant: TheTenant,
    account: Annotated[str | None, Query(pattern=r"^\s*(\d{12})?\s*$")] = None,
) -> Response:
    return of_tenant(request, "byokms.html", session, tenant, **policy_for(request, tenant, account), checked=None)


def policy_for(request: Request, tenant: TenantRecord, account: str | None) -> Data:
    """The policy to paste, once an account is known."""
    number = (account or "").strip() or None
    try:
        found = onboarding.print_policy(house_of(request).project, tenant.name, number, None)
    except KeyshiftError as error:
        if error.code == "account-number" and number is None:
            return {"policy": None, "account": "", "policy_problem": None}
        return {"policy": None, "account": number or "", "policy_problem": error}
    return {"policy": found, "account": number or "", "policy_problem": None}


@router.get("/tenants/{name}/byokv")
def byokv(request: Request, session: TheSession, tenant: TheTenant) -> Response:
    return of_tenant(request, "byokv.html", session, tenant)


@router.get("/tenants/{name}/plan")
def plan(
    request: Request,
    session: TheSession,
    tenant: TheTenant,
    of: Annotated[str, Query(pattern="^(enable|change|rotate|remove)$")],
    mode: Annotated[str | None, Query(pattern="^(standard|byok|byokms|byokv)$")] = None,
) -> Response:
    """The newest plan for this, and the way to begin."""
    orders = house_of(request).orders.of(tenant.name)
    wanted = {"of": of, "previews": False, **({"mode": mode} if mode else {})}
    mine = [one for one in orders if one.kind is Kind.PLAN and one.wanted == wanted]
    return of_tenant(
        request, "plan.html", session, tenant, of=of, mode=mode, order=mine[-1].data() if mine else None,
        phrase=views.phrase(Kind(of), tenant.name),
    )  # fmt: skip


@router.get("/tenants/{name}/close")
def close(
    request: Request,
    session: TheSession,
    tenant: TheTenant,
    kind: Annotated[str, Query(pattern="^(revoke|restore)$")],
) -> Response:
    return of_tenant(
        request, "close.html", session, tenant, kind=kind, phrase=views.phrase(Kind(kind), tenant.name),
        is_fresh=session.caller.is_fresh(house_of(request).settings.fresh_seconds),
    )  # fmt: skip


@router.get("/tenants/{name}/operations")
def operations(request: Request, session: TheSession, tenant: TheTenant) -> Response:
    found = views.operations(house_of(request), tenant)
    return of_tenant(request, "operations.html", session, tenant, **found)


@router.get("/tenants/{name}/operations/{id}")
def operation(request: Request, session: TheSession, tenant: TheTenant, id: str) -> Response:
    house = house_of(request)
    order = views.order(house, tenant, id)
    told = [{"number": number, "name": name, **json.loads(data)} for number, name, data in _newest(house, id)]
    steps = [one for one in told if one["name"] in {"step", "step-done"}]
    newest = next((one for one in reversed(told) if one["name"] in {"progress", "wait", "step"}), None)
    return of_tenant(
        request, "operation.html", session, tenant, order=order.data(), told=told, steps=steps, newest=newest,
        last_event=told[-1]["number"] if told else 0, is_mine=order.asked_by["id"] == session.caller.id,
    )  # fmt: skip


def _newest(house: House, id: str) -> list[tuple[int, str, str]]:
    """All events of an order that people want to read at once: the steps, and the newest progress."""
    found, after = [], 0
    while rows := house.orders.events(id, after):
        found += [row for row in rows if row[1] != "progress"] + [row for row in rows if row[1] == "progress"][-1:]
        after = rows[-1][0]
    return sorted(found)


@router.get("/tenants/{name}/verdicts")
def verdicts(request: Request, session: TheSession, tenant: TheTenant) -> Response:
    found = list(reversed(tenants.verdicts(house_of(request).project, tenant.name)))
    return of_tenant(request, "verdicts.html", session, tenant, verdicts=found)


@router.get("/tenants/{name}/verdicts/{id}")
def verdict(request: Request, tenant: TheTenant, id: str) -> Response:
    found = tenants.verdict(house_of(request).project, tenant.name, id)
    named = {"Content-Disposition": f'attachment; filename="{found["id"]}.json"'}
    text = json.dumps(found, indent=2, sort_keys=True)
    return Response(text, media_type="application/json", headers=named)


@router.get("/tenants/{name}/log")
def log(
    request: Request, session: TheSession, tenant: TheTenant, before: Annotated[int | None, Query(ge=1)] = None
) -> Response:
    lines = views.log(house_of(request), tenant, before=before, limit=views.LOG_LINES)
    return of_tenant(request, "log.html", session, tenant, lines=lines)


@router.get("/tenants/{name}/archive")
def archive(request: Request, session: TheSession, tenant: TheTenant, q: str = "") -> Response:
    """The sample Archive: what its own users see, by the gate."""
    require(session.caller, Right.DATA)
    found, trouble = None, None
    if q.strip():
        try:
            found = ArchiveClient(house_of(request).project, tenant.name, fresh_seconds=0).search(q.strip()[:200], 20)
        except Exception as error:  # noqa: BLE001 - Archive's users read why, in its own page
            trouble = failures.explained(error)
    return of_tenant(request, "archive.html", session, tenant, q=q, found=found, trouble=trouble)
