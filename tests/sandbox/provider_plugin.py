"""A plugin process and what an engine asks of it."""

from __future__ import annotations

import configparser
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import grpc
from botocore.config import Config
from google.protobuf import empty_pb2

from sandbox.provider import values
from sandbox.provider.protocol import provider_pb2, provider_pb2_grpc
from sandbox.supervisor import Sandbox

SECONDS = 60


@dataclass
class Plugin:
    """One provider plugin, started as the engine starts it."""

    process: subprocess.Popen[str]
    stub: Any

    def urn(self, token: str, name: str) -> str:
        return f"urn:pulumi:dev::toy::{token}::{name}"

    def check(self, token: str, name: str, inputs: Mapping[str, Any], olds: Mapping[str, Any] | None = None) -> Any:
        return self.stub.Check(
            provider_pb2.CheckRequest(
                urn=self.urn(token, name), news=values.encode(inputs), olds=values.encode(olds or {})
            )
        )

    def checked(self, token: str, name: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.check(token, name, inputs)
        assert not answer.failures, [failure.reason for failure in answer.failures]
        return values.decode(answer.inputs)[0]

    def refusals(self, token: str, inputs: Mapping[str, Any]) -> dict[str, str]:
        return {failure.property: failure.reason for failure in self.check(token, "thing", inputs).failures}

    def create(self, token: str, name: str, inputs: Mapping[str, Any], *, preview: bool = False) -> tuple[str, Any]:
        checked = self.checked(token, name, inputs)
        answer = self.stub.Create(
            provider_pb2.CreateRequest(urn=self.urn(token, name), properties=values.encode(checked), preview=preview)
        )
        return answer.id, values.decode(answer.properties)[0]

    def read(self, token: str, name: str, id: str, inputs: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        return self.stub.Read(
            provider_pb2.ReadRequest(
                urn=self.urn(token, name), id=id, inputs=values.encode(inputs), properties=values.encode(state)
            )
        )

    def diff(
        self,
        token: str,
        name: str,
        *,
        state: Mapping[str, Any],
        old_inputs: Mapping[str, Any],
        inputs: Mapping[str, Any],
        ignore: tuple[str, ...] = (),
    ) -> Any:
        return self.stub.Diff(
            provider_pb2.DiffRequest(
                urn=self.urn(token, name),
                id="an-id",
                olds=values.encode(state),
                old_inputs=values.encode(old_inputs),
                news=values.encode(inputs),
                ignoreChanges=ignore,
            )
        )

    def update(self, token: str, name: str, id: str, state: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        answer = self.stub.Update(
            provider_pb2.UpdateRequest(
                urn=self.urn(token, name), id=id, olds=values.encode(state), news=values.encode(inputs)
            )
        )
        return values.decode(answer.properties)[0]

    def delete(self, token: str, name: str, id: str, state: Mapping[str, Any]) -> None:
        self.stub.Delete(
            provider_pb2.DeleteRequest(
                urn=self.urn(token, name), id=id, properties=values.encode(state), old_inputs=values.encode(state)
            )
        )

    def cancel(self) -> None:
        self.stub.Cancel(empty_pb2.Empty())


@contextmanager
def started(package: str, environment: Mapping[str, str] | None = None) -> Iterator[Plugin]:
    """A plugin of its own for a test, ended at the end."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "sandbox.provider", package],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | dict(environment or {}),
    )
    try:
        port = int(process.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = provider_pb2_grpc.ResourceProviderStub(channel)
            stub.Handshake(provider_pb2.ProviderHandshakeRequest(engine_address="127.0.0.1:1"), timeout=SECONDS)
            stub.Configure(provider_pb2.ConfigureRequest(acceptSecrets=True), timeout=SECONDS)
            yield Plugin(process, stub)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)
        process.stdout.close()


@contextmanager
def sandbox_up(folder: Path) -> Iterator[dict[str, str]]:
    """A sandbox of its own, as environment variables; deleted at the end."""
    sandbox = Sandbox(folder)
    sandbox.up()
    try:
        yield sandbox.environment()
    finally:
        sandbox.reset()


def boto_client(environment: Mapping[str, str], service: str, profile: str = "operator") -> Any:
    """A client of the sandbox's AWS that leaves this process's environment alone."""
    credentials = configparser.ConfigParser()
    credentials.read(environment["AWS_SHARED_CREDENTIALS_FILE"])
    return boto3.client(
        service,
        region_name=environment["AWS_REGION"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=credentials[profile]["aws_access_key_id"],
        aws_secret_access_key=credentials[profile]["aws_secret_access_key"],
        config=Config(s3={"addressing_style": "path"}, signature_version="s3v4" if service == "s3" else None),
    )
