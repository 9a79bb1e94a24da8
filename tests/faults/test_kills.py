"""One move is killed at every boundary, and each of its processes alone: it ends as if nothing had happened.

Two runners that stand still are overtaken on the way: one on the same host, one by a runner on another.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import doomed
import moved
import pytest
from cloud import Cloud, Jobs
from doomed import OUTSIDE, STEP_SECONDS, Doomed, Run
from standstill import stop_in

from migrate.log import Log

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes through /proc")

RECORDS = 60
SLOW = 400
"""Milliseconds an S3 request takes while a runner is to be caught in the middle of a step."""


@dataclass
class Story:
    """What the move went through."""

    doomed: Doomed
    jobs: Jobs
    overtaken: Run
    """Stood still in a copy, and was overtaken by a runner on its own host."""
    woken: Run
    """Stood still in a purge, was overtaken from another host, and woke up when that one was past the purge."""
    elsewhere: Run


@pytest.fixture(scope="module")
def story(cloud: Cloud) -> Iterator[Story]:
    move = doomed.doomed(cloud, "doomed", RECORDS)
    try:
        with move.tenant.jobs() as jobs:
            told = Story(move, jobs, *_suffered(move))
            move.finish()
        yield told
    finally:
        for run in move.runs:
            doomed.kill_all(doomed.family(run.process.pid))
        move.aws(latency_ms=0)
        move.tenant.shut_down()


def _suffered(move: Doomed) -> tuple[Run, Run, Run]:
    move.kill_at("key/up")
    move.kill_part("engine", "key/up")
    move.kill_at("build/up")
    move.kill_all_in("build/up", 0.5)
    move.kill_part("plugin", "build/up")
    move.kill_part("program", "build/up")
    move.assert_refused(move.command("enable", move.tenant.name, "--json"))
    overtaken = _overtaken_here(move)
    move.kill_at("build/5-fill")
    move.kill_at("freeze/up")
    move.kill_part("language host", "freeze/up")
    move.kill_at("freeze/2-settle")
    move.kill_at("freeze/5-fill")
    move.kill_at("attach/up")
    move.kill_all_in("attach/up", 0.5)
    move.kill_at("attach/2-canary")
    move.kill_at("serve/up")
    move.kill_part("engine", "serve/up")
    move.kill_at("purge/up")
    woken, elsewhere = _overtaken_from_elsewhere(move)
    move.kill_all_in("drop/up", 1.0)
    return overtaken, woken, elsewhere


def _overtaken_here(move: Doomed) -> Run:
    """A runner stands still in the middle of a copy, until its lease has run out and another takes its place."""
    move.aws(latency_ms=SLOW)
    stopped = move.until_at("build/3-copy")
    stop_in(move.tenant, stopped.process, "build/3-copy")
    move.overtake()
    stopped.process.wait(STEP_SECONDS)
    move.aws(latency_ms=0)
    return stopped


def _overtaken_from_elsewhere(move: Doomed) -> tuple[Run, Run]:
    """A runner stands still in the middle of a purge, and wakes up when one on another host has ended it."""
    move.aws(latency_ms=SLOW)
    stopped = move.until_at("purge/1-purge-storage")
    stop_in(move.tenant, stopped.process, "purge/1-purge-storage")
    elsewhere = move.overtake(PYTHONPATH=str(OUTSIDE), KEYSHIFT_TEST_HOST="elsewhere")
    move.aws(latency_ms=0)
    move.until_at("purge/3-prove-empty")
    os.kill(stopped.process.pid, signal.SIGCONT)
    move.kill_at("drop/up")
    stopped.process.wait(STEP_SECONDS)
    move.overtake()
    return stopped, elsewhere


def _events(move: Doomed) -> list[Mapping[str, Any]]:
    return [line["event"] for line in Log(move.tenant.folder).events()]


def test_the_tenant_is_whole_and_once_under_its_own_key(story: Story) -> None:
    move = story.doomed
    moved.assert_moved(move.tenant, move.home, move.key, added=story.jobs.archived())
    assert {one["code"] for one in story.jobs.attempts("write")} <= {"", "AccessDenied"}


def test_no_process_lock_lease_or_pending_operation_is_left(story: Story) -> None:
    doomed.assert_nothing_is_left(story.doomed.tenant)
    again = story.doomed.tenant.keyshift("resume", check=False)
    assert again.code == 2
    assert "no unfinished operation" in again.err


def test_every_blow_fell_where_it_was_meant_to_and_nothing_else_stopped_the_move(story: Story) -> None:
    assert story.doomed.unplanned == []


def test_every_runner_was_killed_or_overtaken_but_the_last(story: Story) -> None:
    ended = [run.process.returncode for run in story.doomed.runs]
    assert ended.count(-signal.SIGKILL) >= 15
    assert [run for run in story.doomed.runs if run.process.returncode not in {-signal.SIGKILL, 0}] == [story.woken]
    assert ended[-1] == 0


def test_a_part_that_was_killed_alone_was_replaced_and_its_death_is_told(story: Story) -> None:
    died = [event["phase"] for event in _events(story.doomed) if event["event"] == "engine-died"]
    assert died == ["key", "build", "build", "freeze", "serve"]


def test_a_runner_that_stands_still_is_ended_before_its_work_is_taken_over_on_its_host(story: Story) -> None:
    assert story.overtaken.process.returncode == -signal.SIGKILL, "woken up it would have gone on"


def test_a_runner_that_wakes_up_after_it_was_overtaken_does_nothing_and_says_so(story: Story) -> None:
    assert story.woken.process.returncode == 1, story.woken.text
    assert story.woken.error["code"] == "lease-lost", story.woken.text
    assert f"elsewhere:{story.elsewhere.process.pid}" in story.woken.error["message"]
