"""The fill and its proof, against a search in memory that keeps versions as Elasticsearch does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import stamina
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig
from elasticsearch import ApiError
from fake_s3 import SOURCE, TARGET, put, two_storages

from migrate.archive import delete_record, write_record
from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest
from migrate.errors import CloudError, Conflict, VerificationFailed
from migrate.index.aliases import set_read_alias
from migrate.index.fill import fill
from migrate.index.verify import verify_index
from migrate.progress import unwatched

INDEX = "records-000001"


def refusal(status: int) -> ApiError:
    node = NodeConfig("http", "127.0.0.1", 1)
    return ApiError("refused", ApiResponseMeta(status, "1.1", HttpHeaders(), 0.0, node), {})


class FakeSearch:
    """`documents`: id → (version, source). `refuse` sees each bulk and may answer for single ids, or raise."""

    def __init__(self) -> None:
        self.documents: dict[str, tuple[int, dict[str, Any]]] = {}
        self.settings: dict[str, Any] = {"number_of_replicas": "1"}
        self.settings_during: list[dict[str, Any]] = []
        self.bulks: list[list[str]] = []
        self.refuse: Callable[[list[str]], Mapping[str, int]] = lambda _: {}
        self.indices = self
        self._lock = threading.Lock()

    def get_settings(self, index: str) -> dict[str, Any]:
        return {index: {"settings": {"index": self.settings}}}

    def put_settings(self, index: str, settings: dict[str, Any]) -> None:
        self.settings = {k: v for k, v in {**self.settings, **settings["index"]}.items() if v is not None}

    def refresh(self, index: str) -> None:
        """Everything is seen at once here."""

    def open_point_in_time(self, **_: Any) -> dict[str, str]:
        return {"id": "pit"}

    def close_point_in_time(self, id: str) -> None:
        """Nothing is held."""

    def search(self, slice: dict[str, int], size: int, search_after: list[int] | None, **_: Any) -> dict[str, Any]:
        mine = sorted(self.documents)[slice["id"] :: slice["max"]]
        start = 0 if search_after is None else search_after[0]
        hits = [
            {
                "_id": id,
                "_version": self.documents[id][0],
                "sort": [start + n],
                "fields": {
                    name: [self.documents[id][1][name]]
                    for name in ("content_hash", "deleted", "archived_at")
                    if name in self.documents[id][1]
                },
            }
            for n, id in enumerate(mine[start : start + size], 1)
        ]
        return {"hits": {"hits": hits}, "pit_id": "pit"}

    def bulk(self, index: str, operations: list[bytes], filter_path: str) -> dict[str, Any]:
        with self._lock:
            lines = [orjson.loads(line) for line in b"".join(operations).splitlines()]
            pairs = [(action["index"], source) for action, source in zip(lines[::2], lines[1::2], strict=True)]
            self.bulks.append([action["_id"] for action, _ in pairs])
            self.settings_during.append(dict(self.settings))
            refused = self.refuse(self.bulks[-1])
            return {"items": [{"index": self._index(action, source, refused)} for action, source in pairs]}

    def _index(self, action: dict[str, Any], source: dict[str, Any], refused: Mapping[str, int]) -> dict[str, Any]:
        id, version = action["_id"], action["version"]
        status = refused.get(id)
        held = self.documents.get(id, (0, {}))[0]
        if status is None:
            fits = version >= held if action["version_type"] == "external_gte" else version > held
            status = 200 if fits else 409
        if status == 200:
            self.documents[id] = (version, source)
        return {"_id": id, "status": status, "error": {"reason": "said no"}}

    def mget(self, index: str, ids: list[str], source: bool) -> dict[str, Any]:
        found = [(id, self.documents.get(id)) for id in ids]
        return {"docs": [{"_id": id, "found": bool(held), "_version": held and held[0]} for id, held in found]}


@pytest.fixture(autouse=True)
def _hurried():
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture
def moved(tmp_path: Path):
    """Three records, one of them in its second revision, and an attachment, copied."""
    s3, source, target = two_storages()
    for id in ("1", "2", "3"):
        write_record(source, "people", id, {"name": f"number {id}"})
    write_record(source, "people", "2", {"name": "changed"})
    put(s3, "attachments/a", b"bytes", Metadata={"revision": "1", "archived-at": "2026-01-01T00:00:00.000Z"})
    with Manifest.open(tmp_path / "manifest.sqlite", SOURCE, TARGET) as manifest:
        transfer = Transfer(source, target, manifest, threads=2)
        copy_pass(transfer, unwatched)
        yield s3, transfer, FakeSearch()


def run(moved):
    _, transfer, search = moved
    return fill(transfer.target, transfer.manifest, search, INDEX, unwatched)


def proof(moved, **more):
    _, transfer, search = moved
    return verify_index(transfer.target, transfer.manifest, search, INDEX, unwatched, **more)


def copy_again(moved) -> None:
    copy_pass(moved[1], unwatched)


def test_every_current_object_gets_its_document_at_its_revision(moved):
    done = run(moved)
    documents = moved[2].documents
    assert {id: version for id, (version, _) in documents.items()} == {
        "people/1": 1, "people/2": 2, "people/3": 1, "attachments/a": 1,
    }  # fmt: skip
    assert documents["people/2"][1]["data"] == {"name": "changed"}
    assert (done.expected, done.sent, done.held) == (4, 4, 0)
    found = proof(moved)
    assert (found.expected, found.found, found.missing, found.stale, found.extra) == (4, 4, 0, 0, 0)


def test_an_object_outside_records_and_attachments_has_no_document(moved):
    put(moved[0], ".keyshift/probe/x", b"")
    copy_again(moved)
    assert run(moved).expected == 4


def test_refresh_and_replicas_are_off_during_the_fill_and_restored_after(moved):
    run(moved)
    search = moved[2]
    assert search.settings_during[0] == {"number_of_replicas": 0, "refresh_interval": "-1"}
    assert search.settings == {"number_of_replicas": "1"}


def test_settings_are_restored_also_when_the_fill_was_killed(moved):
    search = moved[2]

    def kill(_: list[str]) -> Mapping[str, int]:
        raise KeyboardInterrupt

    search.refuse = kill
    with pytest.raises(KeyboardInterrupt):
        run(moved)
    assert search.settings["refresh_interval"] == "-1", "the test has to stop it before the end"
    search.refuse = lambda _: {}
    run(moved)
    assert search.settings == {"number_of_replicas": "1"}


def test_a_second_fill_reads_and_sends_only_what_is_missing_or_older(moved):
    run(moved)
    s3, transfer, search = moved
    del search.documents["people/3"]
    write_record(transfer.source, "people", "1", {"name": "new"})
    copy_again(moved)
    s3.calls.clear()
    search.bulks.clear()
    assert run(moved).sent == 2
    assert sorted(id for bulk in search.bulks for id in bulk) == ["people/1", "people/3"]
    assert s3.calls.count("get_object") == 2
    proof(moved)


def test_a_record_deleted_between_two_fills_is_hidden(moved):
    run(moved)
    delete_record(moved[1].source, "people", "1")
    copy_again(moved)
    assert run(moved).hidden == 1
    assert moved[2].documents["people/1"] == (1, {"deleted": True, "revision": 1})
    assert run(moved).hidden == 0
    assert proof(moved).expected == 3


def test_a_newer_revision_in_the_index_is_never_overwritten(moved):
    moved[2].documents["people/1"] = (5, {"content_hash": "newer", "archived_at": "2030-01-01T00:00:00.000Z"})
    assert run(moved).held == 1
    assert moved[2].documents["people/1"][0] == 5


def test_an_equal_revision_is_left_as_it_is_and_its_difference_found(moved):
    moved[2].documents["people/1"] = (1, {"content_hash": "other", "archived_at": "2026-01-01T00:00:00.000Z"})
    assert run(moved).held == 1
    with pytest.raises(VerificationFailed, match="1 stale"):
        proof(moved)


def test_a_document_that_fell_back_to_an_earlier_revision_is_sent_again(moved):
    run(moved)
    change(moved[2], "people/2", 1)
    assert run(moved).sent == 1
    proof(moved)


def test_a_refusal_as_not_new_is_believed_only_if_the_index_holds_it(moved):
    moved[2].refuse = lambda ids: {"people/1": 409}
    with pytest.raises(Conflict, match="does not hold them"):
        run(moved)


def test_documents_that_an_overloaded_node_put_off_are_sent_again_alone(moved):
    busy = iter([{"people/1": 429}, {"people/1": 429}])
    moved[2].refuse = lambda ids: next(busy, {})
    assert run(moved).sent == 4
    assert moved[2].bulks[1:] == [["people/1"], ["people/1"]]


def test_a_bulk_refused_whole_is_sent_again(moved):
    refusals = iter([refusal(429), refusal(429)])

    def refuse(_: list[str]) -> Mapping[str, int]:
        if (error := next(refusals, None)) is not None:
            raise error
        return {}

    moved[2].refuse = refuse
    assert run(moved).sent == 4


@pytest.mark.parametrize("status", [400, 403])
def test_a_refused_document_is_named(moved, status):
    moved[2].refuse = lambda ids: {"people/1": status}
    with pytest.raises(CloudError, match=f"people/1: {status}"):
        run(moved)


def test_bulks_stay_small(moved, monkeypatch):
    monkeypatch.setattr("migrate.index.fill.BULK_DOCUMENTS", 2)
    run(moved)
    assert [len(bulk) for bulk in moved[2].bulks] == [2, 2]
    moved[2].documents.clear()
    moved[2].bulks.clear()
    monkeypatch.setattr("migrate.index.fill.BULK_BYTES", 1)
    run(moved)
    assert [len(bulk) for bulk in moved[2].bulks] == [1, 1, 1, 1]


def test_an_object_that_archive_did_not_write_is_named(moved):
    put(moved[0], "records/people/x.json", b"{}")
    copy_again(moved)
    with pytest.raises(VerificationFailed, match=r"records/people/x\.json has no document"):
        run(moved)


# the proof ------------------------------------------------------------------------------------


def change(search: FakeSearch, id: str, version: int, **source: Any) -> None:
    search.documents[id] = (version, {**search.documents[id][1], **source})


DIFFERENCES = {
    "missing": (lambda s: s.documents.pop("people/1"), "1 documents missing"),
    "another content": (lambda s: change(s, "people/1", 1, content_hash="other"), "1 stale"),
    "an older revision": (lambda s: change(s, "people/2", 1), "1 stale"),
    "a newer revision": (lambda s: change(s, "people/2", 3), "1 stale"),
    "hidden": (lambda s: change(s, "people/1", 1, deleted=True), "1 documents missing"),
    "too many": (lambda s: s.documents.update(x=(1, {"content_hash": "x"})), "1 too many"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_difference_is_found(moved, difference):
    run(moved)
    alter, said = DIFFERENCES[difference]
    alter(moved[2])
    with pytest.raises(VerificationFailed, match=said):
        proof(moved)


def test_a_tombstone_of_something_deleted_is_not_too_many(moved):
    run(moved)
    moved[2].documents["people/9"] = (1, {"deleted": True, "revision": 1})
    assert proof(moved).extra == 0


def test_an_object_that_no_fill_has_read_is_missing(moved):
    run(moved)
    write_record(moved[1].source, "people", "4", {})
    copy_again(moved)
    with pytest.raises(VerificationFailed, match="1 documents missing"):
        proof(moved)


def test_with_a_watermark_what_came_after_it_is_newer_and_not_a_difference(moved):
    run(moved)
    search, watermark = moved[2], datetime(2026, 6, 1, tzinfo=UTC)
    change(search, "people/2", 3, content_hash="later")
    search.documents["people/9"] = (1, {"content_hash": "x", "archived_at": "2026-06-01T00:00:00.000Z"})
    assert proof(moved, watermark=watermark).newer == 2
    search.documents["people/8"] = (1, {"content_hash": "x", "archived_at": "2026-05-31T23:59:59.999Z"})
    with pytest.raises(VerificationFailed, match="1 too many"):
        proof(moved, watermark=watermark)


def test_with_a_watermark_an_older_revision_is_still_stale(moved):
    run(moved)
    change(moved[2], "people/2", 1)
    with pytest.raises(VerificationFailed, match="1 stale"):
        proof(moved, watermark=datetime(2026, 6, 1, tzinfo=UTC))


def test_comparing_nothing_is_a_failure(tmp_path):
    _, source, target = two_storages()
    with Manifest.open(tmp_path / "m", SOURCE, TARGET) as manifest:
        copy_pass(Transfer(source, target, manifest), unwatched)
        with pytest.raises(VerificationFailed, match="nothing to compare"):
            verify_index(target, manifest, FakeSearch(), INDEX, unwatched)


def test_a_scan_of_many_pages_misses_nothing(moved, monkeypatch):
    monkeypatch.setattr("migrate.index.scan.PAGE", 1)
    run(moved)
    assert proof(moved).found == 4


# the alias ------------------------------------------------------------------------------------


class FakeAliases:
    def __init__(self, *held_by: str) -> None:
        self.held_by, self.indices, self.calls = held_by, self, []

    def exists_alias(self, name: str) -> bool:
        return bool(self.held_by)

    def get_alias(self, name: str):
        return type("Answer", (), {"body": {index: {"aliases": {name: {}}} for index in self.held_by}})

    def update_aliases(self, actions: list[dict[str, Any]]) -> None:
        self.calls.append(actions)


def test_the_read_alias_moves_in_one_call_with_its_cut_off():
    search = FakeAliases("records-000001", "records-000002")
    set_read_alias(search, "records-000002", "records", datetime(2026, 1, 2, tzinfo=UTC))
    ((removed, added),) = search.calls
    assert removed == {"remove": {"index": "records-000001", "alias": "records", "must_exist": True}}
    assert added["add"]["index"] == "records-000002"
    assert "2026-01-02" in json.dumps(added["add"]["filter"]["bool"]["filter"])
    assert added["add"]["filter"]["bool"]["must_not"] == [{"term": {"deleted": True}}]


def test_without_a_cut_off_only_what_is_deleted_is_hidden():
    search = FakeAliases()
    set_read_alias(search, "records-000001", "records", None)
    ((added,),) = search.calls
    assert "filter" not in added["add"]["filter"]["bool"]
