"""SIGKILL, again and again: a move that dies anywhere and is run again ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import moved
import pytest
from cloud import Cloud, Key, Tenant, records
from moved import Home

from migrate.operations import Plan
from migrate.runner import step_names
from migrate.stack import is_alive

STEP_SECONDS = 180
END_SECONDS = 420
LOOK_SECONDS = 0.003
"""Some steps last only some ten milliseconds."""
LONG = ("up", "copy", "fill", "settle", "canary", "purge-storage")
"""Steps that are also killed somewhere inside."""
SEED = 20_260
MANY = 200


@dataclass
class Doomed:
    """A tenant, ready to be moved, and its move, which is killed and taken up again."""

    tenant: Tenant
    key: Key
    home: Home
    steps: list[str]
    has_begun: bool = False

    def start(self) -> subprocess.Popen[str]:
        """The runner: `enable` the first time, `resume` from then on."""
        verb = "resume" if self.has_begun else "enable"
        self.has_begun = True
        return self.tenant.cloud.start("keyshift", verb, self.tenant.name, "--json", session=True)

    def kill_at(self, step: str) -> str:
        """Kills a runner as soon as it is in `step`, or past it; returns where it was."""
        with self._doomed_runner() as runner:
            self._until_at(runner, step)
        return self.tenant.step() or ""

    def kill_after(self, seconds: float) -> str:
        """Kills a runner so many seconds after it has taken the tenant over; returns where it was."""
        with self._doomed_runner() as runner:
            self._until_acting(runner)
            with contextlib.suppress(subprocess.TimeoutExpired):
                runner.wait(seconds)
        return self.tenant.step() or ""

    def kill_all_in(self, step: str, seconds: float) -> list[str]:
        """Kills a runner, its engine and the plugins, so many seconds into the `pulumi up` of `step`.

        Returns what was killed. Nothing if the step was over before.
        """
        with self._doomed_runner() as runner:
            self._until_at(runner, step)
            deadline = time.monotonic() + STEP_SECONDS
            while _goes_on(runner) and time.monotonic() < deadline and not _is_updating(_family(runner.pid)):
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):
                runner.wait(seconds)
            family = _family(runner.pid)
            _kill(family)
        return list(family.values())

    def finish(self) -> None:
        """Lets a last runner walk to the end."""
        done = self.tenant.keyshift("resume", "--json", seconds=END_SECONDS)
        assert done.json()["state"] == "done"

    @contextlib.contextmanager
    def _doomed_runner(self) -> Iterator[subprocess.Popen[str]]:
        runner = self.start()
        try:
            yield runner
        finally:
            runner.kill()
            out, err = runner.communicate(timeout=STEP_SECONDS)
        assert runner.returncode == -signal.SIGKILL, f"it was to be killed and ended by itself:\n{out}\n{err}"

    def _until_at(self, runner: subprocess.Popen[str], step: str) -> None:
        wanted, deadline = self.steps.index(step), time.monotonic() + STEP_SECONDS
        with contextlib.closing(self._record()) as record:
            while _goes_on(runner) and time.monotonic() < deadline:
                now = record.execute(
                    "SELECT step FROM operations WHERE tenant = ? AND kind = 'enable'", (self.tenant.name,)
                ).fetchone()
                if now and now[0] and self.steps.index(now[0]) >= wanted:
                    return
        assert runner.poll() is not None, f"{step} was not reached within {STEP_SECONDS} s, only {self.tenant.step()}"

    def _until_acting(self, runner: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + STEP_SECONDS
        with contextlib.closing(self._record()) as record:
            while _goes_on(runner) and time.monotonic() < deadline:
                query = "SELECT lease_owner FROM tenants WHERE name = ?"
                owner = record.execute(query, (self.tenant.name,)).fetchone()[0]
                if owner and owner.endswith(f":{runner.pid}"):
                    return
        assert runner.poll() is not None, f"the runner did not take the lease within {STEP_SECONDS} s"

    def _record(self) -> sqlite3.Connection:
        return sqlite3.connect(self.tenant.cloud.home / "keyshift.db", timeout=30, isolation_level=None)


def _goes_on(process: subprocess.Popen[str]) -> bool:
    """Whether it still runs, after a moment: a look at the record must not take the runner's core."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LOOK_SECONDS)
    return process.returncode is None


def _family(pid: int) -> dict[int, str]:
    """A process and all that it started, whatever their sessions, with their command lines."""
    parents, family = _parents(), {pid}
    while found := {child for child, parent in parents.items() if parent in family} - family:
        family |= found
    return {member: _command(member) for member in family}


def _is_updating(family: Mapping[int, str]) -> bool:
    """Whether an engine is in the middle of `up`: its plugins are there."""
    commands = family.values()
    return any("/pulumi --non-interactive up " in c for c in commands) and any(
        "sandbox.provider" in c for c in commands
    )


def _kill(family: Mapping[int, str]) -> None:
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    deadline = time.monotonic() + STEP_SECONDS
    while alive := [member for member in family if is_alive(member)]:
        assert time.monotonic() < deadline, f"{alive} survived SIGKILL"
        time.sleep(LOOK_SECONDS)


def _parents() -> dict[int, int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return parents


def _command(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


@pytest.fixture
def doomed(cloud: Cloud) -> Iterator[Doomed]:
    tenant = cloud.tenant("doomed", records=records(MANY))
    key = cloud.give_key(tenant.name)
    found = tenant.keyshift("enable", "--dry-run", "--no-preview", "--json").json()
    plan = Plan.model_validate({name: found[name] for name in Plan.model_fields})
    steps = [name for phase in plan.phases for name in step_names(phase)]
    yield Doomed(tenant, key, moved.home_of(tenant), steps)
    tenant.shut_down()


def test_a_runner_killed_at_every_step_ends_as_if_it_had_never_been(doomed: Doomed) -> None:
    chance, killed = random.Random(SEED), []
    with doomed.tenant.jobs() as jobs:
        for step in doomed.steps:
            if killed and doomed.steps.index(killed[-1]) > doomed.steps.index(step):
                continue  # so short that the kill came in the next one
            killed.append(doomed.kill_at(step))
            if step.endswith(LONG):
                killed.append(doomed.kill_after(chance.uniform(0.2, 5)))
        doomed.finish()
    boundaries = [step for step in doomed.steps if step.endswith("/up")]
    print(f"killed {len(killed)} times, at {killed}")
    assert set(boundaries) <= set(killed), "each boundary"
    assert len(set(killed)) >= len(doomed.steps) * 2 // 3, "and within most phases"
    moved.assert_moved(doomed.tenant, doomed.home, doomed.key, added=jobs.archived())
    assert {one["code"] for one in jobs.attempts("write")} <= {"", "AccessDenied"}
    again = doomed.tenant.keyshift("resume", check=False)
    assert again.code == 2
    assert "no unfinished operation" in again.err


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds a runner's engine and plugins through /proc")
def test_a_runner_killed_with_its_engine_and_plugins_ends_as_if_it_had_never_been(doomed: Doomed) -> None:
    cut_off = 0
    for step, seconds in (
        ("key/up", 0.5),
        ("build/up", 0.2),
        ("build/up", 1.5),
        ("build/up", 4.0),
        ("freeze/up", 1.0),
        ("attach/up", 0.5),
        ("serve/up", 1.0),
        ("drop/up", 0.5),
        ("drop/up", 2.0),
    ):
        killed = doomed.kill_all_in(step, seconds)
        cut_off += any("/pulumi --non-interactive up " in command for command in killed)
    assert cut_off >= 5, "an engine died in the middle of most of the updates"
    doomed.finish()
    moved.assert_moved(doomed.tenant, doomed.home, doomed.key)
    beside = list((doomed.tenant.cloud.home / "pulumi").rglob("*.attrs"))
    assert not beside, "files beside the state are not replaced atomically: a kill leaves a state that nothing reads"
