"""What people read of pipelines and comparisons: every number that decides something, and the next command."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from migrate import show_pipeline


def text(shown: Any) -> str:
    console = Console(width=160, highlight=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


TO_SEARCH = {
    "waiting": 1200,
    "in_flight": 3,
    "delayed": 0,
    "dead_letters": 2,
    "oldest_at_most_seconds": 75.0,
    "last_tick_seconds": 75.0,
}
TOLD = {"key": "records/people/7.json", "author": "ada", "edited_at": "2026-01-01T00:00:00.000Z"}
TO_BUCKET = {
    "unapplied": 4,
    "oldest_seconds": 61.0,
    "settled": {"applied": 9, "unchanged": 0, "refused": 1, "overrode": 1},
    "told": [{**TOLD, "reason": "deleted: gone", "overrode": []}, {**TOLD, "reason": "", "overrode": ["note"]}],
}
UNIT = {"id": "p1", "storage": "s1", "search": "e1", "state": "running"}


def test_the_lag_is_told_each_way_with_what_was_refused_and_the_next_command():
    shown = text(
        show_pipeline.status(
            {"tenant": "acme", "pipelines": [{**UNIT, "to_search": TO_SEARCH, "to_bucket": TO_BUCKET}]}
        )
    )
    for part in ("s1 -> e1", "1,200 waiting, 3 in work", "at most", "e1 -> s1", "4 edits", "1 refused, 1 overrode"):
        assert part in shown
    assert "records/people/7.json, edited by ada at 2026-01-01T00:00:00.000Z: deleted: gone" in shown
    assert "applied over a newer note that its author had not seen" in shown
    assert "keyshift pipeline replay acme" in shown


def test_a_pipeline_that_is_being_made_and_an_age_that_nobody_knows_are_shown_as_that():
    new = {**UNIT, "to_search": None, "to_bucket": None}
    unknown = {**UNIT, "to_search": {**TO_SEARCH, "dead_letters": 0, "oldest_at_most_seconds": None}, "to_bucket": None}
    shown = text(show_pipeline.status({"tenant": "acme", "pipelines": [new, unknown]}))
    assert "not known" in shown
    assert "replay" not in shown


DIFFERENCE = {
    "kind": "stale",
    "id": "people/7",
    "key": "records/people/7.json",
    "revision": 4,
    "indexed": 3,
    "reason": "",
}
COMPARED = {
    "tenant": "acme",
    "storage": "s1",
    "search": "e1",
    "objects": 1000,
    "documents": 999,
    "differences": 1,
    "counts": {"missing": 0, "stale": 1},
    "examples": [DIFFERENCE],
}


def test_a_difference_is_named_with_both_revisions_and_the_command_that_mends_it():
    shown = text(show_pipeline.verified(COMPARED))
    assert "1,000 objects in s1, 999 documents in e1" in shown
    assert "records/people/7.json is stale (object 4, document 3)" in shown
    assert "missing" not in shown, "a kind that was not found is no line"
    assert "keyshift repair acme" in shown
    same = text(show_pipeline.verified({**COMPARED, "differences": 0, "examples": []}))
    assert "no difference" in same
    assert "repair" not in same


def test_a_repair_says_what_it_could_not_mend_and_why():
    left = {**DIFFERENCE, "kind": "ahead", "revision": None, "reason": "the index has a later revision"}
    shown = text(show_pipeline.repaired({**COMPARED, "mended": 0, "left": 1, "left_examples": [left]}))
    assert "0 documents of e1 mended from s1, 1 left" in shown
    assert "is ahead (object none, document 3): the index has a later revision" in shown


def test_an_edit_says_where_to_see_it_applied():
    shown = text(show_pipeline.edited({"tenant": "acme", "edit": "e-1", "key": "records/people/7.json"}))
    assert "keyshift pipeline status acme" in shown
    assert "no pipeline" in text(show_pipeline.replayed({"tenant": "acme", "pipelines": []}))
