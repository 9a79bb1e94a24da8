"""The copy: everything, in order, under the right key, whatever cuts it off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stamina
from botocore import xform_name
from botocore.exceptions import ClientError
from fake_s3 import SOURCE, TARGET, TARGET_KEY, FakeS3, Version, a_history, delete, error, put, two_storages

from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest
from migrate.copy.s3 import Side
from migrate.copy.settle import probe_write_refused, two_equal_listings
from migrate.copy.verify import verify_storage
from migrate.errors import CloudError, Conflict, RefusedInput, Waiting
from migrate.progress import Progress, unwatched


class Killed(BaseException):
    """Stands for kill -9: nothing catches it."""


@pytest.fixture(autouse=True)
def _hurried():
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture
def clouds(tmp_path: Path):
    s3, source, target = two_storages()
    manifest = Manifest.open(tmp_path / "manifest.sqlite", SOURCE, TARGET)
    yield s3, Transfer(source, target, manifest, threads=3)
    manifest.close()


def bodies(s3, bucket: str, prefix: str = "") -> dict[str, list[bytes | None]]:
    return {k.removeprefix(prefix): v for k, v in s3.bodies(bucket).items() if k.startswith(prefix)}


def test_a_copy_has_every_version_and_delete_marker_in_order_and_nothing_of_a_neighbour(clouds):
    s3, transfer = clouds
    a_history(s3)
    done = copy_pass(transfer, unwatched)
    assert bodies(s3, "dedicated") == bodies(s3, "shared", "t/acme/")
    assert bodies(s3, "dedicated")["records/a/1.json"] == [b"one", b"two", None, None, b"three"]
    assert (done.copied, done.delete_markers, done.copied_bytes) == (7, 4, 21)


def test_a_copy_keeps_metadata_tags_and_headers_and_lies_under_the_targets_key(clouds):
    s3, transfer = clouds
    a_history(s3)
    copy_pass(transfer, unwatched)
    oldest = s3.versions["dedicated", "records/a/1.json"][0]
    assert oldest.metadata == {"revision": "1"}
    assert oldest.tags == {"case": "7"}
    assert oldest.headers == {"ContentType": "application/json"}
    keys = {v.key_arn for (bucket, _), vs in s3.versions.items() if bucket == "dedicated" for v in vs if not v.marker}
    assert keys == {TARGET_KEY}, "an object under another key would survive a revocation"


def test_a_second_pass_copies_only_what_is_new_and_on_top(clouds):
    s3, transfer = clouds
    a_history(s3)
    copy_pass(transfer, unwatched)
    put(s3, "records/a/1.json", b"four")
    delete(s3, "attachments/empty")
    s3.calls.clear()
    done = copy_pass(transfer, unwatched)
    assert (done.copied, done.delete_markers) == (1, 1)
    assert s3.calls.count("copy_object") == 1
    assert bodies(s3, "dedicated") == bodies(s3, "shared", "t/acme/")


def test_a_version_deleted_for_good_at_the_source_goes_from_the_target_too(clouds):
    s3, transfer = clouds
    first = put(s3, "records/a/1.json", b"one")
    put(s3, "records/a/1.json", b"two")
    copy_pass(transfer, unwatched)
    s3.delete_object(Bucket="shared", Key="t/acme/records/a/1.json", VersionId=first)
    assert copy_pass(transfer, unwatched).removed == 1
    assert bodies(s3, "dedicated") == {"records/a/1.json": [b"two"]}
    verify_storage(transfer, "run", unwatched)


def kill_at(s3, number: int, *, after: bool) -> None:
    """Cut the move off at its n-th write to the target, before it happens or just after."""
    count = 0

    def hook(name: str, parameters: Mapping[str, Any]) -> None:
        nonlocal count
        if name in {"copy_object", "delete_object", "complete_multipart_upload", "upload_part_copy"}:
            count += 1
            if count == number:
                raise Killed

    setattr(s3, "after" if after else "before", hook)


def revive(s3) -> None:
    s3.before = s3.after = lambda *_: None


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
def test_a_copy_killed_at_any_write_goes_on_and_does_nothing_twice(tmp_path, after):
    writes = 11
    for number in range(1, writes + 1):
        s3, source, target = two_storages()
        a_history(s3)
        file = tmp_path / f"{after}-{number}.sqlite"
        kill_at(s3, number, after=after)
        with Manifest.open(file, SOURCE, TARGET) as manifest, pytest.raises(Killed):
            copy_pass(Transfer(source, target, manifest, threads=1), unwatched)
        revive(s3)
        with Manifest.open(file, SOURCE, TARGET) as manifest:
            transfer = Transfer(source, target, manifest, threads=1)
            copy_pass(transfer, unwatched)
            assert bodies(s3, "dedicated") == bodies(s3, "shared", "t/acme/"), f"killed at write {number}"
            verify_storage(transfer, "run", unwatched)


def test_an_interrupted_copy_in_parts_leaves_no_upload_behind(tmp_path):
    s3, source, target = two_storages()
    put(s3, "attachments/large", b"0123456789", Tags={"a": "b"}, Metadata={"revision": "1"}, ContentType="text/plain")
    kill_at(s3, 2, after=True)
    parts = {"multipart_above": 4, "part_bytes": 4}
    with Manifest.open(tmp_path / "m", SOURCE, TARGET) as manifest:
        with pytest.raises(Killed):
            copy_pass(Transfer(source, target, manifest, **parts), unwatched)
        assert len(s3.uploads) == 1, "the test has to see the upload before it can see it gone"
        revive(s3)
        done = copy_pass(Transfer(source, target, manifest, **parts), unwatched)
        assert (done.uploads_aborted, done.copied) == (1, 1)
        assert s3.uploads == {}
        copied = s3.current("dedicated", "attachments/large")
        assert (copied.body, copied.tags, copied.metadata) == (b"0123456789", {"a": "b"}, {"revision": "1"})
        assert copied.headers == {"ContentType": "text/plain"}
        assert copied.key_arn == TARGET_KEY
        assert verify_storage(Transfer(source, target, manifest), "run", unwatched).streamed == 1


def test_what_someone_else_wrote_at_the_target_is_never_overwritten(clouds):
    s3, transfer = clouds
    put(s3, "records/a/1.json", b"ours")
    s3.put_object(Bucket="dedicated", Key="records/a/1.json", Body=b"theirs!")
    with pytest.raises(Conflict, match="did not put there"):
        copy_pass(transfer, unwatched)
    assert bodies(s3, "dedicated") == {"records/a/1.json": [b"theirs!"]}


def test_a_foreign_write_between_two_passes_stops_the_second(clouds):
    s3, transfer = clouds
    put(s3, "records/a/1.json", b"one")
    copy_pass(transfer, unwatched)
    s3.put_object(Bucket="dedicated", Key="records/a/1.json", Body=b"theirs")
    put(s3, "records/a/1.json", b"two")
    with pytest.raises(Conflict):
        copy_pass(transfer, unwatched)
    assert s3.current("dedicated", "records/a/1.json").body == b"theirs"


def test_a_delete_marker_is_not_put_on_what_someone_else_wrote(clouds):
    s3, transfer = clouds
    put(s3, "records/a/1.json", b"one")
    copy_pass(transfer, unwatched)
    s3.put_object(Bucket="dedicated", Key="records/a/1.json", Body=b"theirs")
    delete(s3, "records/a/1.json")
    with pytest.raises(Conflict):
        copy_pass(transfer, unwatched)
    assert s3.current("dedicated", "records/a/1.json").body == b"theirs"


def test_a_copy_in_parts_does_not_overwrite_what_someone_else_wrote(clouds):
    s3, transfer = clouds
    put(s3, "attachments/large", b"0123456789")
    s3.put_object(Bucket="dedicated", Key="attachments/large", Body=b"theirs")
    with pytest.raises(Conflict):
        copy_pass(replace(transfer, multipart_above=4, part_bytes=4), unwatched)
    assert bodies(s3, "dedicated") == {"attachments/large": [b"theirs"]}


def test_a_marker_that_was_set_twice_because_an_answer_was_lost_stands_once(clouds):
    s3, transfer = clouds
    delete(s3, "attachments/never")
    lost = iter([True])

    def repeat(name: str, parameters: Mapping[str, Any]) -> None:
        if name == "delete_object" and "VersionId" not in parameters and next(lost, False):
            s3._do_delete_object(**parameters)
            s3.retried = 1

    s3.before = repeat
    copy_pass(transfer, unwatched)
    assert bodies(s3, "dedicated") == {"attachments/never": [None]}


def test_a_copy_whose_answer_was_lost_is_recognised_and_not_made_again(clouds):
    s3, transfer = clouds
    put(s3, "records/a/1.json", b"one")
    put(s3, "records/a/1.json", b"two")
    lost = iter([True])

    def lose(name: str, _: Mapping[str, Any]) -> None:
        if name == "copy_object" and next(lost, False):
            raise error("InternalError", 500)

    s3.after = lose
    done = copy_pass(transfer, unwatched)
    assert done.adopted == 1
    assert bodies(s3, "dedicated") == {"records/a/1.json": [b"one", b"two"]}


@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("ThrottlingException", 400), ("400", 400)])
def test_a_throttled_copy_is_repeated(clouds, code, status):
    s3, transfer = clouds
    put(s3, "records/a/1.json")
    refusals = iter([True, True])

    def throttle(name: str, _: Mapping[str, Any]) -> None:
        if name == "copy_object" and next(refusals, False):
            raise error(code, status)

    s3.before = throttle
    assert copy_pass(transfer, unwatched).copied == 1


def test_a_bucket_without_versions_is_waited_for(clouds):
    s3, transfer = clouds
    put(s3, "records/a/1.json")
    s3.versioned["dedicated"] = False
    with pytest.raises(Waiting) as waiting:
        copy_pass(transfer, unwatched)
    assert waiting.value.exit_code == 3
    assert "copy_object" not in s3.calls, "nothing is written before it is known to keep versions"
    assert "versioning" in waiting.value.waits_for


def test_a_write_without_a_version_id_is_taken_back_and_waited_for(clouds):
    s3, transfer = clouds
    put(s3, "records/a/1.json")

    def not_everywhere_yet(name: str, _: Mapping[str, Any]) -> None:
        s3.versioned["dedicated"] = name != "copy_object"

    s3.before = not_everywhere_yet
    with pytest.raises(Waiting, match="versioning"):
        copy_pass(transfer, unwatched)
    assert bodies(s3, "dedicated") == {}, "a null version could be overwritten without a trace"


def test_a_source_version_without_an_id_is_refused(clouds):
    s3, transfer = clouds
    s3.versions["shared", "t/acme/old"] = [Version("null", b"x")]
    with pytest.raises(RefusedInput, match="before its bucket kept versions"):
        copy_pass(transfer, unwatched)


def test_an_object_in_glacier_is_refused_by_name(clouds):
    s3, transfer = clouds
    put(s3, "attachments/cold")
    s3.current("shared", "t/acme/attachments/cold").storage_class = "GLACIER"
    with pytest.raises(RefusedInput, match="attachments/cold is in GLACIER"):
        copy_pass(transfer, unwatched)


def test_a_version_that_vanishes_during_the_pass_is_left_to_the_next(clouds):
    s3, transfer = clouds
    version = put(s3, "records/a/1.json", b"one")
    put(s3, "records/a/2.json", b"two")

    def remove(name: str, _: Mapping[str, Any]) -> None:
        if name == "copy_object":
            s3.versions["shared", "t/acme/records/a/1.json"] = [
                v for v in s3.versions["shared", "t/acme/records/a/1.json"] if v.id != version
            ]

    s3.before = remove
    copy_pass(transfer, unwatched)
    revive(s3)
    copy_pass(transfer, unwatched)
    assert bodies(s3, "dedicated") == {"records/a/2.json": [b"two"]}
    assert transfer.manifest.totals().versions == 1


def test_a_denied_copy_says_what_was_done_and_what_aws_said(clouds):
    s3, transfer = clouds
    put(s3, "records/a/1.json")

    def deny(name: str, _: Mapping[str, Any]) -> None:
        if name == "copy_object":
            raise error("KMS.DisabledException", 400, "key/new is disabled")

    s3.before = deny
    with pytest.raises(CloudError, match=r"copying s3://shared/t/acme/records/a/1\.json.*KMS\.DisabledException"):
        copy_pass(transfer, unwatched)


def test_a_copy_reports_how_far_it_is(clouds):
    s3, transfer = clouds
    a_history(s3)
    seen: list[Progress] = []
    copy_pass(transfer, seen.append)
    last = [progress for progress in seen if progress.move == "copy"][-1]
    assert (last.objects, last.objects_total, last.bytes, last.bytes_total) == (11, 11, 21, 21)


# settling -------------------------------------------------------------------------------------


def test_a_write_probe_that_succeeds_leaves_nothing(clouds):
    s3, transfer = clouds
    probe = probe_write_refused(transfer.source, transfer.source)
    assert not probe.refused
    assert bodies(s3, "shared") == {}


ATTEMPTS = ["PutObject", "PutObjectTagging", "CreateMultipartUpload", "DeleteObject"]


class Denied:
    """A writer's client that is denied these actions, with these errors, and lets the others through."""

    def __init__(self, s3: FakeS3, denials: Mapping[str, ClientError]) -> None:
        self._s3 = s3
        self._denials = {xform_name(action): denial for action, denial in denials.items()}

    def __getattr__(self, name: str) -> Any:
        def call(**parameters: Any) -> Any:
            if name in self._denials:
                raise self._denials[name]
            return getattr(self._s3, name)(**parameters)

        return call


def denied(s3: FakeS3, *actions: str) -> Side:
    return Side(Denied(s3, {action: error("AccessDenied", 403, operation=action) for action in actions}), SOURCE)


def test_a_writer_is_refused_when_each_kind_of_write_is(clouds):
    s3, transfer = clouds
    assert probe_write_refused(denied(s3, *ATTEMPTS), transfer.source).refused
    for allowed in ATTEMPTS:
        writer = denied(s3, *(action for action in ATTEMPTS if action != allowed))
        probe = probe_write_refused(writer, transfer.source)
        assert (probe.refused, probe.action) == (False, allowed), "a copy would miss what it changes"
        assert bodies(s3, "shared") == {}, "what got through leaves nothing"
        assert s3.uploads == {}


@pytest.mark.parametrize(
    "said",
    [
        error("SlowDown", 503),
        error("AccessDenied", 403, "not authorized to perform: kms:Decrypt"),
        error("AccessDenied", 403, operation="AssumeRole"),
        error("NoSuchKey", 404),
    ],
    ids=["busy", "a key", "the role", "nothing there"],
)
def test_only_a_denial_counts_as_refused(clouds, said):
    s3, transfer = clouds
    with pytest.raises(CloudError):
        probe_write_refused(Side(Denied(s3, {"PutObject": said}), SOURCE), transfer.source)
    assert bodies(s3, "shared") == {}


def test_a_storage_that_is_still_written_to_is_waited_for(clouds):
    s3, transfer = clouds

    def write(name: str, _: Mapping[str, Any]) -> None:
        if name == "list_object_versions":
            s3._do_put_object("shared", "t/acme/records/a/1.json", b"again")

    s3.before = write
    with pytest.raises(Waiting, match="still changes"):
        two_equal_listings(transfer.source, unwatched)
    revive(s3)
    assert two_equal_listings(transfer.source, unwatched).versions > 0
