"""Re-keying in place on an S3 in memory: resumable at every request, and never done before it is seen to be done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import stamina
from fake_s3 import DAY, SOURCE, SOURCE_KEY, TARGET, TARGET_KEY, FakeS3, Version, a_history, delete, error, put
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.copy.manifest import Manifest
from migrate.copy.s3 import Side, StorageRef
from migrate.errors import CloudError, Conflict, KeyshiftError, KeyUnavailable, Waiting
from migrate.progress import Progress, unwatched
from migrate.rekey import engine
from migrate.rekey.engine import Job, census, drain, key_of, landed, left_under, redirected, rekey_pass
from migrate.rekey.keyed import Keyed
from migrate.rekey.keyed import Version as Listed
from migrate.rekey.moves import in_place_manifest

STORED = 7
"""Versions of `a_history` that are no delete markers."""
STORAGE = StorageRef("shared", "t/acme/", TARGET_KEY)


class Killed(BaseException):
    """What SIGKILL is to the code that it hits."""


class Lab:
    """One storage whose objects are under the old key while its default is the new one already."""

    def __init__(self, path: Path) -> None:
        self.s3 = FakeS3()
        a_history(self.s3)
        self.s3.default_key["shared"] = TARGET_KEY
        self.path = path
        self.side = Side(self.s3, STORAGE)

    def job(self, manifest: Manifest, **more: Any) -> Job:
        return Job(self.side, manifest, threads=1, **more)

    def manifest(self) -> Manifest:
        return in_place_manifest(self.path, self.side)

    def stored(self) -> Iterator[tuple[str, Version]]:
        for (_, key), versions in sorted(self.s3.versions.items()):
            if key.startswith("t/acme/"):
                yield from ((key, version) for version in versions if not version.marker)

    def keys(self) -> set[tuple[str | None, bool]]:
        return {(version.key_arn, version.bucket_key) for _, version in self.stored()}

    def facts(self) -> list[tuple[Any, ...]]:
        """All of every version but its key."""
        return [
            (key, v.id, v.body, v.metadata, v.tags, v.headers, v.etag, v.modified, v.checksum)
            for key, v in self.stored()
        ]

    def count(self, name: str) -> int:
        return self.s3.calls.count(name)


@pytest.fixture(autouse=True)
def _hurried() -> Iterator[None]:
    with stamina.set_testing(True, attempts=8, cap=True):
        yield


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "manifest.sqlite")


def test_every_version_comes_under_the_new_key_and_nothing_else_of_it_changes(lab: Lab) -> None:
    before = lab.facts()
    assert lab.keys() == {(SOURCE_KEY, False)}, "else nothing would have to be done"
    with lab.manifest() as manifest:
        done = rekey_pass(lab.job(manifest), unwatched)
    assert (done.rekeyed, done.already, done.before) == (STORED, 0, {SOURCE_KEY: STORED})
    assert lab.keys() == {(TARGET_KEY, False)}
    assert lab.facts() == before
    neighbour = lab.s3.current("shared", "t/acme2/records/a/1.json")
    assert neighbour.key_arn == SOURCE_KEY, "a neighbour's objects are none of ours"
    assert not {"get_object", "copy_object"} & set(lab.s3.calls), "bytes go nowhere"


def test_a_second_pass_touches_only_what_was_written_meanwhile(lab: Lab) -> None:
    with lab.manifest() as manifest:
        rekey_pass(lab.job(manifest), unwatched)
        put(lab.s3, "records/a/1.json", b"four")
        put(lab.s3, "records/a/2.json", b"by an old upload", SSEKMSKeyId=SOURCE_KEY)
        delete(lab.s3, "attachments/empty")
        lab.s3.calls.clear()
        done = rekey_pass(lab.job(manifest), unwatched)
    assert (done.rekeyed, done.already) == (1, 1)
    assert lab.count("head_object") == 2
    assert lab.count("update_object_encryption") == 1
    assert lab.keys() == {(TARGET_KEY, False)}


def test_a_version_written_while_the_pass_runs_is_seen_by_the_drain(lab: Lab) -> None:
    late = iter([True])

    def write(name: str, _: Mapping[str, Any]) -> None:
        if name == "update_object_encryption" and next(late, False):
            lab.s3._do_put_object("shared", "t/acme/records/late.json", b"late", SSEKMSKeyId=SOURCE_KEY)

    lab.s3.before = write
    with lab.manifest() as manifest:
        rekey_pass(lab.job(manifest), unwatched)
        assert lab.s3.current("shared", "t/acme/records/late.json").key_arn == SOURCE_KEY
        found = drain(lab.job(manifest), "run", DAY, unwatched)
    assert (found.versions, found.rekeyed, found.rounds) == (STORED + 1, 1, 2)
    assert lab.keys() == {(TARGET_KEY, False)}


def test_a_bucket_key_is_taken_off_too(lab: Lab) -> None:
    lab.s3.current("shared", "t/acme/attachments/empty").bucket_key = True
    lab.s3.current("shared", "t/acme/attachments/empty").key_arn = TARGET_KEY
    with lab.manifest() as manifest:
        rekey_pass(lab.job(manifest), unwatched)
    assert lab.keys() == {(TARGET_KEY, False)}, "a bucket key would outlive a revocation"


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_a_rekey_killed_at_any_request_goes_on_and_asks_for_no_noted_version_twice(tmp_path: Path, after: bool) -> None:
    requests = 0
    while True:
        requests += 1
        lab = Lab(tmp_path / f"{after}-{requests}.sqlite")
        count = 0

        def kill(_: str, __: Mapping[str, Any], at: int = requests) -> None:
            nonlocal count
            count += 1
            if count == at:
                raise Killed

        setattr(lab.s3, "after" if after else "before", kill)
        try:
            with lab.manifest() as manifest:
                rekey_pass(lab.job(manifest), unwatched)
                drain(lab.job(manifest), "run", DAY, unwatched)
        except Killed:
            lab.s3.before = lab.s3.after = lambda *_: None
        else:
            break
        with lab.manifest() as manifest:
            noted = STORED - Keyed(manifest).count_not_under(TARGET_KEY) if count > 6 else 0
            lab.s3.calls.clear()
            rekey_pass(lab.job(manifest), unwatched)
            assert lab.count("head_object") <= STORED - noted, f"killed at request {requests}"
            assert drain(lab.job(manifest), "run", DAY, unwatched).versions == STORED
        assert lab.keys() == {(TARGET_KEY, False)}, f"killed at request {requests}"
    assert requests > 3 * STORED, "each version is asked for, re-keyed and asked for again"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["head_object", "update_object_encryption", "list_object_versions"]), max_size=6))
def test_throttling_is_waited_out_wherever_it_comes(tmp_path_factory: pytest.TempPathFactory, where: list[str]) -> None:
    lab, left = Lab(tmp_path_factory.mktemp("rekey") / "m"), [name for name in where if name != "list_object_versions"]

    def throttle(name: str, _: Mapping[str, Any]) -> None:
        if name in left:
            left.remove(name)
            raise error("SlowDown", 503) if len(left) % 2 else error("ThrottlingException", 400)

    lab.s3.before = throttle
    with lab.manifest() as manifest:
        assert rekey_pass(lab.job(manifest), unwatched).rekeyed == STORED
    assert left == []
    assert lab.keys() == {(TARGET_KEY, False)}


def test_a_refusal_that_is_not_throttling_is_told_and_what_was_done_is_kept(lab: Lab) -> None:
    lab.s3.current("shared", "t/acme/records/a/1.json").hold = "ON"
    with lab.manifest() as manifest:
        with pytest.raises(CloudError, match=r"re-keying s3://shared/t/acme/records/a/1\.json.*Object Lock"):
            rekey_pass(lab.job(manifest), unwatched)
        assert 0 < Keyed(manifest).by_key()[TARGET_KEY] < STORED


def test_a_version_that_is_gone_meanwhile_is_no_error(lab: Lab) -> None:
    def remove(name: str, parameters: Mapping[str, Any]) -> None:
        if name == "update_object_encryption" and parameters["Key"].endswith("gone"):
            lab.s3.versions["shared", parameters["Key"]] = []

    lab.s3.before = remove
    with lab.manifest() as manifest:
        assert rekey_pass(lab.job(manifest), unwatched).rekeyed == STORED - 1
        assert drain(lab.job(manifest), "run", DAY, unwatched).versions == STORED - 1


def test_a_runner_that_was_overtaken_rekeys_nothing_more(lab: Lab) -> None:
    def overtaken() -> None:
        raise Conflict("the lease went to somebody else", code="lease-lost")

    with lab.manifest() as manifest, pytest.raises(Conflict):
        rekey_pass(lab.job(manifest, guard=overtaken), unwatched)
    assert lab.keys() == {(SOURCE_KEY, False)}


def test_an_old_key_that_was_disabled_too_early_is_counted(lab: Lab) -> None:
    with lab.manifest() as manifest:
        job = lab.job(manifest)

        def disable(name: str, _: Mapping[str, Any]) -> None:
            if name == "update_object_encryption" and lab.count(name) == 4:
                lab.s3.dead_keys.add(SOURCE_KEY)

        lab.s3.before = disable
        with pytest.raises(KeyUnavailable, match="is disabled"):
            rekey_pass(job, unwatched)
        assert census(job, unwatched) == {TARGET_KEY: 3, SOURCE_KEY: STORED - 3}
        lab.s3.dead_keys.clear()
        rekey_pass(job, unwatched)
    assert lab.keys() == {(TARGET_KEY, False)}


def test_a_rekey_can_go_back_over_what_it_had_done(lab: Lab) -> None:
    with lab.manifest() as manifest:
        rekey_pass(lab.job(manifest), unwatched)
        drain(lab.job(manifest), "there", DAY, unwatched)
    back = Lab.__new__(Lab)
    back.__dict__ |= {**lab.__dict__, "side": Side(lab.s3, replace(STORAGE, key_arn=SOURCE_KEY))}
    with back.manifest() as manifest:
        assert rekey_pass(back.job(manifest), unwatched).before == {TARGET_KEY: STORED}
        drain(back.job(manifest), "back", DAY, unwatched)
    assert back.keys() == {(SOURCE_KEY, False)}


def test_how_far_it_is_is_told(lab: Lab) -> None:
    told: list[Progress] = []
    with lab.manifest() as manifest:
        rekey_pass(lab.job(manifest), told.append)
    last = [progress for progress in told if progress.move == "rekey"][-1]
    assert (last.objects, last.objects_total) == (STORED, STORED)


# the drain ------------------------------------------------------------------------------------


def test_a_drain_asks_for_every_version_itself_whatever_a_pass_has_noted(lab: Lab) -> None:
    with lab.manifest() as manifest:
        rekey_pass(lab.job(manifest), unwatched)
        lab.s3.current("shared", "t/acme/attachments/empty").key_arn = SOURCE_KEY  # behind our back
        lab.s3.calls.clear()
        found = drain(lab.job(manifest), "run", DAY, unwatched)
    assert lab.count("head_object") == STORED + 2, "each once, the stray before and after it was re-keyed"
    assert (found.rekeyed, found.versions, found.delete_markers) == (1, STORED, 4)
    assert lab.keys() == {(TARGET_KEY, False)}


def test_an_upload_begun_under_the_old_key_is_aborted_and_a_younger_one_is_not(lab: Lab) -> None:
    place = {"Bucket": "shared", "Key": "t/acme/attachments/large"}
    lab.s3.default_key["shared"] = SOURCE_KEY
    old = lab.s3.create_multipart_upload(**place)["UploadId"]
    lab.s3.default_key["shared"] = TARGET_KEY
    lab.s3.now = DAY + timedelta(minutes=1)
    with lab.manifest() as manifest:
        rekey_pass(lab.job(manifest), unwatched)
        since = redirected(lab.job(manifest))
        assert since is not None
        lab.s3.now = DAY + timedelta(minutes=2)
        young = lab.s3.create_multipart_upload(**place)["UploadId"]
        assert redirected(lab.job(manifest)) == since == DAY + timedelta(minutes=1), "noted once"
        assert set(lab.s3.uploads) == {old, young}
        found = drain(lab.job(manifest), "run", since, unwatched)
    assert set(lab.s3.uploads) == {young}, "a job that began after the redirect is not disturbed"
    assert (found.uploads_aborted, found.rounds) == (1, 2), "after an abort it looks again"


def test_an_upload_completed_before_it_could_be_aborted_is_found_and_rekeyed(lab: Lab) -> None:
    lab.s3.default_key["shared"] = SOURCE_KEY
    place = {"Bucket": "shared", "Key": "t/acme/attachments/large"}
    facts = {"Metadata": {}, "ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
    upload = lab.s3.create_multipart_upload(**place, **facts)["UploadId"]
    lab.s3.uploads[upload]["parts"][1] = b"part"

    def complete(name: str, _: Mapping[str, Any]) -> None:
        if name == "abort_multipart_upload" and upload in lab.s3.uploads:
            parts = {"Parts": [{"PartNumber": 1, "ETag": ""}]}
            lab.s3._do_complete_multipart_upload(**place, UploadId=upload, MultipartUpload=parts)

    lab.s3.before = complete
    with lab.manifest() as manifest:
        rekey_pass(lab.job(manifest), unwatched)
        found = drain(lab.job(manifest), "run", DAY, unwatched)
    assert (found.versions, found.rekeyed) == (STORED + 1, 1)
    assert lab.keys() == {(TARGET_KEY, False)}


def test_a_drain_that_is_cut_off_goes_on_where_it_was(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "NOTED_TOGETHER", 1)
    with lab.manifest() as manifest:
        rekey_pass(lab.job(manifest), unwatched)

        def die(name: str, _: Mapping[str, Any]) -> None:
            if name == "head_object" and lab.count(name) == STORED + 4:
                raise Killed

        lab.s3.before = die
        with pytest.raises(Killed):
            drain(lab.job(manifest), "run", DAY, unwatched)
        lab.s3.before = lambda *_: None
        lab.s3.calls.clear()
        drain(lab.job(manifest), "run", DAY, unwatched)
        assert lab.count("head_object") <= STORED - 1
        lab.s3.calls.clear()
        drain(lab.job(manifest), "another", DAY, unwatched)
        assert lab.count("head_object") == STORED, "another drain is another proof"


def test_versions_that_keep_coming_under_the_old_key_are_waited_for_by_name(lab: Lab) -> None:
    def write(name: str, _: Mapping[str, Any]) -> None:
        if name == "list_multipart_uploads":
            lab.s3._do_put_object("shared", "t/acme/records/again.json", b"again", SSEKMSKeyId=SOURCE_KEY)

    lab.s3.before = write
    with lab.manifest() as manifest, pytest.raises(Waiting, match="keep coming") as waiting:
        drain(lab.job(manifest), "run", DAY, unwatched)
    assert waiting.value.exit_code == 3


def test_a_drains_root_is_over_every_version_and_its_key(lab: Lab) -> None:
    with lab.manifest() as manifest:
        one = drain(lab.job(manifest), "one", DAY, unwatched)
        assert drain(lab.job(manifest), "two", DAY, unwatched).merkle_root == one.merkle_root
        put(lab.s3, "records/a/3.json", b"more")
        assert drain(lab.job(manifest), "three", DAY, unwatched).merkle_root != one.merkle_root
    assert len(one.merkle_root) == len(one.manifest_sha256) == 64


# looking --------------------------------------------------------------------------------------


def test_where_new_writes_land_is_tried_and_nothing_of_it_stays(lab: Lab) -> None:
    before = lab.facts()
    assert landed(lab.side) == (TARGET_KEY, DAY)
    lab.s3.default_key["shared"] = SOURCE_KEY
    assert landed(lab.side) == (SOURCE_KEY, DAY)
    with lab.manifest() as manifest:
        assert redirected(lab.job(manifest)) is None, "what is not at work yet is not noted"
        lab.s3.default_key["shared"] = TARGET_KEY
        lab.s3.now = DAY + timedelta(minutes=1)
        assert redirected(lab.job(manifest)) == lab.s3.now
    assert lab.facts() == before


def test_what_is_left_under_a_key_is_counted_and_named(lab: Lab) -> None:
    found = left_under(lab.side, SOURCE_KEY, unwatched)
    assert (found.versions, found.count) == (STORED, STORED)
    with lab.manifest() as manifest:
        rekey_pass(lab.job(manifest), unwatched)
    lab.s3.current("shared", "t/acme/attachments/empty").key_arn = SOURCE_KEY
    found = left_under(lab.side, SOURCE_KEY, unwatched)
    assert found.count == 1
    assert "attachments/empty" in found.examples[0]


def test_the_key_of_a_version_that_does_not_exist_is_none(lab: Lab) -> None:
    assert key_of(lab.side, Listed("records/a/1.json", "nothing", 0)) is None


def test_a_storage_without_a_key_cannot_be_rekeyed(lab: Lab, tmp_path: Path) -> None:
    side = Side(lab.s3, replace(STORAGE, key_arn=None))
    with in_place_manifest(tmp_path / "other", side) as manifest, pytest.raises(KeyshiftError, match="no key"):
        rekey_pass(Job(side, manifest), unwatched)


def test_many_versions_are_paged_through_and_each_is_taken_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.rekey.keyed.PAGE", 2)
    for number in range(5):
        put(lab.s3, "records/a/1.json", f"{number}".encode(), SSEKMSKeyId=SOURCE_KEY)
    with lab.manifest() as manifest:
        assert rekey_pass(lab.job(manifest), unwatched).rekeyed == STORED + 5
        assert Keyed(manifest).by_key() == {TARGET_KEY: STORED + 5}
    assert lab.count("update_object_encryption") == STORED + 5
    assert (SOURCE.bucket, TARGET.bucket) == ("shared", "dedicated")
