"""The gate's table against boto3: every call in it works as in AWS, and nothing else gets through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aws_server import REGION, running_aws
from gate_lab import Lab, arn, body_of, policy, unique

from sandbox.aws.s3.table import OPERATIONS

pytestmark = pytest.mark.sandbox

KEY = "a key"
BODY = b"the body of the object"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_aws(tmp_path_factory.mktemp("aws")) as server:
        yield Lab(server)


@dataclass(frozen=True)
class Place:
    """A bucket under a key with one object in it."""

    s3: Any
    bucket: str
    key_arn: str
    version_id: str

    def upload(self) -> dict[str, Any]:
        started = self.s3.create_multipart_upload(Bucket=self.bucket, Key="large")
        return {"Bucket": self.bucket, "Key": "large", "UploadId": started["UploadId"]}


@pytest.fixture(scope="module")
def vendor_key(lab: Lab) -> str:
    return lab.key()


@pytest.fixture
def place(lab: Lab, vendor_key: str) -> Place:
    bucket = lab.bucket(vendor_key)
    stored = lab.s3.put_object(
        Bucket=bucket, Key=KEY, Body=BODY, Tagging="colour=blue", Metadata={"archived-at": "now"}
    )
    return Place(lab.s3, bucket, vendor_key, stored["VersionId"])


Case = Callable[[Place], Mapping[str, Any]]


def _at(method: str, **arguments: Any) -> Case:
    """A call on the place's bucket."""
    return lambda place: getattr(place.s3, method)(Bucket=place.bucket, **arguments)


def _on(method: str, **arguments: Any) -> Case:
    """A call on the place's object."""
    return _at(method, Key=KEY, **arguments)


def _after(first: Case, then: Case) -> Case:
    def run(place: Place) -> Mapping[str, Any]:
        first(place)
        return then(place)

    return run


def _upload_part(place: Place) -> Mapping[str, Any]:
    return place.s3.upload_part(**place.upload(), PartNumber=1, Body=BODY)


def _upload_part_copy(place: Place) -> Mapping[str, Any]:
    source = {"Bucket": place.bucket, "Key": KEY}
    return place.s3.upload_part_copy(**place.upload(), PartNumber=1, CopySource=source)


def _complete(place: Place) -> Mapping[str, Any]:
    upload = place.upload()
    part = place.s3.upload_part(**upload, PartNumber=1, Body=BODY)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    return place.s3.complete_multipart_upload(**upload, MultipartUpload=parts)


def _empty_bucket(place: Place) -> Mapping[str, Any]:
    place.s3.delete_object(Bucket=place.bucket, Key=KEY, VersionId=place.version_id)
    return place.s3.delete_bucket(Bucket=place.bucket)


def _locked(case: Case) -> Case:
    """The case in a bucket with Object Lock."""

    def run(place: Place) -> Mapping[str, Any]:
        place.s3.put_object_lock_configuration(
            Bucket=place.bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
        )
        return case(place)

    return run


def _bucket_policy(place: Place) -> str:
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutBucketAcl", "Resource": arn(place.bucket)}
    return policy(statement)


def _put_policy(place: Place) -> Mapping[str, Any]:
    return place.s3.put_bucket_policy(Bucket=place.bucket, Policy=_bucket_policy(place))


_LIFECYCLE = {"Rules": [{"ID": "one", "Status": "Enabled", "Filter": {"Prefix": "t/"}, "Expiration": {"Days": 9}}]}
_TAGS = {"TagSet": [{"Key": "owner", "Value": "archive"}]}
_BLOCK = {"BlockPublicAcls": True, "BlockPublicPolicy": True, "IgnorePublicAcls": True, "RestrictPublicBuckets": True}
_OWNED = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
_HOLD = {"Status": "ON"}
_RETENTION = {"Mode": "GOVERNANCE", "RetainUntilDate": "2099-01-01T00:00:00Z"}

# Operation -> (the call, its status, what its answer must show)
CASES: dict[str, tuple[Case, int, Callable[[Place, Mapping[str, Any]], bool]]] = {
    "ListBuckets": (
        lambda place: place.s3.list_buckets(),
        200,
        lambda place, got: place.bucket in [bucket["Name"] for bucket in got["Buckets"]],
    ),
    "CreateBucket": (
        lambda place: place.s3.create_bucket(
            Bucket=unique("made"), CreateBucketConfiguration={"LocationConstraint": REGION}
        ),
        200,
        lambda place, got: "/made-" in got["Location"],
    ),
    "HeadBucket": (_at("head_bucket"), 200, lambda place, got: got["BucketRegion"] == REGION),
    "DeleteBucket": (_empty_bucket, 204, lambda place, got: True),
    "GetBucketLocation": (_at("get_bucket_location"), 200, lambda place, got: got["LocationConstraint"] == REGION),
    "GetBucketAcl": (_at("get_bucket_acl"), 200, lambda place, got: got["Grants"][0]["Permission"] == "FULL_CONTROL"),
    "GetBucketVersioning": (_at("get_bucket_versioning"), 200, lambda place, got: got["Status"] == "Enabled"),
    "PutBucketVersioning": (
        _at("put_bucket_versioning", VersioningConfiguration={"Status": "Suspended"}),
        200,
        lambda place, got: place.s3.get_bucket_versioning(Bucket=place.bucket)["Status"] == "Suspended",
    ),
    "GetBucketLifecycleConfiguration": (
        _after(
            _at("put_bucket_lifecycle_configuration", LifecycleConfiguration=_LIFECYCLE),
            _at("get_bucket_lifecycle_configuration"),
        ),
        200,
        lambda place, got: got["Rules"][0]["Expiration"]["Days"] == 9,
    ),
    "PutBucketLifecycleConfiguration": (
        _at("put_bucket_lifecycle_configuration", LifecycleConfiguration=_LIFECYCLE),
        200,
        lambda place, got: True,
    ),
    "DeleteBucketLifecycleConfiguration": (_at("delete_bucket_lifecycle"), 204, lambda place, got: True),
    "GetBucketNotificationConfiguration": (
        _after(
            _at("put_bucket_notification_configuration", NotificationConfiguration={"EventBridgeConfiguration": {}}),
            _at("get_bucket_notification_configuration"),
        ),
        200,
        lambda place, got: "EventBridgeConfiguration" in got,
    ),
    "PutBucketNotificationConfiguration": (
        _at("put_bucket_notification_configuration", NotificationConfiguration={}),
        200,
        lambda place, got: True,
    ),
    "GetBucketTagging": (
        _after(_at("put_bucket_tagging", Tagging=_TAGS), _at("get_bucket_tagging")),
        200,
        lambda place, got: got["TagSet"] == _TAGS["TagSet"],
    ),
    "PutBucketTagging": (_at("put_bucket_tagging", Tagging=_TAGS), 204, lambda place, got: True),
    "DeleteBucketTagging": (_at("delete_bucket_tagging"), 204, lambda place, got: True),
    "GetPublicAccessBlock": (
        _at("get_public_access_block"),
        200,
        lambda place, got: got["PublicAccessBlockConfiguration"] == _BLOCK,
    ),
    "PutPublicAccessBlock": (
        _at("put_public_access_block", PublicAccessBlockConfiguration=_BLOCK),
        200,
        lambda place, got: True,
    ),
    "DeletePublicAccessBlock": (_at("delete_public_access_block"), 204, lambda place, got: True),
    "GetBucketOwnershipControls": (
        _after(
            _at("put_bucket_ownership_controls", OwnershipControls=_OWNED),
            _at("get_bucket_ownership_controls"),
        ),
        200,
        lambda place, got: got["OwnershipControls"] == _OWNED,
    ),
    "PutBucketOwnershipControls": (
        _at("put_bucket_ownership_controls", OwnershipControls=_OWNED),
        200,
        lambda place, got: True,
    ),
    "DeleteBucketOwnershipControls": (_at("delete_bucket_ownership_controls"), 204, lambda place, got: True),
    "GetObjectLockConfiguration": (
        _locked(_at("get_object_lock_configuration")),
        200,
        lambda place, got: got["ObjectLockConfiguration"]["ObjectLockEnabled"] == "Enabled",
    ),
    "PutObjectLockConfiguration": (
        _at("put_object_lock_configuration", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}),
        200,
        lambda place, got: True,
    ),
    "GetBucketEncryption": (
        _at("get_bucket_encryption"),
        200,
        lambda place, got: place.key_arn in str(got["ServerSideEncryptionConfiguration"]),
    ),
    "PutBucketEncryption": (
        lambda place: place.s3.put_bucket_encryption(
            Bucket=place.bucket,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
        ),
        200,
        lambda place, got: "AES256" in str(place.s3.get_bucket_encryption(Bucket=place.bucket)),
    ),
    "DeleteBucketEncryption": (
        _at("delete_bucket_encryption"),
        204,
        lambda place, got: "AES256" in str(place.s3.get_bucket_encryption(Bucket=place.bucket)),
    ),
    "GetBucketPolicy": (
        _after(_put_policy, _at("get_bucket_policy")),
        200,
        lambda place, got: got["Policy"] == _bucket_policy(place),
    ),
    "PutBucketPolicy": (_put_policy, 204, lambda place, got: True),
    "DeleteBucketPolicy": (_at("delete_bucket_policy"), 204, lambda place, got: True),
    "ListObjects": (_at("list_objects"), 200, lambda place, got: got["Contents"][0]["Key"] == KEY),
    "ListObjectsV2": (
        _at("list_objects_v2"),
        200,
        lambda place, got: (got["KeyCount"], got["Contents"][0]["Size"]) == (1, len(BODY)),
    ),
    "ListObjectVersions": (
        _at("list_object_versions"),
        200,
        lambda place, got: got["Versions"][0]["VersionId"] == place.version_id,
    ),
    "ListMultipartUploads": (
        _after(lambda place: place.upload(), _at("list_multipart_uploads")),
        200,
        lambda place, got: got["Uploads"][0]["Key"] == "large",
    ),
    "PutObject": (
        _at("put_object", Key="new", Body=b""),
        200,
        lambda place, got: got["SSEKMSKeyId"] == place.key_arn and got["ChecksumType"] == "FULL_OBJECT",
    ),
    "CopyObject": (
        lambda place: place.s3.copy_object(
            Bucket=place.bucket, Key="copy", CopySource={"Bucket": place.bucket, "Key": KEY}
        ),
        200,
        lambda place, got: (
            got["CopySourceVersionId"] == place.version_id
            and body_of(place.s3.get_object(Bucket=place.bucket, Key="copy")) == BODY
        ),
    ),
    "GetObject": (
        _on("get_object"),
        200,
        lambda place, got: body_of(got) == BODY and got["ContentType"] == "binary/octet-stream",
    ),
    "HeadObject": (
        _on("head_object"),
        200,
        lambda place, got: got["ContentLength"] == len(BODY) and got["Metadata"] == {"archived-at": "now"},
    ),
    "DeleteObject": (_on("delete_object"), 204, lambda place, got: got["DeleteMarker"]),
    "DeleteObjects": (
        lambda place: place.s3.delete_objects(
            Bucket=place.bucket, Delete={"Objects": [{"Key": KEY, "VersionId": place.version_id}]}
        ),
        200,
        lambda place, got: got["Deleted"] == [{"Key": KEY, "VersionId": place.version_id}],
    ),
    "GetObjectAttributes": (
        _on("get_object_attributes", ObjectAttributes=["ETag", "Checksum", "ObjectSize", "StorageClass"]),
        200,
        lambda place, got: (got["ObjectSize"], got["StorageClass"]) == (len(BODY), "STANDARD"),
    ),
    "UpdateObjectEncryption": (
        lambda place: place.s3.update_object_encryption(
            Bucket=place.bucket, Key=KEY, ObjectEncryption={"SSEKMS": {"KMSKeyArn": place.key_arn}}
        ),
        200,
        lambda place, got: body_of(place.s3.get_object(Bucket=place.bucket, Key=KEY)) == BODY,
    ),
    "GetObjectTagging": (
        _on("get_object_tagging"),
        200,
        lambda place, got: got["TagSet"] == [{"Key": "colour", "Value": "blue"}],
    ),
    "PutObjectTagging": (
        _on("put_object_tagging", Tagging=_TAGS),
        200,
        lambda place, got: got["VersionId"] == place.version_id,
    ),
    "DeleteObjectTagging": (
        _on("delete_object_tagging"),
        204,
        lambda place, got: place.s3.get_object_tagging(Bucket=place.bucket, Key=KEY)["TagSet"] == [],
    ),
    "GetObjectRetention": (
        _locked(_after(_on("put_object_retention", Retention=_RETENTION), _on("get_object_retention"))),
        200,
        lambda place, got: got["Retention"]["Mode"] == "GOVERNANCE",
    ),
    "PutObjectRetention": (
        _locked(_on("put_object_retention", Retention=_RETENTION)),
        200,
        lambda place, got: True,
    ),
    "GetObjectLegalHold": (
        _locked(_after(_on("put_object_legal_hold", LegalHold=_HOLD), _on("get_object_legal_hold"))),
        200,
        lambda place, got: got["LegalHold"] == _HOLD,
    ),
    "PutObjectLegalHold": (_locked(_on("put_object_legal_hold", LegalHold=_HOLD)), 200, lambda place, got: True),
    "CreateMultipartUpload": (
        _at("create_multipart_upload", Key="large"),
        200,
        lambda place, got: got["SSEKMSKeyId"] == place.key_arn,
    ),
    "UploadPart": (_upload_part, 200, lambda place, got: got["SSEKMSKeyId"] == place.key_arn),
    "UploadPartCopy": (
        _upload_part_copy,
        200,
        lambda place, got: got["CopySourceVersionId"] == place.version_id,
    ),
    "CompleteMultipartUpload": (
        _complete,
        200,
        lambda place, got: body_of(place.s3.get_object(Bucket=place.bucket, Key="large")) == BODY,
    ),
    "AbortMultipartUpload": (
        lambda place: place.s3.abort_multipart_upload(**place.upload()),
        204,
        lambda place, got: "Uploads" not in place.s3.list_multipart_uploads(Bucket=place.bucket),
    ),
    "ListParts": (
        lambda place: place.s3.list_parts(**place.upload()),
        200,
        lambda place, got: got["IsTruncated"] is False and "Parts" not in got,
    ),
}


def test_every_call_in_the_table_has_its_case() -> None:
    assert sorted(CASES) == sorted(row.name for row in OPERATIONS), "a call without a case is a call nobody looked at"


@pytest.mark.parametrize("name", CASES)
def test_a_call_of_the_table_answers_as_aws_does(place: Place, name: str) -> None:
    call, status, shows = CASES[name]
    answer = call(place)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == status
    assert shows(place, answer), answer


_BUCKET_SUB_RESOURCES = (
    *("abac", "accelerate", "acl=", "analytics&id=1", "cors", "intelligent-tiering&id=1", "inventory&id=1", "logging"),
    *("metadataConfiguration", "metadataTable", "metrics&id=1", "replication", "requestPayment", "website", "whatever"),
)
_OBJECT_SUB_RESOURCES = ("acl", "renameObject", "restore", "select&select-type=2", "torrent", "annotation", "whatever")
_UNKNOWN = [
    *((method, "bucket", name) for method in ("GET", "PUT", "DELETE") for name in _BUCKET_SUB_RESOURCES),
    *((method, "object", name) for method in ("GET", "PUT", "DELETE", "POST") for name in _OBJECT_SUB_RESOURCES),
    *(("GET", "bucket", name) for name in ("policyStatus", "session")),
    *(("DELETE", "object", name) for name in ("retention", "legal-hold", "encryption", "partNumber=1")),
    *(("PUT", "object", name) for name in ("partNumber=1", "uploadId=1", "encryption&whatever", "versionId=1")),
    *((method, "bucket", "") for method in ("POST", "PATCH")),
    *(("POST", "object", ""), ("PATCH", "object", "")),
]
# The one of these that the table has: everybody may read a bucket's ACL.
_UNKNOWN.remove(("GET", "bucket", "acl="))


@pytest.mark.parametrize(("method", "level", "query"), _UNKNOWN)
def test_a_call_outside_the_table_is_not_implemented_and_touches_nothing(
    lab: Lab, place: Place, method: str, level: str, query: str
) -> None:
    path = f"/{place.bucket}/a%20key" if level == "object" else f"/{place.bucket}"
    answer = lab.server.raw(method, f"{path}?{query}" if query else path, body=b"<Hostile/>")
    assert answer.status == 501, answer.body
    _assert_untouched(place)


@pytest.mark.parametrize("header", ["x-amz-write-offset-bytes", "x-amz-rename-source"])
def test_a_header_that_makes_a_put_another_operation_is_refused(lab: Lab, place: Place, header: str) -> None:
    answer = lab.server.raw("PUT", f"/{place.bucket}/a%20key", body=b"more", headers={header: "0"})
    assert answer.status == 501, answer.body
    _assert_untouched(place)


def _assert_untouched(place: Place) -> None:
    found = place.s3.get_object(Bucket=place.bucket, Key=KEY)
    assert body_of(found) == BODY, "the emulator would take an unknown call for an upload"
    versions = place.s3.list_object_versions(Bucket=place.bucket)
    assert [version["VersionId"] for version in versions["Versions"]] == [place.version_id]
    assert "DeleteMarkers" not in versions
    assert place.s3.get_object_tagging(Bucket=place.bucket, Key=KEY)["TagSet"] == [{"Key": "colour", "Value": "blue"}]


def test_a_missing_bucket_is_no_such_bucket_for_every_kind_of_call(lab: Lab) -> None:
    for method, path in (("GET", "/never-made/x"), ("PUT", "/never-made/x"), ("GET", "/never-made?versions")):
        answer = lab.server.raw(method, path)
        assert (answer.status, b"<Code>NoSuchBucket</Code>" in answer.body) == (404, True), answer.body


def test_the_storage_folder_is_where_objects_really_lie(lab: Lab, place: Place) -> None:
    assert any(Path(file).is_file() for file in lab.server.storage.rglob("*")), "searches of it would prove nothing"
