"""A part of a run that is killed alone, and a runner that stands still and is overtaken."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import moved
import pytest
from cloud import Cloud, until
from test_kills import LOOK_SECONDS, STEP_SECONDS, Doomed, _family, _goes_on, doomed  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")

LEASE_SECONDS = "4"
PARTS = {
    "engine": "/pulumi --non-interactive up ",
    "plugin": "sandbox.provider",
    "host": "pulumi-language-python",
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


@contextmanager
def standing_still(doomed: Doomed, step: str) -> Iterator[subprocess.Popen[str]]:
    """A runner that is stopped in `step` (SIGSTOP) and woken up when the block ends."""
    runner = doomed.start()
    doomed._until_at(runner, step)
    os.kill(runner.pid, signal.SIGSTOP)
    try:
        yield runner
        os.kill(runner.pid, signal.SIGCONT)
        runner.communicate(timeout=STEP_SECONDS)
    finally:
        runner.kill()
        runner.wait()


def test_a_part_killed_alone_is_replaced_and_a_stopped_runner_is_overtaken(doomed: Doomed) -> None:  # noqa: F811
    doomed.tenant.cloud = replace(
        doomed.tenant.cloud,
        environment={**doomed.tenant.cloud.environment, "KEYSHIFT_LEASE_SECONDS": LEASE_SECONDS},
    )
    _kill_parts_alone(doomed)
    for step in ("build/2-copy", "purge/1-purge-storage"):
        with standing_still(doomed, step) as stopped:
            refused = doomed.tenant.keyshift("resume", "--json", check=False)
            if refused.code == 2:  # the lease still lives
                assert f"process {stopped.pid}" in refused.out
                assert f"{doomed.tenant.name}-enable-1 (step" in refused.out, "and the first operation is named"
            _overtake(doomed, stopped)
    doomed.finish() if doomed.tenant.keyshift("status", check=False).out.find("done") < 0 else None
    moved.assert_moved(doomed.tenant, doomed.home, doomed.key)
