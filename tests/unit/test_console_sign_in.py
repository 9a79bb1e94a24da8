"""Signing in to the Console: the issuer's word and nothing else, and each call bound to its customer."""

from __future__ import annotations

import time
from pathlib import Path

import console_lab
import jwt
import pytest
from console_lab import ADMIN, OPERATOR, OTHER, VIEWER, Lab
from cryptography.hazmat.primitives.asymmetric import ec

from sandbox.issuer import API


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return console_lab.build(tmp_path_factory.mktemp("console"))


def test_a_person_signs_in_by_the_issuer_and_sees_their_own_tenants(lab: Lab) -> None:
    browser = lab.browser(ADMIN)
    page = browser.get("/")
    assert page.status_code == 200
    assert "acme-two" in page.text
    assert "globex" not in page.text, "another customer's tenant must not even be named"


def test_a_page_sends_whoever_is_not_signed_in_to_the_sign_in(lab: Lab) -> None:
    answer = lab.browser().get("/tenants/acme")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?to=/tenants/acme")


def test_a_sign_in_is_ended_by_its_own_browser_only_and_once(lab: Lab) -> None:
    mine, other = lab.browser(), lab.browser()
    back = lab.signed_by_issuer(mine.get("/sign-in").headers["location"], ADMIN)
    assert other.get(back).status_code == 401, "a link that somebody else began would sign a victim in as the attacker"
    assert mine.get(back).status_code == 303
    assert mine.get(back).status_code == 401


def test_a_sign_in_leads_to_no_other_site(lab: Lab) -> None:
    for to in ("https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"):
        browser = lab.browser()
        begun = browser.get("/sign-in", params={"to": to})
        back = lab.signed_by_issuer(begun.headers["location"], ADMIN)
        assert browser.get(back).headers["location"] == "/"


def test_the_session_cookie_is_out_of_reach_for_scripts(lab: Lab) -> None:
    browser = lab.browser()
    back = lab.signed_by_issuer(browser.get("/sign-in").headers["location"], ADMIN)
    cookie = next(c for c in browser.get(back).headers.get_list("set-cookie") if c.startswith("keyshift="))
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": int(time.time()) - 3600}, "it has run out"),
        ({"iss": "http://127.0.0.1:1"}, "another issuer"),
        ({"aud": "another-api"}, "it is for another service"),
        ({"keyshift_role": "root"}, "a role that does not exist"),
        ({"keyshift_customer": None}, "a customer's person without a customer"),
    ],
)
def test_a_token_that_is_not_good_for_this_is_refused(lab: Lab, claims: dict, why: str) -> None:
    answer = lab.as_(ADMIN, **claims).get("/api/v1/me")
    assert answer.status_code == 401, why
    assert answer.json()["code"] == "token-refused"


def test_a_token_signed_with_another_key_is_refused(lab: Lab) -> None:
    good = lab.issuer.token(lab.issuer.person(ADMIN), API)
    header, claims = jwt.get_unverified_header(good), jwt.decode(good, options={"verify_signature": False})
    key = ec.generate_private_key(ec.SECP256R1())
    client = lab.as_(None)
    for forged in (
        jwt.encode(claims, key, algorithm="ES256", headers={"kid": header["kid"]}),
        jwt.encode(claims, None, algorithm="none", headers={"kid": header["kid"]}),
    ):
        assert client.get("/api/v1/me", headers={"authorization": f"Bearer {forged}"}).status_code == 401
    assert client.get("/api/v1/me", headers={"authorization": f"Bearer {good}"}).json()["name"] == "Ada"


def test_another_customers_tenant_is_answered_as_one_that_does_not_exist(lab: Lab) -> None:
    client = lab.as_(OTHER)
    for path in ("", "/gate", "/keys", "/verdicts", "/log", "/operations", "/wrapping-key", "/key-policy"):
        foreign, absent = (client.get(f"/api/v1/tenants/{name}{path}") for name in ("acme", "never-was"))
        assert foreign.status_code == absent.status_code == 404
        assert foreign.json() == absent.json(), path
    assert lab.as_(ADMIN).get("/api/v1/tenants/acme").status_code == 200, "else nothing was shown by the 404"


def test_the_vendor_sees_every_tenant_and_decides_about_no_key(lab: Lab) -> None:
    names = {row["tenant"] for row in lab.as_(OPERATOR).get("/api/v1/tenants").json()}
    assert names == {"acme", "acme-two", "globex-one"}
    assert lab.ask(OPERATOR, "acme", {"kind": "enable", "mode": "byok"}).status_code == 403
    assert lab.ask(OPERATOR, "acme", {"kind": "revoke", "reason": "x", "phrase": "revoke acme"}).status_code == 403


def test_a_viewer_changes_nothing(lab: Lab) -> None:
    answer = lab.ask(VIEWER, "acme", {"kind": "enable", "mode": "byok"})
    assert (answer.status_code, answer.json()["code"]) == (403, "not-allowed")
    assert lab.house.orders.of("acme") == []


def test_signing_out_ends_the_session_also_for_a_copied_cookie(lab: Lab) -> None:
    browser = lab.browser(ADMIN)
    cookie = dict(browser.cookies)
    csrf = browser.get("/").text.split('name="csrf" value="')[1].split('"')[0]
    assert browser.post("/sign-out", data={"csrf": csrf}).status_code == 303
    thief = lab.browser()
    thief.cookies.update(cookie)
    assert "Sign in" in thief.get("/").text


def test_settings_take_no_clear_text_address(tmp_path: Path) -> None:
    from console.settings import from_environment
    from migrate.errors import RefusedInput

    with pytest.raises(RefusedInput, match="https"):
        from_environment(
            {"KEYSHIFT_CONSOLE_URL": "http://console.example", "KEYSHIFT_CONSOLE_ISSUER": "https://i.example"}
        )
