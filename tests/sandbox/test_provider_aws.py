"""The aws plugin against the sandbox's AWS, asked as the engine asks it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from provider_plugin import Plugin, boto_client, sandbox_up, started

from sandbox.provider import values
from sandbox.provider.archive import zipped
from sandbox.provider.protocol import provider_pb2, status_pb2

pytestmark = pytest.mark.sandbox

ACCOUNT = "111122223333"
TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
)
CODE = values.Archive(
    "one", members={"worker.py": values.Asset("", text="def handle(event, context):\n    return 1\n")}
)
OTHER_CODE = values.Archive("two", members={"worker.py": values.Asset("", text="def handle(e, c):\n    return 2\n")})


def document(action: str, resource: str, **more: Any) -> str:
    statement = {"Effect": "Allow", "Action": [action], "Resource": [resource], **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with sandbox_up(tmp_path_factory.mktemp("aws") / "sandbox") as variables:
        yield variables


@pytest.fixture
def plugin(environment: dict[str, str]) -> Iterator[Plugin]:
    with started("aws", environment) as running:
        yield running


@pytest.fixture(scope="module")
def world(environment: dict[str, str]) -> dict[str, str]:
    """What the types refer to, made by hand so that each is tested on its own."""
    kms, sqs, iam, lambda_, secrets, events = (
        boto_client(environment, name) for name in ("kms", "sqs", "iam", "lambda", "secretsmanager", "events")
    )
    found = {"bucket": "world-bucket"}
    boto_client(environment, "s3").create_bucket(
        Bucket="world-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    for name in ("key", "other_key"):
        found[name] = kms.create_key()["KeyMetadata"]["Arn"]
    for name in ("queue", "other_queue"):
        found[f"{name}_url"] = sqs.create_queue(QueueName=f"world-{name}")["QueueUrl"]
        found[name] = f"arn:aws:sqs:eu-west-1:{ACCOUNT}:world-{name}"
        policy = document("sqs:SendMessage", found[name], Principal={"Service": "s3.amazonaws.com"})
        sqs.set_queue_attributes(QueueUrl=found[f"{name}_url"], Attributes={"Policy": policy})
    found["role"] = iam.create_role(RoleName="world-role", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
    events.put_rule(Name="world-rule", EventPattern='{"source": ["aws.s3"]}')
    lambda_.create_function(
        FunctionName="world-function",
        Role=found["role"],
        Handler="worker.handle",
        Runtime="python3.12",
        Code={"ZipFile": zipped(CODE)},
    )
    found["secret"] = secrets.create_secret(Name="world-secret")["ARN"]
    return found


@dataclass(frozen=True)
class Case:
    """One type: inputs, an update of them, and whether a deleted one is then not found."""

    token: str
    inputs: Callable[[dict[str, str]], dict[str, Any]]
    update: Callable[[dict[str, str]], dict[str, Any]]
    leaves_nothing: bool = True

    def __str__(self) -> str:
        return self.token.rpartition(":")[2]


def encryption(key: str) -> list[dict[str, Any]]:
    return [{"applyServerSideEncryptionByDefault": {"sseAlgorithm": "aws:kms", "kmsMasterKeyId": key}}]


def lifecycle(**rule: Any) -> list[dict[str, Any]]:
    return [{"id": "tidy", "status": "Enabled", **rule}]


CASES = [
    Case(
        "aws:kms/key:Key",
        lambda _: {"description": "one", "enableKeyRotation": True, "tags": {"a": "b"}},
        lambda _: {"description": "two", "enableKeyRotation": False, "tags": {"c": "d"}},
    ),
    Case(
        "aws:kms/externalKey:ExternalKey",
        lambda _: {"description": "one", "deletionWindowInDays": 7},
        lambda _: {"description": "two", "tags": {"c": "d"}},
    ),
    Case(
        "aws:kms/alias:Alias",
        lambda world: {"name": "alias/case", "targetKeyId": world["key"]},
        lambda world: {"targetKeyId": world["other_key"]},
    ),
    Case(
        "aws:s3/bucket:Bucket",
        lambda _: {"bucket": "case-bucket", "tags": {"a": "b"}},
        lambda _: {"tags": {"c": "d"}},
    ),
    Case(
        "aws:s3/bucketVersioning:BucketVersioning",
        lambda world: {"bucket": world["bucket"], "versioningConfiguration": {"status": "Enabled"}},
        lambda _: {"versioningConfiguration": {"status": "Suspended"}},
        leaves_nothing=False,
    ),
    Case(
        "aws:s3/bucketOwnershipControls:BucketOwnershipControls",
        lambda world: {"bucket": world["bucket"], "rule": {"objectOwnership": "BucketOwnerEnforced"}},
        lambda _: {"rule": {"objectOwnership": "BucketOwnerPreferred"}},
    ),
    Case(
        "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock",
        lambda world: {"bucket": world["bucket"], "blockPublicAcls": True, "restrictPublicBuckets": True},
        lambda _: {"blockPublicPolicy": True},
    ),
    Case(
        "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration",
        lambda world: {"bucket": world["bucket"], "rules": encryption(world["key"])},
        lambda world: {"rules": encryption(world["other_key"])},
        leaves_nothing=False,
    ),
    Case(
        "aws:s3/bucketPolicy:BucketPolicy",
        lambda world: {
            "bucket": world["bucket"],
            "policy": document("s3:GetObject", "arn:aws:s3:::world-bucket/*", Principal={"AWS": ACCOUNT}),
        },
        lambda _: {"policy": document("s3:*", "arn:aws:s3:::world-bucket/*", Principal={"AWS": ACCOUNT})},
    ),
    Case(
        "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration",
        lambda world: {
            "bucket": world["bucket"],
            "rules": lifecycle(filter={"prefix": ""}, abortIncompleteMultipartUpload={"daysAfterInitiation": 7}),
        },
        lambda _: {
            "rules": lifecycle(
                filter={"and": {"prefix": "x/", "tags": {"Kept-As": "it is"}}},
                noncurrentVersionExpiration={"noncurrentDays": 30},
            )
        },
    ),
    Case(
        "aws:s3/bucketNotification:BucketNotification",
        lambda world: {"bucket": world["bucket"], "eventbridge": True},
        lambda world: {
            "queues": [{"queueArn": world["queue"], "events": ["s3:ObjectCreated:*"], "filterPrefix": "a/"}],
        },
        leaves_nothing=False,
    ),
    Case(
        "aws:sqs/queue:Queue",
        lambda world: {
            "name": "case-queue",
            "sqsManagedSseEnabled": True,
            "redrivePolicy": json.dumps({"deadLetterTargetArn": world["queue"], "maxReceiveCount": 5}),
            "tags": {"a": "b"},
        },
        lambda _: {"visibilityTimeoutSeconds": 360, "tags": {}},
    ),
    Case(
        "aws:sqs/queuePolicy:QueuePolicy",
        lambda world: {
            "queueUrl": world["other_queue_url"],
            "policy": document("sqs:SendMessage", world["other_queue"], Principal={"Service": "events.amazonaws.com"}),
        },
        lambda world: {
            "policy": document("sqs:*", world["other_queue"], Principal={"Service": "events.amazonaws.com"}),
        },
    ),
    Case(
        "aws:cloudwatch/eventRule:EventRule",
        lambda _: {"name": "case-rule", "description": "one", "eventPattern": '{"source": ["aws.s3"]}'},
        lambda _: {"description": "two", "eventPattern": '{"source":["aws.sqs"]}', "tags": {"a": "b"}},
    ),
    Case(
        "aws:cloudwatch/eventTarget:EventTarget",
        lambda world: {"rule": "world-rule", "arn": world["queue"]},
        lambda world: {"arn": world["other_queue"]},
    ),
    Case(
        "aws:iam/role:Role",
        lambda _: {"name": "case-role", "assumeRolePolicy": TRUST, "description": "one", "tags": {"a": "b"}},
        lambda _: {"description": "two", "maxSessionDuration": 7200, "tags": {"c": "d"}},
    ),
    Case(
        "aws:iam/rolePolicy:RolePolicy",
        lambda _: {"role": "world-role", "name": "inline", "policy": document("s3:GetObject", "*")},
        lambda _: {"policy": document("s3:PutObject", "*")},
    ),
    Case(
        "aws:lambda/function:Function",
        lambda world: {
            "name": "case-function",
            "role": world["role"],
            "code": CODE,
            "handler": "worker.handle",
            "runtime": "python3.12",
            "environment": {"variables": {"A": "b"}},
        },
        lambda _: {"code": OTHER_CODE, "timeout": 60, "environment": {"variables": {"A": "c"}}},
    ),
    Case(
        "aws:lambda/eventSourceMapping:EventSourceMapping",
        lambda world: {
            "eventSourceArn": world["other_queue"],
            "functionName": "world-function",
            "functionResponseTypes": ["ReportBatchItemFailures"],
            "enabled": True,
        },
        lambda _: {"enabled": False, "batchSize": 5},
    ),
    Case(
        "aws:secretsmanager/secret:Secret",
        lambda _: {"name": "case-secret", "recoveryWindowInDays": 0},
        lambda _: {"description": "two", "tags": {"a": "b"}},
    ),
    Case(
        "aws:secretsmanager/secretVersion:SecretVersion",
        lambda world: {"secretId": world["secret"], "secretString": "hush"},
        lambda _: {},
        leaves_nothing=False,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_resource_lives_without_a_change_that_nobody_made(case: Case, plugin: Plugin, world: dict[str, str]) -> None:
    inputs = plugin.checked(case.token, "case", case.inputs(world))
    id, state = plugin.create(case.token, "case", inputs)
    assert_settled(plugin, case, id, state, inputs)

    wanted = plugin.checked(case.token, "case", case.inputs(world) | case.update(world))
    difference = plugin.diff(case.token, "case", state=state, old_inputs=inputs, inputs=wanted)
    assert set(difference.diffs) == case.update(world).keys(), "exactly what the program changed is seen"
    assert not difference.replaces
    if case.update(world):
        state = plugin.update(case.token, "case", id, state, wanted)
        assert_settled(plugin, case, id, state, wanted)

    plugin.delete(case.token, "case", id, state)
    plugin.delete(case.token, "case", id, state)  # an interrupted delete is asked for again
    found = plugin.read(case.token, "case", id, wanted, state)
    assert (found.id == "") is case.leaves_nothing


def assert_settled(plugin: Plugin, case: Case, id: str, state: dict[str, Any], inputs: dict[str, Any]) -> None:
    """Neither an `up` nor a refresh right after finds anything to do."""
    assert not plugin.diff(case.token, "case", state=state, old_inputs=inputs, inputs=inputs).diffs
    found = plugin.read(case.token, "case", id, inputs, state)
    assert values.decode(found.properties)[0] == state
    assert values.decode(found.inputs)[0] == inputs


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_preview_promises_exactly_the_outputs_that_come(case: Case, plugin: Plugin, world: dict[str, str]) -> None:
    _, promised = plugin.create(case.token, "promise", case.inputs(world), preview=True)
    id, state = plugin.create(case.token, "promise", case.inputs(world))
    plugin.delete(case.token, "promise", id, state)
    # what the real provider, too, learns only from the service's answer
    sometimes = {"batchSize", "expectedBucketOwner", "policy", "redrivePolicy", "rotationPeriodInDays"}
    assert promised.keys() - sometimes == state.keys() - sometimes


ADOPTED = [case for case in CASES if "/bucket" not in case.token or case.token.endswith(":Bucket")]


@pytest.mark.parametrize("case", ADOPTED, ids=str)
def test_a_create_that_was_never_recorded_is_taken_up_again(
    case: Case, environment: dict[str, str], world: dict[str, str]
) -> None:
    ids = []
    for _ in range(2):
        with started("aws", environment) as plugin:  # the plugin dies with the CLI
            id, state = plugin.create(case.token, "lost", case.inputs(world))
            ids.append(id)
    with started("aws", environment) as plugin:
        plugin.delete(case.token, "lost", id, state)
    assert ids[0] == ids[1], "a second object would stay behind for ever"


ALREADY = {
    "aws:kms/alias:Alias": "AlreadyExistsException",
    "aws:s3/bucket:Bucket": "BucketAlreadyOwnedByYou",
    "aws:iam/role:Role": "EntityAlreadyExists",
    "aws:lambda/function:Function": "ResourceConflictException",
    "aws:lambda/eventSourceMapping:EventSourceMapping": "ResourceConflictException",
    "aws:secretsmanager/secret:Secret": "ResourceExistsException",
}


@pytest.mark.parametrize("case", [case for case in CASES if case.token in ALREADY], ids=str)
def test_the_object_that_a_replacement_replaces_is_not_taken_for_a_lost_create(
    case: Case, plugin: Plugin, world: dict[str, str]
) -> None:
    inputs = plugin.checked(case.token, "replaced", case.inputs(world))
    id, state = plugin.create(case.token, "replaced", inputs)
    plugin.check(case.token, "replaced", inputs, olds=inputs)  # the engine holds it: what follows replaces it
    with pytest.raises(grpc.RpcError, match=ALREADY[case.token]):
        plugin.create(case.token, "replaced", inputs)
    plugin.delete(case.token, "replaced", id, state)


def test_somebody_elses_object_is_never_taken_over(plugin: Plugin, world: dict[str, str]) -> None:
    role = {"name": "world-role", "assumeRolePolicy": TRUST}
    with pytest.raises(grpc.RpcError, match="EntityAlreadyExists"):
        plugin.create("aws:iam/role:Role", "mine", role)
    with pytest.raises(grpc.RpcError, match="BucketAlreadyOwnedByYou"):
        plugin.create("aws:s3/bucket:Bucket", "mine", {"bucket": world["bucket"]})


def test_another_resources_object_of_the_same_name_is_not_taken_over(plugin: Plugin) -> None:
    inputs = {"name": "one-role", "assumeRolePolicy": TRUST}
    id, state = plugin.create("aws:iam/role:Role", "one", inputs)
    with pytest.raises(grpc.RpcError, match="EntityAlreadyExists"):
        plugin.create("aws:iam/role:Role", "two", inputs)
    plugin.delete("aws:iam/role:Role", "one", id, state)


def test_our_mark_is_in_the_cloud_and_not_in_the_state(plugin: Plugin, environment: dict[str, str]) -> None:
    id, state = plugin.create("aws:sqs/queue:Queue", "marked", {"name": "marked", "tags": {"a": "b"}})
    tags = boto_client(environment, "sqs").list_queue_tags(QueueUrl=id)["Tags"]
    assert tags.keys() == {"a", "keyshift:urn"}
    assert state["tags"] == state["tagsAll"] == {"a": "b"}
    plugin.delete("aws:sqs/queue:Queue", "marked", id, state)


def test_a_bucket_that_is_not_empty_is_not_deleted(plugin: Plugin, environment: dict[str, str]) -> None:
    token, s3 = "aws:s3/bucket:Bucket", boto_client(environment, "s3")
    id, state = plugin.create(token, "full", {"bucket": "full-bucket"})
    s3.put_object(Bucket="full-bucket", Key="k", Body=b"x")
    with pytest.raises(grpc.RpcError, match="BucketNotEmpty"):
        plugin.delete(token, "full", id, state)
    assert s3.get_object(Bucket="full-bucket", Key="k")["Body"].read() == b"x"
    forced = plugin.checked(token, "full", {"bucket": "full-bucket", "forceDestroy": True})
    state = plugin.update(token, "full", id, state, forced)
    plugin.delete(token, "full", id, state)


def test_a_read_shows_what_somebody_changed_in_the_cloud(plugin: Plugin, environment: dict[str, str]) -> None:
    token = "aws:sqs/queue:Queue"
    inputs = plugin.checked(token, "drift", {"name": "drift"})
    id, state = plugin.create(token, "drift", inputs)
    sqs = boto_client(environment, "sqs")
    sqs.set_queue_attributes(QueueUrl=id, Attributes={"VisibilityTimeout": "77"})
    found = plugin.read(token, "drift", id, inputs, state)
    now, _ = values.decode(found.properties)
    assert now["visibilityTimeoutSeconds"] == 77
    assert values.decode(found.inputs)[0]["visibilityTimeoutSeconds"] == 77
    difference = plugin.diff(token, "drift", state=now, old_inputs=inputs, inputs=inputs)
    assert list(difference.diffs) == ["visibilityTimeoutSeconds"]
    plugin.delete(token, "drift", id, state)


def test_a_key_without_material_waits_and_is_enabled_when_it_has_some(plugin: Plugin) -> None:
    token = "aws:kms/externalKey:ExternalKey"
    inputs = plugin.checked(token, "pending", {"enabled": True})
    id, state = plugin.create(token, "pending", inputs)
    assert (state["keyState"], state["enabled"]) == ("PendingImport", False)
    difference = plugin.diff(token, "pending", state=state, old_inputs=inputs, inputs=inputs)
    assert list(difference.diffs) == ["enabled"], "the program asks for what is not so yet"
    plugin.delete(token, "pending", id, state)


def test_a_key_that_waits_for_its_deletion_is_gone(plugin: Plugin, environment: dict[str, str]) -> None:
    id, state = plugin.create("aws:kms/key:Key", "going", {"deletionWindowInDays": 9})
    plugin.delete("aws:kms/key:Key", "going", id, state)
    metadata = boto_client(environment, "kms").describe_key(KeyId=id)["KeyMetadata"]
    assert metadata["KeyState"] == "PendingDeletion"
    assert (metadata["DeletionDate"] - datetime.now(UTC)).days in {8, 9}
    assert plugin.read("aws:kms/key:Key", "going", id, {"isEnabled": True}, state).id == ""


def test_a_secrets_text_comes_back_secret(plugin: Plugin, world: dict[str, str]) -> None:
    token = "aws:secretsmanager/secretVersion:SecretVersion"
    inputs = plugin.checked(token, "hidden", {"secretId": world["secret"], "secretString": "hush"})
    answer = plugin.stub.Create(
        provider_pb2.CreateRequest(urn=plugin.urn(token, "hidden"), properties=values.encode(inputs))
    )
    properties, secrets = values.decode(answer.properties)
    assert properties["secretString"] == "hush"
    assert secrets == {"secretString"}, "also when the program forgot to say so"


def test_an_input_that_is_secret_stays_secret_among_the_outputs(plugin: Plugin) -> None:
    token = "aws:sqs/queue:Queue"
    inputs = plugin.checked(token, "quiet", {"name": "quiet", "tags": {"a": "hush"}})
    answer = plugin.stub.Create(
        provider_pb2.CreateRequest(urn=plugin.urn(token, "quiet"), properties=values.encode(inputs, secrets={"tags"}))
    )
    assert values.decode(answer.properties)[1] == {"tags"}
    plugin.delete(token, "quiet", answer.id, values.decode(answer.properties)[0])


def test_an_object_made_but_not_finished_is_recorded_as_unhealthy(plugin: Plugin) -> None:
    token = "aws:kms/key:Key"
    inputs = plugin.checked(token, "half", {"enableKeyRotation": True, "rotationPeriodInDays": 5})
    with pytest.raises(grpc.RpcError, match="was made, but not finished") as refusal:
        plugin.stub.Create(provider_pb2.CreateRequest(urn=plugin.urn(token, "half"), properties=values.encode(inputs)))
    details = dict(refusal.value.trailing_metadata())["grpc-status-details-bin"]
    partial = provider_pb2.ErrorResourceInitFailed()
    assert status_pb2.Status.FromString(details).details[0].Unpack(partial)
    assert partial.id, "without its id the key would be forgotten"
    plugin.delete(token, "half", partial.id, values.decode(partial.properties)[0])


def test_the_caller_and_the_region_are_told(plugin: Plugin) -> None:
    def invoked(token: str) -> dict[str, Any]:
        answer = plugin.stub.Invoke(provider_pb2.InvokeRequest(tok=token))
        return values.decode(getattr(answer, "return"))[0]

    assert invoked("aws:index/getCallerIdentity:getCallerIdentity")["accountId"] == ACCOUNT
    assert invoked("aws:index/getRegion:getRegion")["region"] == "eu-west-1"
    with pytest.raises(grpc.RpcError, match="do not offer the function"):
        invoked("aws:ec2/getVpc:getVpc")


def test_a_type_that_no_component_uses_is_refused(plugin: Plugin) -> None:
    with pytest.raises(grpc.RpcError, match="does not offer aws:ec2/vpc:Vpc"):
        plugin.check("aws:ec2/vpc:Vpc", "v", {})


def test_a_clouds_refusal_is_passed_on_with_its_code(plugin: Plugin) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        plugin.create(
            "aws:s3/bucketPolicy:BucketPolicy",
            "nowhere",
            {"bucket": "no-such-bucket", "policy": document("s3:*", "arn:aws:s3:::no-such-bucket/*", Principal="*")},
        )
    assert "creating aws:s3/bucketPolicy:BucketPolicy" in refusal.value.details()
    assert "NoSuchBucket" in refusal.value.details()
