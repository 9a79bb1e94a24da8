"""The way back on real servers: a move is killed with its gate closed, aborted, and nothing of it is left.

One tenant for the whole file. Its first abort is killed too, and gone on with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import moved
import pytest
from cloud import Cloud, Done, Tenant, until
from moved import Home, refused_with
from standstill import STEP_SECONDS, stop_in

from components.index import INDEX
from migrate import archive

AFTER = "records/after/the-abort.json"


@dataclass(frozen=True)
class Aborted:
    tenant: Tenant
    home: Home
    documents: Mapping[str, Any]
    resources: Mapping[str, list[str]]
    while_frozen: str
    """How S3 answered a job while the gate was closed."""
    planned: Done
    resumed: Done


@pytest.fixture(scope="module")
def aborted(cloud: Cloud) -> Iterator[Aborted]:
    tenant = cloud.tenant("undo")
    cloud.give_key(tenant.name)
    home, documents, resources = moved.home_of(tenant), _documents(tenant), moved.resources(tenant)
    runner = cloud.start("keyshift", "enable", tenant.name, "--json")
    try:
        stop_in(tenant, runner, "freeze/3-copy", "freeze/4-verify-storage", "freeze/5-fill", "freeze/6-verify-index")
        jobs = tenant.storage("s1", "archive")
        place = {"Bucket": jobs.storage.bucket, "Key": jobs.storage.prefix + AFTER}
        while_frozen = refused_with(lambda: jobs.s3.put_object(**place, Body=b"{}"))
    finally:
        runner.kill()
        runner.communicate(timeout=STEP_SECONDS)
    planned = tenant.keyshift("abort", "--dry-run", "--json")
    first = cloud.start("keyshift", "abort", tenant.name, "--json")
    try:
        until(
            lambda: (tenant.step() or "").startswith("purge/"), lambda: f"a purge, it is {tenant.step()}", STEP_SECONDS
        )
    finally:
        first.kill()
        first.communicate(timeout=STEP_SECONDS)
    resumed = tenant.keyshift("resume", "--json", seconds=STEP_SECONDS)
    yield Aborted(tenant, home, documents, resources, while_frozen, planned, resumed)
    tenant.shut_down()


def _documents(tenant: Tenant) -> dict[str, Any]:
    client = tenant.search("e1")
    client.indices.refresh(index=INDEX)
    return {id: (hit["_version"], hit["_source"]) for id, hit in moved.documents(client).items()}


def test_the_gate_was_closed_when_the_move_died(aborted: Aborted) -> None:
    assert aborted.while_frozen == "AccessDenied", "else nothing would have had to be opened again"


def test_the_plan_of_the_way_back_was_told_first(aborted: Aborted) -> None:
    planned = aborted.planned.json()
    assert [phase["name"] for phase in planned["phases"]] == ["reopen", "purge", "drop"]
    assert planned["phases"][-1]["layout"]["storages"] == [
        {"id": "s1", "kind": "shared", "key": None, "release": None, "watched": False}
    ]


def test_the_end_is_the_state_from_before_the_move(aborted: Aborted) -> None:
    tenant = aborted.tenant
    assert aborted.resumed.json()["state"] == "done"
    assert aborted.resumed.json()["left_behind"] == 0
    layout = tenant.layout()
    assert (layout["mode"], layout["serves"]) == ("standard", {"storage": "s1", "search": "e1", "pipeline": "p1"})
    assert [dropped["id"] for dropped in layout["dropped"]] == ["e2", "p2", "s2"]
    assert moved.contents(tenant.storage("s1", "runner")) == aborted.home.contents
    assert _documents(tenant) == aborted.documents
    tenant.pulumi("preview", "--expect-no-changes")


def test_nothing_of_the_half_made_side_is_left_in_the_clouds(aborted: Aborted) -> None:
    assert moved.resources(aborted.tenant) == aborted.resources


def test_jobs_write_and_searches_find_again(aborted: Aborted) -> None:
    tenant = aborted.tenant
    archive.write_record(tenant.storage("s1", "archive"), "after", "the-abort", {"word": "Zyzzyva"})
    tenant.wait_until_indexed(tenant.expected + 1)
    found = tenant.keyshift("search", "Zyzzyva", "--json").json()
    assert [hit["key"] for hit in found["hits"]] == [AFTER]


def test_what_became_of_it_stands_in_the_record_and_in_the_log(aborted: Aborted) -> None:
    states = {one["id"]: one["state"] for one in aborted.tenant.keyshift("operations", "--json").json()}
    name = aborted.tenant.name
    assert states[f"{name}-enable-1"] == "aborted"
    assert states[f"{name}-enable-1-abort"] == "done"
    assert {one["id"] for one in aborted.tenant.keyshift("verdict", "list", "--json").json()} >= {
        f"{name}-enable-1-abort-untouched",
        f"{name}-enable-1-abort-purge",
    }
    again = aborted.tenant.keyshift("abort", check=False)
    assert again.code == 2
    assert "no unfinished operation" in again.err
