"""The manifest belongs to one move, sorts as S3 sorts, and signs what it lists."""

from __future__ import annotations

import pytest
from fake_s3 import SOURCE, TARGET, a_history, put, two_storages

from migrate.copy.manifest import Copied, Manifest, State, Where
from migrate.copy.s3 import StorageRef, list_versions
from migrate.errors import Conflict, RefusedInput


@pytest.fixture
def manifest(tmp_path):
    with Manifest.open(tmp_path / "manifest.sqlite", SOURCE, TARGET) as manifest:
        yield manifest


def listed(manifest, side) -> None:
    manifest.take(list_versions(side), lambda _: None)


def test_a_manifest_of_another_move_is_refused(manifest, tmp_path):
    with pytest.raises(Conflict, match="another move"):
        Manifest.open(tmp_path / "manifest.sqlite", SOURCE, StorageRef("elsewhere", ""))


def test_a_prefix_that_would_take_in_a_neighbour_is_refused():
    with pytest.raises(RefusedInput, match="slash"):
        StorageRef("shared", "t/acme")


def test_rows_come_by_key_as_s3_sorts_them_and_oldest_first(manifest):
    s3, source, _ = two_storages()
    for key in ("b", "a", "ﬀ", "😀", "a!", "A"):
        put(s3, key, key.encode())
    put(s3, "a", b"again")
    listed(manifest, source)
    rows = [(row.key, row.ordinal) for row in manifest.rows()]
    assert rows == [("A", 1), ("a", 1), ("a", 2), ("a!", 1), ("b", 1), ("ﬀ", 1), ("😀", 1)]


def test_a_listing_that_was_cut_off_makes_nothing_vanish(manifest):
    s3, source, _ = two_storages()
    a_history(s3)
    listed(manifest, source)

    def cut_off():
        yield from list(list_versions(source))[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        manifest.take(cut_off(), lambda _: None)
    assert manifest.totals().versions == 11
    assert manifest.vanished() == []


def test_what_is_handed_out_is_known_to_be_under_way_until_it_is_done(manifest):
    s3, source, _ = two_storages()
    put(s3, "a")
    put(s3, "b")
    listed(manifest, source)
    keys = [rows[0].key for rows in manifest.hand_out(keys=1)]
    assert keys == ["a", "b"]
    (row,) = manifest.of_key("a")
    assert row.state is State.COPYING
    manifest.copied([Copied(row.id, "t1", "etag")])
    assert [rows[0].key for rows in manifest.interrupted()] == ["b"]
    assert manifest.holds(Where.TARGET, "a", "t1")
    assert not manifest.holds(Where.TARGET, "a", row.version_id)


def test_the_digest_covers_the_rows_and_not_how_far_they_are(manifest):
    s3, source, _ = two_storages()
    put(s3, "a")
    listed(manifest, source)
    first = manifest.digest()
    list(manifest.hand_out())
    assert manifest.digest() == first
    (row,) = manifest.of_key("a")
    manifest.copied([Copied(row.id, "t1", "etag")])
    assert manifest.digest() != first, "a purge of the target relies on its version ids being signed"
    put(s3, "b")
    second = manifest.digest()
    listed(manifest, source)
    assert manifest.digest() != second


def test_a_storage_of_another_move_is_not_found_in_it(manifest):
    assert manifest.where(SOURCE) is Where.SOURCE
    assert manifest.where(TARGET) is Where.TARGET
    with pytest.raises(Conflict):
        manifest.where(StorageRef("elsewhere", ""))
