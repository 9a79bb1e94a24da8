"""Objects through the gate: keys, conditions, copies, uploads in parts, checksums, tags, listings."""

from __future__ import annotations

import base64
import hashlib
import os
import unicodedata
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aws_server import running_aws
from botocore.exceptions import ClientError
from gate_lab import Lab, body_of, refused

pytestmark = pytest.mark.sandbox

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_aws(tmp_path_factory.mktemp("aws")) as server:
        yield Lab(server)


@pytest.fixture(scope="module")
def key_arn(lab: Lab) -> str:
    return lab.key()


@pytest.fixture
def bucket(lab: Lab, key_arn: str) -> str:
    return lab.bucket(key_arn)


ODD_KEYS = (
    *("a b", "a+b", "100%", "100%25", "a&b=c", "a?b", "a#b", "./dot", ".hidden", "a//b", "/leading", "trailing/"),
    *(unicodedata.normalize("NFC", "naïve"), unicodedata.normalize("NFD", "naïve"), "日本/語", "a'b\"c<d>", "\u0001x"),
    *("line\r\nbreak", "x" * 1024, "a\\b", "~*!()", "emoji \U0001f600"),
)


def test_odd_keys_come_back_byte_for_byte_in_reads_copies_and_listings(lab: Lab, bucket: str) -> None:
    for number, key in enumerate(ODD_KEYS):
        lab.s3.put_object(Bucket=bucket, Key=key, Body=f"body {number}".encode())
    for number, key in enumerate(ODD_KEYS):
        assert body_of(lab.s3.get_object(Bucket=bucket, Key=key)) == f"body {number}".encode(), key
    listed = [item["Key"] for item in lab.s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert listed == sorted(ODD_KEYS, key=str.encode), "S3 lists in the order of the keys' bytes"
    versions = [item["Key"] for item in lab.s3.list_object_versions(Bucket=bucket)["Versions"]]
    assert versions == listed
    copies = lab.bucket()
    for key in ODD_KEYS:
        lab.s3.copy_object(Bucket=copies, Key=key, CopySource={"Bucket": bucket, "Key": key})
    assert [item["Key"] for item in lab.s3.list_objects_v2(Bucket=copies)["Contents"]] == listed


def test_a_key_over_1024_bytes_is_refused(lab: Lab, bucket: str) -> None:
    found = refused(lab.s3.put_object, Bucket=bucket, Key="é" * 513, Body=b"")
    assert (found.code, found.status) == ("KeyTooLongError", 400)


def test_metadata_over_2_kb_is_refused_before_anything_is_stored(lab: Lab, bucket: str) -> None:
    found = refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"x", Metadata={"note": "x" * 2045})
    assert (found.code, found.status) == ("MetadataTooLarge", 400)
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"note": "x" * 2044})


def test_the_gates_own_record_can_be_neither_written_nor_read(lab: Lab, bucket: str) -> None:
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata={"mine": "1"})
    assert lab.s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"mine": "1"}
    forged = {"sandbox-gate-record": "{}"}
    assert refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"x", Metadata=forged).code == "InvalidArgument"


def test_an_eleventh_tag_is_refused_and_the_object_stays(lab: Lab, bucket: str) -> None:
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"first")
    eleven = "&".join(f"tag{number}=1" for number in range(11))
    found = refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"second", Tagging=eleven)
    assert (found.code, found.status) == ("BadRequest", 400)
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == b"first"
    for wrong in ("aws:mine=1", f"{'k' * 129}=1", f"k={'v' * 257}", "a=1&a=2"):
        assert refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"", Tagging=wrong).code == "InvalidTag"


def test_tags_of_an_old_version_are_found_below_a_delete_marker(lab: Lab, bucket: str) -> None:
    version = lab.s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1")["VersionId"]
    lab.s3.delete_object(Bucket=bucket, Key="k")
    assert refused(lab.s3.get_object_tagging, Bucket=bucket, Key="k").code == "NoSuchKey"
    tags = lab.s3.get_object_tagging(Bucket=bucket, Key="k", VersionId=version)["TagSet"]
    assert tags == [{"Key": "a", "Value": "1"}]


def test_conditional_writes_hold(lab: Lab, bucket: str) -> None:
    put = lab.s3.put_object
    etag = put(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    again = refused(put, Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    assert (again.code, again.status) == ("PreconditionFailed", 412)
    assert refused(put, Bucket=bucket, Key="k", Body=b"2", IfMatch='"other"').status == 412
    assert refused(put, Bucket=bucket, Key="absent", Body=b"2", IfMatch=etag).status == 404
    assert refused(put, Bucket=bucket, Key="k", Body=b"2", IfNoneMatch=etag).status == 501
    put(Bucket=bucket, Key="k", Body=b"2", IfMatch=etag)
    assert refused(lab.s3.delete_object, Bucket=bucket, Key="k", IfMatch=etag).status == 412
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == b"2"


def test_of_many_who_create_the_same_key_one_succeeds(lab: Lab, bucket: str) -> None:
    def create(number: int) -> int:
        try:
            put = lab.s3.put_object(Bucket=bucket, Key="k", Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            return error.response["ResponseMetadata"]["HTTPStatusCode"]
        return put["ResponseMetadata"]["HTTPStatusCode"]

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(24))) == [200] + [412] * 23


def test_conditional_reads_hold(lab: Lab, bucket: str) -> None:
    etag = lab.s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    assert refused(lab.s3.get_object, Bucket=bucket, Key="k", IfNoneMatch=etag).status == 304
    assert refused(lab.s3.get_object, Bucket=bucket, Key="k", IfMatch='"other"').status == 412


def test_ranges_are_cut_from_the_plain_bytes(lab: Lab, bucket: str) -> None:
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")
    for wanted, body in (
        ("bytes=2-4", b"234"),
        ("bytes=8-", b"89"),
        ("bytes=-3", b"789"),
        ("bytes=0-99", b"0123456789"),
    ):
        answer = lab.s3.get_object(Bucket=bucket, Key="k", Range=wanted)
        assert (answer["ResponseMetadata"]["HTTPStatusCode"], body_of(answer)) == (206, body)
        head = lab.s3.head_object(Bucket=bucket, Key="k", Range=wanted)
        assert (head["ContentLength"], head["ContentRange"]) == (len(body), answer["ContentRange"])
    found = refused(lab.s3.get_object, Bucket=bucket, Key="k", Range="bytes=10-")
    assert (found.code, found.status) == ("InvalidRange", 416)
    whole = lab.s3.get_object(Bucket=bucket, Key="k", Range="bytes=0-1,3-4")
    assert whole["ResponseMetadata"]["HTTPStatusCode"] == 200, "S3 serves no more than one range"


# Checksums


def _sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def test_a_checksum_is_kept_and_given_back_on_every_way_of_asking(lab: Lab, bucket: str) -> None:
    body = b"some bytes"
    put = lab.s3.put_object(Bucket=bucket, Key="k", Body=body, ChecksumAlgorithm="SHA256")
    assert put["ChecksumSHA256"] == _sha256(body)
    head = lab.s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (head["ChecksumSHA256"], head["ChecksumType"]) == (_sha256(body), "FULL_OBJECT")
    assert "ChecksumSHA256" not in lab.s3.head_object(Bucket=bucket, Key="k")
    there = lab.s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["Checksum"])
    assert there["Checksum"] == {"ChecksumSHA256": _sha256(body), "ChecksumType": "FULL_OBJECT"}
    assert lab.s3.list_objects_v2(Bucket=bucket)["Contents"][0]["ChecksumAlgorithm"] == ["SHA256"]


def test_a_wrong_checksum_is_refused_and_nothing_is_stored(lab: Lab, bucket: str) -> None:
    wrong = {"ChecksumSHA256": _sha256(b"other")}
    found = refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"x", **wrong)
    assert (found.code, found.status) == ("BadDigest", 400)
    md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"x", ContentMD5=md5).code == "BadDigest"
    assert "Contents" not in lab.s3.list_objects_v2(Bucket=bucket)


def test_a_body_that_is_not_the_signed_one_is_refused(lab: Lab, bucket: str) -> None:
    answer = lab.server.raw("PUT", f"/{bucket}/k", body=b"signed", forged=b"forged")
    assert (answer.status, b"XAmzContentSHA256Mismatch" in answer.body) == (400, True), answer.body
    assert "Contents" not in lab.s3.list_objects_v2(Bucket=bucket)


def test_an_object_that_comes_without_a_checksum_gets_crc64nvme(lab: Lab, bucket: str) -> None:
    assert lab.server.raw("PUT", f"/{bucket}/k", body=b"123456789").status == 200
    head = lab.s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    published = base64.b64encode(bytes.fromhex("AE8B14860A799888")).decode()
    assert (head["ChecksumCRC64NVME"], head["ChecksumType"]) == (published, "FULL_OBJECT")


def test_a_body_in_chunks_with_a_trailing_checksum_is_put_together(lab: Lab, bucket: str) -> None:
    body = os.urandom(70_000)
    trailer = f"x-amz-checksum-crc32:{_crc32(body)}\r\n\r\n".encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:65_536], body[65_536:]))
    headers = {
        "content-encoding": "aws-chunked",
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": str(len(body)),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    answer = lab.server.raw("PUT", f"/{bucket}/k", body=chunks + b"0\r\n" + trailer, headers=headers)
    assert answer.status == 200, answer.body
    found = lab.s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (body_of(found), found["ChecksumCRC32"]) == (body, _crc32(body))
    assert "ContentEncoding" not in found


# Copies


def test_a_copy_takes_metadata_tags_headers_and_checksum_and_a_new_seal(lab: Lab, bucket: str) -> None:
    source = {"Bucket": bucket, "Key": "k"}
    lab.s3.put_object(
        **source,
        Body=b"x",
        Metadata={"a": "1"},
        Tagging="t=1",
        ContentType="application/json",
        CacheControl="no-store",
        ChecksumAlgorithm="SHA256",
    )
    other = lab.key()
    target = lab.bucket(other)
    copied = lab.s3.copy_object(Bucket=target, Key="copy", CopySource=source)
    head = lab.s3.head_object(Bucket=target, Key="copy", ChecksumMode="ENABLED")
    assert (head["Metadata"], head["ContentType"], head["CacheControl"]) == ({"a": "1"}, "application/json", "no-store")
    assert (head["SSEKMSKeyId"], head["ChecksumSHA256"]) == (other, copied["CopyObjectResult"]["ChecksumSHA256"])
    assert lab.s3.get_object_tagging(Bucket=target, Key="copy")["TagSet"] == [{"Key": "t", "Value": "1"}]


def test_a_copy_may_replace_metadata_and_tags_and_ask_for_another_checksum(lab: Lab, bucket: str) -> None:
    source = {"Bucket": bucket, "Key": "k"}
    lab.s3.put_object(**source, Body=b"x", Metadata={"a": "1"}, Tagging="t=1", ContentType="application/json")
    lab.s3.copy_object(
        Bucket=bucket,
        Key="copy",
        CopySource=source,
        MetadataDirective="REPLACE",
        Metadata={"b": "2"},
        TaggingDirective="REPLACE",
        ChecksumAlgorithm="SHA256",
    )
    head = lab.s3.head_object(Bucket=bucket, Key="copy", ChecksumMode="ENABLED")
    assert (head["Metadata"], head["ContentType"]) == ({"b": "2"}, "binary/octet-stream")
    assert head["ChecksumSHA256"] == _sha256(b"x")
    assert lab.s3.get_object_tagging(Bucket=bucket, Key="copy")["TagSet"] == []


def test_a_copy_can_be_of_an_old_version_and_pinned_by_etag(lab: Lab, bucket: str) -> None:
    old = lab.s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"new")
    source = {"Bucket": bucket, "Key": "k", "VersionId": old["VersionId"]}
    lab.s3.copy_object(Bucket=bucket, Key="copy", CopySource=source, CopySourceIfMatch=old["ETag"])
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="copy")) == b"old"
    current = {"Bucket": bucket, "Key": "k"}
    found = refused(lab.s3.copy_object, Bucket=bucket, Key="copy", CopySource=current, CopySourceIfMatch=old["ETag"])
    assert (found.code, found.status) == ("PreconditionFailed", 412)


def test_a_copy_honours_conditions_on_its_target(lab: Lab, bucket: str) -> None:
    source = {"Bucket": bucket, "Key": "k"}
    lab.s3.put_object(**source, Body=b"x")
    copy = lab.s3.copy_object
    copy(Bucket=bucket, Key="copy", CopySource=source, IfNoneMatch="*")
    assert refused(copy, Bucket=bucket, Key="copy", CopySource=source, IfNoneMatch="*").status == 412
    assert refused(copy, Bucket=bucket, Key="copy", CopySource=source, IfMatch='"other"').status == 412
    assert len(lab.s3.list_object_versions(Bucket=bucket, Prefix="copy")["Versions"]) == 1


def test_a_copy_onto_itself_must_change_something(lab: Lab, bucket: str) -> None:
    there = {"Bucket": bucket, "Key": "k"}
    lab.s3.put_object(**there, Body=b"x")
    found = refused(lab.s3.copy_object, **there, CopySource=there)
    assert (found.code, "itself" in found.message) == ("InvalidRequest", True)
    lab.s3.copy_object(**there, CopySource=there, MetadataDirective="REPLACE")
    lab.s3.copy_object(**there, CopySource=there, ServerSideEncryption="aws:kms", SSEKMSKeyId=lab.key())


def test_a_delete_marker_cannot_be_copied(lab: Lab, bucket: str) -> None:
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    marker = lab.s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    source = {"Bucket": bucket, "Key": "k"}
    assert refused(lab.s3.copy_object, Bucket=bucket, Key="c", CopySource=source).code == "NoSuchKey"
    found = refused(lab.s3.copy_object, Bucket=bucket, Key="c", CopySource=source | {"VersionId": marker})
    assert found.code == "InvalidRequest"


# Uploads in parts


def _begin(lab: Lab, bucket: str, **options: Any) -> dict[str, Any]:
    started = lab.s3.create_multipart_upload(Bucket=bucket, Key="large", **options)
    return {"Bucket": bucket, "Key": "large", "UploadId": started["UploadId"]}


def _send(lab: Lab, upload: dict[str, Any], pieces: list[bytes], **options: Any) -> list[dict[str, Any]]:
    sent = []
    for number, piece in enumerate(pieces, start=1):
        answer = lab.s3.upload_part(**upload, PartNumber=number, Body=piece, **options)
        sums = {name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"}
        sent.append({"PartNumber": number, "ETag": answer["ETag"], **sums})
    return sent


def _finish(lab: Lab, upload: dict[str, Any], parts: list[dict[str, Any]], **options: Any) -> Any:
    return lab.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **options)


PIECES = [os.urandom(5 * MIB), os.urandom(5 * MIB + 7), os.urandom(11)]


def test_an_upload_in_parts_keeps_tags_metadata_and_a_checksum_of_the_whole(lab: Lab, bucket: str) -> None:
    whole = b"".join(PIECES)
    asked = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}
    upload = _begin(lab, bucket, Metadata={"a": "1"}, Tagging="t=1", **asked)
    parts = _send(lab, upload, PIECES, ChecksumAlgorithm="CRC32")
    done = _finish(
        lab, upload, parts, ChecksumCRC32=_crc32(whole), ChecksumType="FULL_OBJECT", MpuObjectSize=len(whole)
    )
    assert done["ChecksumCRC32"] == _crc32(whole), "three parts' checks joined are the check of the whole"
    found = lab.s3.get_object(Bucket=bucket, Key="large", ChecksumMode="ENABLED")
    assert body_of(found) == whole
    assert (found["Metadata"], found["ETag"]) == ({"a": "1"}, done["ETag"])
    assert done["ETag"].endswith('-3"')
    assert lab.s3.get_object_tagging(Bucket=bucket, Key="large")["TagSet"] == [{"Key": "t", "Value": "1"}]
    second = lab.s3.get_object(Bucket=bucket, Key="large", PartNumber=2)
    assert (body_of(second), second["PartsCount"]) == (PIECES[1], 3)
    assert (
        body_of(lab.s3.get_object(Bucket=bucket, Key="large", Range=f"bytes={5 * MIB - 2}-{5 * MIB + 1}"))
        == (whole[5 * MIB - 2 : 5 * MIB + 2])
    )
    assert _finish(lab, upload, parts)["ETag"] == done["ETag"], "asking again gets the same answer"


def test_a_composite_checksum_is_over_the_parts_and_a_copy_makes_it_whole(lab: Lab, bucket: str) -> None:
    upload = _begin(lab, bucket, ChecksumAlgorithm="SHA256")
    parts = _send(lab, upload, PIECES, ChecksumAlgorithm="SHA256")
    done = _finish(lab, upload, parts)
    digests = b"".join(hashlib.sha256(piece).digest() for piece in PIECES)
    assert (done["ChecksumSHA256"], done["ChecksumType"]) == (f"{_sha256(digests)}-3", "COMPOSITE")
    there = lab.s3.get_object_attributes(Bucket=bucket, Key="large", ObjectAttributes=["ObjectParts"])
    assert [part["Size"] for part in there["ObjectParts"]["Parts"]] == [len(piece) for piece in PIECES]
    copied = lab.s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "large"})
    assert copied["CopyObjectResult"]["ChecksumSHA256"] == _sha256(b"".join(PIECES))
    assert "-" not in copied["CopyObjectResult"]["ETag"]


def test_parts_can_be_copied_by_range(lab: Lab, bucket: str) -> None:
    source = {"Bucket": bucket, "Key": "source"}
    whole = b"".join(PIECES)
    lab.s3.put_object(**source, Body=whole)
    upload = _begin(lab, bucket)
    cut = 5 * MIB
    ranges = [f"bytes=0-{cut - 1}", f"bytes={cut}-{len(whole) - 1}"]
    parts = []
    for number, wanted in enumerate(ranges, start=1):
        made = lab.s3.upload_part_copy(**upload, PartNumber=number, CopySource=source, CopySourceRange=wanted)
        parts.append({"PartNumber": number, "ETag": made["CopyPartResult"]["ETag"]})
    outside = refused(
        lab.s3.upload_part_copy, **upload, PartNumber=3, CopySource=source, CopySourceRange=f"bytes=0-{len(whole)}"
    )
    assert outside.code == "InvalidArgument"
    assert [part["Size"] for part in lab.s3.list_parts(**upload)["Parts"]] == [cut, len(whole) - cut]
    _finish(lab, upload, parts)
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="large")) == whole


def test_completing_checks_size_order_and_presence_of_the_parts(lab: Lab, bucket: str) -> None:
    upload = _begin(lab, bucket)
    parts = _send(lab, upload, [b"small", b"last"])
    assert refused(_finish, lab=lab, upload=upload, parts=parts).code == "EntityTooSmall"
    assert refused(_finish, lab=lab, upload=upload, parts=parts[::-1]).code == "InvalidPartOrder"
    absent = [{"PartNumber": 7, "ETag": parts[0]["ETag"]}]
    assert refused(_finish, lab=lab, upload=upload, parts=absent).code == "InvalidPart"
    changed = [{"PartNumber": 1, "ETag": '"00000000000000000000000000000000"'}]
    assert refused(_finish, lab=lab, upload=upload, parts=changed).code == "InvalidPart"
    assert "Contents" not in lab.s3.list_objects_v2(Bucket=bucket)
    _finish(lab, upload, parts[1:])
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="large")) == b"last"


def test_completing_honours_conditions_and_leaves_the_upload_usable(lab: Lab, bucket: str) -> None:
    upload = _begin(lab, bucket)
    parts = _send(lab, upload, [b"only"])
    lab.s3.put_object(Bucket=bucket, Key="large", Body=b"in the way")
    assert refused(_finish, lab=lab, upload=upload, parts=parts, IfNoneMatch="*").status == 412
    _finish(lab, upload, parts)
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="large")) == b"only"


def test_a_part_must_carry_the_checksum_that_its_upload_was_begun_with(lab: Lab, bucket: str) -> None:
    upload = _begin(lab, bucket, ChecksumAlgorithm="SHA256")
    found = refused(lab.s3.upload_part, **upload, PartNumber=1, Body=b"x", ChecksumAlgorithm="CRC32")
    assert (found.code, "Checksum Type mismatch" in found.message) == ("InvalidRequest", True)
    parts = _send(lab, upload, [b"x"], ChecksumAlgorithm="SHA256")
    bare = [{"PartNumber": 1, "ETag": parts[0]["ETag"]}]
    assert refused(_finish, lab=lab, upload=upload, parts=bare).code == "InvalidRequest"
    _finish(lab, upload, parts)


def test_an_aborted_upload_is_gone(lab: Lab, bucket: str) -> None:
    upload = _begin(lab, bucket)
    parts = _send(lab, upload, [b"x"])
    lab.s3.abort_multipart_upload(**upload)
    for call in (
        lambda: _finish(lab, upload, parts),
        lambda: lab.s3.list_parts(**upload),
        lambda: lab.s3.upload_part(**upload, PartNumber=1, Body=b"x"),
        lambda: lab.s3.abort_multipart_upload(**upload),
    ):
        assert refused(call).code == "NoSuchUpload"


# Listings and deletions


def test_a_page_holds_a_thousand_keys_however_many_are_asked_for(lab: Lab) -> None:
    bucket = lab.bucket(is_versioned=False)
    names = [f"n/{number:04d}" for number in range(1003)]
    s3 = lab.s3
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: s3.put_object(Bucket=bucket, Key=name, Body=b""), names))
    first = lab.s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)
    assert (first["KeyCount"], first["MaxKeys"], first["IsTruncated"]) == (1000, 1000, True)
    rest = lab.s3.list_objects_v2(Bucket=bucket, ContinuationToken=first["NextContinuationToken"])
    assert [item["Key"] for item in first["Contents"] + rest["Contents"]] == names
    objects = [{"Key": name} for name in names]
    found = refused(lab.s3.delete_objects, Bucket=bucket, Delete={"Objects": objects})
    assert (found.code, found.status) == ("MalformedXML", 400)
    assert len(lab.s3.delete_objects(Bucket=bucket, Delete={"Objects": objects[:1000]})["Deleted"]) == 1000


def test_versions_page_by_key_and_version_and_roll_up_prefixes(lab: Lab, bucket: str) -> None:
    for key in ("a", "b/1", "b/2", "c"):
        for body in (b"1", b"2", b"3"):
            lab.s3.put_object(Bucket=bucket, Key=key, Body=body)
    lab.s3.delete_object(Bucket=bucket, Key="c")
    whole = lab.s3.list_object_versions(Bucket=bucket)
    ids = [(item["Key"], item["VersionId"]) for item in whole["Versions"]]
    pages = lab.s3.get_paginator("list_object_versions").paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
    paged = [(item["Key"], item["VersionId"]) for page in pages for item in page.get("Versions", [])]
    assert paged == ids
    assert [item["IsLatest"] for item in whole["Versions"][:3]] == [True, False, False]
    assert [(item["Key"], item["IsLatest"]) for item in whole["DeleteMarkers"]] == [("c", True)]
    rolled = lab.s3.list_object_versions(Bucket=bucket, Delimiter="/")
    assert rolled["CommonPrefixes"] == [{"Prefix": "b/"}]
    assert {item["Key"] for item in rolled["Versions"]} == {"a", "c"}


def test_listings_roll_up_prefixes_and_continue_behind_them(lab: Lab, bucket: str) -> None:
    for key in ("a", "b/1", "b/2", "c/1", "d"):
        lab.s3.put_object(Bucket=bucket, Key=key, Body=b"")
    pages = lab.s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 1}
    )
    rows = [
        [item["Key"] for item in page.get("Contents", [])] + [item["Prefix"] for item in page.get("CommonPrefixes", [])]
        for page in pages
    ]
    assert rows == [["a"], ["b/"], ["c/"], ["d"]]
    old = lab.s3.get_paginator("list_objects").paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
    assert [item["Key"] for page in old for item in page["Contents"]] == ["a", "b/1", "b/2", "c/1", "d"]


def test_uploads_with_odd_keys_are_listed_in_url_encoding(lab: Lab, bucket: str) -> None:
    lab.s3.create_multipart_upload(Bucket=bucket, Key="odd + é")
    listed = lab.s3.list_multipart_uploads(Bucket=bucket, EncodingType="url")["Uploads"]
    assert [item["Key"] for item in listed] == ["odd%20%2B%20%C3%A9"]


def test_last_modified_is_the_same_to_the_second_everywhere(lab: Lab, bucket: str) -> None:
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"")
    head = lab.s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    assert lab.s3.list_objects_v2(Bucket=bucket)["Contents"][0]["LastModified"] == head
    assert lab.s3.list_object_versions(Bucket=bucket)["Versions"][0]["LastModified"] == head


def test_an_object_put_before_versioning_is_the_null_version(lab: Lab, key_arn: str) -> None:
    bucket = lab.bucket(key_arn, is_versioned=False)
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    lab.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"after")
    listed = lab.s3.list_object_versions(Bucket=bucket)["Versions"]
    assert [item["VersionId"] == "null" for item in listed] == [False, True]
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k", VersionId="null")) == b"before"


def test_a_head_of_nothing_is_a_404_without_a_body(lab: Lab, bucket: str) -> None:
    with pytest.raises(ClientError) as caught:
        lab.s3.head_object(Bucket=bucket, Key="absent")
    assert caught.value.response["Error"]["Code"] == "404"
