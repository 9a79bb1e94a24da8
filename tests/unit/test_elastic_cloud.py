"""Which versions Elastic Cloud offers is asked before an upgrade begins, and of nothing else."""

from __future__ import annotations

from typing import Any

import httpx
import layouts
import pytest

from migrate import elastic_cloud
from migrate.errors import CloudError, RefusedInput
from migrate.operations import OperationKind, Plan, Request
from migrate.plan import plan

KEY = "the-key-of-elastic-cloud"


def upgrade(version: str) -> Plan:
    request = Request(operation="acme-upgrade-1", kind=OperationKind.UPGRADE, search_version=version)
    return plan(request, layouts.byok_active())


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Elastic Cloud answers, and what it was asked."""
    held: dict[str, Any] = {
        "answer": httpx.Response(200, json={"stacks": [{"version": "8.19.3"}, {"version": "9.1.0"}]})
    }

    def get(url: str, *, headers: dict[str, str], timeout: float) -> httpx.Response:
        held["url"], held["headers"] = url, headers
        answer = held["answer"]
        if isinstance(answer, Exception):
            raise answer
        answer.request = httpx.Request("GET", url)
        return answer

    monkeypatch.setattr(httpx, "get", get)
    monkeypatch.setenv("EC_API_KEY", KEY)
    monkeypatch.delenv("EC_ENDPOINT", raising=False)
    return held


def test_a_version_that_is_offered_passes(cloud: dict[str, Any]) -> None:
    elastic_cloud.require_offered(upgrade("8.19.3"))
    assert cloud["url"] == "https://api.elastic-cloud.com/api/v1/stack/versions"
    assert cloud["headers"] == {"Authorization": f"ApiKey {KEY}"}


def test_one_that_is_not_is_refused_with_those_that_are(cloud: dict[str, Any]) -> None:
    with pytest.raises(RefusedInput) as refused:
        elastic_cloud.require_offered(upgrade("8.19.4"))
    assert refused.value.code == "version-not-offered"
    assert refused.value.hint.endswith("of: 8.19.3"), "one that this Keyshift does not speak to is no advice"


@pytest.mark.parametrize("kind", [OperationKind.ROTATE, OperationKind.REMOVE, OperationKind.DELETE])
def test_a_plan_that_brings_no_version_asks_nothing(cloud: dict[str, Any], kind: OperationKind) -> None:
    elastic_cloud.require_offered(plan(Request(operation="acme-x-1", kind=kind), layouts.byok_active()))
    assert "url" not in cloud


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(401, json={"errors": [{"code": "root.unauthorized"}]}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"stacks": [{}]}),
        httpx.ConnectError("no route"),
    ],
    ids=["unauthorized", "no json", "no version", "no network"],
)
def test_an_answer_that_says_nothing_stops_it_and_never_tells_the_key(cloud: dict[str, Any], answer: Any) -> None:
    cloud["answer"] = answer
    with pytest.raises(CloudError) as failed:
        elastic_cloud.require_offered(upgrade("8.19.3"))
    assert failed.value.code == "elastic-cloud"
    assert KEY not in str(failed.value)


def test_without_a_key_it_says_what_to_set(cloud: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EC_API_KEY")
    with pytest.raises(CloudError) as failed:
        elastic_cloud.require_offered(upgrade("8.19.3"))
    assert "EC_API_KEY" in failed.value.hint
    assert "url" not in cloud
