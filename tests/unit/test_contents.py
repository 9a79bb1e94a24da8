"""Whatever S3 takes, an archive may hold: it is copied, proven and purged, or refused by name before anything moves."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
import stamina
from botocore.awsrequest import AWSResponse
from botocore.parsers import create_parser
from fake_s3 import SOURCE, TARGET, Version, delete, in_xml, put, sum_of, two_storages
from hypothesis import given, settings
from hypothesis import strategies as st

from components.worker.document import ID_LIMIT_BYTES, document_id, is_searchable
from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest, Where
from migrate.copy.purge import Purge, prove_empty, purge
from migrate.copy.s3 import Side, StorageRef, fits_xml, list_uploads, prepare
from migrate.copy.s3_client import _BROKEN_XML
from migrate.copy.verify import verify_storage
from migrate.errors import RefusedInput, VerificationFailed
from migrate.progress import unwatched
from migrate.verdict import Verdict

PREFIX_BYTES = len(SOURCE.prefix)


@pytest.fixture(autouse=True)
def _hurried():
    with stamina.set_testing(True, attempts=3):
        yield


def _fits(key: str) -> bool:
    return 0 < len(key.encode()) <= 1024 - PREFIX_BYTES


CHARACTERS = st.characters(exclude_categories=["Cs"])
AWKWARD = st.sampled_from(
    [*"\0\1\t\n\r\x1f\x7f\x85<>&'\"+% /.?#=;\u2028\ufffe\uffff😀", "é", "e\u0301", "//", "../", "./"]
)
KEYS = st.lists(st.one_of(AWKWARD, CHARACTERS), min_size=1, max_size=24).map("".join).filter(_fits)
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
TAGS = st.dictionaries(
    st.text("abcÄß +-=.:/@_", min_size=1, max_size=6), st.text("abcÄß +-=.:/@_&", max_size=6), max_size=4
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "ContentType": st.sampled_from(["text/plain", "application/x-q; a=b"]),
        "CacheControl": st.sampled_from(["no-store", "max-age=1, private"]),
        "ContentDisposition": st.just('attachment; filename="a b.txt"'),
        "ExpiresString": st.sampled_from(["never", "0", "Thu, 01 Dec 1994 16:00:00 GMT", "2026-01-01"]),
    },
)
CHECKSUMS = st.sampled_from(
    [
        *(("SHA256", "FULL_OBJECT"), ("CRC64NVME", "FULL_OBJECT"), ("CRC32", "FULL_OBJECT")),
        *(("SHA256", "COMPOSITE"), ("CRC32", "COMPOSITE"), (None, "FULL_OBJECT")),
    ]
)
VERSIONS = st.fixed_dictionaries(
    {
        "body": st.binary(max_size=12),
        "metadata": st.dictionaries(st.sampled_from(["a", "b", "c"]), TEXT | st.just("=?UTF-8?B?w6Q=?="), max_size=3),
        "tags": TAGS,
        "headers": HEADERS,
        "checksum": CHECKSUMS,
        "storage_class": st.sampled_from(["STANDARD", "STANDARD_IA", "GLACIER_IR", "INTELLIGENT_TIERING"]),
    }
)
ARCHIVES = st.dictionaries(KEYS, st.lists(VERSIONS | st.none(), min_size=1, max_size=5), min_size=1, max_size=6)


def fill(s3: Any, archive: dict[str, list[dict[str, Any] | None]]) -> None:
    for key, versions in archive.items():
        for version in versions:
            if version is None:
                delete(s3, key)
                continue
            put(s3, key, version["body"])
            made = s3.current("shared", SOURCE.prefix + key)
            made.metadata, made.tags, made.headers = version["metadata"], version["tags"], version["headers"]
            made.storage_class = version["storage_class"]
            give_checksum(made, *version["checksum"])


def give_checksum(version: Version, algorithm: str | None, kind: str) -> None:
    whole = algorithm and f"{algorithm}:{sum_of(algorithm, version.body)}"
    version.checksum = f"{algorithm}:of-the-parts-2" if kind == "COMPOSITE" else whole
    version.checksum_type = kind


def kept(version: Version) -> tuple[Any, ...]:
    if version.marker:
        return ("marker",)
    return (version.body, version.metadata, version.tags, version.headers, version.storage_class)


def histories(s3: Any, bucket: str, prefix: str = "") -> dict[str, list[tuple[Any, ...]]]:
    return {
        key.removeprefix(prefix): [kept(version) for version in versions]
        for (name, key), versions in s3.versions.items()
        if name == bucket and versions and key.startswith(prefix)
    }


def verdict(manifest_sha256: str) -> Verdict:
    now = datetime.now(UTC)
    return Verdict(
        id="v", kind="storage", tenant="acme", operation="o", subject="s1", passed=True, counts={},
        manifest_sha256=manifest_sha256, started_at=now, finished_at=now,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(ARCHIVES, st.booleans())
def test_whatever_an_archive_holds_is_copied_proven_and_purged(archive, in_parts):
    s3, source, target = two_storages()
    fill(s3, archive)
    before = histories(s3, "shared", SOURCE.prefix)
    with tempfile.TemporaryDirectory() as folder, Manifest.open(Path(folder) / "m", SOURCE, TARGET) as manifest:
        cut = {"multipart_above": 4, "part_bytes": 4} if in_parts else {}
        transfer = Transfer(source, target, manifest, threads=2, **cut)
        copy_pass(transfer, unwatched)
        assert histories(s3, "dedicated") == before
        found = verify_storage(transfer, "run", unwatched)
        assert found.versions == sum(len(versions) for versions in archive.values())
        purge(Purge(source, Where.SOURCE, manifest, verdict(found.manifest_sha256)), unwatched)
    assert prove_empty(source).none
    assert histories(s3, "dedicated") == before, "the purge took something of the new side"


@given(KEYS)
def test_what_xml_cannot_carry_is_known(key):
    assert fits_xml(key) is in_xml(key)


def test_keys_that_xml_cannot_carry_are_deleted_one_by_one_and_the_others_together(tmp_path):
    s3, source, target = two_storages()
    for key in ("a\1", "a\0", "a\ufffe", "a\r", "a\n", "plain"):
        put(s3, key)
    with Manifest.open(tmp_path / "m", SOURCE, TARGET) as manifest:
        transfer = Transfer(source, target, manifest)
        copy_pass(transfer, unwatched)
        found = verify_storage(transfer, "run", unwatched)
        s3.calls.clear()
        assert purge(Purge(source, Where.SOURCE, manifest, verdict(found.manifest_sha256)), unwatched).deleted == 6
    assert (s3.calls.count("delete_objects"), s3.calls.count("delete_object")) == (1, 3)
    assert prove_empty(source).none


def test_an_unfinished_upload_under_a_control_character_is_seen():
    s3, source, _ = two_storages()
    s3.create_multipart_upload(Bucket="shared", Key=SOURCE.prefix + "a\1 +%")
    assert [key for key, _ in list_uploads(source)] == [SOURCE.prefix + "a\1 +%"]


def copied(s3: Any, source: Any, target: Any, folder: Path, **cut: int) -> None:
    with Manifest.open(folder / "m", SOURCE, TARGET) as manifest:
        transfer = Transfer(source, target, manifest, **cut)
        copy_pass(transfer, unwatched)
        verify_storage(transfer, "run", unwatched)


@pytest.mark.parametrize(
    ("source_sum", "wanted"),
    [
        (("SHA256", "COMPOSITE"), ("SHA256", "COMPOSITE")),
        (("CRC32", "COMPOSITE"), ("CRC32", "FULL_OBJECT")),
        (("CRC64NVME", "FULL_OBJECT"), ("CRC64NVME", "FULL_OBJECT")),
        ((None, "FULL_OBJECT"), ("CRC64NVME", "FULL_OBJECT")),
    ],
)
def test_a_copy_in_parts_keeps_the_checksum_algorithm(tmp_path, source_sum, wanted):
    s3, source, target = two_storages()
    put(s3, "large", b"0123456789")
    made = s3.current("shared", SOURCE.prefix + "large")
    give_checksum(made, *source_sum)
    copied(s3, source, target, tmp_path, multipart_above=4, part_bytes=4)
    at_target = s3.current("dedicated", "large")
    assert (at_target.checksum.partition(":")[0], at_target.checksum_type) == wanted


def test_a_very_large_object_is_cut_into_no_more_parts_than_s3_takes(tmp_path, monkeypatch):
    monkeypatch.setattr("migrate.copy.engine.PARTS_LIMIT", 3)
    s3, source, target = two_storages()
    put(s3, "large", b"0123456789")
    copied(s3, source, target, tmp_path, multipart_above=1, part_bytes=1)
    assert s3.calls.count("upload_part_copy") == 3


def test_a_restored_version_is_copied_awake_and_one_that_sleeps_is_refused(tmp_path):
    s3, source, target = two_storages()
    put(s3, "old", b"old")
    made = s3.current("shared", SOURCE.prefix + "old")
    made.storage_class = "DEEP_ARCHIVE"
    with pytest.raises(RefusedInput, match="DEEP_ARCHIVE"):
        copied(s3, source, target, tmp_path)
    made.restored = True
    copied(s3, source, target, tmp_path)
    assert s3.current("dedicated", "old").storage_class == "STANDARD"


def test_another_storage_class_is_found(tmp_path):
    s3, source, target = two_storages()
    put(s3, "a")
    with Manifest.open(tmp_path / "m", SOURCE, TARGET) as manifest:
        transfer = Transfer(source, target, manifest)
        copy_pass(transfer, unwatched)
        s3.current("dedicated", "a").storage_class = "ONEZONE_IA"
        with pytest.raises(VerificationFailed, match="storage class STANDARD and ONEZONE_IA"):
            verify_storage(transfer, "run", unwatched)


def test_metadata_that_s3_hides_is_not_lost_by_a_copy_in_parts(tmp_path):
    s3, source, target = two_storages()
    put(s3, "large", b"0123456789")
    s3.current("shared", SOURCE.prefix + "large").missing_meta = 2
    with pytest.raises(RefusedInput, match="2 metadata entries"):
        copied(s3, source, target, tmp_path, multipart_above=4, part_bytes=4)
    copied(s3, source, target, tmp_path / "at-once")


def test_an_object_whose_name_is_the_prefix_is_refused_by_name(tmp_path):
    s3, source, target = two_storages()
    s3.put_object(Bucket="shared", Key="t/acme/", Body=b"")
    with pytest.raises(RefusedInput, match="the prefix itself"):
        copied(s3, source, target, tmp_path)


def test_a_name_that_is_too_long_below_the_targets_prefix_is_refused_by_name(tmp_path):
    s3, _, _ = two_storages()
    back, dedicated = StorageRef("dedicated", ""), StorageRef("shared", "t/acme/")
    s3.put_object(Bucket="dedicated", Key="x" * 1018, Body=b"x")
    with (
        Manifest.open(tmp_path / "m", back, dedicated) as manifest,
        pytest.raises(RefusedInput, match="1025 bytes there, 1024 are the most"),
    ):
        copy_pass(Transfer(Side(s3, back), Side(s3, dedicated), manifest), unwatched)


# documents ------------------------------------------------------------------------------------

DOCUMENT_KEYS = st.one_of(
    KEYS.map(lambda key: f"attachments/{key}"),
    st.tuples(st.sampled_from(["attachments", "records", "a"]), KEYS).map(lambda k: f"records/{k[0]}/{k[1]}.json"),
)


@settings(max_examples=200)
@given(st.lists(DOCUMENT_KEYS, min_size=2, max_size=8, unique=True))
def test_no_two_keys_share_a_document_and_no_id_is_too_long(keys):
    keys = [key for key in keys if is_searchable(key)]
    ids = [document_id(key) for key in keys]
    assert len(set(ids)) == len(keys)
    assert all(0 < len(id.encode()) <= ID_LIMIT_BYTES for id in ids)


def test_a_record_type_called_attachments_does_not_share_documents_with_attachments():
    assert document_id("records/attachments/1.json") != document_id("attachments/1")
    assert document_id("records/attachments/1.json") != document_id("records/records/attachments/1.json")


def test_the_longest_key_has_a_document():
    assert len(document_id("attachments/" + "ä" * 506)) == 64


# boto3 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client() -> Any:
    return prepare(boto3.client("s3", "eu-west-1", aws_access_key_id="a", aws_secret_access_key="b"))


@pytest.mark.parametrize(
    "reference", [b"&#x1;", b"&#1;", b"&#x1F;", b"&#xFFFE;", b"&#65535;", b"&#0;", b"\1", b"\xef\xbf\xbf"]
)
def test_an_answer_that_echoes_a_control_character_is_readable(client, reference):
    body = b"<Error><Code>NoSuchVersion</Code><Key>a" + reference + b"b</Key></Error>"
    model = client.meta.service_model.operation_model("CopyObject")
    answer = {"body": body, "headers": {}, "status_code": 404}
    extra: dict[str, Any] = {}
    client.meta.events.emit(
        "before-parse.s3.CopyObject", operation_model=model, response_dict=answer, customized_response_dict=extra
    )
    parsed = create_parser("rest-xml").parse(answer, model.output_shape)
    assert parsed["Error"]["Code"] == "NoSuchVersion"


def test_a_completed_upload_under_a_control_character_is_not_taken_for_a_failure(client):
    model = client.meta.service_model.operation_model("CompleteMultipartUpload")
    body = b"<CompleteMultipartUploadResult><Key>a&#x1;b</Key><ETag>e</ETag></CompleteMultipartUploadResult>"
    answer = {"body": body, "headers": {}, "status_code": 200}
    client.meta.events.emit(
        "before-parse.s3.CompleteMultipartUpload", operation_model=model, response_dict=answer,
        customized_response_dict={},
    )  # fmt: skip
    assert answer["status_code"] == 200
    assert create_parser("rest-xml").parse(answer, model.output_shape)["ETag"] == "e"


@pytest.mark.parametrize(
    "text", [b"&#9;", b"&#x9;", b"&#10;", b"&#xA;", b"&#13;", b"&#xD;", b"&#32;", b"&#x1F600;", b"&amp;", b"\t\n\r"]
)
def test_what_xml_can_say_is_left_as_it_is(text):
    assert _BROKEN_XML.sub(b"?", text) == text


@pytest.mark.parametrize("expires", ["never", "0", "2026-01-01"])
def test_an_expiry_that_is_no_date_is_sent_as_it_is(client, expires):
    sent = {}

    def caught(params: dict[str, Any], **_: Any) -> Any:
        sent.update(params["headers"])
        return AWSResponse("", 200, {}, None), {}

    client.meta.events.register_last("before-call.s3.CreateMultipartUpload", caught, unique_id="caught")
    client.create_multipart_upload(Bucket="b", Key="k", ExpiresString=expires)
    assert sent["Expires"] == expires
    client.meta.events.unregister("before-call.s3.CreateMultipartUpload", unique_id="caught")
