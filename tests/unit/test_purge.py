"""A purge deletes what a verdict covers, and nothing that the manifest does not know."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fake_s3 import SOURCE, TARGET, FakeS3, a_history, delete, put, two_storages

from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest, Where
from migrate.copy.purge import Purge, prove_empty, purge, residue
from migrate.copy.s3 import abort_uploads
from migrate.copy.verify import verify_storage, verify_untouched
from migrate.errors import CloudError, Conflict, VerificationFailed
from migrate.progress import unwatched
from migrate.verdict import Verdict


def verdict(manifest_sha256: str, **other: object) -> Verdict:
    now = datetime.now(UTC)
    facts = {"kind": "storage", "passed": True, **other}
    return Verdict(
        id="v", tenant="acme", operation="o", subject="s1", counts={}, manifest_sha256=manifest_sha256,
        started_at=now, finished_at=now, **facts,
    )  # fmt: skip


@pytest.fixture
def proven(tmp_path: Path):
    s3, source, target = two_storages()
    a_history(s3)
    with Manifest.open(tmp_path / "manifest.sqlite", SOURCE, TARGET) as manifest:
        transfer = Transfer(source, target, manifest)
        copy_pass(transfer, unwatched)
        found = verify_storage(transfer, "run", unwatched)
        yield s3, transfer, Purge(source, Where.SOURCE, manifest, verdict(found.manifest_sha256))


def count(s3: FakeS3, bucket: str) -> int:
    return sum(len(versions) for versions in s3.bodies(bucket).values())


def test_a_purge_deletes_every_version_and_marker_and_nothing_of_a_neighbour(proven):
    s3, transfer, job = proven
    before = count(s3, "dedicated")
    assert purge(job, unwatched).deleted == 11
    assert s3.bodies("shared") == {"t/acme2/records/a/1.json": [b"a neighbour's"]}
    assert count(s3, "dedicated") == before
    assert prove_empty(transfer.source).none


UNKNOWN = {
    "a late version": lambda s3: put(s3, "records/a/1.json", b"late"),
    "a late object": lambda s3: put(s3, "records/a/late.json", b"late"),
    "a late delete marker": lambda s3: delete(s3, "attachments/empty"),
    "an unfinished upload": lambda s3: s3.create_multipart_upload(Bucket="shared", Key="t/acme/attachments/half"),
}


@pytest.mark.parametrize("unknown", UNKNOWN)
def test_what_the_manifest_does_not_know_stops_the_purge_before_anything_is_deleted(proven, unknown):
    s3, _, job = proven
    UNKNOWN[unknown](s3)
    before = count(s3, "shared")
    with pytest.raises(Conflict, match="nothing was deleted"):
        purge(job, unwatched)
    assert count(s3, "shared") == before
    assert "delete_objects" not in s3.calls


def test_what_lands_during_the_purge_is_kept_and_named(proven):
    s3, transfer, job = proven

    def land(name: str, _: object) -> None:
        if name == "delete_objects":
            s3.after = lambda *_: None
            put(s3, "records/a/late.json", b"late")
            s3.create_multipart_upload(Bucket="shared", Key="t/acme/attachments/half")

    s3.after = land
    purge(job, unwatched)
    with pytest.raises(VerificationFailed, match=r"1 versions, 0 delete markers, 1 unfinished uploads") as found:
        prove_empty(transfer.source)
    assert "records/a/late.json (version" in found.value.message
    assert "attachments/half (an unfinished upload)" in found.value.message
    assert "--bucket shared --key t/acme/KEY" in found.value.hint
    assert s3.bodies("shared")["t/acme/records/a/late.json"] == [b"late"]


UNFIT = {
    "another manifest": {"manifest_sha256": "0" * 64},
    "not passed": {"passed": False},
    "of the index": {"kind": "index"},
    "of an untouched source": {"kind": "untouched"},
}


@pytest.mark.parametrize("unfit", UNFIT)
def test_a_verdict_that_does_not_cover_it_deletes_nothing(proven, unfit):
    s3, _, job = proven
    facts = {"manifest_sha256": job.verdict.manifest_sha256, **UNFIT[unfit]}
    with pytest.raises(VerificationFailed, match="nothing was deleted"):
        purge(Purge(job.side, job.where, job.manifest, verdict(**facts)), unwatched)
    assert "delete_objects" not in s3.calls


def test_a_purge_that_was_cut_off_goes_on_under_the_same_verdict(proven, monkeypatch):
    s3, transfer, job = proven
    monkeypatch.setattr("migrate.copy.purge.BATCH", 2)
    monkeypatch.setattr("migrate.copy.purge.THREADS", 1)
    left = iter(range(3))

    def cut_off(name: str, _: object) -> None:
        if name == "delete_objects" and next(left, None) is None:
            raise KeyboardInterrupt

    s3.before = cut_off
    with pytest.raises(KeyboardInterrupt):
        purge(job, unwatched)
    assert 0 < count(s3, "shared") - 1 < 11, "the test has to stop it half way"
    s3.before = lambda *_: None
    done = s3.calls.count("delete_objects")
    purge(job, unwatched)
    assert prove_empty(transfer.source).none
    assert s3.calls.count("delete_objects") - done < 6, "what was deleted and noted is not deleted again"


def test_a_version_that_cannot_be_deleted_is_named_and_stays_to_be_purged(proven):
    s3, _, job = proven
    s3.errors = [{"Key": "t/acme/records/a/1.json", "Code": "AccessDenied", "Message": "held"}]
    with pytest.raises(CloudError, match=r"records/a/1\.json: AccessDenied"):
        purge(job, unwatched)
    s3.errors = []
    assert purge(job, unwatched).deleted == 11


def test_a_half_made_target_is_purged_only_under_a_verdict_of_an_untouched_source(proven):
    s3, transfer, job = proven
    digest = verify_untouched(transfer, unwatched).manifest_sha256
    with pytest.raises(VerificationFailed, match="untouched is needed"):
        purge(Purge(transfer.target, Where.TARGET, job.manifest, verdict(digest)), unwatched)
    purge(Purge(transfer.target, Where.TARGET, job.manifest, verdict(digest, kind="untouched")), unwatched)
    assert s3.bodies("dedicated") == {}
    assert count(s3, "shared") == 12


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        (lambda s3: put(s3, "x"), "1 versions, 0 delete markers, 0 unfinished uploads"),
        (lambda s3: delete(s3, "x"), "0 versions, 1 delete markers"),
        (lambda s3: s3.create_multipart_upload(Bucket="shared", Key="t/acme/x"), "1 unfinished uploads"),
    ],
)
def test_whatever_is_left_is_residue(proven, leave, said):
    s3, transfer, job = proven
    purge(job, unwatched)
    leave(s3)
    assert not residue(transfer.source).none
    with pytest.raises(VerificationFailed, match=said):
        prove_empty(transfer.source)


def test_aborting_uploads_takes_those_below_the_prefix_only(proven):
    s3, transfer, _ = proven
    for key in ("t/acme/a", "t/acme/b", "t/acme2/c"):
        s3.create_multipart_upload(Bucket="shared", Key=key)
    assert abort_uploads(transfer.source) == 2
    assert [upload["Key"] for upload in s3.uploads.values()] == ["t/acme2/c"]


def test_a_runner_that_may_no_longer_act_deletes_no_further_batch(proven, monkeypatch):
    s3, _, job = proven
    monkeypatch.setattr("migrate.copy.purge.BATCH", 2)
    monkeypatch.setattr("migrate.copy.purge.THREADS", 1)
    before, asked = count(s3, "shared"), iter(range(2))

    def guard() -> None:
        if next(asked, None) is None:
            raise Conflict("the tenant was sealed", code="sealed")

    with pytest.raises(Conflict, match="sealed"):
        purge(replace(job, guard=guard), unwatched)
    assert before - count(s3, "shared") == 4, "two batches were deleted, and none after the third question"
