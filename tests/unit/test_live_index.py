"""An index is proven while jobs write and the pipeline brings their changes late, early or never."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_s3 import SOURCE, FakeS3, delete, put, two_storages
from test_fill import INDEX, FakeSearch

from components.worker.document import document, document_id, tombstone
from migrate.archive import delete_record, write_record
from migrate.copy.manifest import Manifest
from migrate.copy.s3 import Side, list_versions
from migrate.errors import VerificationFailed
from migrate.index import live
from migrate.index.fill import fill
from migrate.index.live import LiveVerification, verify_live_index
from migrate.progress import Progress, unwatched

KEY = "records/people/{}.json"


class LiveSearch(FakeSearch):
    """With reads by id, which see what no refresh has shown yet."""

    def options(self, **_: Any) -> LiveSearch:
        return self

    def get(self, index: str, id: str) -> dict[str, Any]:
        version, source = self.documents.get(id, (0, {}))
        return {"found": id in self.documents, "_version": version, "_source": source}

    def mget(self, index: str, ids: list[str], **options: Any) -> dict[str, Any]:
        if "source_includes" not in options:
            return super().mget(index, ids, **options)
        return {"docs": [self.get(index, id) for id in ids]}


class Lab:
    """A filled index; what jobs do afterwards reaches it when a test says so."""

    def __init__(self, path: Path) -> None:
        self.s3, self.side, _ = two_storages()
        self.search = LiveSearch()
        for id in ("1", "2", "3"):
            write_record(self.side, "people", id, {"name": f"number {id}"})
        self.manifest = Manifest.open(path, SOURCE, SOURCE)
        self.manifest.take(list_versions(self.side), lambda _: None)
        fill(self.side, self.manifest, self.search, INDEX, unwatched)

    def pipeline(self, id: str) -> None:
        """Brings one record's change to the index, as the worker does."""
        key = KEY.format(id)
        now = self.s3.current("shared", f"t/acme/{key}")
        if now is None or now.marker:
            held = self.search.documents.get(document_id(key), (1, {}))[0]
            made = tombstone(key, held)
        else:
            made = document(key, now.metadata, len(now.body), [now.body])
        self.search.documents[made.id] = (made.revision, made.source)

    def proof(self, within: float = 0.0, report: Any = unwatched) -> LiveVerification:
        return verify_live_index(self.side, self.manifest, self.search, INDEX, report, within=within)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(live, "POLL_SECONDS", 0)
    made = Lab(tmp_path / "manifest.sqlite")
    yield made
    made.manifest.close()


def test_an_index_that_nobody_touched_is_as_it_was_listed(lab: Lab) -> None:
    found = lab.proof()
    assert (found.expected, found.found, found.changed) == (3, 3, 0)
    assert len(found.merkle_root) == 64


def test_what_jobs_changed_since_is_compared_with_the_bucket_as_it_is_now(lab: Lab) -> None:
    write_record(lab.side, "people", "1", {"name": "changed"})
    write_record(lab.side, "people", "4", {"name": "new"})
    delete_record(lab.side, "people", "2")
    for id in ("1", "2", "4"):
        lab.pipeline(id)
    found = lab.proof()
    assert (found.expected, found.found, found.changed) == (3, 1, 3)


def test_a_record_that_was_deleted_and_came_back_is_compared_too(lab: Lab) -> None:
    delete_record(lab.side, "people", "2")
    write_record(lab.side, "people", "2", {"name": "back"})
    lab.pipeline("2")
    assert lab.proof().changed == 1


def test_a_change_that_the_pipeline_brings_late_is_waited_for_and_said(lab: Lab) -> None:
    write_record(lab.side, "people", "4", {"name": "new"})
    lab.pipeline("4")
    write_record(lab.side, "people", "4", {"name": "newer"})
    told: list[str] = []

    def report(progress: Progress) -> None:
        if progress.waiting:
            told.append(progress.waiting)
            lab.pipeline("4")

    assert lab.proof(within=60, report=report).changed == 1
    assert told == [f"the pipeline to bring 1 changes to {INDEX}"]


DAMAGE = {
    "a document is missing": lambda lab: lab.search.documents.pop(document_id(KEY.format(1))),
    "of an earlier revision": lambda lab: (
        write_record(lab.side, "people", "1", {"n": 2})
        and lab.search.documents.update({document_id(KEY.format(1)): (0, {"content_hash": "x", "key": KEY.format(1)})})
    ),
    "of other bytes": lambda lab: lab.search.documents[document_id(KEY.format(1))][1].update(content_hash="other"),
    "hidden, but its object is there": lambda lab: lab.search.documents.update(
        {document_id(KEY.format(1)): (1, tombstone(KEY.format(1), 1).source)}
    ),
    "of an object that was never there": lambda lab: lab.search.documents.update(
        {document_id(KEY.format(9)): (1, {"key": KEY.format(9), "content_hash": "x", "archived_at": "2026-01-01"})}
    ),
    "of an object that is deleted": lambda lab: delete(lab.s3, KEY.format(1)) and _doc_was_changed(lab),
}


def _doc_was_changed(lab: Lab) -> None:
    lab.search.documents[document_id(KEY.format(1))][1].update(content_hash="other")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_any_difference_that_the_bucket_does_not_explain_fails(lab: Lab, damage: Any) -> None:
    damage(lab)
    with pytest.raises(VerificationFailed, match="still differ") as failed:
        lab.proof()
    assert failed.value.code == "index-differs"


def test_an_object_deleted_after_the_listing_whose_document_is_still_live_is_left_to_the_pipeline(lab: Lab) -> None:
    """The listing is the watermark: what the pipeline has not brought since is its work, not the fill's."""
    delete_record(lab.side, "people", "1")
    assert lab.proof().found == 3


def test_comparing_nothing_is_a_failure(tmp_path: Path) -> None:
    s3 = FakeS3()
    put(s3, "other/1", b"no document")
    side = Side(s3, SOURCE)
    with Manifest.open(tmp_path / "m", SOURCE, SOURCE) as manifest:
        manifest.take(list_versions(side), lambda _: None)
        with pytest.raises(VerificationFailed, match="nothing to compare"):
            verify_live_index(side, manifest, LiveSearch(), INDEX, unwatched)
    assert SimpleNamespace
