"""One move under faults from outside, one after the other: each ends in progress, a named wait or a clean stop.

S3 asks to slow down, breaks connections and answers off, and lists in small pages; KMS throttles; both searches'
nodes die; a search asks for patience; the disk is full; the clock jumps.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import doomed
import moved
import pytest
from cloud import Cloud
from doomed import OUTSIDE, Doomed, Run

from migrate import archive

pytestmark = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="fills the disk of a single process")

RECORDS = 60
SLOW = 300
"""Milliseconds an S3 request takes, so that a fault can be set in the middle of a step."""
PAGE = 7
JUMP = 240
"""Seconds. Once: AWS still takes the requests, but a lease seems to have been renewed in the future. Twice: it does not."""
LATE, LATE_RECORD = "records/late/one.json", {"word": "before the freeze"}
"""Archived while its search is down: the settling has to wait for the event."""


@dataclass
class Story:
    doomed: Doomed
    struck: dict[str, dict[str, int]]
    """Step -> what was left of the faults once the step was over."""
    full: Run
    """Its disk was full."""
    jumped: Run
    """Its clock jumped twice."""


@pytest.fixture(scope="module")
def story(cloud: Cloud) -> Iterator[Story]:
    move = doomed.doomed(cloud, "struck", RECORDS)
    try:
        told = _suffered(move)
        move.finish()
        yield told
    finally:
        for run in move.runs:
            doomed.kill_all(doomed.family(run.process.pid))
        move.aws(latency_ms=0, page_limit=0, slowdown_503=0, drop=0, truncate=0, kms_throttle=0)
        move.tenant.shut_down()


def _suffered(move: Doomed) -> Story:
    struck: dict[str, dict[str, int]] = {}
    move.aws(page_limit=PAGE)
    move.until_at("build/up")
    move.aws(latency_ms=SLOW)
    move.until_move("build/3-copy", "copy")
    move.aws(slowdown_503=20, drop=5, truncate=5, kms_throttle=10)
    move.until_at("build/5-fill")
    struck["copy"] = move.aws()
    move.search("e2", kill_node=True, bulk_429=3)
    move.aws(slowdown_503=10, drop=3, truncate=5, kms_throttle=8)
    full = _filled_disk(move, "build/6-copy")
    struck["fill"] = move.aws()
    jumping = move.start(PYTHONPATH=str(OUTSIDE), KEYSHIFT_TEST_JUMP=str(JUMP))
    jobs = move.tenant.storage("s1", "archive")
    move.until_at("freeze/up")
    move.search("e1", kill_node=True)
    archive.write_record(jobs, "late", "one", LATE_RECORD)
    move.until_at("freeze/2-settle")
    os.kill(jumping.process.pid, signal.SIGUSR1)
    move.assert_refused(move.command("resume", move.tenant.name, "--json"))
    move.until_at("freeze/3-copy")
    move.aws(slowdown_503=6)
    move.until_at("freeze/5-fill")
    # Not at the proof itself: that of a few documents may be over before the node is dead.
    move.search("e2", kill_node=True)
    move.until_at("freeze/6-verify-index")
    struck["delta"] = move.aws()
    move.until_at("attach/up")
    os.kill(jumping.process.pid, signal.SIGUSR1)
    jumping.process.wait(doomed.STEP_SECONDS)
    move.start()
    move.until_at("purge/1-purge-storage")
    move.aws(slowdown_503=3, drop=3)
    move.until_at("drop/up")
    struck["purge"] = move.aws(latency_ms=0)
    return Story(move, struck, full, jumping)


def _filled_disk(move: Doomed, step: str) -> Run:
    """In `step` no file of the runner's can grow any more, of however few bytes; returns it when it has ended."""
    run = move.until_at(step)
    _, most = resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (0, most))
    run.process.wait(doomed.STEP_SECONDS)
    return run


def test_the_tenant_is_whole_and_once_under_its_own_key(story: Story) -> None:
    move = story.doomed
    moved.assert_moved(move.tenant, move.home, move.key, added={LATE: LATE_RECORD})


def test_no_process_lock_lease_or_pending_operation_is_left(story: Story) -> None:
    doomed.assert_nothing_is_left(story.doomed.tenant)


@pytest.mark.parametrize("step", ["copy", "fill", "delta", "purge"])
def test_every_fault_has_struck(story: Story, step: str) -> None:
    left = {name: count for name, count in story.struck[step].items() if name not in {"latency_ms", "page_limit"}}
    assert set(left.values()) == {0}, "a fault that was not met proves nothing"


def test_nothing_else_stopped_the_move(story: Story) -> None:
    assert story.doomed.unplanned == []


def test_the_command_stopped_for_the_full_disk_and_for_the_clock_and_for_nothing_else(story: Story) -> None:
    assert [run.process.returncode for run in story.doomed.runs] == [1, 1, 0]
    assert [story.doomed.runs[0], story.doomed.runs[1]] == [story.full, story.jumped]


def test_a_search_that_dies_and_a_busy_s3_are_waited_for_by_name(story: Story) -> None:
    first, second = " | ".join(story.full.waits()), " | ".join(story.jumped.waits())
    assert "the search answered 503" in first, "the node of the new search died in the fill"
    assert "the search answered 503" in second, "both nodes died, one before the settling, one in the last fill"
    assert "AWS answered SlowDown" in second


def test_a_full_disk_is_named_with_the_way_on(story: Story) -> None:
    error = story.full.error
    assert error["code"] in {"state-file", "database", "system"}, story.full.text
    assert error["hint"], story.full.text


def test_a_clock_that_is_too_far_off_is_named(story: Story) -> None:
    error = story.jumped.error
    assert error["code"] == "clock", story.jumped.text
    assert "clock" in error["hint"]
