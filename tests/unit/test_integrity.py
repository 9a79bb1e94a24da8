"""Whether what comes back is what was closed: counted, compared, read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_s3
import layouts
import pytest

from migrate import integrity
from migrate.copy.s3 import Side
from migrate.denials import Estate
from migrate.errors import CloudError, VerificationFailed
from migrate.integrity import Inventories, Inventory, Wanted, inventory, read_back, take
from migrate.progress import unwatched
from stacks.record import connect


@pytest.fixture
def held() -> tuple[fake_s3.FakeS3, Side]:
    s3, _, side = fake_s3.two_storages()
    return s3, side


def put(side: Side, key: str, body: bytes = b"x") -> None:
    side.s3.put_object(Bucket=side.storage.bucket, Key=side.storage.prefix + key, Body=body)


def delete(side: Side, key: str) -> None:
    side.s3.delete_object(Bucket=side.storage.bucket, Key=side.storage.prefix + key)


def filled(side: Side, count: int = 30) -> None:
    for number in range(count):
        put(side, f"records/{number:03}.json", b"x" * number)
    put(side, "records/000.json", b"newer")
    delete(side, "records/001.json")


def listed(side: Side, at_most: int | None = None) -> Inventory:
    return inventory(side, "s1", at_most, unwatched)


def estate_of(side: Side) -> Estate:
    made = Estate(layouts.byok_active(), "111122223333", None, dict)  # type: ignore[arg-type]
    object.__setattr__(made, "side", lambda *_: side)
    return made


def looked(side: Side, before: Inventory | None, **wanted: Any) -> dict[str, Any]:
    return read_back(estate_of(side), "s1", before, Wanted(**wanted), unwatched)


def test_versions_and_delete_markers_count_and_only_current_objects_are_objects(held: Any) -> None:
    _, side = held
    filled(side)
    found = listed(side)
    assert (found.versions, found.objects, found.bytes) == (32, 29, sum(range(30)) + len(b"newer"))


@pytest.mark.parametrize(
    "change",
    [
        lambda side: put(side, "records/900.json"),
        lambda side: put(side, "records/005.json", b"y" * 5),
        lambda side: delete(side, "records/005.json"),
    ],
    ids=["one more", "another version", "one deleted"],
)
def test_any_change_is_seen_and_keeps_it_closed_unless_it_is_accepted(held: Any, change: Any) -> None:
    _, side = held
    filled(side)
    before = listed(side)
    assert looked(side, before)["same"] is True, "the same twice is the same"
    change(side)
    with pytest.raises(VerificationFailed) as refused:
        looked(side, before)
    assert refused.value.code == "changed-while-closed"
    assert "--accept-changes" in refused.value.hint
    accepted = looked(side, before, accept=True)
    assert (accepted["same"], accepted["versions_then"]) == (False, before.versions)


def test_a_sample_reads_some_and_all_reads_all(held: Any) -> None:
    _, side = held
    filled(side)
    assert looked(side, None)["objects_read"] == integrity.SAMPLE
    assert looked(side, None, read_all=True)["objects_read"] == 29


def test_a_sample_is_not_always_the_beginning(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, side = held
    filled(side)
    seen: set[str] = set()
    monkeypatch.setattr(integrity, "_read", lambda _, entry, *__: seen.add(entry.key) or entry.size)
    for _ in range(60):
        looked(side, None)
    assert len(seen) == 29


def test_what_cannot_be_read_keeps_it_closed(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3, side = held
    filled(side, 3)

    def refused(**_: Any) -> None:
        raise fake_s3.error("KMS.DisabledException", 400, operation="GetObject")

    monkeypatch.setattr(s3, "get_object", refused, raising=False)
    with pytest.raises(VerificationFailed, match=r"KMS\.DisabledException") as found:
        looked(side, None)
    assert found.value.code == "unreadable"


def test_what_is_shorter_than_its_listing_keeps_it_closed(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, side = held
    filled(side, 3)
    listed = type(side).list_versions
    monkeypatch.setattr(
        type(side), "list_versions", lambda side: (replace(entry, size=entry.size + 1) for entry in listed(side))
    )
    with pytest.raises(VerificationFailed, match="the listing says"):
        looked(side, None)


def test_a_listing_that_was_cut_off_is_compared_as_far_as_it_went(held: Any) -> None:
    _, side = held
    filled(side)
    before = listed(side, 10)
    assert (before.versions, before.at_most) == (10, 10)
    put(side, "records/zzz.json")
    found = looked(side, before)
    assert (found["same"], found["listed_at_most"]) == (True, 10)
    put(side, "records/002.json", b"zz")
    with pytest.raises(VerificationFailed):
        looked(side, before)


def test_what_was_never_counted_is_not_compared(held: Any) -> None:
    _, side = held
    filled(side)
    assert looked(side, None)["same"] is None


def test_a_storage_that_cannot_be_listed_is_told_and_stops_no_seal(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, side = held

    def away(*_: Any) -> None:
        raise CloudError("listing: AWS answered SlowDown", cloud_code="SlowDown")

    monkeypatch.setattr(integrity, "inventory", away)
    found, problems = take(estate_of(side), None, unwatched)
    assert (found, [line.split(" ")[0] for line in problems]) == ([], ["s1"])


def test_a_storage_that_was_never_made_is_no_problem(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, side = held

    def missing(*_: Any) -> None:
        raise CloudError("listing: AWS answered NoSuchBucket", cloud_code="NoSuchBucket")

    monkeypatch.setattr(integrity, "inventory", missing)
    assert take(estate_of(side), None, unwatched) == ([], [])
    assert looked(side, None)["objects_read"] == 0


def test_the_first_count_of_a_seal_stands_and_a_whole_one_takes_the_place_of_a_part(tmp_path: Path) -> None:
    kept = Inventories(connect(tmp_path))
    part = Inventory(storage="s1", versions=10, objects=10, bytes=10, digest="part", at_most=10)
    whole, later = replace(part, at_most=None, digest="whole"), replace(part, at_most=None, digest="later")
    for one in (part, whole, later, part):
        kept.put(7, [one])
    assert kept.of(7) == {"s1": whole}
    assert kept.of(8) == {}
