"""Steps that survive a SIGKILL: real processes, real DBOS, a journal in a temporary folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from migrate import durable
from migrate.durable import Outcome
from migrate.errors import Conflict, RefusedInput

SECONDS = 60

# A runner with three steps. A plan says what a step does; each run of a step leaves a line in ran.txt.
# `die`: say so and stand still inside the step, for the test to kill. `die-after`: the same, between this
# step and the next, which is the first line that the next step runs.
RUNNER = """
import json, signal, sys
from pathlib import Path
from migrate import durable

folder = Path(sys.argv[1])
plan = {}

def stand_still():
    (folder / "standing").touch()
    signal.pause()

def act(operation, step):
    before = {"b": "a", "c": "b"}.get(step)
    if plan.get(before) == "die-after":
        stand_still()
    with (folder / "ran.txt").open("a") as ran:
        ran.write(step + "\\n")
    does = plan.get(step)
    if does == "die":
        stand_still()
    if does == "raise":
        raise RuntimeError("a defect")
    state = does if does in ("waiting", "failed") else "done"
    outcome = {"state": state, "message": f"{step} is {state}", "hint": "h", "code": "c", "waits_for": "w"}
    if does and does.startswith("again-from-"):
        outcome |= {"state": "failed", "again_from": does[-1]}
    return outcome

with durable.single_runner(folder, "acme"):
    for plan in map(json.loads, sys.argv[3:]):
        print(json.dumps(durable.walk(folder, "acme", sys.argv[2], ["a", "b", "c"], act)))
"""


def start(folder: Path, *plans: Mapping[str, str], operation: str = "acme-enable-1") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(folder), operation, *map(json.dumps, plans)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def walk(folder: Path, *plans: Mapping[str, str], operation: str = "acme-enable-1") -> list[dict[str, str]]:
    """A runner's whole life, in which it walks once for each plan; what the walks came to."""
    process = start(folder, *plans, operation=operation)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def kill_when_standing(folder: Path, plan: Mapping[str, str]) -> None:
    process = start(folder, plan)
    wait_for(folder / "standing", process)
    process.kill()
    process.communicate()
    (folder / "standing").unlink()


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + SECONDS
    while not file.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, f"{file.name} did not come"
        time.sleep(0.02)


def ran(folder: Path) -> list[str]:
    return (folder / "ran.txt").read_text().split()


def test_a_walk_runs_each_step_once_and_a_second_walk_runs_none(tmp_path: Path) -> None:
    assert [outcome["state"] for outcome in walk(tmp_path, {}, {})] == ["done", "done"]
    assert ran(tmp_path) == ["a", "b", "c"], "an operation that is done does nothing more"


def test_a_runner_that_is_killed_repeats_the_step_that_was_cut_off_and_no_other(tmp_path: Path) -> None:
    kill_when_standing(tmp_path, {"a": "die"})
    assert ran(tmp_path) == ["a"]
    kill_when_standing(tmp_path, {"a": "die-after"})
    assert ran(tmp_path) == ["a", "a"], "killed before the next step had begun"
    kill_when_standing(tmp_path, {"c": "die"})
    assert ran(tmp_path) == ["a", "a", "b", "c"]
    assert walk(tmp_path, {})[0]["state"] == "done"
    assert ran(tmp_path) == ["a", "a", "b", "c", "c"]


@pytest.mark.parametrize("state", ["waiting", "failed"])
def test_an_operation_that_stopped_goes_on_at_the_step_where_it_stopped(tmp_path: Path, state: str) -> None:
    first, again, last = walk(tmp_path, {"b": state}, {"b": state}, {})
    assert first == {"state": state, "message": f"b is {state}", "hint": "h", "code": "c", "waits_for": "w"}
    assert again == first, "it is asked again, and may have to wait again"
    assert last["state"] == "done"
    assert ran(tmp_path) == ["a", "b", "b", "b", "c"]


def test_a_step_that_an_earlier_one_has_to_mend_goes_on_at_that_one(tmp_path: Path) -> None:
    stopped, again, last = walk(tmp_path, {"c": "again-from-b"}, {"b": "failed"}, {})
    assert [outcome["state"] for outcome in (stopped, again, last)] == ["failed", "failed", "done"]
    assert ran(tmp_path) == ["a", "b", "c", "b", "b", "c"]


def test_a_step_that_ended_in_a_defect_is_run_again(tmp_path: Path) -> None:
    process = start(tmp_path, {"b": "raise"})
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert "a defect" in err, "what nobody foresaw is not taken for an outcome"
    assert walk(tmp_path, {})[0]["state"] == "done"
    assert ran(tmp_path) == ["a", "b", "b", "c"]


def test_a_second_runner_is_refused_by_the_first_ones_pid_until_that_one_is_dead(tmp_path: Path) -> None:
    first = start(tmp_path, {"b": "die"})
    wait_for(tmp_path / "standing", first)
    with (
        pytest.raises(RefusedInput, match=f"worked on by process {first.pid} ") as refused,
        durable.single_runner(tmp_path, "acme"),
    ):
        pass
    assert refused.value.code == "runner-busy"
    assert refused.value.hint == "watch it: keyshift status acme --watch"
    assert ran(tmp_path) == ["a", "b"], "who is refused does nothing"
    first.kill()
    first.communicate()
    with durable.single_runner(tmp_path, "acme"):
        pass


def test_a_stopped_runner_that_is_overdue_is_ended_before_the_next_one_acts(tmp_path: Path) -> None:
    first = start(tmp_path, {"b": "die"})
    wait_for(tmp_path / "standing", first)
    os.kill(first.pid, signal.SIGSTOP)
    asked: list[int] = []

    def is_overdue(pid: int) -> bool:
        asked.append(pid)
        return True

    with durable.single_runner(tmp_path, "acme", is_overdue=is_overdue):
        assert first.wait(SECONDS) == -signal.SIGKILL, "woken up later it would go on"
    assert asked == [first.pid]
    first.communicate()


def test_a_runner_that_was_overtaken_leaves_the_journal_to_its_successor(tmp_path: Path) -> None:
    done: list[str] = []

    def overtaken(_: str, step: str) -> Outcome:
        done.append(step)
        if step == "b":
            raise Conflict("the lease went to another one", code="lease-lost")
        return Outcome(state="done")

    def successor(_: str, step: str) -> Outcome:
        done.append(step)
        return Outcome(state="done")

    with pytest.raises(Conflict, match="went to another one"):
        durable.walk(tmp_path, "acme", "acme-enable-9", ["a", "b", "c"], overtaken)
    outcome = durable.walk(tmp_path, "acme", "acme-enable-9", ["a", "b", "c"], successor)
    assert outcome["state"] == "done"
    assert done == ["a", "b", "b", "c"], "an error in the journal would be taken for the step's end"
