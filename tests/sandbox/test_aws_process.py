"""The AWS process as a whole: what it answers, what it keeps over a restart, and its events and functions."""

from __future__ import annotations

import http.client
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aws_server import PROFILES, REGION, VENDOR, running_aws, start_aws, until
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
)
from gate_lab import Lab, allow, arn, body_of, policy, refused, unique

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_aws(tmp_path_factory.mktemp("aws")) as server:
        yield Lab(server)


def test_each_profile_is_a_user_of_its_account(lab: Lab) -> None:
    who = {profile: lab.server.client("sts", profile).get_caller_identity()["Arn"] for profile in PROFILES}
    assert who == {
        "operator": "arn:aws:iam::111122223333:user/operator",
        "customer": "arn:aws:iam::444455556666:user/customer",
        "elastic": "arn:aws:iam::777788889999:user/elastic",
    }
    assert refused(lab.server.client("iam", "elastic").list_users).code == "AccessDenied", "elastic may only use keys"


def test_the_credentials_file_is_for_its_owner_alone(lab: Lab) -> None:
    assert (lab.server.folder / "aws" / "credentials").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "path", ["/_ministack/health", "/_ministack/reset", "/_ministack/config", "/_localstack/health"]
)
def test_the_emulators_own_endpoints_are_closed(lab: Lab, path: str) -> None:
    for method in ("GET", "POST"):
        assert lab.server.raw(method, path, profile=None).status == 404


@pytest.mark.parametrize("host", ["bucket.localhost:{port}", "bucket.s3.{port}", "sqs.eu-west-1.amazonaws.com", "evil"])
def test_only_its_own_host_names_are_answered(lab: Lab, host: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", lab.server.port, timeout=30)
    connection.request("PUT", "/x", headers={"Host": host.format(port=lab.server.port)})
    assert connection.getresponse().status == 501
    connection.close()


def test_a_service_that_the_sandbox_does_not_have_says_so(lab: Lab) -> None:
    for service, call in (("dynamodb", "list_tables"), ("sns", "list_topics"), ("ssm", "describe_parameters")):
        found = refused(getattr(lab.server.client(service), call))
        assert (found.code, found.status) == ("NotImplemented", 501)


def test_no_other_services_signature_gets_past_the_gate(lab: Lab) -> None:
    bucket = lab.bucket()
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    key_id = lab.server.sessions["operator"].get_credentials().access_key
    for service in ("sqs", "iam", "lambda", "dynamodb", "s3tables"):
        scope = f"AWS4-HMAC-SHA256 Credential={key_id}/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host"
        headers = {"authorization": f"{scope}, Signature=00"}
        answer = lab.server.raw("DELETE", f"/{bucket}/k", headers=headers, profile=None)
        assert answer.status == 501, (service, answer.body)
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == b"body"


# Faults


def test_faults_are_refused_when_they_are_not_known(lab: Lab) -> None:
    for wrong in (b'{"earthquake": 1}', b'{"drop": -1}', b'{"drop": "1"}', b"{"):
        assert lab.server.raw("POST", "/_sandbox/faults", body=wrong, profile=None).status == 400


def test_a_busy_s3_asks_to_slow_down_as_often_as_it_was_told(lab: Lab) -> None:
    lab.server.set_faults('{"slowdown_503": 2}')
    for _ in range(2):
        found = refused(lab.s3.list_buckets)
        assert (found.code, found.status) == ("SlowDown", 503)
    assert lab.s3.list_buckets()


def test_a_dropped_connection_hides_that_the_write_was_done(lab: Lab) -> None:
    bucket = lab.bucket()
    lab.server.set_faults('{"drop": 1}')
    with pytest.raises((ConnectionClosedError, EndpointConnectionError, HTTPClientError)):
        lab.s3.put_object(Bucket=bucket, Key="k", Body=b"body")
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == b"body"


def test_an_answer_breaks_off_in_its_middle_as_often_as_it_was_told(lab: Lab) -> None:
    bucket = lab.bucket()
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"body" * 1000)
    lab.server.set_faults('{"truncate": 2}')
    with pytest.raises((IncompleteReadError, ResponseStreamingError)):
        body_of(lab.s3.get_object(Bucket=bucket, Key="k"))
    with pytest.raises((ConnectionClosedError, ClientError)):  # boto3 takes half a document for an error of S3
        lab.s3.list_objects_v2(Bucket=bucket)
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="k")) == b"body" * 1000


def test_a_listing_comes_in_pages_as_small_as_it_was_told(lab: Lab) -> None:
    bucket = lab.bucket()
    for key in "abc":
        lab.s3.put_object(Bucket=bucket, Key=key, Body=b"body")
    lab.server.set_faults('{"page_limit": 2}')
    try:
        page = lab.s3.list_object_versions(Bucket=bucket)
        assert ([one["Key"] for one in page["Versions"]], page["IsTruncated"]) == (["a", "b"], True)
        assert len(lab.s3.list_objects_v2(Bucket=bucket)["Contents"]) == 2
    finally:
        lab.server.set_faults('{"page_limit": 0}')
    assert len(lab.s3.list_objects_v2(Bucket=bucket)["Contents"]) == 3


# Events


def _queue(lab: Lab, source: str) -> tuple[str, str]:
    """(url, ARN) of a new queue that a service may send to."""
    sqs = lab.server.client("sqs")
    url = sqs.create_queue(QueueName=unique("queue"))["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    rights = allow("sqs:SendMessage", queue_arn, Principal={"Service": source})
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy(rights)})
    return url, queue_arn


def _messages(lab: Lab, url: str, count: int) -> list[dict[str, Any]]:
    """The next `count` messages' bodies."""
    sqs, found = lab.server.client("sqs"), []

    def look() -> bool:
        answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        for message in answer.get("Messages", []):
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            found.append(json.loads(message["Body"]))
        return len(found) >= count

    until(look, f"{count} messages")
    return found


def _every_change(lab: Lab, bucket: str) -> dict[str, str | None]:
    """Each kind of change once, on keys of their own: event name -> version id."""
    s3 = lab.s3
    source = {"Bucket": bucket, "Key": "put"}
    versions = {"ObjectCreated:Put": s3.put_object(**source, Body=b"x")["VersionId"]}
    versions["ObjectCreated:Copy"] = s3.copy_object(Bucket=bucket, Key="copy", CopySource=source)["VersionId"]
    upload = {"Bucket": bucket, "Key": "large"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    part = {"PartNumber": 1, "ETag": s3.upload_part(**upload, PartNumber=1, Body=b"x")["ETag"]}
    done = s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})
    versions["ObjectCreated:CompleteMultipartUpload"] = done["VersionId"]
    tagged = s3.put_object_tagging(**source, Tagging={"TagSet": [{"Key": "a", "Value": "1"}]})
    versions["ObjectTagging:Put"] = tagged["VersionId"]
    versions["ObjectRemoved:DeleteMarkerCreated"] = s3.delete_object(**source)["VersionId"]
    noncurrent = {**source, "VersionId": versions["ObjectCreated:Put"]}
    versions["ObjectTagging:Delete"] = s3.delete_object_tagging(**noncurrent)["VersionId"]
    return versions


def test_every_change_reaches_a_queue_with_its_name_and_version(lab: Lab) -> None:
    bucket = lab.bucket(lab.key())
    url, queue_arn = _queue(lab, "s3.amazonaws.com")
    wanted = {"QueueArn": queue_arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*"]}
    lab.s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [wanted]}
    )
    changes = _every_change(lab, bucket)
    messages = _messages(lab, url, len(changes) + 1)
    records = [record for message in messages for record in message.get("Records", [])]
    assert {record["eventName"]: record["s3"]["object"]["versionId"] for record in records} == changes


def test_every_change_reaches_eventbridge_with_its_version(lab: Lab) -> None:
    bucket = lab.bucket(lab.key())
    url, queue_arn = _queue(lab, "events.amazonaws.com")
    events = lab.server.client("events")
    pattern = {"source": ["aws.s3"], "detail": {"bucket": {"name": [bucket]}}}
    rule = unique("rule")
    events.put_rule(Name=rule, EventPattern=json.dumps(pattern))
    events.put_targets(Rule=rule, Targets=[{"Id": "queue", "Arn": queue_arn}])
    lab.s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    changes = _every_change(lab, bucket)
    found = [(event["detail-type"], event["detail"]["object"]["version-id"]) for event in _messages(lab, url, 6)]
    kinds = ["Object Created"] * 3 + ["Object Tags Added", "Object Deleted", "Object Tags Deleted"]
    assert sorted(found) == sorted(zip(kinds, changes.values(), strict=True))


def test_a_batch_needs_the_right_to_do_the_same_with_one_message(lab: Lab) -> None:
    url, queue_arn = _queue(lab, "events.amazonaws.com")
    lab.server.client("sqs").send_message(QueueUrl=url, MessageBody="{}")
    reader = lab.server.client_of("sqs", lab.role([allow("sqs:ReceiveMessage", queue_arn)]))
    eraser = lab.server.client_of("sqs", lab.role([allow("sqs:DeleteMessage", queue_arn)]))
    found = reader.receive_message(QueueUrl=url, WaitTimeSeconds=1)["Messages"]
    batch = {"QueueUrl": url, "Entries": [{"Id": "0", "ReceiptHandle": found[0]["ReceiptHandle"]}]}
    assert refused(reader.delete_message_batch, **batch).code.startswith("AccessDenied")
    assert [done["Id"] for done in eraser.delete_message_batch(**batch)["Successful"]] == ["0"]


def test_a_queue_that_does_not_let_eventbridge_in_gets_no_event(lab: Lab) -> None:
    bucket = lab.bucket()
    closed, closed_arn = _queue(lab, "sns.amazonaws.com")
    open_, open_arn = _queue(lab, "events.amazonaws.com")
    events, rule = lab.server.client("events"), unique("rule")
    events.put_rule(Name=rule, EventPattern=json.dumps({"detail": {"bucket": {"name": [bucket]}}}))
    targets = [{"Id": "closed", "Arn": closed_arn}, {"Id": "open", "Arn": open_arn}]
    events.put_targets(Rule=rule, Targets=targets)
    lab.s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"")
    assert _messages(lab, open_, 1), "the event was sent"
    answer = lab.server.client("sqs").receive_message(QueueUrl=closed, WaitTimeSeconds=1)
    assert "Messages" not in answer, "AWS would not deliver it"


# Functions

_READER = """
import json, os
import botocore.session
from botocore.exceptions import ClientError

def handle(event, context):
    session = botocore.session.get_session()
    s3, sts = session.create_client("s3"), session.create_client("sts")
    who = sts.get_caller_identity()["Arn"]
    try:
        body = s3.get_object(Bucket=event["bucket"], Key=event["key"])["Body"].read().decode()
    except ClientError as error:
        body = error.response["Error"]["Code"]
    return {"who": who, "endpoint": os.environ["AWS_ENDPOINT_URL"], "body": body}
"""
_FORWARDER = """
import os
import botocore.session

def handle(event, context):
    s3 = botocore.session.get_session().create_client("s3")
    for record in event["Records"]:
        s3.put_object(Bucket=os.environ["BUCKET"], Key=record["body"], Body=b"worked on")
    return {"batchItemFailures": []}
"""


def _function(lab: Lab, source: str, role_arn: str, **environment: str) -> str:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("worker.py", source)
    name = unique("function")
    lab.server.client("lambda").create_function(
        FunctionName=name,
        Role=role_arn,
        Runtime="python3.12",
        Handler="worker.handle",
        Code={"ZipFile": archive.getvalue()},
        Environment={"Variables": environment},
        Timeout=30,
    )
    return name


def _worker_role(lab: Lab, *statements: dict[str, Any]) -> str:
    """A role that Lambda may take on."""
    role_arn = lab.role(list(statements))
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    lab.server.client("iam").update_assume_role_policy(
        RoleName=role_arn.rpartition("/")[2], PolicyDocument=policy(trust)
    )
    return role_arn


def test_a_function_needs_a_role_that_trusts_lambda(lab: Lab) -> None:
    found = refused(_function, lab=lab, source=_READER, role_arn=lab.role([]))
    assert found.code == "InvalidParameterValueException"


def _invoke(lab: Lab, function: str, event: dict[str, Any]) -> dict[str, Any]:
    answer = lab.server.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event).encode())
    result = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, result
    return result


def test_a_function_reads_through_the_gate_with_the_rights_of_its_role(lab: Lab) -> None:
    key = lab.key()
    bucket = lab.bucket(key)
    lab.s3.put_object(Bucket=bucket, Key="k", Body=b"sealed words")
    event = {"bucket": bucket, "key": "k"}
    read = allow("s3:GetObject", arn(bucket, "*"))
    role_arn = _worker_role(lab, read, allow("kms:Decrypt", key))
    function = _function(lab, _READER, role_arn)
    result = _invoke(lab, function, event)
    assert result["body"] == "sealed words"
    assert result["endpoint"] == lab.server.endpoint
    session = f"arn:aws:sts::{VENDOR}:assumed-role/{role_arn.rpartition('/')[2]}/"
    assert result["who"].startswith(session), "a function is its role, not the account's root"
    with lab.disabled(key):
        assert _invoke(lab, function, event)["body"] == "KMS.DisabledException"
    without_key = _function(lab, _READER, _worker_role(lab, read))
    assert _invoke(lab, without_key, event)["body"] == "AccessDenied"
    without_object = _function(lab, _READER, _worker_role(lab, allow("kms:Decrypt", key)))
    assert _invoke(lab, without_object, event)["body"] == "AccessDenied"


# Restart


def _populate(lab: Lab) -> dict[str, Any]:
    key = lab.key()
    bucket = lab.bucket(key)
    first = lab.s3.put_object(Bucket=bucket, Key="dir/a b", Body=b"one", Tagging="t=1", Metadata={"m": "1"})
    second = lab.s3.put_object(Bucket=bucket, Key="dir/a b", Body=b"two")
    lab.s3.put_object(Bucket=bucket, Key="gone", Body=b"x")
    marker = lab.s3.delete_object(Bucket=bucket, Key="gone")
    started = lab.s3.create_multipart_upload(Bucket=bucket, Key="large")
    upload = {"Bucket": bucket, "Key": "large", "UploadId": started["UploadId"]}
    part = lab.s3.upload_part(**upload, PartNumber=1, Body=b"first part")
    lab.s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    return {
        "key": key,
        "bucket": bucket,
        "versions": {first["VersionId"]: b"one", second["VersionId"]: b"two"},
        "marker": marker["VersionId"],
        "upload": upload,
        "part": part["ETag"],
    }


def _populate_pipeline(lab: Lab, bucket: str) -> dict[str, Any]:
    url, queue_arn = _queue(lab, "events.amazonaws.com")
    rule = unique("rule")
    lab.server.client("events").put_rule(Name=rule, EventPattern=json.dumps({"source": ["aws.s3"]}))
    rights = [allow("s3:PutObject", arn(bucket, "*")), allow("kms:*", "*"), allow("sqs:*", queue_arn)]
    role_arn = _worker_role(lab, *rights)
    function = _function(lab, _FORWARDER, role_arn, BUCKET=bucket)
    mapping = lab.server.client("lambda").create_event_source_mapping(
        EventSourceArn=queue_arn, FunctionName=function, FunctionResponseTypes=["ReportBatchItemFailures"]
    )
    secret = lab.server.client("secretsmanager").create_secret(Name=unique("secret"), SecretString="hidden")["Name"]
    return {
        "url": url,
        "rule": rule,
        "role": role_arn,
        "function": function,
        "mapping": mapping["UUID"],
        "secret": secret,
    }


def _assert_objects_are_there(lab: Lab, made: dict[str, Any]) -> None:
    bucket = made["bucket"]
    for version, body in made["versions"].items():
        assert body_of(lab.s3.get_object(Bucket=bucket, Key="dir/a b", VersionId=version)) == body
    first = next(iter(made["versions"]))
    tags = lab.s3.get_object_tagging(Bucket=bucket, Key="dir/a b", VersionId=first)["TagSet"]
    assert tags == [{"Key": "t", "Value": "1"}]
    head = lab.s3.head_object(Bucket=bucket, Key="dir/a b", VersionId=first)
    assert (head["Metadata"], head["SSEKMSKeyId"]) == ({"m": "1"}, made["key"])
    markers = lab.s3.list_object_versions(Bucket=bucket, Prefix="gone")["DeleteMarkers"]
    assert [item["VersionId"] for item in markers] == [made["marker"]]
    assert lab.s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    assert made["key"] in str(lab.s3.get_bucket_encryption(Bucket=bucket))
    assert "EventBridgeConfiguration" in lab.s3.get_bucket_notification_configuration(Bucket=bucket)
    parts = {"Parts": [{"PartNumber": 1, "ETag": made["part"]}]}
    lab.s3.complete_multipart_upload(**made["upload"], MultipartUpload=parts)
    assert body_of(lab.s3.get_object(Bucket=bucket, Key="large")) == b"first part"


def _assert_pipeline_works(lab: Lab, made: dict[str, Any], bucket: str, key: str) -> None:
    lab.server.client("sqs").send_message(QueueUrl=made["url"], MessageBody=key)

    def worked() -> bool:
        return "Contents" in lab.s3.list_objects_v2(Bucket=bucket, Prefix=key)

    until(worked, "the function to work on the queue's message")


def test_a_stop_and_a_start_lose_nothing(tmp_path: Path) -> None:
    server = start_aws(tmp_path)
    try:
        lab = Lab(server)
        made = _populate(lab)
        pipeline = _populate_pipeline(lab, made["bucket"])
        _assert_pipeline_works(lab, pipeline, made["bucket"], "before")
        keys = server.sessions["customer"].get_credentials().access_key
    finally:
        server.stop()
    with running_aws(tmp_path, server.port) as again:
        lab = Lab(again)
        assert again.sessions["customer"].get_credentials().access_key == keys, "credentials outlive a restart"
        _assert_objects_are_there(lab, made)
        assert lab.server.client("iam").get_role(RoleName=pipeline["role"].rpartition("/")[2])
        assert lab.server.client("events").describe_rule(Name=pipeline["rule"])["State"] == "ENABLED"
        secret = lab.server.client("secretsmanager").get_secret_value(SecretId=pipeline["secret"])
        assert secret["SecretString"] == "hidden"
        mapping = lab.server.client("lambda").get_event_source_mapping(UUID=pipeline["mapping"])
        assert mapping["State"] == "Enabled"
        _assert_pipeline_works(lab, pipeline, made["bucket"], "after")


def test_it_listens_on_the_loopback_only(lab: Lab) -> None:
    """Read from the kernel's table of sockets: 0100007F is 127.0.0.1."""
    sockets = Path(f"/proc/{lab.server.process.pid}/net/tcp").read_text().splitlines()[1:]
    inodes = {
        str(fd.readlink()).removeprefix("socket:[").removesuffix("]")
        for fd in Path(f"/proc/{lab.server.process.pid}/fd").iterdir()
    }
    listening = [line.split()[1] for line in sockets if line.split()[3] == "0A" and line.split()[9] in inodes]
    assert listening == [f"0100007F:{lab.server.port:04X}"]
