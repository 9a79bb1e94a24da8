"""The API against its own OpenAPI document: schemathesis makes the requests, and what comes back has to be in it."""

from __future__ import annotations

import secrets
from typing import Any

import conftest  # noqa: F401 - it puts the unit tests' laboratory on the path
import console_lab
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 12
"""Of each call; the document has two dozen calls, and each is asked as nobody too."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> console_lab.Lab:
    made = console_lab.build(tmp_path_factory.mktemp("document"))
    made.house.limits.take = lambda *_: None  # type: ignore[method-assign] # it asks faster than anybody may
    return made


@pytest.fixture(scope="module")
def document(lab: console_lab.Lab) -> Any:
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", lab.app)


@pytest.fixture(autouse=True)
def no_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would ask a cloud is answered 502, quickly."""
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


def test_every_answer_is_one_that_the_document_promises(document: Any, lab: console_lab.Lab) -> None:
    token = lab.issuer.token(lab.issuer.person(console_lab.ADMIN), console_lab.API)
    seen: set[str] = set()
    for found in document.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            if "name" in (case.path_parameters or {}) and len(case.path_parameters["name"]) % 3:
                case.path_parameters["name"] = "acme"  # else nearly all that is made up is not found
            headers = {"authorization": f"Bearer {token}", "Idempotency-Key": secrets.token_hex(8), "If-Match": "*"}
            answer = case.call(headers=headers)
            if answer.status_code != 502:  # no cloud is here to be asked
                case.validate_response(answer, checks=CHECKS)
            if case.method != "GET":
                alone = case.call(headers={"authorization": ""})
                assert alone.status_code in {401, 413, 422}, "nobody is signed in"

        ask()
        seen.add(operation.label)
    assert len(seen) > 20, "the document has lost its calls"
