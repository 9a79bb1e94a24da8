"""The real Pulumi CLI, our language host and our plugins together, against the sandbox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from provider_plugin import boto_client, sandbox_up

pytestmark = pytest.mark.sandbox

BIN = Path(sys.executable).parent
SECONDS = 180.0

STORE = """
import json, pulumi, pulumi_aws as aws

config = pulumi.Config()
key = aws.kms.Key("key", description=config.get("description") or "one")
bucket = aws.s3.Bucket("store", bucket="store-bucket")
aws.s3.BucketVersioning("versions", bucket=bucket.id, versioning_configuration={"status": "Enabled"})
policy = bucket.arn.apply(lambda arn: json.dumps({"Version": "2012-10-17", "Statement": [
    {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": arn + "/*",
     "Condition": {"Bool": {"aws:SecureTransport": "false"}}}]}))
aws.s3.BucketPolicy("policy", bucket=bucket.id, policy=policy)
queue = aws.sqs.Queue("queue", visibility_timeout_seconds=60)
role = aws.iam.Role("role", name="worker-role", assume_role_policy={"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]})
code = pulumi.AssetArchive({"worker/handler.py": pulumi.FileAsset("handler.py")})
function = aws.lambda_.Function("worker", name="worker", role=role.arn, code=code, handler="worker.handler.handle",
    runtime="python3.12", environment={"variables": {"KEY": key.arn}})
aws.lambda_.EventSourceMapping("mapping", event_source_arn=queue.arn, function_name=function.name)
secret = aws.secretsmanager.Secret("secret", name="a-secret", recovery_window_in_days=0)
aws.secretsmanager.SecretVersion("version", secret_id=secret.id, secret_string=pulumi.Output.secret("correct horse"))
pulumi.export("account", aws.get_caller_identity().account_id)
pulumi.export("region", aws.get_region().region)
pulumi.export("key", key.key_id)
pulumi.export("queue", queue.url)
"""

RAW = """
import pulumi

class Raw(pulumi.CustomResource):
    def __init__(self, token, name, inputs):
        super().__init__(token, name, inputs)

Raw("aws:s3/bucketPolicy:BucketPolicy", "raw", {inputs})
"""

QUEUE = """
import pulumi, pulumi_aws as aws

config = pulumi.Config()
queue = aws.sqs.Queue("queue", name=config.get("name"), fifo_queue=config.get_bool("fifo"))
pulumi.export("name", queue.name)
"""

SEARCH = """
import json, pulumi, pulumi_aws as aws, pulumi_ec as ec, pulumi_elasticstack as elasticstack

deployment = ec.Deployment("search", name="acme-e1", region="aws-eu-west-1", version="8.19.0",
    deployment_template_id="aws-storage-optimized",
    elasticsearch={"hot": {"autoscaling": {}}})
endpoint = deployment.elasticsearch.apply(lambda found: found.https_endpoint or "")
provider = elasticstack.Provider("cluster", elasticsearch=elasticstack.ProviderElasticsearchArgs(
    endpoints=[endpoint], username=deployment.elasticsearch_username, password=deployment.elasticsearch_password),
    opts=pulumi.ResourceOptions(deleted_with=deployment))
inside = pulumi.ResourceOptions(provider=provider, deleted_with=deployment)
elasticstack.Index("index", name="records-000001", aliases=[elasticstack.IndexAliasArgs(name="records")], opts=inside)
writer = {"writer": {"cluster": [], "indices": [{"names": ["records-*"], "privileges": ["write"]}]}}
key = elasticstack.SecurityApiKey("writer", name="writer", role_descriptors=json.dumps(writer), opts=inside)
secret = aws.secretsmanager.Secret("secret", name="search-secret", recovery_window_in_days=0)
aws.secretsmanager.SecretVersion("version", secret_id=secret.id, secret_string=key.encoded)
pulumi.export("endpoint", endpoint)
"""


@dataclass(frozen=True)
class Project:
    """A Pulumi project in a folder of its own, with its state in it and one stack."""

    folder: Path
    sandbox: dict[str, str]
    stack: str = "dev"

    @property
    def environment(self) -> dict[str, str]:
        plugins = self.sandbox["PATH"].partition(os.pathsep)[0]
        return {
            **self.sandbox,
            "HOME": str(self.folder),
            "PATH": os.pathsep.join([plugins, str(BIN), os.defpath]),
            "PULUMI_CONFIG_PASSPHRASE": "a passphrase",
            "PULUMI_HOME": str(self.folder / "home"),
        }

    def command(self, *words: str) -> list[str]:
        return [str(BIN / "pulumi"), *words, "--stack", self.stack, "--non-interactive", "--color", "never"]

    def try_pulumi(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def pulumi(self, *words: str) -> str:
        done = self.try_pulumi(*words)
        assert done.returncode == 0, f"pulumi {' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *words: str) -> str:
        return self.pulumi("up", "--yes", "--skip-preview", *words)

    def program(self, text: str) -> None:
        (self.folder / "__main__.py").write_text(textwrap.dedent(text))

    def configure(self, **settings: str) -> None:
        for name, value in settings.items():
            self.pulumi("config", "set", name, value)

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.pulumi("stack", "output", "--json"))

    def resource(self, type_: str) -> dict[str, Any]:
        resources = json.loads(self.pulumi("stack", "export"))["deployment"].get("resources", [])
        (found,) = (each for each in resources if each["type"] == type_)
        return found

    def state(self) -> str:
        files = [file for file in (self.folder / "state").rglob("*") if file.is_file()]
        assert files
        return "\n".join(file.read_text() for file in files)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with sandbox_up(tmp_path_factory.mktemp("engine") / "sandbox") as variables:
        yield variables


@pytest.fixture
def project(tmp_path: Path, sandbox: dict[str, str]) -> Iterator[Project]:
    assert (BIN / "pulumi").exists(), "no engine in this environment: run `make setup`"
    (tmp_path / "state").mkdir()
    (tmp_path / "Pulumi.yaml").write_text("name: toy\nruntime: python\nbackend:\n  url: file://./state\n")
    (tmp_path / "handler.py").write_text("def handle(event, context):\n    return {}\n")
    made = Project(tmp_path, sandbox)
    made.pulumi("stack", "init")
    yield made
    made.try_pulumi("cancel", "--yes")
    made.try_pulumi("destroy", "--yes", "--skip-preview")


def test_a_stack_is_made_stays_as_it_is_and_leaves_nothing(project: Project, sandbox: dict[str, str]) -> None:
    s3, sqs = boto_client(sandbox, "s3"), boto_client(sandbox, "sqs")
    project.program(STORE)
    project.up()
    outputs = project.outputs()
    assert (outputs["account"], outputs["region"]) == ("111122223333", "eu-west-1")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["store-bucket"]
    assert s3.get_bucket_versioning(Bucket="store-bucket")["Status"] == "Enabled"

    project.up("--expect-no-changes")
    project.pulumi("refresh", "--yes", "--skip-preview", "--expect-no-changes")
    project.up("--expect-no-changes")

    state = project.state()
    assert "store-bucket" in state
    assert "correct horse" not in state, "a secret in clear text"

    project.pulumi("destroy", "--yes", "--skip-preview")
    assert s3.list_buckets()["Buckets"] == []
    assert not sqs.list_queues().get("QueueUrls")


def test_drift_is_seen_by_a_refresh_and_mended_by_the_next_up(project: Project, sandbox: dict[str, str]) -> None:
    sqs, s3 = boto_client(sandbox, "sqs"), boto_client(sandbox, "s3")
    project.program(STORE)
    project.up()
    queue = project.outputs()["queue"]
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "77"})
    s3.delete_bucket_policy(Bucket="store-bucket")

    refused = project.try_pulumi("refresh", "--yes", "--skip-preview", "--expect-no-changes")
    assert refused.returncode != 0, "drift is a change"
    assert "~ 1 updated" in refused.stdout + refused.stderr
    assert "- 1 deleted" in refused.stdout + refused.stderr

    said = project.up()
    assert "+ 1 created" in said
    assert "~ 1 updated" in said
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "60"
    assert s3.get_bucket_policy(Bucket="store-bucket")["Policy"]


def test_a_change_of_code_alone_updates_the_function(project: Project) -> None:
    project.program(STORE)
    project.up()
    before = project.resource("aws:lambda/function:Function")["outputs"]["sourceCodeHash"]
    (project.folder / "handler.py").write_text("def handle(event, context):\n    return {'changed': True}\n")
    assert "~ 1 updated" in project.up()
    assert project.resource("aws:lambda/function:Function")["outputs"]["sourceCodeHash"] != before
    project.up("--expect-no-changes")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("dict(bucket='b', policy='{}', nmae='x')", "unknown property 'nmae'"),
        ("dict(bucket='b')", "missing required property 'policy'"),
    ],
)
def test_a_property_that_the_real_provider_would_refuse_is_refused_by_its_name(
    project: Project, inputs: str, said: str
) -> None:
    project.program(RAW.replace("{inputs}", inputs))
    refused = project.try_pulumi("preview")
    assert refused.returncode != 0
    assert said in refused.stdout + refused.stderr


def test_what_cannot_be_changed_is_replaced_and_a_made_name_gives_way(project: Project) -> None:
    project.program(QUEUE)
    project.up()
    first = project.outputs()["name"]
    project.configure(fifo="false", name="given")
    assert "+-1 replaced" in project.up()
    assert project.outputs()["name"] == "given" != first


def test_a_replacement_of_the_same_given_name_deletes_first(project: Project, sandbox: dict[str, str]) -> None:
    iam = boto_client(sandbox, "iam")
    trust = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}  # fmt: skip
    program = "import pulumi_aws as aws\naws.iam.Role('r', name='replaced', path='{}', assume_role_policy={!r})\n"
    project.program(program.format("/one/", json.dumps(trust)))
    project.up()
    first = iam.get_role(RoleName="replaced")["Role"]["RoleId"]
    project.program(program.format("/two/", json.dumps(trust)))
    assert "+-1 replaced" in project.up()
    found = iam.get_role(RoleName="replaced")["Role"]
    assert found["Path"] == "/two/"
    assert found["RoleId"] != first


def test_what_a_lost_create_made_is_adopted(project: Project) -> None:
    project.program(STORE)
    project.up()
    key = project.outputs()["key"]
    dependents = ["aws:lambda/eventSourceMapping:EventSourceMapping", "aws:lambda/function:Function"]
    for type_ in [*dependents, "aws:kms/key:Key"]:  # forgotten, not deleted: the state a lost create leaves
        project.pulumi("state", "delete", project.resource(type_)["urn"], "--yes")
    assert "+ 3 created" in project.up()
    assert project.outputs()["key"] == key, "a second key would stay behind for ever"
    project.up("--expect-no-changes")


def test_an_up_killed_while_it_makes_things_is_made_whole_by_the_next(
    project: Project, sandbox: dict[str, str]
) -> None:
    project.program(STORE)
    s3, kms = boto_client(sandbox, "s3"), boto_client(sandbox, "kms")
    before = living_keys(kms)
    with (project.folder / "log").open("wb") as log:
        cli = subprocess.Popen(
            project.command("up", "--yes", "--skip-preview"),
            cwd=project.folder,
            env=project.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until(lambda: cli.poll() is not None or bool(s3.list_buckets()["Buckets"]), "the up has made something")
    cli.send_signal(signal.SIGKILL)
    cli.wait(SECONDS)
    until(lambda: not plugins_of(project), "the plugins follow the CLI")
    project.pulumi("cancel", "--yes")
    project.pulumi("refresh", "--yes", "--skip-preview", "--clear-pending-creates")
    project.up()
    project.up("--expect-no-changes")
    assert len(living_keys(kms) - before) == 1, "a second key would stay behind for ever"


def test_a_search_is_made_reached_by_its_secret_connection_and_goes_whole(project: Project) -> None:
    project.program(SEARCH)
    project.up()
    project.up("--expect-no-changes")
    project.pulumi("refresh", "--yes", "--skip-preview", "--expect-no-changes")
    deployment = project.resource("ec:index/deployment:Deployment")["outputs"]
    key = project.resource("elasticstack:index/securityApiKey:SecurityApiKey")["outputs"]
    hidden = [deployment["elasticsearchPassword"], key["apiKey"], key["encoded"]]
    assert all("ciphertext" in value for value in hidden), "the state holds them encrypted"
    project.pulumi("destroy", "--yes", "--skip-preview")


def living_keys(kms: Any) -> set[str]:
    ids = {key["KeyId"] for key in kms.list_keys()["Keys"]}
    return {id for id in ids if kms.describe_key(KeyId=id)["KeyMetadata"]["KeyState"] != "PendingDeletion"}


def plugins_of(project: Project) -> list[str]:
    """The plugins that were started for this project: they run in its folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_plugin = b"sandbox.provider" in (process / "cmdline").read_bytes()
            if is_plugin and (process / "cwd").samefile(project.folder):
                found.append(process.name)
        except OSError:
            continue  # it ended while it was looked at
    return found


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"not within {SECONDS} s: {what}"
        threading.Event().wait(0.02)
