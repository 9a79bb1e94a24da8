"""PutObject, CopyObject, UpdateObjectEncryption: every write gets its own data key from KMS."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, unquote

from sandbox.aws.corrections import events_named
from sandbox.aws.s3 import checksums, tags
from sandbox.aws.s3.call import LARGEST_PUT, Call, heavy, write_headers
from sandbox.aws.s3.encryption import Encryption
from sandbox.aws.s3.message import XML, Answer, Request, S3Error, document, element
from sandbox.aws.s3.reading import live_version, plain, stored_object
from sandbox.aws.s3.record import FULL_OBJECT, HEADER, Checksum, Record

_KEY_ARN = re.compile(r"arn:aws:kms:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):key/[A-Za-z0-9-]+")
# What a copy takes over from its source unless told to replace it (API_CopyObject, MetadataDirective).
_CONTENT_HEADERS = (
    *("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"),
)
_CHANGES_A_COPY = ("x-amz-server-side-encryption", "x-amz-storage-class", "x-amz-website-redirect-location")


async def put_object(call: Call) -> Answer:
    request = call.request
    headers = write_headers(request)
    if request.headers.get("x-amz-tagging"):
        call.require("s3:PutObjectTagging")
        tags.of_header(request.headers["x-amz-tagging"])
    if len(request.body) > LARGEST_PUT:
        raise S3Error("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
    checksum = await heavy(len(request.body), checksums.of_body, request.headers, request.body)
    answer, _ = await write(call, headers, request.body, checksum)
    return answer.with_headers(checksum.headers) if not answer.is_error else answer


async def write(call: Call, headers: Mapping[str, str], body: bytes, checksum: Checksum) -> tuple[Answer, Record]:
    """Encrypt and store one whole object, in the call's bucket and under its key."""
    request, services = call.request, call.services
    if request.headers.get("if-none-match", "*") != "*":
        # API_PutObject: "Expects the '*' character"; another value is an unimplemented header.
        raise S3Error("NotImplemented", "A header you provided implies functionality that is not implemented", 501)
    encryption = call.encryption_of_write()
    data_key = services.keys.new(call.requester.caller, encryption, request.bucket, request.key)
    if data_key is None:
        content, record = body, Record(checksum)
    else:
        content, segment = await heavy(len(body), data_key.encrypt, body)
        record = Record(checksum, data_key.seal, (segment,))
    put = replace(request, method="PUT", query={})
    answer = services.store.call(call.owner, put, headers={**headers, HEADER: record.dump()}, body=content)
    if answer.is_error:
        return answer, record
    services.store.release_bytes(call.owner, request.bucket, request.key)
    shown = {name: answer.headers[name] for name in ("etag", "x-amz-version-id") if name in answer.headers}
    return Answer(200, {**shown, **record.encryption_headers}), record


def copy_source(call: Call) -> Call:
    """A read of the copy's source, as the same caller, with the rights checked. Raises AccessDenied and others."""
    path, _, query = call.request.headers["x-amz-copy-source"].partition("?")
    bucket, _, key = unquote(path).removeprefix("/").partition("/")
    if bucket.startswith("arn:"):
        raise S3Error("NotImplemented", "Access points are not implemented.", 501)
    if not bucket or not key:
        raise S3Error("InvalidArgument", "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
    version = (parse_qs(query).get("versionId") or [""])[0]
    source = call.elsewhere(Request("GET", bucket, key, {"versionId": version} if version else {}, {}))
    expected = call.request.headers.get("x-amz-source-expected-bucket-owner")
    if expected and expected != source.owner:
        raise S3Error("AccessDenied", "Access Denied", 403)
    source.require("s3:GetObjectVersion" if version else "s3:GetObject")
    return source


def source_version(call: Call, source: Call) -> dict[str, Any]:
    """The source's stored record, its preconditions met."""
    try:
        stored = live_version(source)
    except S3Error as error:
        if error.code == "MethodNotAllowed":
            message = "The source of a copy request may not specifically refer to a delete marker by version id."
            raise S3Error("InvalidRequest", message) from error
        raise
    if not call.services.store.meets_copy_conditions(call.request.headers, stored):
        raise S3Error("PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412)
    return stored


async def source_bytes(source: Call) -> tuple[bytes, Record]:
    answer, record = stored_object(source)
    if record is None:
        raise S3Error("NoSuchKey", "The specified key does not exist.", 404, fields={"Key": source.request.key})
    return await plain(source, answer.body, record), record


async def copy_object(call: Call) -> Answer:
    source = copy_source(call)
    stored = source_version(call, source)
    _refuse_pointless_copy(call.request, source.request)
    if stored["size"] > LARGEST_PUT:
        message = (
            f"The specified copy source is larger than the maximum allowable size for a copy source: {LARGEST_PUT}"
        )
        raise S3Error("InvalidRequest", message)
    headers = _copied_headers(call, source, stored)
    body, record = await source_bytes(source)
    checksum = await heavy(len(body), _copied_checksum, call.request.headers, record, body)
    with events_named("s3:ObjectCreated:Copy"):
        answer, made = await write(call, headers, body, checksum)
    if answer.is_error:
        return answer
    return _copy_answer(call, stored, answer, made)


def _copy_answer(call: Call, source: Mapping[str, Any], answer: Answer, made: Record) -> Answer:
    request = call.request
    version_id = answer.headers.get("x-amz-version-id")
    copied = call.services.store.version(call.owner, request.bucket, request.key, version_id)
    if copied is None:
        raise AssertionError("an object that was just written is there")
    result = document(
        "CopyObjectResult",
        (
            element("LastModified", whole_seconds(copied["last_modified"])),
            element("ETag", answer.headers["etag"]),
            element(f"Checksum{made.checksum.algorithm}", made.checksum.value),
            element("ChecksumType", made.checksum.type),
        ),
    )
    headers = {name: value for name, value in answer.headers.items() if name != "etag"}
    if source.get("version_id"):
        headers["x-amz-copy-source-version-id"] = source["version_id"]
    return Answer(200, {**XML, **headers}, result)


def _refuse_pointless_copy(request: Request, source: Request) -> None:
    is_onto_itself = (request.bucket, request.key) == (source.bucket, source.key) and not source.version_id
    changes = any(name.startswith(_CHANGES_A_COPY) for name in request.headers)
    if is_onto_itself and not changes and not _replaces(request, "metadata"):
        raise S3Error(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
        )


def _replaces(request: Request, what: str) -> bool:
    directive = request.headers.get(f"x-amz-{what}-directive", "COPY").upper()
    if directive not in ("COPY", "REPLACE"):
        raise S3Error("InvalidArgument", f"Unknown {what} directive.")
    return directive == "REPLACE"


def _copied_headers(call: Call, source: Call, stored: Mapping[str, Any]) -> dict[str, str]:
    """The headers the copy is written with: its own, the source's metadata and tags unless replaced."""
    request = call.request
    kept = dict(request.headers)
    if not _replaces(request, "metadata"):
        kept = {n: v for n, v in kept.items() if n not in _CONTENT_HEADERS and not n.startswith("x-amz-meta-")}
        kept |= {n: v for n, v in stored["preserved_headers"].items() if n in _CONTENT_HEADERS}
        kept |= {n: v for n, v in stored["metadata"].items() if n != HEADER}
        kept["content-type"] = stored["content_type"]
        if stored.get("content_encoding"):
            kept["content-encoding"] = stored["content_encoding"]
    headers = write_headers(request.with_headers(kept))
    if _replaces(request, "tagging"):
        copied = tags.of_header(headers.pop("x-amz-tagging", ""))
    else:
        copied = source.services.store.tags(source.owner, source.request.bucket, source.request.key, dict(stored))
        headers.pop("x-amz-tagging", None)
        if copied:
            source.require("s3:GetObjectVersionTagging" if source.request.version_id else "s3:GetObjectTagging")
    if copied:
        headers["x-amz-tagging"] = tags.as_header(copied)
        replace(call, request=request.with_headers(headers)).require("s3:PutObjectTagging")
    return headers


def _copied_checksum(headers: Mapping[str, str], source: Record, body: bytes) -> Checksum:
    """The source's, or one of the algorithm that was asked for; a composite one becomes whole (API_CopyObject)."""
    wanted = checksums.named(headers) or source.checksum.algorithm
    if wanted == source.checksum.algorithm and source.checksum.type == FULL_OBJECT:
        return source.checksum
    return Checksum(wanted, checksums.compute(wanted, body))


def whole_seconds(moment: str) -> str:
    """S3 knows LastModified to the second."""
    return f"{moment[:19]}.000Z"


async def update_encryption(call: Call) -> Answer:
    """Give the object's data key a new wrapping; bytes, ETag, LastModified and version stay (API_UpdateObjectEncryption)."""
    checksums.of_body(call.request.headers, call.request.body)
    key_arn, bucket_key = _new_key(call)
    store, request = call.services.store, call.request
    stored = live_version(call)
    if store.is_locked(call.owner, request.bucket, request.key, stored):
        message = (
            "The encryption type for the specified object can't be updated because that object is protected by "
            "S3 Object Lock."
        )
        raise S3Error("AccessDenied", message, 403)
    record = Record.of(stored)
    if record.seal is None:
        rewrapped = _sealed_in_place(call, stored, record, key_arn, bucket_key=bucket_key)
    else:
        place = f"arn:aws:s3:::{request.bucket}"
        context = place if bucket_key else f"{place}/{request.key}"
        seal = call.services.keys.rewrap(call.requester.caller, record.seal, key_arn, context, bucket_key=bucket_key)
        rewrapped = replace(record, seal=seal)
    store.rewrite_record(call.owner, request.bucket, request.key, stored, rewrapped)
    return Answer(200)


def _sealed_in_place(call: Call, stored: dict[str, Any], record: Record, key_arn: str, *, bucket_key: bool) -> Record:
    """From SSE-S3, whose bytes lie in clear here, to SSE-KMS."""
    request, services = call.request, call.services
    wanted = Encryption(key_arn, bucket_key)
    data_key = services.keys.new(call.requester.caller, wanted, request.bucket, request.key)
    if data_key is None:
        raise AssertionError("an encryption with a KMS key has a data key")
    body = services.store.body(call.owner, request.bucket, request.key, stored)
    content, segment = data_key.encrypt(body)
    services.store.replace_body(call.owner, request.bucket, request.key, stored, content)
    return replace(record, seal=data_key.seal, segments=(segment,))


def _new_key(call: Call) -> tuple[str, bool]:
    """(key ARN, bucket key) that the request asks for. Raises InvalidRequest and AccessDenied in S3's words."""
    fields = {item.tag.rpartition("}")[2]: (item.text or "").strip() for item in call.document().iter()}
    if "SSE-KMS" not in fields:
        raise S3Error(
            "InvalidRequest",
            "Requests that modify an object encryption configuration require a valid new encryption type. Valid "
            "values are SSEKMS. Modify the request to specify SSE-KMS for the updated encryption type, and then try "
            "again.",
        )
    key, flag = fields.get("KMSKeyArn", ""), fields.get("BucketKeyEnabled", "false")
    found = _KEY_ARN.fullmatch(key)
    if found is None:
        raise S3Error(
            "InvalidRequest",
            "Requests that modify an object's encryption type to SSE-KMS require a valid AWS KMS key Amazon Resource "
            "Name (ARN). Confirm that you have a correctly formatted KMS key ARN in your request, and then try again.",
        )
    if flag not in ("true", "false"):
        message = "The BucketKeyEnabled value isn't valid. Valid values are true or false."
        raise S3Error("InvalidRequest", message)
    if found["account"] != call.owner:
        raise S3Error(
            "AccessDenied",
            "The AWS KMS key in the request must be owned by the same account as the bucket. Modify the request to "
            "specify a KMS key from the same account, and then try again.",
            403,
        )
    return key, flag == "true"
