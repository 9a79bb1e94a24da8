"""The emergency lock on a real tenant, in the middle of its move: what was open is closed, and comes back whole."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import boto3
import moved
import pytest
from cloud import REGION, Cloud, Done, Tenant, records, until

from migrate import denials, probes
from migrate.denials import Estate
from migrate.log import Log
from stacks.layout import Layout

STEP_SECONDS = 180
END_SECONDS = 300
REASON = "the customer's laptop was stolen"


@dataclass
class Ways:
    """Every path to a tenant's data, tried by the very code of the seal, with URLs that were made at the beginning."""

    tenant: Tenant
    urls: dict[str, str]

    def estate(self) -> Estate:
        layout = Layout.model_validate(self.tenant.layout())
        session = boto3.Session(region_name=REGION)
        return Estate(layout, self.tenant.cloud.account, session, dict)

    def answers(self) -> dict[tuple[str, str, str], probes.Answer]:
        """What each path answers now."""
        estate = self.estate()
        found = probes.samples(estate)
        urls = {**probes.presigned(estate, found), **self.urls}
        return {(one.name, one.role, one.unit): one.attempt() for one in probes.paths(estate, found, urls)}

    def still_open(self) -> dict[tuple[str, str, str], str]:
        return {way: answer.said for way, answer in self.answers().items() if not answer.refused}


@pytest.fixture
def ways(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Callable[[Tenant], Ways]:
    for name, value in cloud.environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)

    def of(tenant: Tenant) -> Ways:
        made = Ways(tenant, {})
        estate = made.estate()
        made.urls = probes.presigned(estate, probes.samples(estate))
        return made

    return of


def seal(tenant: Tenant) -> dict[str, Any]:
    done = tenant.keyshift("seal", "--reason", REASON, "--json")
    found = done.json()
    assert found["still_open"] == [], done.text
    assert not [one for one in found["denials"] if one["came_to"] == denials.FAILED]
    assert all(one["after"] is not None for one in found["paths"])
    return found


def until_step(tenant: Tenant, step: str) -> None:
    until(lambda: tenant.step() == step, lambda: f"{step}; it is in {tenant.step()}", STEP_SECONDS, every=0.005)


def engine_is_updating(tenant: Tenant) -> bool:
    locks = tenant.cloud.home / "pulumi" / ".pulumi" / "locks" / "organization" / "keyshift" / tenant.stack
    return any(locks.glob("*.json"))


def assert_stopped_by_the_seal(process: Any) -> None:
    out, err = process.communicate(timeout=STEP_SECONDS)
    assert process.returncode == 1, f"{out}\n{err}"
    assert '"code": "sealed"' in out, f"{out}\n{err}"
    assert REASON in out
    assert "keyshift restore" in out


def assert_refused_as_sealed(done: Done) -> None:
    assert done.code == 2, done.text
    error = done.json()["error"]
    assert error["code"] == "sealed", done.text
    assert REASON in error["message"]


def row(tenant: Tenant) -> dict[str, Any]:
    with sqlite3.connect(tenant.cloud.home / "keyshift.db", timeout=10) as database:
        database.row_factory = sqlite3.Row
        return dict(database.execute("SELECT * FROM tenants WHERE name = ?", (tenant.name,)).fetchone())


def test_a_seal_stops_a_move_anywhere_closes_every_path_and_after_a_restore_the_move_ends_whole(
    cloud: Cloud, ways: Callable[[Tenant], Ways]
) -> None:
    tenant = cloud.tenant("sealed", records=records(40))
    key = cloud.give_key(tenant.name)
    home = moved.home_of(tenant)
    look = ways(tenant)
    before = look.answers()
    assert {way[0] for way in before} == {
        "GET", "HEAD", "COPY", "PUT", "LIST", "presigned URL", "worker reads",
        "search by the alias", "search the index", "get by id", "read the credentials",
    }  # fmt: skip
    assert {answer.said for answer in before.values()} == {"200"}, "a path that was never open proves nothing"

    # A runner in the middle of the copy that does not even run when it is overtaken.
    runner = cloud.start("keyshift", "enable", tenant.name, "--json")
    until_step(tenant, "build/2-copy")
    runner.send_signal(signal.SIGSTOP)
    sealed = seal(tenant)
    assert {one["id"] for one in sealed["denials"]} == {
        "bucket s2", "role archive", "role pipeline", "search e1", "search e2", "pipeline p1", "pipeline p2", "key k1",
    }  # fmt: skip
    assert look.still_open() == {}
    assert cloud.client("kms").describe_key(KeyId=key.arn)["KeyMetadata"]["KeyState"] == "Disabled"
    runner.send_signal(signal.SIGCONT)
    assert_stopped_by_the_seal(runner)
    assert look.still_open() == {}, "the runner that woke up has opened something"

    # Nothing goes on while it is sealed, by whatever command, and everybody is told why.
    sealed_row = row(tenant)
    for words in (("resume",), ("enable",), ("key", "upload", str(cloud.folder / "x"), "--sha256", "0" * 64)):
        assert_refused_as_sealed(tenant.keyshift(*words, "--json", check=False))
    assert row(tenant) == sealed_row, "a refusal changes nothing"
    for words in (("status",), ("tenant", "show")):
        assert REASON in tenant.keyshift(*words).out
    assert REASON in cloud.keyshift("tenant", "list").out
    assert cloud.up(tenant.stack, check=False).code != 0, "the stack file is the open one"
    tenant.keyshift("stack", "render")
    cloud.up(tenant.stack)  # what is allowed is the layout with closed access
    assert look.still_open() == {}
    again = seal(tenant)
    assert {one["came_to"] for one in again["denials"]} == {denials.BEFORE}, "what is closed is left as it is"

    restored = tenant.keyshift("restore", "--reason", "found again", "--json").json()
    assert {one["storage"]: one["objects_read"] > 0 for one in restored["checked"]}["s1"] is True
    assert restored["next"] == f"keyshift resume {tenant.name}"
    open_again = look.answers()
    assert {way: open_again[way].said for way in before} == dict.fromkeys(before, "200")

    # An engine in the middle of an update that rewrites the very policies.
    runner = cloud.start("keyshift", "resume", tenant.name, "--json")
    until_step(tenant, "freeze/up")
    until(lambda: engine_is_updating(tenant), "the engine", STEP_SECONDS, every=0.005)
    sealed = seal(tenant)
    assert_stopped_by_the_seal(runner)
    assert not engine_is_updating(tenant)
    assert look.still_open() == {}, "an update that was under way has opened something"
    tenant.keyshift("restore")

    tenant.keyshift("resume", seconds=END_SECONDS)
    moved.assert_moved(tenant, home, key)

    # A quiet tenant under its own key: closed and opened again it is exactly what it was.
    look = ways(tenant)
    assert {answer.said for answer in look.answers().values()} == {"200"}
    sealed = seal(tenant)
    assert {one["unit"] for one in sealed["paths"]} == {"s2", "e2", "p2"}
    assert look.still_open() == {}
    tenant.keyshift("restore")
    assert {answer.said for answer in look.answers().values()} == {"200"}
    moved.assert_moved(tenant, home, key)

    events = [line["event"] for line in Log(tenant.folder).events()]
    assert [one["event"] for one in events if one["event"] in {"sealed", "restored"}] == [
        "sealed", "sealed", "restored", "sealed", "restored", "sealed", "restored",
    ]  # fmt: skip
    assert all("@" in one["by"] for one in events if one["event"] in {"sealed", "restored"})
    assert Log(tenant.folder).verify_chain().lines == len(events)
    tenant.shut_down()
