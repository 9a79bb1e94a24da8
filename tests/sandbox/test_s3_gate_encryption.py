"""SSE-KMS through the gate: a lost key makes bytes unreadable, and nothing else does."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aws_server import CUSTOMER, VENDOR, running_aws
from gate_lab import Lab, allow, arn, body_of, deny, policy, refused

pytestmark = pytest.mark.sandbox

BODY = b"the customer's words, which must not lie about in clear " * 40
DATA_RIGHTS = ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncrypt*"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_aws(tmp_path_factory.mktemp("aws")) as server:
        yield Lab(server)


def test_what_lies_in_storage_is_not_what_was_put(lab: Lab) -> None:
    seen, unseen = os.urandom(64), os.urandom(64)
    lab.s3.put_object(Bucket=lab.bucket(), Key="k", Body=seen)
    assert lab.stored_anywhere(seen), "the search must find what is not encrypted, or it proves nothing"
    sealed = lab.bucket(lab.key())
    lab.s3.put_object(Bucket=sealed, Key="k", Body=unseen)
    lab.s3.put_object(Bucket=sealed, Key="k", Body=b"displaces the first version")
    assert not lab.stored_anywhere(unseen), "an SSE-KMS object lies in clear"
    assert not lab.stored_anywhere(b"displaces the first version")


def test_an_encrypted_object_looks_as_long_as_it_is_and_its_etag_is_no_digest(lab: Lab) -> None:
    bucket = lab.bucket(lab.key())
    stored = lab.s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    listed = lab.s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert listed["Size"] == len(BODY)
    assert listed["ETag"] == stored["ETag"]
    assert stored["ETag"].strip('"') != hashlib.md5(BODY).hexdigest(), "an SSE-KMS ETag is not an MD5 in AWS"


def test_an_object_without_kms_has_the_md5_as_its_etag_and_says_aes256(lab: Lab) -> None:
    bucket = lab.bucket()
    stored = lab.s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    assert stored["ETag"].strip('"') == hashlib.md5(BODY).hexdigest()
    assert lab.s3.head_object(Bucket=bucket, Key="k")["ServerSideEncryption"] == "AES256"


def _put(lab: Lab, bucket: str) -> Callable[[], Any]:
    return lambda: lab.s3.put_object(Bucket=bucket, Key="new", Body=b"x")


def _calls_that_need_the_key(lab: Lab, bucket: str, upload: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    s3, there = lab.s3, {"Bucket": bucket, "Key": "k"}
    return {
        "get": lambda: s3.get_object(**there),
        "get a range": lambda: s3.get_object(**there, Range="bytes=0-0"),
        "head with checksum": lambda: s3.get_object_attributes(**there, ObjectAttributes=["ETag"]),
        "put": _put(lab, bucket),
        "copy": lambda: s3.copy_object(Bucket=bucket, Key="copy", CopySource=there),
        "begin an upload": lambda: s3.create_multipart_upload(Bucket=bucket, Key="large"),
        "upload a part": lambda: s3.upload_part(**upload, PartNumber=2, Body=b"x"),
        "copy a part": lambda: s3.upload_part_copy(**upload, PartNumber=2, CopySource=there),
    }


def test_a_disabled_key_closes_every_way_to_the_bytes_and_enabling_it_opens_them(lab: Lab) -> None:
    key = lab.key()
    bucket = lab.bucket(key)
    lab.s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    started = lab.s3.create_multipart_upload(Bucket=bucket, Key="large")
    upload = {"Bucket": bucket, "Key": "large", "UploadId": started["UploadId"]}
    part = lab.s3.upload_part(**upload, PartNumber=1, Body=b"part")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    calls = _calls_that_need_the_key(lab, bucket, upload)
    calls["complete"] = lambda: lab.s3.complete_multipart_upload(**upload, MultipartUpload=parts)
    with lab.disabled(key):
        answers = {name: refused(call) for name, call in calls.items()}
        assert {name: (found.code, found.status) for name, found in answers.items()} == dict.fromkeys(
            calls, ("KMS.DisabledException", 400)
        )
        assert key in answers["get"].message
        assert lab.s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == len(BODY), "a plain HEAD asks no key"
        assert refused(lab.s3.head_object, Bucket=bucket, Key="k", ChecksumMode="ENABLED").status == 400
        lab.s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": []})
    for name, call in calls.items():
        assert call(), f"{name} must work again"
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == BODY


@pytest.mark.parametrize(
    ("lose", "code"),
    [
        (
            lambda lab, key: lab.kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7),
            "KMS.KMSInvalidStateException",
        ),
        (lambda lab, key: lab.kms.disable_key(KeyId=key), "KMS.DisabledException"),
    ],
)
def test_each_way_to_lose_a_key_has_its_own_error(lab: Lab, lose: Callable[[Lab, str], Any], code: str) -> None:
    key = lab.key()
    bucket = lab.bucket(key)
    lab.s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    lose(lab, key)
    assert refused(lab.s3.get_object, Bucket=bucket, Key="k").code == code


def test_the_bucket_takes_any_key_id_and_the_first_write_finds_out(lab: Lab) -> None:
    absent = f"arn:aws:kms:eu-west-1:{VENDOR}:key/11111111-2222-3333-4444-555555555555"
    bucket = lab.bucket(absent)
    found = refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"x")
    assert (found.code, found.status) == ("KMS.NotFoundException", 400)
    assert "Contents" not in lab.s3.list_objects_v2(Bucket=bucket), "a refused write must leave nothing"


def test_a_role_without_the_right_to_the_key_is_told_which_right(lab: Lab) -> None:
    bucket = lab.bucket(lab.key())
    lab.s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    stranger = lab.s3_as(lab.role([allow("s3:*", [arn(bucket), arn(bucket, "*")])]))
    for call, right in (
        (lambda: stranger.get_object(Bucket=bucket, Key="k"), "kms:Decrypt"),
        (lambda: stranger.put_object(Bucket=bucket, Key="k", Body=b"x"), "kms:GenerateDataKey"),
    ):
        found = refused(call)
        assert (found.code, found.status) == ("AccessDenied", 403)
        assert right in found.message


def test_a_role_without_the_right_to_the_object_is_not_told_of_the_key(lab: Lab) -> None:
    bucket = lab.bucket(lab.key())
    stranger = lab.s3_as(lab.role([allow("s3:ListBucket", arn(bucket))]))
    found = refused(stranger.put_object, Bucket=bucket, Key="k", Body=b"x")
    assert "s3:PutObject" in found.message, "S3 asks its own policies first"


def test_the_key_policy_sees_the_object_and_that_s3_asks(lab: Lab) -> None:
    reader = lab.role([allow("s3:*", "*")])
    via_s3 = {"StringEquals": {"kms:ViaService": "s3.eu-west-1.amazonaws.com"}}
    in_bucket = {"StringLike": {"kms:EncryptionContext:aws:s3:arn": "arn:aws:s3:::*/allowed/*"}}
    key_policy = policy(
        allow("kms:*", "*", Principal={"AWS": f"arn:aws:iam::{VENDOR}:root"}),
        allow(DATA_RIGHTS, "*", Principal={"AWS": reader}, Condition=via_s3 | in_bucket),
    )
    key = lab.key(Policy=key_policy)
    bucket = lab.bucket(key)
    s3 = lab.s3_as(reader)
    s3.put_object(Bucket=bucket, Key="allowed/k", Body=BODY)
    assert body_of(s3.get_object(Bucket=bucket, Key="allowed/k")) == BODY
    assert refused(s3.put_object, Bucket=bucket, Key="elsewhere", Body=b"x").code == "AccessDenied"
    kms = lab.server.client_of("kms", reader)
    assert refused(kms.generate_data_key, KeyId=key, KeySpec="AES_256").code == "AccessDeniedException"


def test_with_a_bucket_key_the_context_is_the_bucket(lab: Lab) -> None:
    writer = lab.role([allow("s3:*", "*")])
    name = lab.bucket()
    statement = allow(DATA_RIGHTS, "*", Principal={"AWS": writer})
    statement["Condition"] = {"StringEquals": {"kms:EncryptionContext:aws:s3:arn": arn(name)}}
    root = allow("kms:*", "*", Principal={"AWS": f"arn:aws:iam::{VENDOR}:root"})
    key = lab.key(Policy=policy(root, statement))
    lab.encrypt_by_default(name, key)
    s3 = lab.s3_as(writer)
    assert refused(s3.put_object, Bucket=name, Key="k", Body=b"x").code == "AccessDenied"
    lab.encrypt_by_default(name, key, BucketKeyEnabled=True)
    assert s3.put_object(Bucket=name, Key="k", Body=b"x")["BucketKeyEnabled"] is True
    assert lab.s3.head_object(Bucket=name, Key="k")["BucketKeyEnabled"] is True


def test_a_key_of_another_account_encrypts_by_its_arn_when_both_sides_allow(lab: Lab) -> None:
    writer = lab.role([allow("s3:*", "*"), allow(DATA_RIGHTS, f"arn:aws:kms:eu-west-1:{CUSTOMER}:key/*")])
    customer = lab.server.client("kms", "customer")
    root = allow("kms:*", "*", Principal={"AWS": f"arn:aws:iam::{CUSTOMER}:root"})
    shared = allow(DATA_RIGHTS, "*", Principal={"AWS": writer})
    key = customer.create_key(Policy=policy(root, shared))["KeyMetadata"]["Arn"]
    bucket = lab.bucket(key)
    s3 = lab.s3_as(writer)
    assert s3.put_object(Bucket=bucket, Key="k", Body=BODY)["SSEKMSKeyId"] == key
    customer.put_key_policy(KeyId=key, PolicyName="default", Policy=policy(root))
    assert refused(s3.get_object, Bucket=bucket, Key="k").code == "AccessDenied", "the customer took it back"


def test_a_bare_key_id_is_stored_as_an_arn_and_an_alias_is_resolved_at_each_write(lab: Lab) -> None:
    first, second = lab.key(), lab.key()
    bucket = lab.bucket(first.rpartition("/")[2])
    rule = lab.s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"] == first
    alias = f"arn:aws:kms:eu-west-1:{VENDOR}:alias/gate"
    lab.kms.create_alias(AliasName="alias/gate", TargetKeyId=first)
    lab.encrypt_by_default(bucket, alias)
    rule = lab.s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"] == alias, "S3 returns an alias as it was put"
    assert lab.s3.put_object(Bucket=bucket, Key="a", Body=b"x")["SSEKMSKeyId"] == first
    lab.kms.update_alias(AliasName="alias/gate", TargetKeyId=second)
    assert lab.s3.put_object(Bucket=bucket, Key="b", Body=b"x")["SSEKMSKeyId"] == second
    assert lab.s3.head_object(Bucket=bucket, Key="a")["SSEKMSKeyId"] == first, "a default never touches what is there"


def test_the_headers_of_a_write_win_over_the_default(lab: Lab) -> None:
    default, named = lab.key(), lab.key()
    bucket = lab.bucket(default)
    asked = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": named}
    assert lab.s3.put_object(Bucket=bucket, Key="k", Body=b"x", **asked)["SSEKMSKeyId"] == named
    plain = lab.s3.put_object(Bucket=bucket, Key="k", Body=b"x", ServerSideEncryption="AES256")
    assert plain["ServerSideEncryption"] == "AES256"
    assert "SSEKMSKeyId" not in plain


def test_sse_c_is_blocked_unless_the_bucket_unblocks_it_and_is_then_not_offered(lab: Lab) -> None:
    bucket, key = lab.bucket(), lab.key()
    customer_key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": os.urandom(32)}
    found = refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"x", **customer_key)
    assert (found.code, found.status) == ("AccessDenied", 403)
    lab.encrypt_by_default(bucket, key, BlockedEncryptionTypes={"EncryptionType": ["NONE"]})
    assert refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"x", **customer_key).status == 501
    dual = {"ServerSideEncryption": "aws:kms:dsse", "SSEKMSKeyId": key}
    assert refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"x", **dual).status == 501


def _facts(lab: Lab, bucket: str, version: str) -> tuple[Any, ...]:
    head = lab.s3.head_object(Bucket=bucket, Key="k", VersionId=version, ChecksumMode="ENABLED")
    return head["ETag"], head["LastModified"], head["VersionId"], head["ChecksumCRC32"], head["ContentLength"]


def _reencrypt(s3: Any, bucket: str, key: str, **more: Any) -> Any:
    return s3.update_object_encryption(Bucket=bucket, Key="k", ObjectEncryption={"SSEKMS": {"KMSKeyArn": key}}, **more)


def test_updating_the_encryption_changes_the_key_and_nothing_else(lab: Lab) -> None:
    old, new = lab.key(), lab.key()
    bucket = lab.bucket(old)
    first = lab.s3.put_object(Bucket=bucket, Key="k", Body=BODY)["VersionId"]
    second = lab.s3.put_object(Bucket=bucket, Key="k", Body=b"a newer version")["VersionId"]
    before = [_facts(lab, bucket, version) for version in (first, second)]
    for version in (first, second):
        _reencrypt(lab.s3, bucket, new, VersionId=version)
    assert [_facts(lab, bucket, version) for version in (first, second)] == before
    assert lab.s3.head_object(Bucket=bucket, Key="k", VersionId=first)["SSEKMSKeyId"] == new
    lab.kms.schedule_key_deletion(KeyId=old, PendingWindowInDays=7)
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k", VersionId=first)) == BODY, "the old key is needed no more"
    with lab.disabled(new):
        assert refused(lab.s3.get_object, Bucket=bucket, Key="k").code == "KMS.DisabledException"


def test_updating_the_encryption_of_a_multipart_object_keeps_its_parts(lab: Lab) -> None:
    old, new = lab.key(), lab.key()
    bucket = lab.bucket(old)
    started = lab.s3.create_multipart_upload(Bucket=bucket, Key="k")
    upload = {"Bucket": bucket, "Key": "k", "UploadId": started["UploadId"]}
    pieces = [os.urandom(5 * 1024 * 1024), os.urandom(1000)]
    parts = [
        {"PartNumber": number, "ETag": lab.s3.upload_part(**upload, PartNumber=number, Body=piece)["ETag"]}
        for number, piece in enumerate(pieces, start=1)
    ]
    lab.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    _reencrypt(lab.s3, bucket, new)
    with lab.disabled(old):
        assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == b"".join(pieces)
        assert body_of(lab.s3.get_object(Bucket=bucket, Key="k", PartNumber=2)) == pieces[1]


def test_an_object_without_kms_gets_a_key_in_place(lab: Lab) -> None:
    bucket, key, body = lab.bucket(), lab.key(), os.urandom(64)
    version = lab.s3.put_object(Bucket=bucket, Key="k", Body=body)["VersionId"]
    before = _facts(lab, bucket, version)
    assert lab.stored_anywhere(body)
    _reencrypt(lab.s3, bucket, key)
    assert _facts(lab, bucket, version) == before
    assert not lab.stored_anywhere(body), "the clear bytes must be gone from the disk"
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == body


def test_updating_the_encryption_refuses_foreign_keys_aliases_and_missing_objects(lab: Lab) -> None:
    bucket = lab.bucket(lab.key())
    lab.s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    foreign = lab.server.client("kms", "customer").create_key()["KeyMetadata"]["Arn"]
    found = refused(_reencrypt, s3=lab.s3, bucket=bucket, key=foreign)
    assert (found.code, found.status) == ("AccessDenied", 403)
    assert "same account as the bucket" in found.message
    alias = f"arn:aws:kms:eu-west-1:{VENDOR}:alias/gate"
    for wrong in (alias, foreign.rpartition("/")[2]):
        assert refused(_reencrypt, s3=lab.s3, bucket=bucket, key=wrong).code == "InvalidRequest"
    lab.s3.delete_object(Bucket=bucket, Key="k")
    assert refused(_reencrypt, s3=lab.s3, bucket=bucket, key=lab.key()).code == "NoSuchKey"


def test_updating_the_encryption_refuses_a_version_under_object_lock(lab: Lab) -> None:
    bucket = lab.bucket(lab.key())
    lab.s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})
    lab.s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    lab.s3.put_object_legal_hold(Bucket=bucket, Key="k", LegalHold={"Status": "ON"})
    found = refused(_reencrypt, s3=lab.s3, bucket=bucket, key=lab.key())
    assert (found.code, "Object Lock" in found.message) == ("AccessDenied", True)


@pytest.mark.parametrize("missing", ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:ReEncrypt*"])
def test_updating_the_encryption_needs_each_documented_right(lab: Lab, missing: str) -> None:
    bucket = lab.bucket(lab.key())
    lab.s3.put_object(Bucket=bucket, Key="k", Body=BODY)
    rights = [allow("s3:UpdateObjectEncryption", arn(bucket, "*")), allow("kms:*", "*")]
    new = lab.key()
    assert _reencrypt(lab.s3_as(lab.role(rights)), bucket, new), "with all rights it works"
    lacking = lab.s3_as(lab.role([*rights, deny(missing, "*")]))
    assert refused(_reencrypt, s3=lacking, bucket=bucket, key=new).code == "AccessDenied"


def test_a_throttled_kms_is_a_throttled_s3(lab: Lab) -> None:
    bucket = lab.bucket(lab.key())
    lab.server.set_faults('{"kms_throttle": 1}')
    found = refused(lab.s3.put_object, Bucket=bucket, Key="k", Body=b"x")
    assert found.code == "ThrottlingException"
    assert lab.s3.put_object(Bucket=bucket, Key="k", Body=b"x")
