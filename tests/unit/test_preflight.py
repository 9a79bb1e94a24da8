"""What cannot be moved is found by one listing, before anything is changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fake_s3 import SOURCE, a_history, error, put, two_storages

from migrate.copy.preflight import require_movable, require_something, survey
from migrate.copy.s3 import Side, StorageRef
from migrate.errors import CloudError, RefusedInput
from migrate.progress import unwatched

TOMORROW, YESTERDAY = (datetime.now(UTC) + timedelta(days=days) for days in (1, -1))


@pytest.fixture
def source():
    s3, source, _ = two_storages()
    a_history(s3)
    return s3, source


def newest(s3: Any, key: str = "attachments/empty") -> Any:
    return s3.current("shared", SOURCE.prefix + key)


def test_an_archive_without_obstacles_costs_one_listing_and_no_other_request(source):
    s3, side = source
    s3.calls.clear()
    found = survey(side, "", unwatched)
    assert (found.versions, found.delete_markers, found.bytes) == (11, 4, 21)
    assert (found.list_requests, found.head_requests, found.obstacles) == (1, 0, ())
    assert set(s3.calls) == {"get_object_lock_configuration", "list_object_versions"}
    assert require_movable(found, side, "again") is found


OBSTACLES = {
    "retained": ("locked", lambda v: setattr(v, "retained_until", TOMORROW)),
    "held": ("locked", lambda v: setattr(v, "hold", "ON")),
    "in GLACIER": ("asleep", lambda v: setattr(v, "storage_class", "GLACIER")),
    "in DEEP_ARCHIVE": ("asleep", lambda v: setattr(v, "storage_class", "DEEP_ARCHIVE")),
    "null": ("without a version id", lambda v: setattr(v, "id", "null")),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_an_obstacle_is_named_with_an_example_and_the_next_command(source, obstacle):
    s3, side = source
    s3.locked.add("shared")
    reason, make = OBSTACLES[obstacle]
    make(newest(s3))
    found = survey(side, "", unwatched)
    assert [(one.reason, one.count) for one in found.obstacles] == [(reason, 1)]
    with pytest.raises(RefusedInput, match=r"attachments/empty.*nothing was changed") as refused:
        require_movable(found, side, "keyshift enable acme")
    assert refused.value.exit_code == 2
    assert refused.value.hint.endswith("then: keyshift enable acme")


NO_OBSTACLES = {
    "a retention that is over": lambda v: setattr(v, "retained_until", YESTERDAY),
    "a hold that is off": lambda v: setattr(v, "hold", "OFF"),
    "a version that was restored": lambda v: (setattr(v, "storage_class", "GLACIER"), setattr(v, "restored", True)),
    "instant retrieval": lambda v: setattr(v, "storage_class", "GLACIER_IR"),
}


@pytest.mark.parametrize("harmless", NO_OBSTACLES)
def test_what_can_be_moved_after_all_is_no_obstacle(source, harmless):
    s3, side = source
    s3.locked.add("shared")
    NO_OBSTACLES[harmless](newest(s3))
    assert survey(side, "", unwatched).obstacles == ()


def test_locks_are_asked_for_only_where_the_bucket_can_have_any(source):
    s3, side = source
    newest(s3).hold = "ON"
    assert survey(side, "", unwatched).head_requests == 0, "without a lock configuration S3 keeps no holds"
    s3.locked.add("shared")
    assert survey(side, "", unwatched).head_requests == 7


@pytest.mark.parametrize("call", ["get_object_retention", "get_object_legal_hold", "get_object_lock_configuration"])
def test_locks_that_may_not_be_read_are_not_taken_for_none(source, call):
    s3, side = source
    s3.locked.add("shared")

    def denied(name: str, _: object) -> None:
        if name == call:
            raise error("AccessDenied", 403)

    s3.before = denied
    with pytest.raises(CloudError, match="AccessDenied"):
        survey(side, "", unwatched)


def test_names_are_judged_by_where_they_would_lie():
    s3, _, _ = two_storages()
    s3.put_object(Bucket="dedicated", Key="x" * 1018, Body=b"x")
    side = Side(s3, StorageRef("dedicated", ""))
    assert survey(side, "", unwatched).obstacles == ()
    (found,) = survey(side, "t/acme/", unwatched).obstacles
    assert (found.reason, found.count) == ("not to be named there", 1)


def test_an_object_whose_name_is_the_prefix_itself_is_found():
    s3, side, _ = two_storages()
    s3.put_object(Bucket="shared", Key="t/acme/", Body=b"")
    (found,) = survey(side, "", unwatched).obstacles
    assert "the prefix itself" in found.examples[0]


def test_of_many_only_some_are_shown_and_all_are_counted():
    s3, side, _ = two_storages()
    for number in range(9):
        put(s3, f"{number}")
        s3.current("shared", f"t/acme/{number}").storage_class = "GLACIER"
    (found,) = survey(side, "", unwatched).obstacles
    assert (found.count, len(found.examples)) == (9, 3)


def test_an_empty_storage_is_no_obstacle_until_it_would_be_compared():
    _, side, _ = two_storages()
    found = require_movable(survey(side, "", unwatched), side, "again")
    with pytest.raises(RefusedInput, match="holds nothing yet"):
        require_something(found, side, "again")
