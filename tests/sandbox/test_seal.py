"""Closing a real tenant, by us in the middle of its move, by its customer, by a revocation: all shut, and all comes back."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import moved
import pytest
from cloud import REGION, Cloud, Done, Tenant, records, until

from migrate import denials, probes
from migrate.certificates import Certificates
from migrate.denials import Estate
from migrate.log import Log
from migrate.stack import is_alive
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
        layout = Layout.model_validate_json(row(self.tenant)["layout"])
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


def until_step(tenant: Tenant, step: str) -> None:
    until(lambda: tenant.step() == step, lambda: f"{step}; it is in {tenant.step()}", STEP_SECONDS, every=0.005)


def engine_of(tenant: Tenant) -> int | None:
    """The process that holds the lock of the tenant's stack."""
    locks = tenant.cloud.home / "pulumi" / ".pulumi" / "locks" / "organization" / "keyshift" / tenant.stack
    held = [lock.read_text() for lock in locks.glob("*.json")]
    return json.loads(held[0])["pid"] if held and held[0] else None


def is_interrupted(pid: int) -> bool:
    """Whether a process that stands still has a SIGINT waiting for it."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (signal.SIGINT - 1) & 1 for mask in pending)


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


def test_whoever_closes_a_tenant_all_of_it_is_closed_and_comes_back_whole(
    cloud: Cloud, ways: Callable[[Tenant], Ways]
) -> None:
    tenant = cloud.tenant("sealed", records=records(20))
    key = cloud.give_key(tenant.name)
    home = moved.home_of(tenant)
    look = ways(tenant)
    before = look.answers()
    assert {way[0] for way in before} == {
        "GET", "HEAD", "COPY", "PUT", "LIST", "presigned URL", "worker reads",
        "search by the alias", "search the index", "get by id", "read the credentials",
    }  # fmt: skip
    assert {answer.said for answer in before.values()} == {"200"}, "a path that was never open proves nothing"

    _sealed_in_the_middle_of_a_move(tenant, look)
    _everything_else_is_refused(tenant, look)
    restored = tenant.keyshift("restore", "--reason", "found again", "--json").json()
    assert {one["storage"]: one["objects_read"] > 0 for one in restored["checked"]}["s1"] is True
    assert restored["next"] == f"keyshift resume {tenant.name}"
    open_again = look.answers()
    assert {way: open_again[way].said for way in before} == dict.fromkeys(before, "200")
    tenant.keyshift("resume", seconds=END_SECONDS)
    moved.assert_contents(tenant, home, key, {})
    moved.assert_documents(tenant)
    moved.assert_old_home_is_gone(tenant, home)

    look = ways(tenant)  # with URLs to what serves now
    _the_customer_takes_the_key_away_and_gives_it_back(tenant, look, key.arn)
    _revoked_and_restored(tenant, look, key.arn)
    _assert_logged(tenant)
    _the_end_of_the_key(tenant, look, key.arn)
    tenant.shut_down()


def _watch(tenant: Tenant) -> tuple[int, list[dict[str, Any]]]:
    """One look of a watch that was started anew: its exit code and its events."""
    done = tenant.cloud.keyshift("watch", "--once", "--tenant", tenant.name, "--json", check=False)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert events[-1]["event"] == "round", done.text
    return done.code, events


def _the_customer_takes_the_key_away_and_gives_it_back(tenant: Tenant, look: Ways, key_arn: str) -> None:
    """Seen by two looks in a row of two processes; only the watch's own seal, for this cause, opens by itself."""
    kms = tenant.cloud.client("kms")
    assert _watch(tenant)[0] == 0
    kms.disable_key(KeyId=key_arn)
    code, events = _watch(tenant)
    assert (code, [one["event"] for one in events]) == (3, ["key", "round"]), "one refusal closes nothing"
    assert (events[0]["cause"], events[0]["canary"], events[0]["said"]) == (
        "disabled", "refused", "KMS.DisabledException",
    )  # fmt: skip
    code, events = _watch(tenant)
    assert (code, events[-1]["closed"]) == (3, [tenant.name]), events
    assert {answer.refused for answer in look.answers().values()} == {True}
    kms.enable_key(KeyId=key_arn)
    code, events = _watch(tenant)
    assert (code, events[-1]["reopened"]) == (0, [tenant.name]), events
    checked = next(one for one in events if one["event"] == "reopened")["checked"]
    assert [(one["same"], one["objects_read"] > 0) for one in checked] == [(True, True)]
    assert {answer.said for answer in look.answers().values()} == {"200"}


def _revoked_and_restored(tenant: Tenant, look: Ways, key_arn: str) -> None:
    kms = tenant.cloud.client("kms")
    found = tenant.keyshift("revoke", "--reason", REASON, "--yes", "--json").json()
    assert found["still_open"] == []
    assert {(one["name"], one["role"]) for one in found["paths"]} == {(name, role) for name, role, _ in look.answers()}
    assert all(one["after"] is not None and one["bound"] for one in found["paths"])
    assert {one["id"]: one["came_to"] for one in found["denials"]} == dict.fromkeys(
        ("bucket s2", "role archive", "role pipeline", "search e2", "pipeline p2", "key k1"), denials.DENIED
    )
    assert look.still_open() == {}, "the URLs made before die too"
    assert kms.describe_key(KeyId=key_arn)["KeyMetadata"]["KeyState"] == "Disabled"
    assert [str(key.state) for key in look.estate().layout.keys] == ["revoked"]
    tenant.pulumi("preview", "--expect-no-changes")
    assert _watch(tenant)[1][-1]["reopened"] == []
    restored = tenant.keyshift("restore", "--reason", "found again", "--read-all", "--json").json()
    (checked,) = restored["checked"]
    assert (checked["same"], checked["objects_read"]) == (True, checked["objects"])
    assert {answer.said for answer in look.answers().values()} == {"200"}
    tenant.pulumi("preview", "--expect-no-changes")


def _the_end_of_the_key(tenant: Tenant, look: Ways, key_arn: str) -> None:
    destroy = ("key", "destroy", "k1", "--reason", "the contract ended", "--days", "7", "--now", "--json")
    phrase = ("--confirm", f"destroy k1 of {tenant.name}")
    tenant.keyshift("revoke", "--reason", "the contract ended", "--yes")
    done = tenant.keyshift(*destroy, *phrase).json()
    kms = tenant.cloud.client("kms")
    assert kms.describe_key(KeyId=key_arn)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    assert (done["refused_with"], done["under_it"]["searches"]) == ("KMSInvalidStateException", ["e2"])
    assert Certificates(tenant.folder).load("k1-destroyed")["arn"] == key_arn
    kms.cancel_key_deletion(KeyId=key_arn)
    assert kms.describe_key(KeyId=key_arn)["KeyMetadata"]["KeyState"] == "PendingImport", "its material is gone"
    assert look.still_open() == {}


def _everything_else_is_refused(tenant: Tenant, look: Ways) -> None:
    """Nothing goes on while it is sealed, by whatever command, and everybody is told why."""
    cloud, sealed_row = tenant.cloud, row(tenant)
    for words in (("resume",), ("enable",), ("key", "upload", str(cloud.folder / "x"), "--sha256", "0" * 64)):
        assert_refused_as_sealed(tenant.keyshift(*words, "--json", check=False))
    assert row(tenant) == sealed_row, "a refusal changes nothing"
    assert REASON in tenant.keyshift("status").out
    assert cloud.up(tenant.stack, check=False).code != 0, "the stack file is the open one"
    assert look.still_open() == {}


def _sealed_in_the_middle_of_a_move(tenant: Tenant, look: Ways) -> None:
    """The engine wakes up after the seal is recorded and ends by it; the runner wakes up after both."""
    runner = tenant.cloud.start("keyshift", "enable", tenant.name, "--json")
    until_step(tenant, "build/up")
    engine = until(lambda: engine_of(tenant), "the engine", STEP_SECONDS, every=0.005)
    os.kill(engine, signal.SIGSTOP)
    runner.send_signal(signal.SIGSTOP)
    sealing = tenant.cloud.start("keyshift", "seal", tenant.name, "--reason", REASON, "--json")
    until(lambda: row(tenant)["sealed"], "the seal's record", STEP_SECONDS, every=0.005)
    # Awake before, it might end by itself: what it asks for is denied by then.
    until(lambda: is_interrupted(engine), "the seal to interrupt the engine", STEP_SECONDS, every=0.005)
    os.kill(engine, signal.SIGCONT)
    out, err = sealing.communicate(timeout=STEP_SECONDS)
    assert sealing.returncode == 0, f"{out}\n{err}"
    assert str(engine) in json.loads(out)["engines"][0]
    assert not is_alive(engine)
    runner.send_signal(signal.SIGCONT)
    assert_stopped_by_the_seal(runner)
    assert look.still_open() == {}, "the update that was under way, or the runner that woke up, has opened something"


def _assert_logged(tenant: Tenant) -> None:
    events = [line["event"] for line in Log(tenant.folder).events()]
    asked = [one for one in events if one["event"] in {"sealed", "restored"}]
    assert [one["event"] for one in asked] == [
        "sealed", "restored",  # in the middle of the move
        "sealed", "restored",  # by the watch
        "sealed", "restored",  # by a revocation
    ]  # fmt: skip
    assert all("@" in one["by"] for one in asked)
    assert Log(tenant.folder).verify_chain().lines == len(events)
