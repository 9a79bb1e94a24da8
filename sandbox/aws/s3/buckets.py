"""Bucket configurations that S3 checks and ministack does not: default encryption, policy, tags, creation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sandbox.aws.identity import principal_exists
from sandbox.aws.s3 import checksums, tags
from sandbox.aws.s3.access import is_condition_operator
from sandbox.aws.s3.call import Call
from sandbox.aws.s3.encryption import BucketEncryption
from sandbox.aws.s3.message import XML, Answer, S3Error

_LARGEST_POLICY = 20 * 1024


async def create_bucket(call: Call) -> Answer:
    if call.request.headers.get("x-amz-bucket-object-lock-enabled", "").lower() == "true":
        call.require("s3:PutBucketObjectLockConfiguration")
    return call.services.store.call(call.requester.caller.account, call.request)


async def get_encryption(call: Call) -> Answer:
    found = call.services.bucket_encryption(call.owner, call.request.bucket)
    return Answer(200, XML, found.document().encode())


async def put_encryption(call: Call) -> Answer:
    """Stored as S3 returns it, without asking KMS whether the key exists (API_PutBucketEncryption)."""
    checksums.of_body(call.request.headers, call.request.body)
    wanted = BucketEncryption.parse(call.document(), call.requester.caller.account, call.services.region)
    return call.services.store.call(call.owner, call.request, body=wanted.document().encode())


async def put_bucket_tagging(call: Call) -> Answer:
    tags.of_document(call.document(), limit=50)
    return call.services.store.call(call.owner, call.request)


async def put_policy(call: Call) -> Answer:
    policy = call.request.body
    if len(policy) > _LARGEST_POLICY:
        raise S3Error("PolicyTooLarge", "Policy exceeds the maximum allowed document size.")
    for statement in _statements(policy):
        _check_statement(statement, call.request.bucket)
    return call.services.store.call(call.owner, call.request)


def _statements(policy: bytes) -> Iterator[Mapping[str, Any]]:
    try:
        document = json.loads(policy)
    except ValueError as error:
        raise _malformed("Policies must be valid JSON and the first byte must be '{'") from error
    if not isinstance(document, dict):
        raise _malformed("Policies must be valid JSON and the first byte must be '{'")
    if document.get("Version", "2008-10-17") not in ("2012-10-17", "2008-10-17"):
        raise _malformed("The policy must contain a valid version string")
    statements = document.get("Statement")
    statements = [statements] if isinstance(statements, dict) else statements
    if not isinstance(statements, list) or not statements:
        raise _malformed("Missing required field Statement")
    for statement in statements:
        if not isinstance(statement, dict):
            raise _malformed("Could not parse the policy: Statement is not an object")
        yield statement


def _check_statement(statement: Mapping[str, Any], bucket: str) -> None:
    """What PutBucketPolicy refuses, and what ministack's evaluator would silently leave out of the decision."""
    if statement.get("Effect") not in ("Allow", "Deny"):
        raise _malformed("Invalid effect")
    if "NotPrincipal" in statement or "NotResource" in statement:
        raise S3Error("NotImplemented", "NotPrincipal and NotResource are not implemented.", 501)
    for field in ("Principal", "Resource"):
        if not statement.get(field):
            raise _malformed(f"Missing required field {field}")
    actions = _listed(statement.get("Action") or statement.get("NotAction"))
    if not actions or not all(action == "*" or action.lower().startswith("s3:") for action in actions):
        raise _malformed("Policy has invalid action")
    for resource in _listed(statement["Resource"]):
        if "${" in resource:
            raise S3Error("NotImplemented", "Policy variables are not implemented.", 501)
        if resource.removeprefix("arn:aws:s3:::").partition("/")[0] != bucket or not resource.startswith(
            "arn:aws:s3:::"
        ):
            raise _malformed("Policy has invalid resource")
    for principal in _principals(statement["Principal"]):
        if not _exists(principal):
            raise _malformed("Invalid principal in policy")
    for operator in statement.get("Condition") or {}:
        if not is_condition_operator(operator):
            raise _malformed(f"Invalid Condition type : {operator}")


def _principals(principal: Any) -> Iterator[str]:
    if principal == "*":
        return
    if not isinstance(principal, dict) or not set(principal) <= {"AWS", "Service", "Federated", "CanonicalUser"}:
        raise _malformed("Invalid principal in policy")
    yield from (named for named in _listed(principal.get("AWS")) if named != "*")


def _exists(principal: str) -> bool:
    """Whether the principal can be named. Accounts always can; a user or role must be there (API_PutBucketPolicy)."""
    return (principal.isdecimal() and len(principal) == 12) or principal_exists(principal)


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(one) for one in value]


def _malformed(message: str) -> S3Error:
    return S3Error("MalformedPolicy", message)
