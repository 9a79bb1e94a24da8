"""What people read of a rotation, and what it is said to cost."""

from __future__ import annotations

import layouts
from test_dry_run import HELD, text
from test_plan_rotate import rotate

from migrate import show
from migrate.dry_run import price
from migrate.show_rotate import pending_rows, report_rows

PLAN = rotate(layouts.byok_active())


def test_a_plan_says_that_jobs_stay_open_while_searches_are_limited() -> None:
    said = text(show.plan(PLAN.model_dump(mode="json")))
    row = next(line.split() for line in said.splitlines() if line.startswith("redirect"))
    assert row[-3:] == ["open", "limited", "yes"]


def test_a_rotation_copies_nothing_and_asks_for_each_version_three_times() -> None:
    found = price(PLAN, {"s1": HELD})
    count = {row["kind"]: row["count"] for row in found["requests"]}
    assert found["bytes_copied"] == 0
    assert "COPY" not in count
    assert count["HEAD"] == 3 * HELD.versions + 1
    assert count["PUT"] == HELD.versions + 1
    assert found["standing"]["second_copy_per_hour"] == 0
    assert any("priced as a PUT" in line for line in found["assumed"])


def test_a_pending_rotation_says_what_it_waits_for() -> None:
    pending = {"key": "k2", "at": "2026-11-24T09:12:03.25+00:00", "behind": "acme-remove-1"}
    assert pending_rows({"pending_rotation": None}) == []
    [(_, waits)] = pending_rows({"pending_rotation": pending})
    assert waits == (
        "to k2, uploaded 2026-11-24 09:12:03 UTC, begins with keyshift resume once acme-remove-1 has ended"
    )
    [(_, ready)] = pending_rows({"pending_rotation": {**pending, "behind": None}})
    assert ready == "to k2, uploaded 2026-11-24 09:12:03 UTC"


def test_the_closing_table_says_what_was_rekeyed_and_that_nothing_is_left() -> None:
    assert report_rows({}) == []
    assert report_rows({"rekeyed": {"rekeyed": 1200}, "drained": {"versions": 1300, "left": "k1"}}) == [
        ("re-keyed", "1,200 versions in place, none copied"),
        ("left under k1", "0 of 1,300 versions, each asked for"),
    ]
