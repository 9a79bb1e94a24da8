"""What the gate's tests have in common: buckets under a key, roles, objects, refusals."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aws_server import REGION, VENDOR, AwsServer
from botocore.exceptions import ClientError

_numbers = itertools.count(1)


def unique(name: str) -> str:
    return f"{name}-{next(_numbers):04d}"


@dataclass(frozen=True)
class Refusal:
    code: str
    status: int
    message: str


def refused(call: Callable[..., Any], **arguments: Any) -> Refusal:
    """The error that a call ends in; a call that succeeds fails the test."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response
    return Refusal(error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"], error["Error"]["Message"])


@dataclass(frozen=True)
class Lab:
    """A server with an administrator's clients."""

    server: AwsServer

    @property
    def s3(self) -> Any:
        return self.server.client("s3")

    @property
    def kms(self) -> Any:
        return self.server.client("kms")

    def key(self, **options: Any) -> str:
        """A new KMS key's ARN, in the vendor's account."""
        return self.kms.create_key(**options)["KeyMetadata"]["Arn"]

    def bucket(self, key: str | None = None, *, is_versioned: bool = True, profile: str = "operator") -> str:
        """A new bucket, its default encryption SSE-KMS under `key` if there is one."""
        s3, name = self.server.client("s3", profile), unique("bucket")
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        if is_versioned:
            s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        if key:
            self.encrypt_by_default(name, key)
        return name

    def encrypt_by_default(self, bucket: str, key: str, **rule: Any) -> None:
        by_default = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
        rules = [{"ApplyServerSideEncryptionByDefault": by_default, **rule}]
        self.s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": rules})

    def role(self, statements: list[Mapping[str, Any]], *, account: str = VENDOR, profile: str = "operator") -> str:
        """A role with an inline policy of these statements, which the account's users may assume. Its ARN."""
        iam, name = self.server.client("iam", profile), unique("role")
        trust = allow("sts:AssumeRole", None) | {"Principal": {"AWS": f"arn:aws:iam::{account}:root"}}
        trust.pop("Resource")
        arn = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))["Role"]["Arn"]
        if statements:
            iam.put_role_policy(RoleName=name, PolicyName="rights", PolicyDocument=policy(*statements))
        return arn

    def s3_as(self, role_arn: str, **options: Any) -> Any:
        return self.server.client_of("s3", role_arn, **options)

    @contextmanager
    def disabled(self, key: str) -> Iterator[None]:
        self.kms.disable_key(KeyId=key)
        try:
            yield
        finally:
            self.kms.enable_key(KeyId=key)

    def stored_anywhere(self, needle: bytes) -> bool:
        """Whether these bytes lie in any file of the server's storage."""
        return any(needle in file.read_bytes() for file in self.server.storage.rglob("*") if file.is_file())


def allow(actions: str | list[str], resources: str | list[str] | None, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources, **more}


def deny(actions: str | list[str], resources: str | list[str], **more: Any) -> dict[str, Any]:
    return {"Effect": "Deny", "Action": actions, "Resource": resources, **more}


def policy(*statements: Mapping[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def arn(bucket: str, key: str = "") -> str:
    return f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"


def body_of(answer: Mapping[str, Any]) -> bytes:
    return answer["Body"].read()
