"""Who may call what: role × call × tenant, generated from the Console's own OpenAPI document.

Every call that the document names is made by everybody, on an own tenant, on another customer's and on one that
does not exist. A call that is added later is in the matrix without being written here, and fails until it is bound.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import console_lab
import pytest
from console_lab import ADMIN, OPERATOR, OTHER, VIEWER, Lab

from console.callers import Right
from console.orders import Kind
from console.views import right_for

OWN_TENANT, FOREIGN, ABSENT = "acme", "globex-one", "never-was"
NOBODY = None
ORDER = "op-" + "0" * 20
BODIES: dict[str, list[tuple[dict[str, Any], Right]]] = {
    "/plans": [({"of": "enable", "mode": "byok"}, Right.RUN)],
    "/wrapped-keys": [({"wrapped": "AAAA", "sha256": "0" * 64}, Right.OWN)],
    "/key-checks": [({}, Right.OWN)],
    "/operations": [
        ({"kind": kind, **more}, right_for(Kind(kind)))
        for kind, more in (
            ("enable", {"mode": "byok"}),
            ("change", {"mode": "byok"}),
            ("request", {}),
            ("rotate", {}),
            ("resume", {}),
            ("abort", {}),
            ("follow", {}),
            ("onboard", {"alias": "arn:aws:kms:eu-west-1:111122223333:alias/x"}),
            ("confirm", {"token": "x"}),
            ("remove", {"phrase": "x"}),
            ("revoke", {"phrase": "x", "reason": "x"}),
            ("restore", {"phrase": "x", "reason": "x"}),
            ("check", {}),
        )
    ],
    "/approval": [({}, Right.OWN)],
    "/withdrawal": [({}, Right.OWN)],
}
READS = {"/wrapping-key": Right.OWN, "/wrapping-key.der": Right.OWN, "/archive": Right.DATA}
"""What not everybody who may look may see."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    made = console_lab.build(tmp_path_factory.mktemp("console"))
    made.house.limits.take = lambda *_: None  # type: ignore[method-assign] # the matrix asks faster than anybody may
    return made


def calls(lab: Lab) -> Iterator[tuple[str, str, dict[str, Any] | None, Right]]:
    """(method, path, body, what it needs) of every call on a tenant."""
    for path, methods in lab.app.openapi()["paths"].items():
        if "{name}" not in path:
            continue
        ending = next((end for end in BODIES if path.endswith(end)), None)
        for method in methods:
            if method == "get":
                right = READS.get(path.rpartition("{name}")[2], Right.READ)
                yield method, path, None, right
                continue
            assert ending is not None, f"{path} is new: say in BODIES what it takes and which right it needs"
            for body, right in BODIES[ending]:
                yield method, path, body, right


def ask(lab: Lab, who: str | None, method: str, path: str, tenant: str, body: dict[str, Any] | None) -> Any:
    url = path.replace("{name}", tenant).replace("{order_id}", ORDER).replace("{id}", "v-1") + (
        "?q=x" if path.endswith("/archive") else ""
    )
    headers = {"Idempotency-Key": secrets.token_hex(8), "If-Match": "*"}
    return lab.as_(who).request(method, url, json=body, headers=headers)


def test_nobody_gets_anything(lab: Lab) -> None:
    for method, path, body, _ in calls(lab):
        answer = ask(lab, NOBODY, method, path, OWN_TENANT, body)
        assert answer.status_code == 401, (method, path, answer.text)


@pytest.mark.parametrize("who", [ADMIN, VIEWER])
def test_what_is_another_customers_does_not_exist(lab: Lab, who: str) -> None:
    seen = 0
    for method, path, body, _ in calls(lab):
        foreign, absent = (ask(lab, who, method, path, tenant, body) for tenant in (FOREIGN, ABSENT))
        assert (foreign.status_code, foreign.json()) == (404, absent.json()), (method, path, foreign.text)
        assert "globex" not in foreign.text
        seen += 1
    assert seen > 25, "the document has lost its calls, so nothing was shown"


@pytest.mark.parametrize("who", [ADMIN, VIEWER, OPERATOR])
def test_a_role_is_refused_exactly_what_it_has_no_right_to(lab: Lab, who: str) -> None:
    role = lab.issuer.person(who).role
    allowed = {
        "customer-admin": {Right.READ, Right.DATA, Right.RUN, Right.OWN},
        "customer-viewer": {Right.READ, Right.DATA},
        "vendor-operator": {Right.READ, Right.RUN},
    }[role]
    for method, path, body, right in calls(lab):
        answer = ask(lab, who, method, path, OWN_TENANT, body)
        is_refused = answer.status_code == 403 and answer.json()["code"] == "not-allowed"
        assert is_refused == (right not in allowed), (role, method, path, body, answer.status_code, answer.text)


def test_what_was_refused_has_put_no_order(lab: Lab) -> None:
    before = len(lab.house.orders.of(FOREIGN))
    for who in (ADMIN, VIEWER):
        for method, path, body, _ in calls(lab):
            if method == "post":
                ask(lab, who, method, path, FOREIGN, body)
    assert len(lab.house.orders.of(FOREIGN)) == before == 0
    answer = lab.ask(OTHER, FOREIGN, {"kind": "check"})
    assert answer.status_code == 202, "else an order could not have been seen"


def test_the_order_of_another_tenant_is_not_found_under_ones_own(lab: Lab) -> None:
    order = lab.house.orders.of(FOREIGN)[0].data()
    for who, tenant in ((ADMIN, OWN_TENANT), (OTHER, FOREIGN)):
        answer = lab.as_(who).get(f"/api/v1/tenants/{tenant}/operations/{order['id']}")
        assert answer.status_code == (200 if who == OTHER else 404)
        events = f"/api/v1/tenants/{tenant}/operations/{order['id']}/events"
        if who == ADMIN:
            assert lab.as_(who).get(events).status_code == 404
