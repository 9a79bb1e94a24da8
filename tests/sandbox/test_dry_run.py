"""A dry run on real servers: real previews of every layout, a real listing, and nothing that is any different after."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moved
import pytest
from cloud import Cloud, Done, Tenant

from migrate.copy.s3 import list_versions

PHASES = ["key", "build", "freeze", "attach", "serve", "purge", "drop"]


@dataclass(frozen=True)
class Looked:
    tenant: Tenant
    done: Done
    found: Mapping[str, Any]
    before: Any
    after: Any


@pytest.fixture(scope="module")
def looked(cloud: Cloud) -> Iterator[Looked]:
    """A standard tenant with records, before and after `enable --dry-run`."""
    tenant = cloud.tenant("dry")
    before = everything(tenant)
    done = tenant.keyshift("enable", "--dry-run", "--json")
    yield Looked(tenant, done, done.json(), before, everything(tenant))
    tenant.shut_down()


def everything(tenant: Tenant) -> Any:
    """Cloud, state and its history, stack file, record, and the tenant's folder."""
    with sqlite3.connect(tenant.cloud.home / "keyshift.db") as database:
        rows = [database.execute(f"SELECT * FROM {table}").fetchall() for table in ("tenants", "operations")]
    folders = (tenant.cloud.home / "pulumi", tenant.folder)
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    files.append(tenant.cloud.project / f"Pulumi.{tenant.stack}.yaml")
    return moved.resources(tenant), rows, {str(path): digest(path) for path in files}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_nothing_at_all_is_different_after(looked: Looked) -> None:
    resources, rows, files = looked.before
    assert resources
    assert len(files) > 3
    assert looked.after == (resources, rows, files)


def test_each_layout_is_previewed_against_the_stack_as_it_is(looked: Looked) -> None:
    previews = {preview["phase"]: preview for preview in looked.found["previews"]}
    assert list(previews) == PHASES
    assert {preview["compared_with"] for preview in previews.values()} == {"now"}
    assert [preview["refused"] for preview in previews.values()] == [None] * len(PHASES), "the runner would walk it"

    def named(phase: str, op: str) -> set[str]:
        return {change["name"] for change in previews[phase]["changes"] if change["op"] == op}

    assert "k1" in {name.split("-")[0] for name in named("key", "create")}
    assert {"s2-bucket", "e2-deployment"} <= named("build", "create")
    assert not named("build", "delete")
    assert named("drop", "delete") >= {"e1-deployment", "e1-index"}, "protected now, and freed on the way"
    assert {"s2-bucket", "e2-deployment"} <= named("drop", "create"), "compared with now, not with the phase before"
    counts = previews["drop"]["counts"]
    assert counts["create"] == len(named("drop", "create"))
    assert counts["delete"] == len(named("drop", "delete"))


def test_the_price_is_of_what_a_listing_shows(looked: Looked) -> None:
    price = looked.found["price"]
    held = price["storages"]["s1"]
    versions = len(list(list_versions(looked.tenant.storage("s1"))))
    assert held["versions"] + held["delete_markers"] == versions > 0
    assert price["bytes_copied"] == held["bytes"] > 0
    requests = {row["kind"]: row["count"] for row in price["requests"]}
    assert requests["COPY"] == held["versions"]
    assert requests["HEAD"] == 2 * held["versions"]
    assert price["dollars"] > 0
    assert price["this_dry_run"]["requests"] == {"LIST": 1}


def test_its_progress_is_told_as_events(looked: Looked) -> None:
    told = [json.loads(line) for line in looked.done.err.splitlines()]
    assert {event["event"] for event in told} == {"progress"}
    assert told[-1]["move"] == "list"
    assert max(event["objects"] for event in told if event["move"] == "preview") == len(PHASES)


def test_people_read_the_same_and_previews_can_be_left_out(looked: Looked) -> None:
    shown = looked.tenant.keyshift("enable", "--dry-run", "--quick").out
    assert f"plan of enable for tenant {looked.tenant.name}; nothing was changed" in shown
    assert "previews: left out" in shown
    assert "COPY" in shown
    assert looked.after == everything(looked.tenant)


def test_what_admits_a_preview_admits_no_up(looked: Looked) -> None:
    cloud = looked.tenant.cloud.with_environment(KEYSHIFT_PROPOSED="1")
    refused = cloud.pulumi("up", "-s", looked.tenant.stack, "--yes", "--skip-preview", check=False)
    assert refused.code != 0
    assert "KEYSHIFT_PROPOSED is set" in refused.out + refused.err
    cloud.pulumi("preview", "-s", looked.tenant.stack, "--expect-no-changes")
    assert looked.tenant.pulumi("preview", "--expect-no-changes").code == 0, "and it is as it was"
