"""The gate's rules that need no server: its table, encryption of a write, ranges, tags, checks, XML."""

from __future__ import annotations

import zlib
from xml.etree.ElementTree import fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.aws.s3 import crc, table, tags
from sandbox.aws.s3.encryption import BucketEncryption, Encryption, of_write
from sandbox.aws.s3.message import Request, S3Error, document, element
from sandbox.aws.s3.ranges import parse_range
from sandbox.aws.s3.record import Checksum, Record, Seal, Segment, UploadRecord

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS")
ACCOUNT, REGION = "111122223333", "eu-west-1"
KEY_ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1"


def _request(row: table.Operation, *more: str) -> Request:
    query = dict.fromkeys((*row.marks, *more), "2")
    headers = {"x-amz-copy-source": "b/k"} if row.is_copy else {}
    return Request(
        row.method, "" if row.level == "service" else "b", "k" if row.level == "object" else "", query, headers
    )


@pytest.mark.parametrize("row", table.OPERATIONS, ids=lambda row: row.name)
def test_each_row_is_found_by_its_own_marks(row: table.Operation) -> None:
    assert table.find(_request(row)) is row
    assert table.find(_request(row, *row.takes)) is row
    assert table.find(_request(row, "x-id")) is row


@pytest.mark.parametrize("row", table.OPERATIONS, ids=lambda row: row.name)
def test_one_unknown_query_key_is_enough_to_refuse(row: table.Operation) -> None:
    with pytest.raises(S3Error) as refused:
        table.find(_request(row, "madeup"))
    assert refused.value.status == 501


@given(
    method=st.sampled_from(METHODS),
    key=st.sampled_from(["", "k"]),
    query=st.sets(st.sampled_from([*(name for row in table.OPERATIONS for name in (*row.marks, *row.takes)), "x"])),
    is_copy=st.booleans(),
)
def test_whatever_is_found_names_every_query_key_that_was_sent(
    method: str, key: str, query: set[str], is_copy: bool
) -> None:
    headers = {"x-amz-copy-source": "b/k"} if is_copy else {}
    try:
        row = table.find(Request(method, "b", key, dict.fromkeys(query, "2"), headers))
    except S3Error:
        return
    assert row.marks <= query <= row.marks | row.takes, "the emulator would see a key that the row does not know"
    assert (row.method, row.level, row.is_copy) == (method, "object" if key else "bucket", is_copy)


def test_only_bulk_deletion_is_authorized_outside_the_table() -> None:
    assert [row.name for row in table.OPERATIONS if not row.action] == ["DeleteObjects"]


# Encryption of a write


def _bucket(document_: str) -> BucketEncryption:
    return BucketEncryption.parse(fromstring(document_), ACCOUNT, REGION)


def _rule(inner: str) -> str:
    return f"<ServerSideEncryptionConfiguration><Rule>{inner}</Rule></ServerSideEncryptionConfiguration>"


def _kms(key: str, more: str = "") -> str:
    by_default = f"<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>{key}</KMSMasterKeyID>"
    return _rule(f"<ApplyServerSideEncryptionByDefault>{by_default}</ApplyServerSideEncryptionByDefault>{more}")


SSE = "x-amz-server-side-encryption"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, Encryption(KEY_ARN)),
        ({SSE: "AES256"}, Encryption()),
        ({SSE: "aws:kms", f"{SSE}-aws-kms-key-id": "alias/a"}, Encryption("alias/a")),
        ({SSE: "aws:kms"}, Encryption("alias/aws/s3")),
        ({f"{SSE}-bucket-key-enabled": "true"}, Encryption(KEY_ARN, bucket_key=True)),
    ],
)
def test_a_write_takes_its_headers_and_then_the_buckets_default(headers: dict[str, str], expected: Encryption) -> None:
    assert of_write(headers, _bucket(_kms("1"))) == expected


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({SSE: "aws:kms:dsse"}, 501),
        ({SSE: "rot13"}, 400),
        ({f"{SSE}-aws-kms-key-id": KEY_ARN}, 400),
        ({f"{SSE}-customer-algorithm": "AES256"}, 403),
        ({"x-amz-copy-source-server-side-encryption-customer-key": "x"}, 403),
        ({f"{SSE}-context": "e30="}, 501),
    ],
)
def test_an_encryption_that_is_not_offered_is_refused(headers: dict[str, str], status: int) -> None:
    with pytest.raises(S3Error) as refused:
        of_write(headers, BucketEncryption())
    assert refused.value.status == status


def test_a_default_comes_back_as_it_was_stored() -> None:
    for text in (_kms("1"), _kms("alias/a", "<BucketKeyEnabled>true</BucketKeyEnabled>"), _rule("")):
        stored = _bucket(text)
        assert _bucket(stored.document()) == stored


def test_what_is_no_encryption_configuration_is_malformed() -> None:
    wrong = (
        "<ServerSideEncryptionConfiguration/>",
        _kms("1").replace("aws:kms", "AES256"),
        _kms("1").replace("aws:", ""),
    )
    for text in wrong:
        with pytest.raises(S3Error) as refused:
            _bucket(text)
        assert refused.value.code == "MalformedXML"


# Records


def test_a_record_survives_being_written_down() -> None:
    seal = Seal(KEY_ARN, "d3JhcHBlZA==", "arn:aws:s3:::b/k", bucket_key=True)
    record = Record(Checksum("CRC32", "AAAAAA=="), seal, (Segment(3, "bm9uY2U=", "dGFn"),))
    assert Record.load(record.dump()) == record
    begun = UploadRecord("SHA256", "COMPOSITE", names_algorithm=True, seal=seal, tags={"a": "1"})
    assert UploadRecord.load(begun.dump()) == begun


# Ranges


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", (0, 0)),
        ("bytes=5-", (5, 9)),
        ("bytes=-4", (6, 9)),
        ("bytes=-99", (0, 9)),
        ("bytes=8-99", (8, 9)),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
    ],
)
def test_a_range_is_read_as_s3_reads_it(value: str, expected: tuple[int, int] | None) -> None:
    span = parse_range(value, 10)
    assert (span and (span.first, span.last)) == expected


@pytest.mark.parametrize(("value", "total"), [("bytes=10-", 10), ("bytes=0-", 0), ("bytes=-0", 10)])
def test_a_range_outside_the_object_is_not_satisfiable(value: str, total: int) -> None:
    with pytest.raises(S3Error) as refused:
        parse_range(value, total)
    assert refused.value.status == 416


# Tags, checks, XML


def test_tags_are_counted_after_they_are_read() -> None:
    ten = "&".join(f"t{number}=1" for number in range(10))
    assert len(tags.of_header(ten)) == 10
    with pytest.raises(S3Error):
        tags.of_header(f"{ten}&t10=1")
    assert tags.of_header(tags.as_header({"a b": "ü/+="})) == {"a b": "ü/+="}


def test_crc64nvme_has_its_published_check_value() -> None:
    assert crc.crc64nvme(b"123456789") == 0xAE8B14860A799888
    assert crc.crc64nvme(b"") == 0


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_checks_joined_are_the_check_of_the_whole(first: bytes, second: bytes) -> None:
    length = len(second)
    assert crc.joined("CRC32", zlib.crc32(first), zlib.crc32(second), length) == zlib.crc32(first + second)
    joined = crc.joined("CRC64NVME", crc.crc64nvme(first), crc.crc64nvme(second), length)
    assert joined == crc.crc64nvme(first + second)


@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\r\n\t<>&\"'")))
def test_what_is_written_as_xml_is_read_as_it_was(value: str) -> None:
    parsed = fromstring(document("Root", [element("Key", value)], namespace=False))
    assert (parsed.findtext("Key") or "") == value
