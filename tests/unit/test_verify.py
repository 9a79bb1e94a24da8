"""The proof of a copy fails for every way in which two storages can differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_s3 import SOURCE, SOURCE_KEY, TARGET, FakeS3, Version, a_history, delete, put, two_storages

from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest
from migrate.copy.merkle import MerkleRoot
from migrate.copy.verify import verify_copied, verify_storage, verify_untouched
from migrate.errors import VerificationFailed
from migrate.progress import unwatched


@pytest.fixture
def copied(tmp_path: Path):
    s3, source, target = two_storages()
    a_history(s3)
    with Manifest.open(tmp_path / "manifest.sqlite", SOURCE, TARGET) as manifest:
        transfer = Transfer(source, target, manifest, threads=2)
        copy_pass(transfer, unwatched)
        yield s3, transfer


def one(s3: FakeS3) -> Version:
    return s3.versions["dedicated", "records/a/1.json"][0]


def test_an_equal_copy_is_proven_with_its_counts(copied):
    _, transfer = copied
    found = verify_storage(transfer, "run", unwatched)
    assert (found.versions, found.delete_markers, found.objects, found.bytes, found.streamed) == (11, 4, 4, 21, 0)
    assert len(found.merkle_root) == len(found.manifest_sha256) == 64


def _set(**values: object) -> Callable[[FakeS3], None]:
    def change(s3: FakeS3) -> None:
        for name, value in values.items():
            setattr(one(s3), name, value)

    return change


def _swap(s3: FakeS3) -> None:
    versions = s3.versions["dedicated", "records/a/1.json"]
    versions[0], versions[1] = versions[1], versions[0]


DIFFERENCES = {
    "other bytes": (_set(body=b"ONE", checksum="SHA256:other"), "checksum"),
    "other bytes, no checksum": (_set(body=b"ONE", checksum=None), "bytes"),
    "another length": (_set(body=b"on"), "size"),
    "other metadata": (_set(metadata={"revision": "9"}), "metadata"),
    "other tags": (_set(tags={}), "tags"),
    "another content header": (_set(headers={"ContentType": "text/plain"}), "ContentType"),
    "a header too many": (_set(headers={"ContentType": "application/json", "CacheControl": "x"}), "CacheControl"),
    "a bucket key": (_set(bucket_key=True), "bucket key"),
    "a marker instead of a version": (_set(marker=True), "out of order"),
    "the old key": (_set(key_arn=SOURCE_KEY), "encrypted under"),
    "a version too many": (
        lambda s3: s3.put_object(Bucket="dedicated", Key="other", Body=b"x"),
        "1 versions too many",
    ),
    "a marker too many": (lambda s3: s3.delete_object(Bucket="dedicated", Key="other"), "1 versions too many"),
    "a version missing": (lambda s3: s3.versions["dedicated", "records/a/1.json"].pop(0), "1 missing"),
    "another order": (_swap, "out of order"),
    "a new version at the source": (lambda s3: put(s3, "records/a/1.json", b"late"), "1 versions too many"),
    "a deletion at the source": (lambda s3: delete(s3, "attachments/empty"), "1 versions too many"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_difference_is_found(copied, difference):
    s3, transfer = copied
    change, said = DIFFERENCES[difference]
    change(s3)
    with pytest.raises(VerificationFailed, match=said):
        verify_storage(transfer, "run", unwatched)


def test_sides_without_a_common_checksum_are_read_and_compared(copied):
    s3, transfer = copied
    one(s3).checksum = "CRC32:AAAA"
    assert verify_storage(transfer, "run", unwatched).streamed == 1


def test_a_checksum_of_checksums_is_not_taken_for_one_of_the_content(copied):
    s3, transfer = copied
    source = s3.versions["shared", "t/acme/records/a/1.json"][0]
    for version in (source, one(s3)):
        version.checksum, version.checksum_type = "SHA256:SameOfTheParts=", "COMPOSITE"
    one(s3).body = b"ONE"
    with pytest.raises(VerificationFailed, match="bytes"):
        verify_storage(transfer, "run", unwatched)


def test_comparing_nothing_is_a_failure(tmp_path):
    _, source, target = two_storages()
    with Manifest.open(tmp_path / "manifest.sqlite", SOURCE, TARGET) as manifest:
        transfer = Transfer(source, target, manifest)
        copy_pass(transfer, unwatched)
        with pytest.raises(VerificationFailed, match="nothing to compare"):
            verify_storage(transfer, "run", unwatched)


def test_what_is_not_copied_yet_is_not_verified(tmp_path):
    s3, source, target = two_storages()
    a_history(s3)
    with Manifest.open(tmp_path / "manifest.sqlite", SOURCE, TARGET) as manifest:
        transfer = Transfer(source, target, manifest)
        from migrate.copy.s3 import list_versions

        manifest.take(list_versions(source), lambda _: None)
        with pytest.raises(VerificationFailed, match=r"^11 versions of s3://shared/t/acme/ are not copied yet"):
            verify_storage(transfer, "run", unwatched)


def test_the_same_run_compares_nothing_twice_and_another_run_everything(copied):
    s3, transfer = copied
    assert verify_copied(transfer, "first", unwatched) == 11
    put(s3, "records/a/9.json", b"late")
    copy_pass(transfer, unwatched)
    s3.calls.clear()
    verify_storage(transfer, "first", unwatched)
    assert s3.calls.count("head_object") == 2, "before the freeze all was compared but the late one"
    s3.calls.clear()
    verify_storage(transfer, "second", unwatched)
    assert s3.calls.count("head_object") == 16


def test_the_root_depends_on_every_content_and_on_nothing_else(tmp_path):
    def root(name: str, body: bytes) -> str:
        s3, source, target = two_storages()
        a_history(s3)
        put(s3, "attachments/z", body)
        with Manifest.open(tmp_path / name, SOURCE, TARGET) as manifest:
            transfer = Transfer(source, target, manifest)
            copy_pass(transfer, unwatched)
            return verify_storage(transfer, "run", unwatched).merkle_root

    assert root("a", b"1") == root("b", b"1")
    assert root("c", b"1") != root("d", b"2")


def test_the_merkle_root_is_that_of_rfc_6962():
    leaves = [bytes.fromhex(leaf) for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
    root = MerkleRoot()
    for leaf in leaves:
        root.add(leaf)
    # The test vectors of the Certificate Transparency reference implementation, seven leaves.
    assert root.hex() == "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"


def test_a_source_is_untouched_until_something_changes_there(copied):
    s3, transfer = copied
    assert verify_untouched(transfer, unwatched).versions == 11
    put(s3, "records/a/written-since.json")
    assert verify_untouched(transfer, unwatched).newer == 1, "a job may write while an operation is aborted"
    s3.versions["shared", "t/acme/records/a/1.json"].pop(0)
    with pytest.raises(VerificationFailed, match="1 versions missing") as failed:
        verify_untouched(transfer, unwatched)
    assert "written-since" not in failed.value.message
