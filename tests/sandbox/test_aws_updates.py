"""A function that is updated while a batch is in it: the batch ends with what it began with, as in AWS."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aws_server import running_aws, until
from gate_lab import Lab, allow, policy, unique

pytestmark = pytest.mark.sandbox

NEVER_AGAIN = "600"
"""A visibility timeout in which no test sees a message a second time."""
WORKER = """\
import os, pathlib, time

def handle(event, context):
    folder = pathlib.Path(os.environ["FOLDER"])
    (folder / "began").touch()
    end = time.monotonic() + 25
    while not (folder / "go").exists() and time.monotonic() < end:
        time.sleep(0.02)
    (folder / "ended").touch()
    return {"batchItemFailures": []}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_aws(tmp_path_factory.mktemp("aws")) as server:
        yield Lab(server)


def archived(source: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("worker.py", source)
    return archive.getvalue()


@pytest.mark.parametrize("updated", ["configuration", "code"])
def test_a_batch_in_flight_ends_although_its_function_is_updated(lab: Lab, tmp_path: Path, updated: str) -> None:
    sqs, functions = lab.server.client("sqs"), lab.server.client("lambda")
    url = sqs.create_queue(QueueName=unique("queue"), Attributes={"VisibilityTimeout": NEVER_AGAIN})["QueueUrl"]
    queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    role = lab.role([allow("sqs:*", queue)])
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    lab.server.client("iam").update_assume_role_policy(RoleName=role.rpartition("/")[2], PolicyDocument=policy(trust))
    name, environment = unique("function"), {"FOLDER": str(tmp_path)}
    functions.create_function(
        FunctionName=name,
        Role=role,
        Runtime="python3.12",
        Handler="worker.handle",
        Code={"ZipFile": archived(WORKER)},
        Environment={"Variables": environment},
        Timeout=30,
    )
    functions.create_event_source_mapping(EventSourceArn=queue, FunctionName=name)
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps({}))
    until((tmp_path / "began").exists, "the batch to be in the function")
    if updated == "code":
        functions.update_function_code(FunctionName=name, ZipFile=archived(f"{WORKER}\n# another revision\n"))
    else:
        functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": {**environment, "NEW": "1"}}
        )
    (tmp_path / "go").touch()
    names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible")]

    def drained() -> bool:
        counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return not any(int(counts[name]) for name in names)

    until(drained, "the queue to be empty: what the update killed stays in flight until the visibility timeout")
    assert (tmp_path / "ended").exists()
