"""The sandbox's AWS as a process of its own, for tests."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config

from engine.paths import emulator_python

REPOSITORY = Path(__file__).resolve().parents[2]
REGION = "eu-west-1"
VENDOR, CUSTOMER, ELASTIC = "111122223333", "444455556666", "777788889999"
PROFILES = ("operator", "customer", "elastic")
LIMIT = 60.0  # seconds, for a start, a stop or an event on two busy cores

Found = TypeVar("Found")


def until(look: Callable[[], Found | None], what: str, limit: float = LIMIT) -> Found:
    """The first true value of `look`, or a failure that says what was waited for."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {limit:.0f} s: {what}")


@dataclass(frozen=True)
class RawAnswer:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class AwsServer:
    """A running AWS process; `sessions` holds a boto3 session for each profile, its endpoint included."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    sessions: dict[str, boto3.Session] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> Path:
        """Where object bytes lie."""
        return self.folder / "state" / "s3"

    def client(self, service: str, profile: str = "operator", **options: Any) -> Any:
        return self.sessions[profile].client(service, **options)

    def client_of(self, service: str, role_arn: str, *, profile: str = "operator", **assumed: Any) -> Any:
        """A client that acts as a role, through credentials from AssumeRole."""
        sts = self.client("sts", profile)
        keys = sts.assume_role(RoleArn=role_arn, RoleSessionName="test", **assumed)["Credentials"]
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys["SessionToken"],
            config=Config(
                signature_version="s3v4" if service == "s3" else None,
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
            ),
        )

    def raw(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        profile: str | None = "operator",
        forged: bytes | None = None,
        region: str = REGION,
    ) -> RawAnswer:
        """One request as it is written here, signed for S3 unless `profile` is None; for calls that boto3 lacks.

        `forged` is sent in place of the body that was signed.
        """
        request = AWSRequest(method, f"{self.endpoint}{path}", headers=dict(headers or {}), data=body)
        if profile is not None:
            S3SigV4Auth(self.sessions[profile].get_credentials(), "s3", region).add_auth(request)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            sent = body if forged is None else forged
            connection.request(method, path, body=sent, headers=dict(request.headers.items()))
            answer = connection.getresponse()
            return RawAnswer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def is_healthy(self) -> bool:
        try:
            return self.raw("GET", "/_sandbox/health", profile=None).status == 200
        except OSError:
            return False

    def set_faults(self, body: str) -> None:
        answer = self.raw("POST", "/_sandbox/faults", body=body.encode(), profile=None)
        assert answer.status == 200, answer.body

    def stop(self) -> None:
        """SIGTERM, and wait: what the server holds is then on disk."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LIMIT) == 0, f"SIGTERM is a clean stop:\n{self.log()}"

    def log(self) -> str:
        return (self.folder / "aws.log").read_text(errors="replace")[-4000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_aws(folder: Path, port: int | None = None) -> AwsServer:
    """Start the process on `folder`, which may hold the state of an earlier one."""
    python = os.environ.get("KEYSHIFT_EMULATOR_PYTHON") or str(emulator_python())
    assert Path(python).exists(), "the emulators' environment is missing: run `make setup`"
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    with (folder / "aws.log").open("ab") as log:
        process = subprocess.Popen(
            [python, "-m", "sandbox.aws", "--dir", str(folder), "--port", str(port)],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=log,
            stderr=log,
        )
    server = AwsServer(folder, port, process)
    try:
        until(lambda: server.is_healthy() or process.poll() is not None, "the AWS process to answer")
        assert process.poll() is None, f"the AWS process ended:\n{server.log()}"
    except BaseException:
        process.kill()
        raise
    server.sessions = {profile: _session(folder / "aws", profile) for profile in PROFILES}
    return server


def _session(folder: Path, profile: str) -> boto3.Session:
    session = botocore.session.Session(profile=profile)
    session.set_config_variable("config_file", str(folder / "config"))
    session.set_config_variable("credentials_file", str(folder / "credentials"))
    session.set_default_client_config(Config(retries={"total_max_attempts": 1}))
    return boto3.Session(botocore_session=session)


@contextlib.contextmanager
def running_aws(folder: Path, port: int | None = None) -> Iterator[AwsServer]:
    """The AWS process on `folder`, stopped at the end."""
    server = start_aws(folder, port)
    try:
        yield server
    finally:
        server.stop()
