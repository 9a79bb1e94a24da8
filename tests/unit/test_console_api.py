"""What the Console's API promises about each request: said once, seen before, sent by us, in bounds, in words."""

from __future__ import annotations

import asyncio
import html
import time
from pathlib import Path
from typing import Any

import console_lab
import layouts
import pytest
from console_lab import ADMIN, SECOND_ADMIN, URL, VIEWER, Lab

from console.limits import Limits, Rate
from console.orders import FAILED
from console.problems import Refused
from console.settings import Settings
from migrate.keys import confirmation
from migrate.operations import OperationKind
from stacks.layout import Gate, Key, KeyState

ENABLE = {"kind": "enable", "mode": "byok"}
ALIAS = layouts.CUSTOMER_ALIAS


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return console_lab.build(tmp_path)


@pytest.fixture
def two_people(tmp_path: Path) -> Lab:
    def change(settings: Settings) -> Settings:
        return settings.model_copy(update={"second_person": frozenset({"acme-corp"})})

    return console_lab.build(tmp_path, change)


# asking ---------------------------------------------------------------------------------------


def test_an_operation_is_written_down_before_it_is_answered(lab: Lab) -> None:
    answer = lab.ask(ADMIN, "acme", ENABLE, **{"If-Match": lab.tag("acme")})
    assert answer.status_code == 202
    order = lab.as_(VIEWER).get(answer.headers["location"]).json()
    assert (order["state"], order["kind"], order["asked_by"]["id"]) == ("queued", "enable", "acme-corp/ada")
    assert [one.id for one in lab.house.orders.to_hand_over()] == [order["id"]]


def test_the_same_idempotency_key_asks_once(lab: Lab) -> None:
    key = {"Idempotency-Key": "the-same-key"}
    first, again = (lab.ask(ADMIN, "acme", ENABLE, **key) for _ in range(2))
    assert first.json() == again.json()
    assert len(lab.house.orders.of("acme")) == 1
    other = lab.ask(ADMIN, "acme", {"kind": "enable", "mode": "byokms"}, **key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert lab.ask(SECOND_ADMIN, "acme-two", ENABLE, **key).status_code == 202, "another person's key is another one"


def test_a_request_without_an_idempotency_key_begins_nothing(lab: Lab) -> None:
    answer = lab.as_(ADMIN).post("/api/v1/tenants/acme/operations", json=ENABLE, headers={"If-Match": "*"})
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency-key-missing")
    assert lab.house.orders.of("acme") == []


def test_two_requests_in_one_moment_put_one_order(lab: Lab) -> None:
    assert lab.ask(ADMIN, "acme", ENABLE).status_code == 202
    answer = lab.ask(SECOND_ADMIN, "acme", ENABLE)
    assert (answer.status_code, answer.json()["code"]) == (409, "order-open")
    assert "op-" in answer.json()["detail"], "it has to name the one to follow"


def test_who_has_seen_an_older_tenant_is_refused(lab: Lab) -> None:
    seen = lab.tag("acme")
    lab.advance(layouts.changed(lab.records.tenant("acme").layout, gate=Gate(warnings=("look",))))
    answer = lab.ask(ADMIN, "acme", ENABLE, **{"If-Match": seen})
    assert (answer.status_code, answer.json()["code"]) == (412, "tenant-changed")
    assert lab.ask(ADMIN, "acme", ENABLE, **{"If-Match": lab.tag("acme")}).status_code == 202


def test_what_changes_a_tenant_takes_an_etag_but_an_emergency_does_not(lab: Lab) -> None:
    client = lab.as_(ADMIN)
    url, key = "/api/v1/tenants/acme/operations", {"Idempotency-Key": "one-of-many"}
    assert client.post(url, json=ENABLE, headers=key).status_code == 428
    revoke = {"kind": "revoke", "reason": "a leak", "phrase": "revoke acme"}
    assert client.post(url, json=revoke, headers=key).status_code == 202


def test_an_unchanged_tenant_is_not_sent_again(lab: Lab) -> None:
    answer = lab.as_(VIEWER).get("/api/v1/tenants/acme", headers={"If-None-Match": lab.tag("acme")})
    assert (answer.status_code, answer.content) == (304, b"")


def test_a_revocation_waits_for_no_other_order(lab: Lab) -> None:
    assert lab.ask(ADMIN, "acme", ENABLE).status_code == 202
    answer = lab.ask(ADMIN, "acme", {"kind": "revoke", "reason": "a leak", "phrase": "revoke acme"})
    assert (answer.status_code, answer.json()["lane"]) == (202, "lock")


def test_the_planner_refuses_at_once_what_a_tenant_cannot_become(lab: Lab) -> None:
    answer = lab.ask(ADMIN, "acme", {"kind": "enable", "mode": "byokv"})
    assert answer.status_code in {409, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "code", "detail"} <= answer.json().keys()
    assert lab.house.orders.of("acme") == []


def test_an_operation_under_way_is_named_instead_of_another_one_begun(lab: Lab) -> None:
    begun = lab.records.begin(lab.records.tenant("acme"), OperationKind.ENABLE, "byok")
    answer = lab.ask(ADMIN, "acme", ENABLE)
    assert (answer.status_code, answer.json()["code"]) == (409, "operation-unfinished")
    assert begun.id in answer.json()["detail"]


# what destroys or closes ----------------------------------------------------------------------


def test_a_revocation_takes_its_phrase_and_a_fresh_sign_in(lab: Lab) -> None:
    wrong = lab.ask(ADMIN, "acme", {"kind": "revoke", "reason": "x", "phrase": "revoke acme-two"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "not-confirmed")
    stale = lab.as_(ADMIN, auth_time=int(time.time()) - 3600).post(
        "/api/v1/tenants/acme/operations",
        json={"kind": "revoke", "reason": "x", "phrase": "revoke acme"},
        headers={"Idempotency-Key": "stale-sign-in"},
    )
    assert (stale.status_code, stale.json()["code"]) == (401, "sign-in-stale")
    assert "insufficient_user_authentication" in stale.headers["www-authenticate"]
    assert lab.house.orders.of("acme") == []


def test_where_a_customer_wants_it_a_second_person_has_to_agree(two_people: Lab) -> None:
    lab, revoke = two_people, {"kind": "revoke", "reason": "a leak", "phrase": "revoke acme"}
    order = lab.ask(ADMIN, "acme", revoke).json()
    assert order["state"] == "to-approve"
    assert lab.house.orders.to_hand_over() == [], "no worker may get it before"
    url = f"/api/v1/tenants/acme/operations/{order['id']}"
    alone = lab.as_(ADMIN).post(f"{url}/approval")
    assert (alone.status_code, alone.json()["code"]) == (403, "not-allowed")
    assert lab.as_(VIEWER).post(f"{url}/approval").status_code == 403
    agreed = lab.as_(SECOND_ADMIN).post(f"{url}/approval").json()
    assert (agreed["state"], agreed["approved_by"]["name"]) == ("queued", "Alan")
    assert lab.as_(SECOND_ADMIN).post(f"{url}/approval").status_code == 409


def test_what_waits_for_a_second_person_can_be_taken_back(two_people: Lab) -> None:
    lab, revoke = two_people, {"kind": "revoke", "reason": "a leak", "phrase": "revoke acme"}
    order = lab.ask(ADMIN, "acme", revoke).json()
    url = f"/api/v1/tenants/acme/operations/{order['id']}"
    assert lab.as_(ADMIN).post(f"{url}/withdrawal").json()["state"] == "withdrawn"
    assert lab.as_(SECOND_ADMIN).post(f"{url}/approval").status_code == 409
    assert lab.ask(ADMIN, "acme", revoke).status_code == 202, "it blocks nothing any more"


# the rotation ---------------------------------------------------------------------------------


def rotated(lab: Lab) -> str:
    """A tenant whose customer has rotated: paused, warned of, waiting. Returns the token."""
    key = Key(id="k1", state=KeyState.ACTIVE, arn=layouts.CUSTOMER_KEY, alias=ALIAS, material="m-1")
    layout = layouts.changed(lab.records.tenant("acme").layout, keys=(key,))
    lab.advance(
        layouts.changed(layout, gate=Gate(jobs="closed", reason="the key was rotated", warnings=("rotated: confirm",)))
    )
    operation = lab.records.begin(
        lab.records.tenant("acme"), OperationKind.ROTATE, None, asked={"key": key.model_dump(mode="json")}
    )
    lab.records.note(operation.id, state="waiting", message="waits for the customer's confirmation")
    return confirmation.token(operation.id, lab.records.tenant("acme").layout)


def test_the_warning_of_a_rotation_stands_everywhere_until_it_is_confirmed(lab: Lab) -> None:
    token = rotated(lab)
    client = lab.as_(ADMIN)
    tenant = client.get("/api/v1/tenants/acme").json()
    assert (tenant["state"], tenant["confirm"]["token"]) == ("paused", token)
    gate = client.get("/api/v1/tenants/acme/gate").json()
    assert (gate["jobs"]["allowed"], gate["warnings"]) == (False, ["rotated: confirm"])
    browser = lab.browser(ADMIN)
    for page in ("", "/operations", "/archive", "/log", "/verdicts"):
        assert 'role="alert"' in browser.get(f"/tenants/acme{page}").text, page
        assert "rotated: confirm" in browser.get(f"/tenants/acme{page}").text, page
    assert "rotated: confirm" not in browser.get("/tenants/acme-two").text


def test_a_confirmation_of_another_rotation_is_refused_at_once(lab: Lab) -> None:
    token = rotated(lab)
    stale = lab.ask(ADMIN, "acme", {"kind": "confirm", "token": "0" * 16})
    assert (stale.status_code, stale.json()["code"]) == (409, "token-stale")
    assert lab.ask(VIEWER, "acme", {"kind": "confirm", "token": token}).status_code == 403
    assert lab.ask(ADMIN, "acme", {"kind": "confirm", "token": token}).status_code == 202


# browsers -------------------------------------------------------------------------------------


def form_of(browser: Any, path: str) -> dict[str, str]:
    text = html.unescape(browser.get(path).text)
    return {name: text.split(f'name="{name}" value="')[1].split('">')[0] for name in ("csrf", "repeat", "seen")}


def test_a_form_of_another_site_does_nothing(lab: Lab) -> None:
    browser = lab.browser(ADMIN)
    form = {**form_of(browser, "/tenants/acme/byok"), "kind": "request"}
    for headers, sent in (
        ({}, {**form, "csrf": ""}),
        ({}, {**form, "csrf": "x" * 32}),
        ({"Origin": "https://evil.example"}, form),
        ({"Sec-Fetch-Site": "cross-site"}, form),
    ):
        assert browser.post("/tenants/acme/ask", data=sent, headers=headers).status_code == 403
    assert lab.house.orders.of("acme") == []
    answer = browser.post("/tenants/acme/ask", data=form, headers={"Origin": URL, "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 303, "else nothing was shown by the refusals"


def test_the_api_with_a_cookie_takes_the_sessions_own_token(lab: Lab) -> None:
    browser = lab.browser(ADMIN)
    headers = {"Idempotency-Key": "from-a-browser", "If-Match": "*"}
    url = "/api/v1/tenants/acme/operations"
    assert browser.post(url, json=ENABLE, headers=headers).json()["code"] == "csrf"
    csrf = form_of(browser, "/tenants/acme/byok")["csrf"]
    assert browser.post(url, json=ENABLE, headers={**headers, "X-CSRF-Token": csrf}).status_code == 202


def test_a_form_sent_twice_asks_once(lab: Lab) -> None:
    browser = lab.browser(ADMIN)
    form = {**form_of(browser, "/tenants/acme/byok"), "kind": "request"}
    first, again = (browser.post("/tenants/acme/ask", data=form).headers["location"] for _ in range(2))
    assert first == again
    assert len(lab.house.orders.of("acme")) == 1


def test_every_answer_carries_the_headers_that_keep_a_browser_safe(lab: Lab) -> None:
    browser = lab.browser(ADMIN)
    for path in ("/", "/tenants/acme", "/no-such-page", "/api/v1/me", "/static/console.css"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"


def test_pages_load_nothing_from_elsewhere_and_hold_no_script_of_their_own(lab: Lab) -> None:
    browser = lab.browser(ADMIN)
    for path in ("/", "/tenants/acme", "/tenants/acme/byok", "/tenants/acme/byokms", "/tenants/acme/archive"):
        text = browser.get(path).text
        assert "https://" not in text.replace("https://keyshift.invalid", "")
        assert "<script>" not in text
        assert " style=" not in text
        assert " onclick=" not in text


# bounds ---------------------------------------------------------------------------------------


def test_a_large_body_is_refused_whether_its_length_is_told_or_not(lab: Lab) -> None:
    client = lab.as_(ADMIN)
    url = "/api/v1/tenants/acme/wrapped-keys"
    told = client.post(url, content=b"x" * 100_000)
    untold = client.post(url, content=(b"x" * 10_000 for _ in range(10)))
    assert [told.status_code, untold.status_code] == [413, 413]


def test_who_asks_too_often_is_told_when_to_come_back() -> None:
    now = [0.0]
    limits, rate = Limits(lambda: now[0]), Rate(burst=3, per_minute=60)
    for _ in range(3):
        limits.take("ada", rate)
    with pytest.raises(Refused) as refused:
        limits.take("ada", rate)
    assert refused.value.headers["Retry-After"] == "1"
    limits.take("alan", rate)
    now[0] = 1.0
    limits.take("ada", rate)


def test_writes_are_bounded_for_one_person_and_not_for_another(lab: Lab) -> None:
    answers = [lab.ask(VIEWER, "acme", ENABLE).status_code for _ in range(40)]
    assert 429 in answers
    assert lab.ask(ADMIN, "acme", ENABLE).status_code == 202


def test_a_value_that_cannot_be_used_is_not_repeated_in_the_answer(lab: Lab) -> None:
    secret = "c2VjcmV0LWtleS1ieXRlcw=="
    answer = lab.as_(ADMIN).post("/api/v1/tenants/acme/wrapped-keys", json={"wrapped": secret * 400, "sha256": secret})
    assert answer.status_code == 422
    assert secret not in answer.text


def test_an_unexpected_failure_is_a_problem_too_and_tells_no_inside(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(lab.house.orders, "of", broken)
    for client, path, kind in (
        (lab.as_(ADMIN), "/api/v1/tenants/acme", "application/problem+json"),
        (lab.browser(ADMIN), "/tenants/acme", "text/html; charset=utf-8"),
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (500, kind)
        assert "Traceback" not in answer.text


# following ------------------------------------------------------------------------------------


def test_events_are_followed_to_the_end_and_again_from_any_number(lab: Lab) -> None:
    order = lab.ask(ADMIN, "acme", ENABLE).json()
    orders = lab.house.orders
    orders.start(order["id"])
    for number in range(5):
        orders.tell(order["id"], "progress", {"objects": number})
    orders.end(order["id"], FAILED, said={"code": "x", "message": "why", "hint": None})
    url = f"/api/v1/tenants/acme/operations/{order['id']}/events"
    whole = lab.as_(VIEWER).get(url).text
    numbers = [int(line[4:]) for line in whole.splitlines() if line.startswith("id: ")]
    assert numbers == list(range(1, 9))
    rest = lab.as_(VIEWER).get(url, headers={"Last-Event-ID": "6"}).text
    assert [line for line in rest.splitlines() if line.startswith("event: ")] == ["event: progress", "event: end"]
    assert lab.as_(VIEWER).get(url, headers={"Last-Event-ID": "six"}).status_code == 422


def test_many_who_follow_one_operation_cost_one_look_at_the_database(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    order = lab.ask(ADMIN, "acme", ENABLE).json()["id"]
    looks, real = [0], lab.house.orders.events

    def counted(id: str, after: int, limit: int = 500) -> Any:
        looks[0] += 1
        return real(id, after, limit)

    monkeypatch.setattr(lab.house.orders, "events", counted)

    async def one() -> list[str]:
        return [text async for text in lab.house.hub.follow(order, 0)]

    async def all_of_them() -> list[list[str]]:
        readers = [asyncio.create_task(one()) for _ in range(200)]
        await asyncio.sleep(0)
        for number in range(20):
            await asyncio.to_thread(lab.house.orders.tell, order, "progress", {"objects": number})
        await asyncio.to_thread(lab.house.orders.end, order, FAILED)
        return await asyncio.gather(*readers)

    heard = asyncio.run(all_of_them())
    assert len(heard) == 200
    for texts in heard:
        numbers = [int(text.split("\n")[0][4:]) for text in texts if text.startswith("id: ")]
        assert numbers == list(range(1, 23)), "each hears every event once and in order"
    assert looks[0] < 100, "one looks for all of them"
