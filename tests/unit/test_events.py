"""What a watcher is told: the events, their documented form, rates and remaining times, and what `status` keeps."""

# ruff: noqa: F811 - a fixture that is imported is redefined by every parameter of its name
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import layouts
import pytest
from test_runner import FakeMoves, moves, records, stack, walker  # noqa: F401 - its fixtures

from migrate import tenants
from migrate.errors import CloudError, KeyshiftError, RefusedInput, Waiting
from migrate.events import EVENT, Ended, Place, Progressed, Scribe, StepBegun, StepDone, Waits, as_json, place
from migrate.moves import KeyLost
from migrate.operations import Move, OperationKind, Request
from migrate.plan import plan
from migrate.progress import Pace, Progress, Speedometer
from migrate.records import Records
from migrate.runner import Runner
from stacks.record import connect

PAGE = Path(__file__).resolve().parents[2] / "docs" / "events.md"
KINDS = {"operation", "step", "step-done", "progress", "wait", "warning", "done", "waiting", "failed"}


# the page that describes them -----------------------------------------------------------------


def documented() -> list[tuple[str, dict[str, Any]]]:
    """(heading, example) of each event on the page."""
    blocks = re.findall(
        r"^## ([a-z-]+)\n.*?```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return [(name, json.loads(example)) for name, example in blocks]


def test_every_kind_of_event_is_on_the_page_once_with_an_example() -> None:
    assert sorted(name for name, _ in documented()) == sorted(KINDS)


@pytest.mark.parametrize(("name", "example"), documented(), ids=lambda found: found if isinstance(found, str) else "")
def test_an_example_is_an_event_with_exactly_the_documented_fields(name: str, example: dict[str, Any]) -> None:
    event = EVENT.validate_python(example)
    assert event.event == name
    assert json.loads(as_json(event)) == example, "a field that is told and not documented, or the other way round"
    assert "\n" not in as_json(event), "one line an event"


# rates and remaining times --------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def copied(objects: int, total: int | None = 1000, size: int = 0, size_total: int | None = None) -> Progress:
    return Progress(move="copy", objects=objects, objects_total=total, bytes=size, bytes_total=size_total)


def test_a_rate_is_that_of_the_newest_seconds() -> None:
    clock, paces = Clock(), []
    speed = Speedometer(clock)
    done = 0
    for second in range(120):
        paces.append(speed(copied(done, 10_000)))
        done += 100 if second < 60 else 10
        clock.now += 1
    assert paces[50].objects_per_second == 100
    assert paces[-1].objects_per_second == 10, "a minute at another speed and the old one is forgotten"
    assert paces[-1].remaining_seconds == pytest.approx((10_000 - 6_590) / 10)


@pytest.mark.parametrize(("done", "is_told"), [(0, False), (9, False), (10, True), (999, True), (1000, False)])
def test_no_remaining_time_is_told_before_one_percent_nor_at_the_end(done: int, is_told: bool) -> None:
    clock = Clock()
    speed = Speedometer(clock)
    speed(copied(0))
    clock.now += 5
    assert (speed(copied(done)).remaining_seconds is not None) is is_told


def test_the_remaining_time_is_that_of_objects_or_bytes_whichever_is_longer() -> None:
    clock = Clock()
    speed = Speedometer(clock)
    speed(copied(0, 1000, 0, 10_000))
    clock.now += 10
    pace = speed(copied(900, 1000, 1000, 10_000))
    assert (pace.objects_per_second, pace.bytes_per_second) == (90.0, 100.0)
    assert pace.remaining_seconds == 90.0, "the small objects came first; the bytes are still to come"
    assert speed(copied(900, 1000, 99, 10_000)).remaining_seconds is None, "less than 1 % of the bytes"


def test_without_a_total_or_a_movement_nothing_is_foretold() -> None:
    clock = Clock()
    speed = Speedometer(clock)
    assert speed(copied(500)) == Pace(seconds=0.0)
    clock.now += 5
    assert speed(copied(500)).remaining_seconds is None
    assert speed(copied(600, None)).remaining_seconds is None


def test_the_next_move_of_a_step_begins_anew() -> None:
    clock = Clock()
    speed = Speedometer(clock)
    for done in (0, 100_000):
        speed(Progress(move="list", objects=done))
        clock.now += 10
    assert speed(copied(0)) == Pace(seconds=0.0), "the listing's speed says nothing about the copy's"
    clock.now += 2
    assert speed(copied(20)).objects_per_second == 10
    waits = Progress(move="wait", waiting="p1 to be drained")
    speed(waits)
    clock.now += 3
    assert speed(waits).seconds == 3.0
    assert speed(Progress(move="wait", waiting="a key")).seconds == 0.0


# places ---------------------------------------------------------------------------------------


ENABLE = plan(Request(operation="acme-enable-1", kind=OperationKind.ENABLE, mode="byok"), layouts.standard())


def test_a_step_is_placed_by_the_numbers_of_its_phase_and_its_own() -> None:
    found = place(ENABLE, "build/4-verify-copied")
    assert found == Place(
        phase="build", phase_title="make s2, e2 and p2 under k1; copy while jobs run", phase_number=2, phases=7,
        step="build/4-verify-copied", step_title="compare what is copied so far", step_number=5, steps=7,
    )  # fmt: skip
    assert place(ENABLE, "nowhere/up") is None


def test_every_step_has_a_title_that_says_what_it_does() -> None:
    titles = {step: found.step_title for step in STEPS if (found := place(ENABLE, step))}
    assert len(titles) == len(STEPS)
    assert titles["key/1-key-material"] == "wait for the customer's wrapped key for k1"
    assert titles["build/1-key-usable"] == "use k1 once"
    assert titles["freeze/up"] == "bring up the layout"


STEPS = [
    name for phase in ENABLE.phases
    for name in (f"{phase.name}/up", *(f"{phase.name}/{n}-{part.kind}" for n, part in enumerate((*phase.waits, *phase.moves), 1)))
]  # fmt: skip


# what a runner tells --------------------------------------------------------------------------


def test_an_operation_tells_its_phases_each_step_once_and_its_end(walker: Runner, moves: FakeMoves) -> None:
    walker.run(OperationKind.ENABLE, "byok")
    first, *between, last = moves.events
    assert (first.event, first.resumed, first.phases[0], first.phases[-1]) == ("operation", False, "key", "drop")
    assert [event.step for event in between if isinstance(event, StepBegun)] == STEPS
    assert [event.step for event in between if isinstance(event, StepDone)] == STEPS
    assert isinstance(last, Ended)
    assert (last.event, last.step, last.code) == ("done", "drop/up", None)
    assert last.jobs_disabled_seconds is not None
    assert last.seconds >= last.jobs_disabled_seconds
    ups = [event.move for event in between if isinstance(event, Progressed) and event.step == "freeze/up"]
    assert ups == ["preview", "up"], "what takes longest is told in parts"


def test_a_wait_for_a_person_is_the_last_event_with_what_is_waited_for(walker: Runner, moves: FakeMoves) -> None:
    moves.fails["key-material"] = Waiting("no key yet", waits_for="the wrapped key", hint="upload it", code="no-key")
    with pytest.raises(Waiting):
        walker.run(OperationKind.ENABLE, "byok")
    last = moves.events[-1]
    assert isinstance(last, Ended)
    assert (last.event, last.waits_for, last.code, last.hint) == ("waiting", "the wrapped key", "no-key", "upload it")
    moves.fails.clear()
    moves.events.clear()
    walker.resume()
    assert moves.events[0].event == "operation"
    assert moves.events[0].resumed
    assert moves.events[-1].event == "done"


@pytest.mark.parametrize("error", [CloudError("S3 is down", code="cloud"), KeyError("a defect")])
def test_a_failure_is_the_last_event_also_when_it_is_a_defect(
    walker: Runner,
    moves: FakeMoves,
    error: Exception,
) -> None:
    moves.fails["copy"] = error
    moves.lost_key = lambda: None
    with pytest.raises(Exception, match=r"S3 is down|a defect"):
        walker.run(OperationKind.ENABLE, "byok")
    last = moves.events[-1]
    assert isinstance(last, Ended)
    assert (last.event, last.step) == ("failed", "build/3-copy")
    assert last.message


def test_what_is_refused_before_it_begins_tells_no_event(walker: Runner, moves: FakeMoves) -> None:
    with pytest.raises(RefusedInput):
        walker.run(OperationKind.ENABLE, "byokv")
    assert moves.events == []


def test_progress_and_waits_carry_the_place_and_the_import_has_none() -> None:
    told: list[Any] = []
    scribe = Scribe(told.append, tenant="acme", operation="acme-enable-1", plan=ENABLE)
    scribe.progress("build/3-copy", copied(5), Pace(seconds=1.0))
    scribe.progress("freeze/2-settle", Progress(move="wait", waiting="p1 to be drained"), Pace(seconds=2.0))
    Scribe(told.append, tenant="acme").progress(None, copied(5), Pace(seconds=1.0))
    assert isinstance(told[0], Progressed)
    assert (told[0].phase_number, told[0].step_number, told[0].objects) == (2, 4, 5)
    assert isinstance(told[1], Waits)
    assert (told[1].phase, told[1].reason, told[1].seconds) == ("freeze", "p1 to be drained", 2.0)
    assert (told[2].operation, told[2].phase, told[2].step) == (None, None, None)


# what `status` tells of it, from another process ----------------------------------------------


def test_a_status_in_the_middle_of_a_step_knows_phase_step_progress_and_who_works(
    walker: Runner,
    moves: FakeMoves,
) -> None:
    seen: list[dict[str, Any]] = []
    do = moves.do

    def look(move: Move) -> dict[str, Any]:
        if move.kind == "settle":
            moves.report(Progress(move="wait", waiting="p1 to be drained"))
            seen.append(tenants.status(walker.project, "acme"))
        return do(move)

    moves.do = look
    walker.run(OperationKind.ENABLE, "byok")
    found = seen[0]
    operation = found["operation"]
    assert found["worked_on_by"] is not None
    assert found["next"] is None, "somebody is at work on it: there is nothing to type"
    assert (found["jobs"], found["reason"]) == ("closed", "acme-enable-1: final copy")
    assert found["jobs_since"] is not None
    assert (operation["phase"], operation["phase_number"], operation["phases"]) == ("freeze", 3, 7)
    assert (operation["step"], operation["step_number"], operation["steps"]) == ("freeze/2-settle", 3, 7)
    assert operation["phase_began_at"] < operation["step_began_at"] <= operation["progress"]["reported_at"]
    assert operation["progress"]["waiting"] == "p1 to be drained"
    json.dumps(found)

    after = tenants.status(walker.project, "acme")
    assert (after["jobs"], after["worked_on_by"], after["next"]) == ("open", None, None)
    assert after["jobs_since"] > found["jobs_since"]
    assert after["operation"]["seconds"] >= after["operation"]["jobs_disabled_seconds"] > 0


def test_a_phase_keeps_its_beginning_over_its_steps_and_a_resume(walker: Runner, moves: FakeMoves) -> None:
    moves.fails["fill"] = CloudError("no")
    moves.lost_key = lambda: None
    with pytest.raises(KeyshiftError, match="no"):
        walker.run(OperationKind.ENABLE, "byok")
    before = tenants.status(walker.project, "acme")["operation"]
    with pytest.raises(KeyshiftError, match="no"):
        walker.resume()
    after = tenants.status(walker.project, "acme")["operation"]
    assert after["phase_began_at"] == before["phase_began_at"]
    assert after["step_began_at"] > before["step_began_at"]


def test_past_operations_are_listed_with_what_they_cost(walker: Runner, moves: FakeMoves) -> None:
    walker.run(OperationKind.REQUEST)
    walker.run(OperationKind.ENABLE, "byok")
    found = tenants.operations(walker.project, "acme")
    assert [row["id"] for row in found] == ["acme-request-1", "acme-enable-1"]
    assert [row["state"] for row in found] == ["done", "done"]
    assert found[0]["jobs_disabled_seconds"] is None
    assert 0 < found[1]["jobs_disabled_seconds"] <= found[1]["seconds"]


def test_an_operation_that_today_would_be_refused_still_has_a_status(
    walker: Runner,
    records: Records,
) -> None:
    begun = records.begin(records.tenant("acme"), OperationKind.ENABLE, "byokv")
    records.note(begun.id, step="key/up")
    found = tenants.status(walker.project, "acme")["operation"]
    assert (found["step"], found["phase"]) == ("key/up", None)


# a key that nothing could use -----------------------------------------------------------------


def test_a_key_is_not_requested_for_a_tenant_whose_customer_keeps_it() -> None:
    with pytest.raises(RefusedInput, match="made and rotated by its customer") as refused:
        plan(Request(operation="x", kind=OperationKind.REQUEST), layouts.byokms_active())
    assert refused.value.code == "key-in-their-account"
    for layout in (layouts.byok_pending(), layouts.enable_done()):
        assert plan(Request(operation="x", kind=OperationKind.REQUEST), layout), "its first key, or one to rotate to"


def test_after_an_upload_the_next_command_is_no_longer_to_request_the_key(walker: Runner, moves: FakeMoves) -> None:
    walker.run(OperationKind.REQUEST)
    assert tenants.describe(walker.project, "acme")["next"] == "keyshift key request acme"
    tenants.note_upload(walker.project, "acme", "k1", fingerprint="f", sha256="s")
    assert tenants.describe(walker.project, "acme")["next"] == "keyshift enable acme"
    assert tenants.status(walker.project, "acme")["next"] == "keyshift enable acme"


def test_a_new_byok_tenant_is_resumed_after_its_upload(walker: Runner, tmp_path: Path) -> None:
    Records(connect(walker.project.home)).create(layouts.changed(layouts.byok_pending(), tenant="other"))
    assert tenants.describe(walker.project, "other")["next"] == "keyshift key request other"
    tenants.note_upload(walker.project, "other", "k1", fingerprint="f", sha256="s")
    assert tenants.describe(walker.project, "other")["next"] == "keyshift resume other"


def test_a_lost_key_is_told_as_a_wait_that_grows(walker: Runner, moves: FakeMoves) -> None:
    moves.fails["copy"] = CloudError("S3 answered KMS.DisabledException")
    moves.key_answers = ["DisabledException", "DisabledException", ""]
    walker.run(OperationKind.ENABLE, "byok")
    told = [event for event in moves.events if isinstance(event, Waits)]
    assert {event.reason for event in told} == {KeyLost("acme", "k1", "DisabledException").message}
    assert {event.step for event in told} == {"build/3-copy"}
