"""How many tenants a second does a round of the watch look at, and does it hold a thousand? `python -m benchmarks.watch`.

A round of the real watch (records, memory of what was seen, decisions) against the same calls to AWS made by plain boto3
from as many threads, in one run. AWS is another process on this machine that answers at once, so that what is compared is
what each of the two spends itself. Peaks are of a process for each size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3

from components import naming
from migrate.records import Records
from migrate.stack import Project
from migrate.watching.round import AT_ONCE, Watch
from stacks.layout import Key, KeyState, Layout, Pipeline, PipelineState, Search, Serves, Storage, StorageKind
from stacks.record import connect

SIZES = (100, 1000)
RATIO, MEMORY_RATIO, PEAK_MB = 0.8, 1.2, 300
REGION, ACCOUNT, THEIRS = "eu-west-1", "111122223333", "444455556666"
CALLS = ("GetCallerIdentity", "AssumeRole", "DescribeKey", "ListObjectsV2", "GetObject")
OBJECT = "records/1.json"


# AWS ------------------------------------------------------------------------------------------


class Aws(BaseHTTPRequestHandler):
    """The five calls that a look at one tenant makes."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if "x-amz-target" in self.headers:
            arn = json.loads(asked)["KeyId"].replace("alias/", "key/")
            about = {"Arn": arn, "KeyId": arn, "KeyState": "Enabled", "CurrentKeyMaterialId": "m1"}
            self._answer(json.dumps({"KeyMetadata": about}), "application/x-amz-json-1.1")
        elif "AssumeRole" in asked:
            said = (
                "<Credentials><AccessKeyId>A</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t"
                "</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
            )
            self._answer(f"<AssumeRoleResponse><AssumeRoleResult>{said}</AssumeRoleResult></AssumeRoleResponse>")
        else:
            said = f"<Account>{ACCOUNT}</Account><Arn>arn:aws:iam::{ACCOUNT}:root</Arn><UserId>u</UserId>"
            self._answer(
                f"<GetCallerIdentityResponse><GetCallerIdentityResult>{said}</GetCallerIdentityResult>"
                "</GetCallerIdentityResponse>"
            )

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            held = f"<Contents><Key>{OBJECT}</Key><Size>1</Size></Contents>"
            self._answer(f"<ListBucketResult><IsTruncated>false</IsTruncated>{held}</ListBucketResult>")
        else:
            self._answer("x", "application/octet-stream")

    def _answer(self, body: str, kind: str = "text/xml") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def serve(port: Any) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Aws)
    server.daemon_threads = True
    port.value = server.server_port
    server.serve_forever()


# the two --------------------------------------------------------------------------------------


def names(count: int) -> list[str]:
    return [f"tenant-{number:05}" for number in range(count)]


def alias(name: str) -> str:
    return f"arn:aws:kms:{REGION}:{THEIRS}:alias/{name}"


def watched(count: int) -> dict[str, float]:
    """One round of the watch over `count` tenants, each under a key of its customer's."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(root=Path(folder), home=Path(folder) / ".keyshift")
        records = Records(connect(project.home))
        for name in names(count):
            key = Key(id="k1", state=KeyState.ACTIVE, arn=alias(name).replace("alias/", "key/"), alias=alias(name))
            records.create(
                Layout(
                    tenant=name,
                    customer=name,
                    cloud="aws",
                    region=REGION,
                    stamp=f"stamp-aws-{REGION}-01",
                    mode="byokms",
                    keys=(key.model_copy(update={"material": "m1"}),),
                    storages=(Storage(id="s1", kind=StorageKind.DEDICATED, key="k1"),),
                    searches=(Search(id="e1", key="k1"),),
                    pipelines=(Pipeline(id="p1", storage="s1", search="e1", state=PipelineState.RUNNING),),
                    serves=Serves(storage="s1", search="e1", pipeline="p1"),
                )
            )
        watch = Watch(project, tell=lambda _: None)
        began = time.monotonic()
        found = watch.round()
        seconds = time.monotonic() - began
    assert (found.looked_at, found.lost, found.failed) == (count, (), ()), found
    return measured(count, seconds)


def plain(count: int) -> dict[str, float]:
    """The same calls by boto3 as its documentation shows it: a session, a role, three clients."""
    operator = boto3.Session(region_name=REGION)

    def look(name: str) -> bool:
        sts = operator.client("sts")
        account = sts.get_caller_identity()["Account"]
        role = f"arn:aws:iam::{account}:role/{naming.role(name, 'runner')}"
        issued = sts.assume_role(RoleArn=role, RoleSessionName="look")["Credentials"]
        session = boto3.Session(
            aws_access_key_id=issued["AccessKeyId"],
            aws_secret_access_key=issued["SecretAccessKey"],
            aws_session_token=issued["SessionToken"],
            region_name=REGION,
        )
        state = session.client("kms").describe_key(KeyId=alias(name))["KeyMetadata"]["KeyState"]
        s3 = session.client("s3")
        bucket = naming.dedicated_bucket(tenant=name, storage="s1", account=account, region=REGION)
        listed = s3.list_objects_v2(Bucket=bucket, MaxKeys=100)["Contents"]
        read = s3.get_object(Bucket=bucket, Key=listed[0]["Key"])["Body"].read(1)
        return state == "Enabled" and read == b"x"

    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert all(pool.map(look, names(count)))
    return measured(count, time.monotonic() - began)


def measured(count: int, seconds: float) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"tenants": count, "tenants_a_second": round(count / seconds, 1), "peak_mb": round(peak)}


def in_a_process(what: str, count: int) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.watch", "--only", what, "--sizes", str(count)]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("watch", "boto3"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps({"watch": watched, "boto3": plain}[arguments.only](arguments.sizes[0])))
        return
    port = multiprocessing.Value("i", 0)
    aws = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    aws.start()
    while not port.value:
        time.sleep(0.01)
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port.value}",
        "AWS_ACCESS_KEY_ID": "A",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    os.environ.pop("KEYSHIFT_DATABASE_URL", None)
    small, large = min(arguments.sizes), max(arguments.sizes)
    found = {
        "boto3": in_a_process("boto3", small),
        "watch": in_a_process("watch", small),
        "watch, many": in_a_process("watch", large),
    }
    aws.terminate()
    ratio = found["watch"]["tenants_a_second"] / found["boto3"]["tenants_a_second"]
    memory = found["watch, many"]["peak_mb"] / found["watch"]["peak_mb"]
    found["ratios"] = {"tenants a second, watch : boto3": round(ratio, 2), "memory, many : few": round(memory, 2)}
    for name, row in found.items():
        print(f"{name:12} {row}")
    is_met = ratio >= RATIO and memory <= MEMORY_RATIO and found["watch, many"]["peak_mb"] < PEAK_MB
    print(f"goals: at least {RATIO}, at most {MEMORY_RATIO}, below {PEAK_MB} MB: {'met' if is_met else 'MISSED'}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
