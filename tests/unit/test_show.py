"""What people see: amounts, lines of progress, tables, and what stands there when there is nothing yet."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from typing import Any

import layouts
import pytest
from rich.console import Console, RenderableType

from migrate import show
from migrate.errors import CloudError, KeyshiftError, RefusedInput, Waiting
from migrate.events import Begun, Ended, Progressed, StepBegun, Waits
from migrate.progress import Pace, Progress


def text(shown: RenderableType) -> str:
    """As a pipe gets it, without the spaces at the ends of lines."""
    stream = io.StringIO()
    Console(file=stream, width=120, highlight=False).print(shown)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


# amounts and progress -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (64_000_000, "64.0 MB"),
        (5 * 10**9, "5.0 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_bytes_are_said_in_powers_of_a_thousand(count: int, said: str) -> None:
    assert show.bytes_text(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.04, "0.0 s"), (12.34, "12.3 s"), (245, "4 min 05 s"), (7800, "2 h 10 min")]
)
def test_seconds_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert show.seconds_text(seconds) == said


PACE = Pace(seconds=10.0, objects_per_second=50.0, bytes_per_second=1.25e6, remaining_seconds=30.0)
COPYING = Progress(move="copy", objects=500, objects_total=2000, bytes=12_500_000, bytes_total=50_000_000)


def test_progress_says_what_how_far_how_much_how_fast_and_how_long_still() -> None:
    said = "copy · 500 of 2,000 (25 %) · 12.5 MB of 50.0 MB · 50/s · 1.2 MB/s · 30.0 s left"
    assert show.progress_text(COPYING, PACE) == said


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (78, "copy · 500 of 2,000 (25 %) · 12.5 MB of 50.0 MB · 50/s · 30.0 s left"),
        (60, "copy · 500 of 2,000 (25 %) · 50/s · 30.0 s left"),
        (40, "copy · 500 of 2,000 (25 %) · 30.0 s left"),
    ],
)
def test_on_a_narrow_terminal_the_remaining_time_is_the_last_to_go(width: int, said: str) -> None:
    assert show.progress_text(COPYING, PACE, width) == said


def test_what_is_not_known_yet_is_left_out() -> None:
    assert show.progress_text(Progress(move="list", objects=1200), Pace(seconds=0.1)) == "list · 1,200"
    assert show.progress_text(Progress(move="preview"), Pace(seconds=0.0)) == "preview"


def test_a_wait_tells_its_reason_and_how_long_it_has_lasted() -> None:
    line = show.progress_text(Progress(move="wait", waiting="archive's writes to s1 to be refused"), Pace(seconds=3.0))
    assert line == "waiting 3.0 s for archive's writes to s1 to be refused"


# lines while something runs -------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(show, "time", clock)
    return clock


def console(*, is_terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    made = Console(
        file=stream, force_terminal=is_terminal, width=60, highlight=False, soft_wrap=True, color_system=None
    )
    return made, stream


PLACE: dict[str, Any] = {
    "operation": "acme-enable-1",
    "phase": "build",
    "phase_title": "make s2, e2 and p2 under k1; copy while jobs run",
    "phase_number": 2,
    "phases": 7,
    "step": "build/3-copy",
    "step_title": "copy s1 to s2",
    "step_number": 3,
    "steps": 6,
}
WHEN: dict[str, Any] = {"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "tenant": "acme"}


def begun() -> StepBegun:
    return StepBegun(**WHEN, **PLACE)


def moved(done: int, total: int) -> Progressed:
    return Progressed(
        **WHEN, **PLACE, move="copy", objects=done, objects_total=total, bytes=0, bytes_total=None,
        seconds=done / 2, objects_per_second=2.0, bytes_per_second=None, remaining_seconds=None,
    )  # fmt: skip


def test_a_pipe_gets_plain_lines_at_most_one_a_second_and_the_last_one_always(clock: Clock) -> None:
    out, stream = console(is_terminal=False)
    ticker = show.Ticker(out)
    ticker(begun())
    for done in range(1, 20):
        clock.now += 0.5
        ticker(moved(done, 19))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[   0.0 s] 2/7 build, 3/6: copy s1 to s2"
    assert [line.split("]")[0] for line in lines[1:3]] == ["[   0.5 s", "[   1.5 s"]
    assert len(lines) == 11, "one for the step, the first report, then one a second"
    assert lines[-1].endswith("copy · 19 of 19 (100 %) · 2/s")
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_rewrites_one_line_and_keeps_the_steps(clock: Clock) -> None:
    out, stream = console(is_terminal=True)
    ticker = show.Ticker(out)
    ticker(begun())
    for done in (1, 2):
        clock.now += 2
        ticker(moved(done, 4))
    ticker(begun())
    said = stream.getvalue()
    assert said.count("\r\x1b[2K") == 2, "each line of progress begins by taking the last one away"
    last = said.splitlines()[-1]
    assert last == "[   4.0 s] 2/7 build, 3/6: copy s1 to s2", "a new step begins on a line of its own"


def test_a_rewritten_line_is_never_wider_than_the_terminal(clock: Clock) -> None:
    out, stream = console(is_terminal=True)
    clock.now += 2
    show.Ticker(out)(Waits(**WHEN, **PLACE, reason="something with a very long name " * 4, seconds=2.0))
    assert max(len(line) for line in stream.getvalue().replace("\r\x1b[2K", "").splitlines()) < 60


def test_the_beginning_names_the_phases_and_the_end_is_left_to_the_closing_table(clock: Clock) -> None:
    out, stream = console(is_terminal=False)
    ticker = show.Ticker(out)
    ticker(Begun(**WHEN, operation="acme-enable-1", kind="enable", mode="byok", resumed=True, phases=("key", "build")))
    ticker(
        Ended(
            **WHEN, event="done", operation="acme-enable-1", step="drop/up", code=None, message=None, hint=None,
            waits_for=None, seconds=1.0, jobs_disabled_seconds=None,
        )
    )  # fmt: skip
    assert stream.getvalue() == "[   0.0 s] acme-enable-1 goes on: key > build\n"


def test_what_follows_an_open_line_of_progress_begins_on_a_clean_line() -> None:
    out, stream = console(is_terminal=True)
    show.clear_line(out)
    assert stream.getvalue() == "\r\x1b[2K"
    out, stream = console(is_terminal=False)
    show.clear_line(out)
    assert stream.getvalue() == ""


# errors ---------------------------------------------------------------------------------------


def test_the_word_before_an_error_tells_who_has_to_act() -> None:
    assert show.kind_of(RefusedInput("x")) == "refused"
    assert show.kind_of(Waiting("x", waits_for="y")) == "waiting"
    assert show.kind_of(KeyshiftError("x")) == "error"
    assert show.kind_of(CloudError("x")) == "error"


# tables ---------------------------------------------------------------------------------------


def described(layout: Any, **more: Any) -> dict[str, Any]:
    return {"generation": 4, "layout": layout.model_dump(mode="json"), "next": None, **more}


def test_a_tenant_in_the_middle_of_a_move_shows_both_sides_and_the_gate() -> None:
    assert text(show.tenant(described(layouts.enable_frozen(), next="keyshift resume acme"))) == (
        "\n"
        "tenant        acme\n"
        "customer      acme-corp\n"
        "mode          standard on aws, eu-west-1, stamp-aws-eu-west-1-01\n"
        "generation    4\n"
        "gate          jobs closed, access open: enable-1: final copy\n"
        "searches see  what was archived before 2026-01-02T03:04:05Z\n"
        "next          keyshift resume acme\n"
        "\n"
        "unit  kind               key       state\n"
        "k1    key                -         active\n"
        "s1    shared             vendor's  serves\n"
        "s2    dedicated          k1        being built\n"
        "e1    search 8.19.0      vendor's  serves\n"
        "e2    search 8.19.0      k1        being built\n"
        "p1    pipeline s1 -> e1  -         running\n"
        "p2    pipeline s2 -> e2  -         detached"
    ).removeprefix("\n")


def test_a_released_unit_is_shown_as_about_to_be_dropped() -> None:
    shown = text(show.tenant(described(layouts.enable_released())))
    assert "s1    shared             vendor's  to be dropped" in shown
    assert "s2    dedicated          k1        serves" in shown


def test_the_list_of_tenants_names_what_serves_and_what_runs() -> None:
    layout = layouts.standard().model_dump(mode="json")
    row = {name: layout[name] for name in ("tenant", "customer", "mode", "serves", "gate")}
    shown = text(
        show.tenants([{**row, "operation": "acme-enable-1: running"}, {**row, "serves": None, "operation": None}])
    )
    assert shown.splitlines()[0].split() == ["tenant", "customer", "mode", "storage", "search", "jobs", "operation"]
    assert shown.splitlines()[1].split() == [
        "acme",
        "acme-corp",
        "standard",
        "s1",
        "e1",
        "open",
        "acme-enable-1:",
        "running",
    ]
    assert shown.splitlines()[2].split() == ["acme", "acme-corp", "standard", "-", "-", "open", "-"]


def test_an_empty_list_says_so_instead_of_showing_a_header() -> None:
    assert "keyshift tenant create" in text(show.tenants([]))
    assert text(show.keys([])) == "no customer keys"
    assert text(show.verdicts([])) == "no verdicts yet"


NOW = datetime(2026, 1, 2, 3, 6, 0, tzinfo=UTC)
STATUS: dict[str, Any] = {
    "tenant": "acme",
    "mode": "standard",
    "generation": 3,
    "jobs": "open",
    "jobs_since": None,
    "reason": None,
    "searches": "all",
    "worked_on_by": "host:17",
    "next": None,
    "operation": {
        **PLACE,
        "id": "acme-enable-1",
        "kind": "enable",
        "mode": "byok",
        "state": "running",
        "started_at": "2026-01-02T03:04:05+00:00",
        "ended_at": None,
        "seconds": None,
        "jobs_disabled_seconds": None,
        "phase_began_at": "2026-01-02T03:05:00+00:00",
        "step_began_at": "2026-01-02T03:05:50+00:00",
        "progress": None,
        "message": None,
        "hint": None,
    },
}


def operation(**values: Any) -> dict[str, Any]:
    return {**STATUS, "operation": {**STATUS["operation"], **values}}


def stored(objects: int, **values: Any) -> dict[str, Any]:
    """A step's progress as the runner writes it."""
    return {
        "reported_at": "2026-01-02T03:05:59.500000+00:00",
        "move": "copy",
        "objects": objects,
        "objects_total": 10,
        "bytes": 0,
        "bytes_total": None,
        "waiting": None,
        "seconds": 2.0,
        "objects_per_second": 2.5,
        "bytes_per_second": None,
        "remaining_seconds": 2.0,
        **values,
    }


def rows(shown: RenderableType) -> dict[str, str]:
    """Name -> value of a table of pairs."""
    lines = [line for line in text(shown).splitlines() if line]
    return {found[0]: found[1] for line in lines if len(found := re.split(r" {2,}", line, maxsplit=1)) == 2}


def test_a_status_shows_phase_and_step_by_number_since_when_and_how_far() -> None:
    shown = rows(show.status(operation(progress=stored(5)), NOW))
    assert shown == {
        "tenant": "acme, mode standard, generation 3",
        "jobs": "open",
        "searches": "all",
        "operation": "acme-enable-1: running, begun 2026-01-02 03:04:05 UTC (1 min 55 s)",
        "worked on by": "host:17",
        "phase": "2 of 7, build: make s2, e2 and p2 under k1; copy while jobs run (1 min 00 s)",
        "step": "3 of 6: copy s1 to s2 (10.0 s)",
        "progress": "copy · 5 of 10 (50 %) · 2/s · 2.0 s left · told 0.5 s ago",
    }


def test_closed_jobs_tell_since_when_and_why() -> None:
    closed = {"jobs": "closed", "jobs_since": "2026-01-02T03:05:30+00:00", "reason": "acme-enable-1: final copy"}
    shown = rows(show.status({**operation(), **closed}, NOW))
    assert shown["jobs"] == "closed since 2026-01-02 03:05:30 UTC (30.0 s): acme-enable-1: final copy"


def test_a_step_that_waits_tells_for_what() -> None:
    waits = stored(0, move="wait", waiting="p1 to be drained", seconds=7.0)
    shown = rows(show.status(operation(progress=waits), NOW))
    assert shown["progress"] == "waiting 7.0 s for p1 to be drained · told 0.5 s ago"


def test_a_status_tells_why_an_operation_stands_still_and_what_to_do() -> None:
    stands = {**operation(state="waiting", message="k1 is disabled"), "next": "keyshift resume acme"}
    shown = rows(show.status({**stands, "worked_on_by": None}, NOW))
    assert shown["operation"].startswith("acme-enable-1: waiting")
    assert (shown["worked on by"], shown["because"]) == ("nobody", "k1 is disabled")
    assert shown["next"] == "keyshift resume acme"


def test_a_running_operation_whose_runner_is_gone_is_not_called_running() -> None:
    shown = rows(show.status({**operation(), "worked_on_by": None, "next": "keyshift resume acme"}, NOW))
    assert shown["operation"].startswith("acme-enable-1: cut off")
    assert shown["worked on by"] == "nobody; a runner died"
    assert shown["next"] == "keyshift resume acme"


def test_a_tenant_has_a_status_too_when_nothing_runs() -> None:
    assert rows(show.status({**STATUS, "operation": None}, NOW))["operation"] == "none so far"
    done = operation(state="done", seconds=75.0, jobs_disabled_seconds=12.0)
    assert rows(show.status(done, NOW))["operation"] == (
        "none; the last, acme-enable-1, was done in 1 min 15 s with jobs disabled for 12.0 s"
    )


def test_the_list_of_operations_tells_how_each_ended_and_what_it_cost_the_jobs() -> None:
    one = {**STATUS["operation"], "worked_on_by": "host:17"}
    shown = text(
        show.operations(
            [
                {**one, "state": "done", "seconds": 75.0, "jobs_disabled_seconds": 12.0},
                {**one, "message": "x"},
                {**one, "worked_on_by": None},
            ]
        )
    )
    lines = [re.split(r" {2,}", line) for line in shown.splitlines()]
    assert lines[0] == ["operation", "state", "begun", "took", "jobs disabled", "because"]
    assert lines[1] == ["acme-enable-1", "done", "2026-01-02 03:04:05 UTC", "1 min 15 s", "12.0 s", "-"]
    assert lines[2] == ["acme-enable-1", "running", "2026-01-02 03:04:05 UTC", "-", "-", "x"]
    assert lines[3][1] == "cut off"
    assert text(show.operations([])) == "no operations yet"


def test_two_looks_that_differ_in_progress_only_are_told_apart_from_a_new_step() -> None:
    first, further = operation(progress=stored(1)), operation(progress=stored(2))
    assert show.is_only_progress(first, further)
    assert not show.is_only_progress(first, operation(progress=stored(1), step="build/3-fill"))
    assert not show.is_only_progress({}, first)
    assert not show.is_only_progress({**STATUS, "operation": None}, first)
    assert show.is_only_progress(operation(), operation()), "nothing new is nothing to print"
    assert show.is_only_step(first, operation(step="build/4-fill", step_number=5, progress=None))
    assert not show.is_only_step(first, operation(state="waiting"))
    assert not show.is_only_step(first, {**operation(), "jobs": "closed"})
    assert not show.is_only_step({}, first)


def test_a_plan_says_what_each_phase_does_waits_for_and_whether_it_can_be_undone() -> None:
    from migrate.operations import OperationKind, Request
    from migrate.plan import plan

    made = plan(Request(operation="acme-enable", kind=OperationKind.ENABLE, mode="byok"), layouts.standard())
    shown = text(show.plan(made.model_dump(mode="json")))
    assert shown.startswith("plan of enable for tenant acme; nothing was changed")
    rows = {line.split()[0]: line for line in shown.splitlines() if line and not line.startswith(" ")}
    assert rows["freeze"].split()[-3:] == ["closed", "limited", "yes"]
    assert rows["serve"].split()[-3:] == ["open", "all", "no"]
    assert "  key: wait for the customer's wrapped key for k1" in shown
    assert "  freeze: verify s2 against s1" in shown


def test_the_closing_table_has_the_figures_that_decide() -> None:
    shown = text(
        show.report(
            {
                "operation": "acme-enable-1",
                "state": "done",
                "seconds": 75.0,
                "jobs_disabled_seconds": 12.0,
                "storage": {
                    "objects": 2000,
                    "versions": 2003,
                    "bytes": 64_000_000,
                    "verified": 2003,
                    "merkle_root": "ab" * 32,
                },
                "index": {"expected": 2000, "found": 2000},
                "left_behind": 0,
                "verdicts": {"verify-storage": "acme-enable-1-storage"},
            }
        )
    )
    assert "took                    1 min 15 s" in shown
    assert "jobs disabled           12.0 s" in shown
    assert "objects                 2,000 in 2,003 versions, 64.0 MB" in shown
    assert "documents               2,000 expected, 2,000 found" in shown
    assert "left behind             0" in shown
    assert "verdict verify-storage  acme-enable-1-storage" in shown


def test_a_report_without_moves_has_no_empty_rows() -> None:
    shown = text(
        show.report(
            {
                "operation": "acme-create-1",
                "state": "done",
                "seconds": 3.0,
                "jobs_disabled_seconds": None,
                "storage": None,
                "index": None,
                "left_behind": None,
                "verdicts": {},
            }
        )
    )
    assert [line.split()[0] for line in shown.splitlines() if line] == ["operation", "result", "took"]


def test_a_failed_verdict_cannot_be_overlooked() -> None:
    row = {
        "id": "v",
        "kind": "storage",
        "passed": False,
        "count": 1,
        "bytes": 1,
        "finished_at": "x",
        "signature": "fits",
    }
    assert "NO" in text(show.verdicts([row])).splitlines()[1].split()


# the seal -------------------------------------------------------------------------------------

SEAL = {"reason": "stolen key", "at": "2026-03-04T05:06:07.891011+00:00", "by": "me@here"}


def a_seal(*, after: float | None, still_open: list[str]) -> dict[str, Any]:
    door = {"id": "key k1", "what": "every use of k1", "came_to": "denied", "because": ""}
    way = {"name": "GET", "role": "archive", "unit": "s1", "after": after, "said": "AccessDenied", "bound": "minutes"}
    return {**SEAL, "tenant": "acme", "denials": [door], "engines": [], "paths": [way], "still_open": still_open}


def test_a_seal_shows_each_path_with_its_time_beside_the_documented_bound() -> None:
    shown = text(show.seal(a_seal(after=1.74, still_open=[])))
    assert "every path is refused" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("GET")]
    assert line.split() == ["GET", "archive", "s1", "1.7", "s", "AccessDenied", "minutes"]
    assert "documented bound" in shown.splitlines()[-3], "a time that was measured promises nothing"
    assert "STILL OPEN" not in shown


def test_what_stands_open_is_the_last_thing_that_is_read() -> None:
    shown = text(show.seal(a_seal(after=None, still_open=["GET of s1 as archive: answered 200"])))
    assert "every path is refused" not in shown
    assert "GET of s1 as archive: answered 200" in shown.splitlines()[-2]


def test_a_sealed_tenant_says_so_wherever_it_is_shown() -> None:
    layout = layouts.standard().model_dump(mode="json")
    row = {"customer": "c", "mode": "standard", "serves": None, "gate": layout["gate"], "operation": None}
    status = {
        "tenant": "acme", "mode": "standard", "generation": 2, "jobs": "open", "jobs_since": None, "reason": None,
        "searches": "all", "operation": None, "worked_on_by": None, "next": None,
    }  # fmt: skip
    for shown in (
        show.tenants([{**row, "tenant": "acme", "sealed": SEAL}]),
        show.tenant({"layout": layout, "generation": 2, "sealed": SEAL}),
        show.status({**status, "sealed": SEAL}),
    ):
        assert "SEALED since 2026-03-04T05:06:07 UTC by me@here: stolen key" in " ".join(text(shown).split())
