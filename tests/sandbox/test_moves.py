"""The moves against the sandbox's AWS: a customer's key in, a tenant copied under it, proven, purged.

Only these tests see what the in-memory S3 cannot: real keys, real denials, real multipart copies, a
real kill -9.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aws_server import REGION, REPOSITORY, VENDOR, AwsServer, running_aws, until
from botocore.exceptions import ClientError

from migrate import aws
from migrate.archive import delete_record, import_path, write_record
from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest, Where
from migrate.copy.purge import Purge, prove_empty, purge
from migrate.copy.s3 import Side, StorageRef, abort_uploads, prepare
from migrate.copy.settle import probe_write_refused, two_equal_listings
from migrate.copy.verify import verify_storage
from migrate.errors import Conflict, KeyUnavailable, RefusedInput, VerificationFailed
from migrate.intake import Ids
from migrate.keys import imported
from migrate.keys.wrap import wrap
from migrate.progress import unwatched
from migrate.verdict import Verdict, Verdicts

pytestmark = pytest.mark.sandbox

PART = 5 * 1024 * 1024
MANY = 400
"""So many that a copy takes seconds, and a kill half-way comes long before its end."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_aws(tmp_path_factory.mktemp("aws")) as server:
        yield server


@pytest.fixture(scope="module")
def s3(server: AwsServer) -> Any:
    return prepare(aws.client(server.sessions["operator"], "s3", pool=32))


@pytest.fixture(scope="module")
def vendor_key(server: AwsServer) -> str:
    return server.client("kms").create_key()["KeyMetadata"]["Arn"]


@pytest.fixture(scope="module")
def customer_key(server: AwsServer, tmp_path_factory) -> str:
    """A key without material, asked for, wrapped and imported as a customer's is."""
    kms, folder = server.client("kms"), tmp_path_factory.mktemp("keys")
    made = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]
    asked = imported.request(kms, made["KeyId"], folder)
    wrapped = wrap(imported.public_key_path(folder, asked).read_bytes())
    imported.upload(kms, made["KeyId"], wrapped.wrapped, wrapped.wrapped_sha256, folder)
    assert kms.describe_key(KeyId=made["KeyId"])["KeyMetadata"]["KeyState"] == "Enabled"
    return made["Arn"]


def bucket(s3: Any, name: str, key_arn: str) -> StorageRef:
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key_arn}
    s3.put_bucket_encryption(
        Bucket=name,
        ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": default}]},
    )
    return StorageRef(name, "", key_arn)


@pytest.fixture
def storages(s3, vendor_key, customer_key, request) -> tuple[Side, Side]:
    name = f"{abs(hash(request.node.name)):x}"[:12]
    shared = bucket(s3, f"shared-{name}", vendor_key)
    dedicated = bucket(s3, f"dedicated-{name}", customer_key)
    return Side(s3, StorageRef(shared.bucket, "t/acme/", vendor_key)), Side(s3, dedicated)


@pytest.fixture
def filled(storages, tmp_path) -> tuple[Side, Side]:
    """Records in several revisions, deleted ones, awkward attachments, tags, headers, an upload in parts."""
    source, target = storages
    (tmp_path / "in" / "attachments").mkdir(parents=True)
    rows = "".join(f"{n},name {n}\n" for n in range(60))
    (tmp_path / "in" / "people.csv").write_text(f"id,name\n{rows}")
    for name in ("empty", "ä ö+%&=.txt", "a\u0308 o\u0308.txt", ".hidden", "日本.txt"):
        (tmp_path / "in" / "attachments" / name).write_bytes(b"" if name == "empty" else name.encode())
    import_path(source, tmp_path / "in", Ids(), unwatched)
    for number in range(5):
        write_record(source, "people", str(number), {"name": f"changed {number}"})
    for number in range(3):
        delete_record(source, "people", str(number))
    write_record(source, "people", "2", {"name": "again"})
    source.s3.put_object(
        Bucket=source.storage.bucket, Key="t/acme/attachments/tagged", Body=b"tagged", Tagging="case=7&who=a%20b",
        ContentType="text/plain", CacheControl="no-store", Metadata={"revision": "1"},
    )  # fmt: skip
    in_parts(source, "attachments/large.bin", [os.urandom(PART), os.urandom(PART), b"the end"])
    source.s3.put_object(Bucket=source.storage.bucket, Key="t/acme2/neighbour", Body=b"not ours")
    return source, target


def in_parts(side: Side, key: str, parts: list[bytes]) -> None:
    place = {"Bucket": side.storage.bucket, "Key": side.storage.prefix + key}
    upload = side.s3.create_multipart_upload(**place, Metadata={"revision": "1"})["UploadId"]
    sent = [
        {"PartNumber": n, "ETag": side.s3.upload_part(**place, UploadId=upload, PartNumber=n, Body=part)["ETag"]}
        for n, part in enumerate(parts, 1)
    ]
    side.s3.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": sent})


def signed(folder: Path, found: Any) -> Verdict:
    """The verdict of a verification, stored and read back."""
    now = datetime.now(UTC)
    verdicts = Verdicts(folder)
    facts = {"merkle_root": found.merkle_root, "manifest_sha256": found.manifest_sha256}
    about = {"id": "v", "kind": "storage", "tenant": "acme", "operation": "o", "subject": "s1", "passed": True}
    verdicts.store(Verdict(**about, **facts, counts={"versions": found.versions}, started_at=now, finished_at=now))
    stored = verdicts.load("v")
    assert stored is not None
    return stored


def test_a_tenant_is_copied_under_the_customers_key_proven_and_purged(filled, tmp_path, customer_key):
    source, target = filled
    with Manifest.open(tmp_path / "manifest.sqlite", source.storage, target.storage) as manifest:
        transfer = Transfer(source, target, manifest)
        first = copy_pass(transfer, unwatched)
        assert first.delete_markers == 3
        assert copy_pass(transfer, unwatched).copied == 0
        found = verify_storage(transfer, "run", unwatched)
        assert found.versions == first.copied + first.delete_markers
        head = target.s3.head_object(Bucket=target.storage.bucket, Key="attachments/tagged")
        assert head["SSEKMSKeyId"] == customer_key
        purge(Purge(source, Where.SOURCE, manifest, signed(tmp_path, found)), unwatched)
    assert prove_empty(source).none
    neighbour = source.s3.get_object(Bucket=source.storage.bucket, Key="t/acme2/neighbour")
    assert neighbour["Body"].read() == b"not ours"


def test_large_objects_are_copied_in_parts(filled, tmp_path):
    source, target = filled
    with Manifest.open(tmp_path / "manifest.sqlite", source.storage, target.storage) as manifest:
        transfer = Transfer(source, target, manifest, multipart_above=PART, part_bytes=PART)
        copy_pass(transfer, unwatched)
        verify_storage(transfer, "run", unwatched)
    assert abort_uploads(target) == 0


def test_a_flipped_byte_a_changed_tag_and_a_wrong_key_are_each_found(filled, tmp_path, vendor_key):
    source, target = filled
    place = {"Bucket": target.storage.bucket, "Key": "attachments/tagged"}
    with Manifest.open(tmp_path / "manifest.sqlite", source.storage, target.storage) as manifest:
        transfer = Transfer(source, target, manifest)
        copy_pass(transfer, unwatched)
        verify_storage(transfer, "before", unwatched)
        target.s3.put_object_tagging(**place, Tagging={"TagSet": [{"Key": "case", "Value": "8"}]})
        with pytest.raises(VerificationFailed, match=r"attachments/tagged.*tags"):
            verify_storage(transfer, "tags", unwatched)
        target.s3.delete_object(**place, VersionId=target.s3.head_object(**place)["VersionId"])
        target.s3.put_object(**place, Body=b"Tagged", ServerSideEncryption="aws:kms", SSEKMSKeyId=vendor_key)
        with pytest.raises(VerificationFailed, match="1 versions too many, 1 missing"):
            verify_storage(transfer, "bytes", unwatched)


def test_a_foreign_object_at_the_target_is_not_overwritten(filled, tmp_path):
    source, target = filled
    place = {"Bucket": target.storage.bucket, "Key": "attachments/tagged"}
    target.s3.put_object(**place, Body=b"theirs")
    with (
        Manifest.open(tmp_path / "manifest.sqlite", source.storage, target.storage) as manifest,
        pytest.raises(Conflict),
    ):
        copy_pass(Transfer(source, target, manifest), unwatched)
    assert target.s3.get_object(**place)["Body"].read() == b"theirs"


COPIER = """
import sys
from pathlib import Path
import boto3
from migrate import aws
from migrate.copy.engine import Transfer, copy_pass
from migrate.copy.manifest import Manifest
from migrate.copy.s3 import Side, StorageRef, prepare
import json
path, source, target = sys.argv[1], *(StorageRef(**json.loads(text)) for text in sys.argv[2:4])
s3 = prepare(aws.client(boto3.Session(), "s3", pool=16))
with Manifest.open(Path(path), source, target) as manifest:
    transfer = Transfer(Side(s3, source), Side(s3, target), manifest, threads=8)
    copy_pass(transfer, lambda progress: print(progress.objects, flush=True))
"""


def test_a_copier_killed_at_any_instant_is_finished_by_the_next(filled, tmp_path, server):
    source, target = filled
    many = "".join(f"{n},one of many\n" for n in range(MANY))
    (tmp_path / "many.csv").write_text(f"id,name\n{many}")
    import_path(source, tmp_path / "many.csv", Ids(), unwatched)
    refs = [json.dumps(vars(side.storage)) for side in (source, target)]
    command = [sys.executable, "-c", COPIER, str(tmp_path / "m.sqlite"), *refs]
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "PYTHONPATH": str(REPOSITORY), "AWS_ENDPOINT_URL": server.endpoint, "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION, "AWS_PROFILE": "operator", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(server.folder / "aws" / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(server.folder / "aws" / "credentials"),
    }  # fmt: skip
    for wanted in (1, MANY // 4, MANY // 2):
        copier = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        until(lambda w=wanted, c=copier: c.poll() is not None or count(target) >= w, f"{wanted} copies")
        copier.send_signal(signal.SIGKILL)
        copier.wait()
    assert 0 < count(target) < count(source), "the kills have to come before the end"
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    with Manifest.open(tmp_path / "m.sqlite", source.storage, target.storage) as manifest:
        verify_storage(Transfer(source, target, manifest), "run", unwatched)


def count(side: Side) -> int:
    answer = side.s3.list_object_versions(Bucket=side.storage.bucket, Prefix=side.storage.prefix)
    return len(answer.get("Versions", ())) + len(answer.get("DeleteMarkers", ()))


def test_a_copy_under_a_disabled_key_says_that_the_key_is_the_reason(filled, tmp_path, server, customer_key):
    source, target = filled
    kms = server.client("kms")
    kms.disable_key(KeyId=customer_key)
    try:
        with (
            Manifest.open(tmp_path / "manifest.sqlite", source.storage, target.storage) as manifest,
            pytest.raises(KeyUnavailable, match="disabled"),
        ):
            copy_pass(Transfer(source, target, manifest), unwatched)
    finally:
        kms.enable_key(KeyId=customer_key)


def test_a_role_without_the_right_to_write_is_seen_to_be_refused(filled, server):
    source, _ = filled
    iam = server.client("iam")
    trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{VENDOR}:root"}, "Action": "sts:AssumeRole"}
    role = iam.create_role(RoleName="writer", AssumeRolePolicyDocument=policy(trust))["Role"]["Arn"]
    may = {"Effect": "Allow", "Action": ["s3:*", "kms:*"], "Resource": "*"}
    may_not = {"Effect": "Deny", "Action": ["s3:PutObject", "s3:PutObjectTagging", "s3:DeleteObject"], "Resource": "*"}
    iam.put_role_policy(RoleName="writer", PolicyName="p", PolicyDocument=policy(may))
    session = aws.assume(role, "test", session=server.sessions["operator"])
    # The session of a role carries no endpoint of its own, the environment's is used; here it is given.
    writer = Side(session.client("s3", endpoint_url=server.endpoint), source.storage)
    before = two_equal_listings(source, unwatched)
    assert not probe_write_refused(writer, source).refused
    assert two_equal_listings(source, unwatched) == before, "a probe that gets through leaves nothing"
    iam.put_role_policy(RoleName="writer", PolicyName="p", PolicyDocument=policy(may, may_not))
    assert until(lambda: probe_write_refused(writer, source).refused, "the write to be refused")


def policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def test_a_key_is_uploaded_once_and_a_wrongly_wrapped_one_is_refused(server, tmp_path):
    kms = server.client("kms")
    key = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
    public_key = imported.public_key_path(tmp_path, imported.request(kms, key, tmp_path))
    other = kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]
    foreign = imported.public_key_path(tmp_path, imported.request(kms, other, tmp_path))
    wrong, right = wrap(foreign.read_bytes()), wrap(public_key.read_bytes())
    with pytest.raises(RefusedInput, match="another public key"):
        imported.upload(kms, key, wrong.wrapped, wrong.wrapped_sha256, tmp_path)
    found = imported.upload(kms, key, right.wrapped, right.wrapped_sha256, tmp_path)
    assert imported.upload(kms, key, right.wrapped, right.wrapped_sha256, tmp_path).already
    assert found.key_material_id == kms.describe_key(KeyId=key)["KeyMetadata"]["CurrentKeyMaterialId"]


def test_a_lost_key_makes_the_copy_unreadable_and_the_way_back_opens_it(filled, tmp_path, server, customer_key):
    source, target = filled
    with Manifest.open(tmp_path / "manifest.sqlite", source.storage, target.storage) as manifest:
        copy_pass(Transfer(source, target, manifest), unwatched)
    place = {"Bucket": target.storage.bucket, "Key": "attachments/tagged"}
    kms = server.client("kms")
    kms.disable_key(KeyId=customer_key)
    try:
        with pytest.raises(ClientError, match=r"KMS\.Disabled"):
            target.s3.get_object(**place)
    finally:
        kms.enable_key(KeyId=customer_key)
    assert target.s3.get_object(**place)["Body"].read() == b"tagged"
