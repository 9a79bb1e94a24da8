"""An order's own process: what it asks of the product, what it tells, and what a second attempt does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import console_lab
import pytest
from console_lab import ADMIN, Lab

from console import job as jobs
from console.callers import Caller, Role
from console.job import Job, Told
from console.orders import QUEUED, Kind, Order, Wanted
from migrate.errors import CloudError, RefusedInput, Waiting
from migrate.events import Begun, Progressed
from migrate.log import Log
from migrate.operations import OperationKind
from migrate.revoke import StillOpen

ADA = Caller(subject=ADMIN, name="Ada", role=Role.CUSTOMER_ADMIN, customer="acme-corp", auth_time=0)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return console_lab.build(tmp_path)


def order(lab: Lab, kind: Kind, values: dict[str, Any] | None = None) -> Order:
    wanted = Wanted(tenant="acme", customer="acme-corp", kind=kind, values=values or {})
    return lab.house.orders.put(wanted, ADA, state=QUEUED, repeat=f"{kind}-of-a-test")


class PlayedRunner:
    """Stands for the runner: notes what it was asked, and does with the records what the real one does."""

    asked: list[tuple[str, Any]]

    def __init__(self, lab: Lab, error: Exception | None = None) -> None:
        self.lab, self.error, self.asked = lab, error, []

    def __call__(self, *_: Any, **__: Any) -> PlayedRunner:
        return self

    def run(self, kind: OperationKind, mode: str | None = None, **_: Any) -> Any:
        self.asked.append(("run", kind))
        return self._ended(self.lab.records.begin(self.lab.records.tenant("acme"), kind, mode))

    def resume(self) -> Any:
        self.asked.append(("resume", None))
        unfinished = self.lab.records.unfinished("acme")
        assert unfinished is not None
        return self._ended(unfinished)

    def _ended(self, operation: Any) -> Any:
        if self.error is not None:
            raise self.error
        self.lab.records.note(operation.id, state="done")
        return self.lab.records.operation(operation.id)


def done(lab: Lab, one: Order) -> Order:
    """The order after one more attempt at it."""
    Job(lab.project, lab.house.orders, lab.house.orders.start(one.id)).run()
    return lab.house.orders.get(one.id)


def test_an_order_begins_its_operation_once_and_says_who_asked(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = PlayedRunner(lab)
    monkeypatch.setattr(jobs, "Runner", runner)
    ended = done(lab, order(lab, Kind.ENABLE, {"mode": "byok"}))
    assert (ended.state, ended.operation) == ("done", "acme-enable-1")
    assert runner.asked == [("run", OperationKind.ENABLE)]
    [line] = [line["event"] for line in Log(lab.project.home / "tenants" / "acme").events()]
    assert (line["event"], line["by"], line["kind"]) == ("asked-in-console", "acme-corp/ada", "enable")


def test_a_second_attempt_goes_on_with_what_the_first_had_begun(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = PlayedRunner(lab)
    monkeypatch.setattr(jobs, "Runner", runner)
    one = lab.house.orders.start(order(lab, Kind.ENABLE, {"mode": "byok"}).id)
    # Killed between the beginning of the operation and the note of its name.
    begun = lab.records.begin(lab.records.tenant("acme"), OperationKind.ENABLE, "byok")
    ended = done(lab, one)
    assert runner.asked == [("resume", None)], "it must neither begin a second operation nor give up"
    assert (ended.state, ended.operation, ended.attempts) == ("done", begun.id, 2)


def test_a_second_attempt_does_not_do_again_what_has_ended(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = PlayedRunner(lab)
    monkeypatch.setattr(jobs, "Runner", runner)
    one = lab.house.orders.start(order(lab, Kind.ENABLE, {"mode": "byok"}).id)
    begun = lab.records.begin(lab.records.tenant("acme"), OperationKind.ENABLE, "byok")
    lab.house.orders.note_operation(one.id, begun.id)
    lab.records.note(begun.id, state="done")
    ended = done(lab, one)
    assert runner.asked == []
    assert ended.state == "done"


def test_a_second_attempt_leaves_an_older_operation_to_who_began_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = PlayedRunner(lab, RefusedInput("it is in the middle of another one", code="operation-unfinished"))
    monkeypatch.setattr(jobs, "Runner", runner)
    lab.records.begin(lab.records.tenant("acme"), OperationKind.ENABLE, "byok")
    one = lab.house.orders.start(order(lab, Kind.ENABLE, {"mode": "byok"}).id)
    assert done(lab, one).state == "refused"
    assert runner.asked == [("run", OperationKind.ENABLE)]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Waiting("waits for a key", waits_for="the customer", code="key-material"), "waiting"),
        (RefusedInput("cannot be", code="sealed"), "refused"),
        (CloudError("AWS said no"), "failed"),
        (ZeroDivisionError("inside"), "failed"),
    ],
)
def test_whatever_stops_an_order_is_told_in_words(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, error: Exception, state: str
) -> None:
    monkeypatch.setattr(jobs, "Runner", PlayedRunner(lab, error))
    ended = done(lab, order(lab, Kind.ENABLE, {"mode": "byok"}))
    assert ended.state == state
    assert ended.said is not None
    assert {"code", "message", "hint"} <= ended.said.keys()
    _, name, data = lab.house.orders.events(ended.id, 0)[-1]
    assert (name, json.loads(data)["state"]) == ("end", state)


def test_a_revocation_that_left_something_open_fails_and_shows_what(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    class Revoker:
        def __init__(self, *_: Any) -> None: ...

        def revoke(self, reason: str, *, limit: float) -> Any:
            raise StillOpen(
                {"tenant": "acme", "still_open": ["read of s1"], "paths": [], "at": "2026-11-24T09:00:00+00:00"}
            )

    monkeypatch.setattr(jobs, "Revoker", Revoker)
    ended = done(lab, order(lab, Kind.REVOKE, {"reason": "a leak"}))
    assert ended.state == "failed"
    assert ended.result is not None
    assert ended.result["still_open"] == ["read of s1"]


def test_progress_is_kept_once_a_second_and_its_end_always(lab: Lab) -> None:
    one = order(lab, Kind.ENABLE, {"mode": "byok"})
    tell = Told(lab.house.orders, one)
    nowhere = dict.fromkeys(
        ("operation", "phase", "phase_title", "phase_number", "phases", "step_title", "step_number", "steps")
    )
    base = {"at": "2026-11-24T09:00:00Z", "tenant": "acme", "move": "copy", "bytes": 0, "bytes_total": None, "seconds": 1,
            "objects_per_second": None, "bytes_per_second": None, "remaining_seconds": None, **nowhere}  # fmt: skip
    tell(
        Begun(
            at=base["at"],
            tenant="acme",
            operation="acme-enable-1",
            kind="enable",
            mode="byok",
            resumed=False,
            phases=(),
        )
    )
    for objects in range(100):
        tell(Progressed(**base, step="build/3-copy", objects=objects, objects_total=100))
    tell(Progressed(**base, step="build/3-copy", objects=100, objects_total=100))
    told = [json.loads(data)["objects"] for _, name, data in lab.house.orders.events(one.id, 0) if name == "progress"]
    assert (told[0], told[-1]) == (0, 100)
    assert len(told) < 10
    assert lab.house.orders.get(one.id).operation == "acme-enable-1"
