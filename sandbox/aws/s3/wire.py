# ruff: noqa: SLF001 - ministack offers no public functions; its version is pinned.
"""From an HTTP request to an S3 request, and back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from ministack import app as ministack
from ministack.services import s3

from sandbox.aws.identity import header_map, query_map, raw_path
from sandbox.aws.s3.call import heavy
from sandbox.aws.s3.message import Answer, Request, S3Error, host_id

_LONGEST_KEY = 1024
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


def request_of(scope: Mapping[str, Any], body: bytes) -> Request:
    """The request with its body decoded, presigned headers put back, and signing parameters taken off.

    Raises IncompleteBody, InvalidBucketName, InvalidURI, KeyTooLongError.
    """
    headers, query = header_map(scope), query_map(scope)
    headers = s3._merge_hoisted_amz_headers(headers, query)
    plain_query = {name: values[0] for name, values in query.items() if not name.lower().startswith("x-amz-")}
    try:
        body = ministack._decode_aws_chunked_body(body, headers)
    except ministack._IncompleteRequestBody as error:
        message = "You did not provide the number of bytes specified by the Content-Length HTTP header"
        raise S3Error("IncompleteBody", message) from error
    bucket, key = _place(scope)
    return Request(scope["method"], bucket, key, plain_query, headers, body)


def _place(scope: Mapping[str, Any]) -> tuple[str, str]:
    """(bucket, key) of a path-style request; the key is every byte after the bucket's slash."""
    raw_bucket, _, raw_key = raw_path(scope).removeprefix("/").partition("/")
    bucket = unquote(raw_bucket)
    if bucket and not _BUCKET.fullmatch(bucket):
        raise S3Error("InvalidBucketName", "The specified bucket is not valid.", fields={"BucketName": bucket})
    try:
        key = unquote(raw_key, errors="strict")
    except UnicodeDecodeError as error:
        raise S3Error("InvalidURI", "Couldn't parse the specified URI.") from error
    if len(key.encode()) > _LONGEST_KEY:
        fields = {"Size": str(len(key.encode())), "MaxSizeAllowed": str(_LONGEST_KEY)}
        raise S3Error("KeyTooLongError", "Your key is too long", fields=fields)
    return bucket, key


async def check_payload_hash(scope: Mapping[str, Any], body: bytes) -> None:
    """The signature covers the hash; that the hash covers the body is checked here."""
    claimed = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-amz-content-sha256"), "")
    if not _HEX_SHA256.fullmatch(claimed):
        return
    digest = await heavy(len(body), lambda: hashlib.sha256(body).hexdigest())
    if digest != claimed:
        message = "The provided 'x-amz-content-sha256' header does not match what was computed."
        raise S3Error("XAmzContentSHA256Mismatch", message)


def finished(answer: Answer, identifier: str, *, is_head: bool) -> Answer:
    """The answer with the headers that all have. A HEAD keeps the length of what it describes and has no body."""
    headers = {"server": "AmazonS3", **answer.headers, "x-amz-request-id": identifier, "x-amz-id-2": host_id()}
    if is_head:
        if answer.is_error:
            headers.pop("content-length", None)
        return replace(answer, headers=headers, body=b"")
    return replace(answer, headers={**headers, "content-length": str(len(answer.body))})
