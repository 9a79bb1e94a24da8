"""One bucket with whatever S3 takes: copied under another key, proven, purged; and what cannot be moved is refused.

The in-memory S3 of the unit tier says what S3 documents; these are real requests: URLs, XML, signatures, files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aws_server import REGION, AwsServer, running_aws
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from migrate import aws
from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest, Where
from migrate.copy.preflight import Preflight, require_movable, survey
from migrate.copy.purge import Purge, prove_empty, purge
from migrate.copy.s3 import Side, StorageRef, abort_uploads, fits_xml, list_uploads, list_versions, prepare
from migrate.copy.verify import verify_storage
from migrate.errors import RefusedInput
from migrate.progress import unwatched
from migrate.verdict import Verdict

PART = 5 * 1024 * 1024
PREFIX = "t/acme/"

KEYS = (
    *("a", "a//b", "//", "/a", "a/", "a/./b", "a/../b", "..", ".", "../../escape", " ", "a ", "+", "%", "%2F", "a%00b"),
    *("<Version>&\"'", "]]>", "a?versionId=1#x", "é", "e\u0301", "\u2028\u0085", "日本 😀", "\ud7ff\ufffd"),
    *(f"control{chr(code)}" for code in (*range(32), 127)),
    *("\ufffe", "x" * 1000, "ä" * 508),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsServer]:
    with running_aws(tmp_path_factory.mktemp("aws")) as server:
        yield server


@pytest.fixture(scope="module")
def s3(server: AwsServer) -> Any:
    return prepare(aws.client(server.sessions["operator"], "s3", pool=32))


@pytest.fixture(scope="module")
def writer(server: AwsServer) -> Any:
    """A client that adds no checksum of its own, so that S3 makes one."""
    config = Config(request_checksum_calculation="when_required", signature_version="s3v4")
    return prepare(server.sessions["operator"].client("s3", config=config))


@pytest.fixture(scope="module")
def key(server: AwsServer) -> str:
    return server.client("kms").create_key()["KeyMetadata"]["Arn"]


def bucket(s3: Any, name: str, **options: Any) -> str:
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION}, **options)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


def in_parts(s3: Any, place: dict[str, str], **facts: Any) -> bytes:
    """An upload in two parts, each with the checksum that the upload was begun with, or S3's own."""
    bodies = [os.urandom(PART), os.urandom(1000)]
    upload = s3.create_multipart_upload(**place, **facts)["UploadId"]
    parts = []
    for number, body in enumerate(bodies, 1):
        asked = {name: value for name, value in facts.items() if name == "ChecksumAlgorithm"}
        sent = s3.upload_part(**place, UploadId=upload, PartNumber=number, Body=body, **asked)
        sums = {name: value for name, value in sent.items() if name.startswith("Checksum")}
        parts.append({"PartNumber": number, "ETag": sent["ETag"], **sums})
    s3.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})
    return b"".join(bodies)


def fill(s3: Any, source: StorageRef) -> None:
    def put(name: str, body: bytes = b"x", **facts: Any) -> None:
        s3.put_object(Bucket=source.bucket, Key=source.prefix + name, Body=body, **facts)

    for name in KEYS:
        put(name, hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest())
    for number in range(5):
        put("five", str(number).encode(), Metadata={"revision": str(number)})
    for _ in range(2):
        s3.delete_object(Bucket=source.bucket, Key=source.prefix + "five")
    s3.delete_object(Bucket=source.bucket, Key=source.prefix + "control\1")
    put("back again", b"1")
    s3.delete_object(Bucket=source.bucket, Key=source.prefix + "back again")
    put("back again", b"2")
    put("empty", b"")
    put(
        "facts",
        Metadata={"name": "=?UTF-8?B?w4RyZ2Vy?=", "empty": "", "spaces": "a  b"},
        Tagging="who=a%20b&%C3%84=%C3%B6&empty=",
        CacheControl="max-age=1, private",
        ContentDisposition='attachment; filename="a b.txt"',
        ContentEncoding="gzip",
        ContentLanguage="de, en",
        ContentType="text/plain; charset=utf-8",
    )
    put("checksum/by S3 itself")
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        put(f"checksum/{algorithm}", algorithm.encode(), ChecksumAlgorithm=algorithm)
    for name in ("STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"):
        put(f"class/{name}", StorageClass=name)
    for name, facts in {
        "composite": {"ChecksumAlgorithm": "SHA256"},
        "full": {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"},
        "control\2": {"ExpiresString": "never", "Tagging": "a=b", "Metadata": {"m": "1"}},
    }.items():  # fmt: skip
        in_parts(s3, {"Bucket": source.bucket, "Key": f"{source.prefix}large/{name}"}, **facts)
    s3.put_object(Bucket=source.bucket, Key="t/acme2/neighbour", Body=b"not ours")


def contents(side: Side) -> dict[str, list[Any]]:
    """Every key's versions, the newest first, with all that a copy has to keep, really read."""
    found: dict[str, list[Any]] = {}
    for entry in list_versions(side):
        place = {"Bucket": side.storage.bucket, "Key": side.storage.prefix + entry.key, "VersionId": entry.version_id}
        if entry.is_delete_marker:
            found.setdefault(entry.key, []).append("deleted")
            continue
        answer = side.s3.get_object(**place)
        facts = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")
        found.setdefault(entry.key, []).append(
            (
                hashlib.sha256(answer["Body"].read()).hexdigest(),
                answer["Metadata"],
                {tag["Key"]: tag["Value"] for tag in side.s3.get_object_tagging(**place)["TagSet"]},
                {name: answer.get(name) for name in (*facts, "ExpiresString", "StorageClass")},
            )
        )
    return found


def signed(manifest_sha256: str) -> Verdict:
    now = datetime.now(UTC)
    return Verdict(
        id="v", kind="storage", tenant="acme", operation="o", subject="s1", passed=True, counts={},
        manifest_sha256=manifest_sha256, started_at=now, finished_at=now,
    )  # fmt: skip


def test_whatever_an_archive_holds_is_copied_proven_and_purged(s3: Any, writer: Any, key: str, tmp_path: Path):
    source = Side(s3, StorageRef(bucket(s3, "contents-shared"), PREFIX, None))
    target = Side(s3, StorageRef(bucket(s3, "contents-dedicated"), "", key))
    fill(writer, source.storage)
    before = contents(source)
    assert set(KEYS) <= before.keys()
    assert before["large/control\2"][0][3]["ExpiresString"] == "never", "the test has to see what it says is kept"
    assert survey(source, "", unwatched).obstacles == ()
    with Manifest.open(tmp_path / "manifest.sqlite", source.storage, target.storage) as manifest:
        transfer = Transfer(source, target, manifest, multipart_above=PART, part_bytes=PART)
        copy_pass(transfer, unwatched)
        found = verify_storage(transfer, "run", unwatched)
        assert contents(target) == before
        purge(Purge(source, Where.SOURCE, manifest, signed(found.manifest_sha256)), unwatched)
    assert prove_empty(source).none
    assert contents(target) == before
    assert s3.get_object(Bucket=source.storage.bucket, Key="t/acme2/neighbour")["Body"].read() == b"not ours"
    algorithms = {name: _checksum(target, name) for name in ("composite", "full", "control\2")}
    assert algorithms == {
        "composite": ("SHA256", "COMPOSITE"), "full": ("CRC32", "FULL_OBJECT"), "control\2": ("CRC64NVME", "FULL_OBJECT")
    }  # fmt: skip


def _checksum(side: Side, name: str) -> tuple[str, str]:
    head = side.s3.head_object(Bucket=side.storage.bucket, Key=f"large/{name}", ChecksumMode="ENABLED")
    (algorithm,) = [n.removeprefix("Checksum") for n in head if n.startswith("Checksum") and n != "ChecksumType"]
    return algorithm, head["ChecksumType"]


def test_a_document_cannot_name_what_xml_cannot_carry(s3: Any):
    """What the product works around: S3 refuses such a batch whole, and deletes nothing of it."""
    name = bucket(s3, "contents-xml")
    for odd in ("a\1", "a\0", "a\ufffe"):
        assert not fits_xml(odd)
        s3.put_object(Bucket=name, Key=odd, Body=b"x")
        s3.put_object(Bucket=name, Key="plain", Body=b"x")
        with pytest.raises(ClientError, match="MalformedXML"):
            s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "plain"}, {"Key": odd}]})
        assert s3.head_object(Bucket=name, Key="plain")["ContentLength"] == 1


def test_an_unfinished_upload_under_a_control_character_is_found_and_aborted(s3: Any):
    side = Side(s3, StorageRef(bucket(s3, "contents-uploads"), PREFIX, None))
    s3.create_multipart_upload(Bucket=side.storage.bucket, Key=f"{PREFIX}a\1 +%")
    with pytest.raises((ResponseParserError, ClientError)):
        _plain(s3).list_multipart_uploads(Bucket=side.storage.bucket, Prefix=PREFIX)
    assert [name for name, _ in list_uploads(side)] == [f"{PREFIX}a\1 +%"]
    assert abort_uploads(side) == 1
    assert list(list_uploads(side)) == []


def _plain(s3: Any) -> Any:
    """The same server without what `prepare` teaches."""
    session = aws.boto3.Session(
        aws_access_key_id=s3._request_signer._credentials.access_key,
        aws_secret_access_key=s3._request_signer._credentials.secret_key,
        region_name=REGION,
    )
    return session.client("s3", endpoint_url=s3.meta.endpoint_url)


def test_locked_sleeping_and_unnamed_versions_are_found_before_anything_is_changed(s3: Any):
    locked = bucket(s3, "contents-locked", ObjectLockEnabledForBucket=True)
    s3.put_object(Bucket=locked, Key=f"{PREFIX}free", Body=b"x")
    s3.put_object(Bucket=locked, Key=f"{PREFIX}asleep", Body=b"x", StorageClass="DEEP_ARCHIVE")
    s3.put_object(Bucket=locked, Key=PREFIX, Body=b"")
    for name in ("held", "kept"):
        s3.put_object(Bucket=locked, Key=f"{PREFIX}{name}", Body=b"x")
    s3.put_object_legal_hold(Bucket=locked, Key=f"{PREFIX}held", LegalHold={"Status": "ON"})
    until = datetime.now(UTC) + timedelta(days=1)
    s3.put_object_retention(
        Bucket=locked, Key=f"{PREFIX}kept", Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until}
    )
    side = Side(s3, StorageRef(locked, PREFIX, None))
    found = survey(side, "", unwatched)
    assert _reasons(found) == {"locked": 2, "asleep": 1, "not to be named there": 1}
    with pytest.raises(RefusedInput, match=r"held.*legal hold") as refused:
        require_movable(found, side, "keyshift enable acme")
    assert refused.value.hint.endswith("then: keyshift enable acme")


def _reasons(found: Preflight) -> dict[str, int]:
    return {obstacle.reason: obstacle.count for obstacle in found.obstacles}


def test_versions_from_before_the_bucket_kept_any_are_found(s3: Any):
    name = "contents-null"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=name, Key=f"{PREFIX}old", Body=b"x")
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    found = survey(Side(s3, StorageRef(name, PREFIX, None)), "", unwatched)
    assert _reasons(found) == {"without a version id": 1}
