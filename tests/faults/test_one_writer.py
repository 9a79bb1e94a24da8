"""A part of a run that is killed alone, and a runner that stands still and is overtaken."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import moved
import pytest
from test_kills import STEP_SECONDS, Doomed, _family, _goes_on, doomed  # noqa: F401 - a fixture

from migrate.log import Log

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")

LEASE_SECONDS = "4"
PARTS = {
    "engine": "/pulumi --non-interactive up ",
    "plugin": "sandbox.provider",
    "program": "run_program",
}


def kill_one(runner: subprocess.Popen[str], what: str) -> str | None:
    """SIGKILL for the first process of this kind in the middle of an `up`; its command, None if none was seen."""
    deadline = time.monotonic() + STEP_SECONDS
    while _goes_on(runner) and time.monotonic() < deadline:
        family = _family(runner.pid)
        if any(PARTS["engine"] in command for command in family.values()):
            for pid, command in family.items():
                if PARTS[what] in command:
                    os.kill(pid, signal.SIGKILL)
                    return command
    return None


def overtake(doomed: Doomed) -> subprocess.Popen[str]:  # noqa: F811 - not the fixture
    """A runner that acts on the tenant, as soon as the lease of the one that stands still has run out."""
    deadline = time.monotonic() + STEP_SECONDS
    while time.monotonic() < deadline:
        runner = doomed.start()
        doomed._until_acting(runner)
        if runner.poll() is None:
            return runner
        out, err = runner.communicate()
        assert runner.returncode == 2, f"{out}\n{err}"
        assert f"in {doomed.tenant.name}-enable-1 (step" in out, "who is refused is told the first operation"
    raise AssertionError(f"nobody could overtake the stopped runner within {STEP_SECONDS} s")


def test_a_part_killed_alone_is_replaced_and_a_runner_that_stands_still_is_overtaken(doomed: Doomed) -> None:  # noqa: F811
    cloud = doomed.tenant.cloud
    doomed.tenant.cloud = cloud.with_environment(KEYSHIFT_LEASE_SECONDS=LEASE_SECONDS)
    runners = [doomed.start()]
    try:
        for step, what in (("key/up", "engine"), ("build/up", "plugin"), ("build/up", "program")):
            doomed._until_at(runners[-1], step)
            assert kill_one(runners[-1], what), f"no {what} was seen in {step}"
        for step in ("build/2-copy", "purge/1-purge-storage"):
            doomed._until_at(runners[-1], step)
            assert runners[-1].poll() is None, "the command went on by itself after each death"
            os.kill(runners[-1].pid, signal.SIGSTOP)
            runners.append(overtake(doomed))
            assert runners[-2].wait(STEP_SECONDS) == -signal.SIGKILL, "woken up it would have gone on"
        out, err = runners[-1].communicate(timeout=STEP_SECONDS)
        assert runners[-1].returncode == 0, f"{out}\n{err}"
    finally:
        for runner in runners:
            runner.kill()
            runner.communicate()
    moved.assert_moved(doomed.tenant, doomed.home, doomed.key)
    died = [line["event"] for line in Log(doomed.tenant.folder).events() if line["event"]["event"] == "engine-died"]
    assert {event["phase"] for event in died} >= {"key", "build"}, "a death is told, not only survived"
