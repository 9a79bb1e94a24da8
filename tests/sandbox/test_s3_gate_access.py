"""Who may do what through the gate: signatures, IAM, bucket policies, presigned URLs, other accounts."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from aws_server import CUSTOMER, REGION, VENDOR, running_aws
from botocore.config import Config
from gate_lab import Lab, allow, arn, body_of, deny, policy, refused

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_aws(tmp_path_factory.mktemp("aws")) as server:
        yield Lab(server)


@pytest.fixture
def bucket(lab: Lab) -> str:
    name = lab.bucket()
    lab.s3.put_object(Bucket=name, Key="k", Body=b"body", Tagging="kind=record")
    return name


def _client(lab: Lab, service: str, key_id: str, secret: str, **options: Any) -> Any:
    return boto3.client(
        service,
        region_name=options.pop("region_name", REGION),
        endpoint_url=lab.server.endpoint,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, **options),
    )


@pytest.mark.parametrize("root_key", [VENDOR, CUSTOMER, "000000000000", "test"])
def test_the_emulators_root_keys_open_nothing_from_outside(lab: Lab, bucket: str, root_key: str) -> None:
    found = refused(_client(lab, "s3", root_key, "test").get_object, Bucket=bucket, Key="k")
    assert (found.code, found.status) == ("InvalidAccessKeyId", 403)
    for service, call in (("iam", "list_users"), ("sqs", "list_queues"), ("sts", "get_caller_identity")):
        assert refused(getattr(_client(lab, service, root_key, "test"), call)).status == 403
    assert refused(_client(lab, "kms", root_key, "test").list_keys).code == "UnrecognizedClientException"


def test_a_wrong_secret_is_refused_by_every_service(lab: Lab, bucket: str) -> None:
    key_id = lab.server.sessions["operator"].get_credentials().access_key
    found = refused(_client(lab, "s3", key_id, "wrong").get_object, Bucket=bucket, Key="k")
    assert (found.code, found.status) == ("SignatureDoesNotMatch", 403)
    assert refused(_client(lab, "sts", key_id, "wrong").get_caller_identity).code == "SignatureDoesNotMatch"
    assert "Signature" in refused(_client(lab, "kms", key_id, "wrong").list_keys).code


def test_an_unsigned_request_gets_nothing(lab: Lab, bucket: str) -> None:
    for method, path in (("GET", f"/{bucket}/k"), ("PUT", f"/{bucket}/k"), ("GET", "/"), ("DELETE", f"/{bucket}")):
        answer = lab.server.raw(method, path, profile=None)
        assert (answer.status, b"<Code>AccessDenied</Code>" in answer.body) == (403, True), answer.body
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == b"body"


def test_a_role_may_do_what_its_policies_say_and_no_more(lab: Lab, bucket: str) -> None:
    reader = lab.s3_as(lab.role([allow("s3:GetObject", arn(bucket, "*"))]))
    assert body_of(reader.get_object(Bucket=bucket, Key="k")) == b"body"
    found = refused(reader.put_object, Bucket=bucket, Key="k", Body=b"x")
    assert (found.code, "s3:PutObject" in found.message) == ("AccessDenied", True)
    assert refused(reader.list_objects_v2, Bucket=bucket).code == "AccessDenied"


def test_a_session_policy_narrows_a_role(lab: Lab, bucket: str) -> None:
    role = lab.role([allow("s3:*", "*")])
    narrow = lab.s3_as(role, Policy=policy(allow("s3:GetObject", arn(bucket, "*"))))
    assert body_of(narrow.get_object(Bucket=bucket, Key="k")) == b"body"
    assert refused(narrow.delete_object, Bucket=bucket, Key="k").code == "AccessDenied"


def test_a_missing_key_is_a_secret_to_those_who_may_not_list(lab: Lab, bucket: str) -> None:
    rights = allow(["s3:GetObject", "s3:GetObjectVersion"], arn(bucket, "*"))
    found = refused(lab.s3_as(lab.role([rights])).get_object, Bucket=bucket, Key="absent")
    assert (found.code, "s3:ListBucket" in found.message) == ("AccessDenied", True)
    may_list = lab.s3_as(lab.role([rights, allow("s3:ListBucket", arn(bucket))]))
    assert refused(may_list.get_object, Bucket=bucket, Key="absent").code == "NoSuchKey"


def _seal(lab: Lab, bucket: str, **condition: Any) -> None:
    statement = deny("s3:*", [arn(bucket), arn(bucket, "*")], Principal="*", Condition=condition)
    lab.s3.put_bucket_policy(Bucket=bucket, Policy=policy(statement))


def test_a_bucket_policy_denies_one_role_by_name(lab: Lab, bucket: str) -> None:
    archive = lab.role([allow("s3:*", "*")])
    s3 = lab.s3_as(archive)
    s3.put_object(Bucket=bucket, Key="before", Body=b"x")
    statement = deny(["s3:GetObject", "s3:PutObject"], arn(bucket, "*"), Principal={"AWS": archive})
    lab.s3.put_bucket_policy(Bucket=bucket, Policy=policy(statement))
    for call in (
        lambda: s3.get_object(Bucket=bucket, Key="k"),
        lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"x"),
        lambda: s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k"}),
        lambda: s3.create_multipart_upload(Bucket=bucket, Key="large"),
    ):
        found = refused(call)
        assert (found.code, "explicit deny in a resource-based policy" in found.message) == ("AccessDenied", True)
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == b"body", "others are not touched"


def test_a_seal_exempts_a_role_by_its_arn_although_it_calls_by_a_session(lab: Lab, bucket: str) -> None:
    runner, archive = lab.role([allow("s3:*", "*")]), lab.role([allow("s3:*", "*")])
    operator = lab.server.client("sts").get_caller_identity()["Arn"]
    _seal(lab, bucket, ArnNotEquals={"aws:PrincipalArn": [runner, operator]})
    assert body_of(lab.s3_as(runner).get_object(Bucket=bucket, Key="k")) == b"body"
    assert refused(lab.s3_as(archive).get_object, Bucket=bucket, Key="k").code == "AccessDenied"


def test_policies_see_the_prefix_the_key_and_the_tags_of_a_request(lab: Lab, bucket: str) -> None:
    conditions = [
        allow("s3:ListBucket", arn(bucket), Condition={"StringLike": {"s3:prefix": "t/acme/*"}}),
        allow("s3:GetObject", arn(bucket, "*"), Condition={"StringEquals": {"s3:ExistingObjectTag/kind": "record"}}),
    ]
    s3 = lab.s3_as(lab.role(conditions))
    assert s3.list_objects_v2(Bucket=bucket, Prefix="t/acme/x")["KeyCount"] == 0
    assert refused(s3.list_objects_v2, Bucket=bucket, Prefix="t/other/").code == "AccessDenied"
    assert body_of(s3.get_object(Bucket=bucket, Key="k")) == b"body"
    lab.s3.put_object(Bucket=bucket, Key="untagged", Body=b"")
    assert refused(s3.get_object, Bucket=bucket, Key="untagged").code == "AccessDenied"


def test_a_policy_can_insist_on_the_right_key(lab: Lab, bucket: str) -> None:
    right, wrong = lab.key(), lab.key()
    name = "s3:x-amz-server-side-encryption-aws-kms-key-id"
    statement = deny("s3:PutObject", arn(bucket, "*"), Principal="*")
    statement["Condition"] = {"StringNotEqualsIfExists": {name: right}, "Null": {name: "false"}}
    lab.s3.put_bucket_policy(Bucket=bucket, Policy=policy(statement))
    put = {"Bucket": bucket, "Key": "k", "Body": b"x", "ServerSideEncryption": "aws:kms"}
    assert refused(lab.s3.put_object, **put, SSEKMSKeyId=wrong).code == "AccessDenied"
    lab.s3.put_object(**put, SSEKMSKeyId=right)


def test_each_object_of_a_bulk_deletion_is_judged_by_itself(lab: Lab, bucket: str) -> None:
    s3 = lab.s3_as(lab.role([allow("s3:DeleteObject", arn(bucket, "mine/*"))]))
    lab.s3.put_object(Bucket=bucket, Key="mine/1", Body=b"")
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "mine/1"}, {"Key": "k"}]})
    assert [item["Key"] for item in answer["Deleted"]] == ["mine/1"]
    assert [(item["Key"], item["Code"]) for item in answer["Errors"]] == [("k", "AccessDenied")]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}], "Quiet": True})
    assert [item["Key"] for item in answer["Errors"]] == ["k"]
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == b"body"


def test_getting_past_governance_mode_needs_its_own_right(lab: Lab) -> None:
    bucket = lab.bucket()
    lab.s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})
    version = lab.s3.put_object(Bucket=bucket, Key="k", Body=b"body")["VersionId"]
    retention = {"Mode": "GOVERNANCE", "RetainUntilDate": "2099-01-01T00:00:00Z"}
    lab.s3.put_object_retention(Bucket=bucket, Key="k", Retention=retention)
    there = {"Bucket": bucket, "Key": "k", "VersionId": version}
    assert refused(lab.s3.delete_object, **there).code == "AccessDenied"
    deleter = lab.s3_as(lab.role([allow("s3:DeleteObjectVersion", arn(bucket, "*"))]))
    assert refused(deleter.delete_object, **there, BypassGovernanceRetention=True).code == "AccessDenied"
    lab.s3.delete_object(**there, BypassGovernanceRetention=True)


def test_a_copy_needs_the_right_to_both_ends_and_to_the_tags(lab: Lab, bucket: str) -> None:
    source = {"Bucket": bucket, "Key": "k"}
    target = lab.bucket()
    read, write = allow("s3:GetObject", arn(bucket, "*")), allow("s3:PutObject", arn(target, "*"))
    tags = [allow("s3:GetObjectTagging", arn(bucket, "*")), allow("s3:PutObjectTagging", arn(target, "*"))]
    for lacking in ([write, *tags], [read, *tags], [read, write, tags[0]], [read, write, tags[1]]):
        s3 = lab.s3_as(lab.role(lacking))
        assert refused(s3.copy_object, Bucket=target, Key="copy", CopySource=source).code == "AccessDenied"
    lab.s3_as(lab.role([read, write, *tags])).copy_object(Bucket=target, Key="copy", CopySource=source)


# Other accounts


def _share(lab: Lab, bucket: str, *actions: str, with_: str) -> None:
    statement = allow(list(actions), [arn(bucket), arn(bucket, "*")], Principal={"AWS": with_})
    lab.s3.put_bucket_policy(Bucket=bucket, Policy=policy(statement))


def test_another_account_needs_the_bucket_policy_and_its_own(lab: Lab, bucket: str) -> None:
    foreigner = lab.server.client("s3", "customer")
    found = refused(foreigner.get_object, Bucket=bucket, Key="k")
    assert (found.code, found.message) == ("AccessDenied", "Access Denied"), "another account is told no reason"
    role = lab.role([allow("s3:GetObject", "*")], account=CUSTOMER, profile="customer")
    bare = lab.role([], account=CUSTOMER, profile="customer")
    _share(lab, bucket, "s3:GetObject", with_=f"arn:aws:iam::{CUSTOMER}:root")
    assert body_of(lab.s3_as(role, profile="customer").get_object(Bucket=bucket, Key="k")) == b"body"
    assert refused(lab.s3_as(bare, profile="customer").get_object, Bucket=bucket, Key="k").code == "AccessDenied"
    _share(lab, bucket, "s3:GetObject", with_=bare)
    assert refused(lab.s3_as(role, profile="customer").get_object, Bucket=bucket, Key="k").code == "AccessDenied"


def test_a_copy_crosses_accounts_when_every_side_allows(lab: Lab, bucket: str) -> None:
    theirs = lab.bucket(profile="customer")
    customer = lab.server.client("s3", "customer")
    source = {"Bucket": bucket, "Key": "k"}
    assert refused(customer.copy_object, Bucket=theirs, Key="copy", CopySource=source).code == "AccessDenied"
    _share(lab, bucket, "s3:GetObject", "s3:GetObjectTagging", with_=f"arn:aws:iam::{CUSTOMER}:root")
    customer.copy_object(Bucket=theirs, Key="copy", CopySource=source)
    assert body_of(customer.get_object(Bucket=theirs, Key="copy")) == b"body"
    assert refused(lab.s3.get_object, Bucket=theirs, Key="copy").code == "AccessDenied"


def test_a_bucket_name_belongs_to_one_account(lab: Lab, bucket: str) -> None:
    customer = lab.server.client("s3", "customer")
    location = {"LocationConstraint": REGION}
    found = refused(customer.create_bucket, Bucket=bucket, CreateBucketConfiguration=location)
    assert (found.code, found.status) == ("BucketAlreadyExists", 409)
    again = refused(lab.s3.create_bucket, Bucket=bucket, CreateBucketConfiguration=location)
    assert (again.code, again.status) == ("BucketAlreadyOwnedByYou", 409)
    found = refused(lab.s3.get_object, Bucket=bucket, Key="k", ExpectedBucketOwner=CUSTOMER)
    assert (found.code, found.status) == ("AccessDenied", 403)
    lab.s3.get_object(Bucket=bucket, Key="k", ExpectedBucketOwner=VENDOR)


def test_a_request_for_another_region_is_sent_away(lab: Lab, bucket: str) -> None:
    answer = lab.server.raw("GET", f"/{bucket}/k", region="us-west-2")
    assert (answer.status, answer.headers["x-amz-bucket-region"]) == (301, REGION)
    keys = lab.server.sessions["operator"].get_credentials()
    elsewhere = _client(lab, "s3", keys.access_key, keys.secret_key, region_name="us-west-2")
    assert body_of(elsewhere.get_object(Bucket=bucket, Key="k")) == b"body", "boto3 follows by itself"


# Public access and policy documents


def test_a_public_policy_is_refused_by_the_block_that_every_new_bucket_has(lab: Lab, bucket: str) -> None:
    public = policy(allow("s3:GetObject", arn(bucket, "*"), Principal="*"))
    assert refused(lab.s3.put_bucket_policy, Bucket=bucket, Policy=public).code == "AccessDenied"
    half = {"BlockPublicPolicy": False, "RestrictPublicBuckets": True}
    lab.s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=half)
    lab.s3.put_bucket_policy(Bucket=bucket, Policy=public)
    customer = lab.server.client("s3", "customer")
    assert refused(customer.get_object, Bucket=bucket, Key="k").code == "AccessDenied", "RestrictPublicBuckets"
    lab.s3.delete_public_access_block(Bucket=bucket)
    assert body_of(customer.get_object(Bucket=bucket, Key="k")) == b"body"


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        ({"Principal": {"AWS": f"arn:aws:iam::{VENDOR}:role/never-made"}}, "MalformedPolicy", 400),
        ({"Principal": None}, "MalformedPolicy", 400),
        ({"Resource": "arn:aws:s3:::another-bucket/*"}, "MalformedPolicy", 400),
        ({"Action": "kms:Decrypt"}, "MalformedPolicy", 400),
        ({"Effect": "Maybe"}, "MalformedPolicy", 400),
        ({"Condition": {"StringResembles": {"aws:PrincipalArn": "x"}}}, "MalformedPolicy", 400),
        ({"NotPrincipal": {"AWS": "*"}}, "NotImplemented", 501),
    ],
)
def test_a_policy_that_would_not_be_judged_as_it_reads_is_refused(
    lab: Lab, bucket: str, change: dict[str, Any], code: str, status: int
) -> None:
    statement = {**deny("s3:*", arn(bucket, "*"), Principal="*"), **change}
    found = refused(lab.s3.put_bucket_policy, Bucket=bucket, Policy=policy(statement))
    assert (found.code, found.status) == (code, status)
    assert refused(lab.s3.get_bucket_policy, Bucket=bucket).code == "NoSuchBucketPolicy"


def test_a_policy_that_is_no_json_is_refused(lab: Lab, bucket: str) -> None:
    for wrong in ("{", "[]", json.dumps({"Version": "2012-10-17"}), json.dumps({"Version": "1", "Statement": []})):
        assert refused(lab.s3.put_bucket_policy, Bucket=bucket, Policy=wrong).code == "MalformedPolicy"


# Presigned URLs


def _fetch(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_presigned_url_reads_and_writes_as_its_signer(lab: Lab, bucket: str) -> None:
    s3 = lab.s3_as(lab.role([allow(["s3:GetObject", "s3:PutObject"], arn(bucket, "*"))]))
    odd = "a b/+%é"
    there = {"Bucket": bucket, "Key": odd}
    put = s3.generate_presigned_url("put_object", Params={**there, "Metadata": {"note": "signed"}})
    assert _fetch(put, "PUT", b"through a URL", **{"x-amz-meta-note": "signed"}) == (200, b"")
    assert lab.s3.head_object(**there)["Metadata"] == {"note": "signed"}
    assert _fetch(s3.generate_presigned_url("get_object", Params=there)) == (200, b"through a URL")
    status, body = _fetch(s3.generate_presigned_url("delete_object", Params=there), "DELETE")
    assert (status, b"AccessDenied" in body) == (403, True)


def test_a_presigned_url_holds_for_its_method_its_key_and_its_time(lab: Lab, bucket: str) -> None:
    url = lab.s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    assert _fetch(url) == (200, b"body")
    for wrong, method in ((url.replace("/k?", "/other?"), "GET"), (url, "DELETE"), (url[:-1] + "z", "GET")):
        status, body = _fetch(wrong, method)
        assert (status, b"SignatureDoesNotMatch" in body) == (403, True)
    late = lab.s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=-1)
    assert _fetch(late)[0] in (400, 403)
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == b"body"


def test_the_old_signature_version_is_not_taken(lab: Lab, bucket: str) -> None:
    keys = lab.server.sessions["operator"].get_credentials()
    old = _client(lab, "s3", keys.access_key, keys.secret_key, signature_version="s3")
    status, body = _fetch(old.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}))
    assert (status, b"AWS4-HMAC-SHA256" in body) == (400, True)
    assert refused(old.get_object, Bucket=bucket, Key="k").status in (400, 403)
