"""GetObject, HeadObject, GetObjectAttributes: stored bytes back into plain ones, by the caller's own right to the key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ministack.core.responses import iso_to_rfc7231

from sandbox.aws.s3.call import Call, heavy, no_such_key
from sandbox.aws.s3.message import XML, Answer, Request, S3Error, document, element, group
from sandbox.aws.s3.ranges import Span, parse_range
from sandbox.aws.s3.record import HEADER, Record


async def get_object(call: Call) -> Answer:
    answer, record = stored_object(call)
    if record is None:
        return answer
    span, counted = _span(call.request, record, int(answer.headers["content-length"]))
    body = await plain(call, answer.body, record)
    return _shown(call.request, answer.with_headers(counted), record, span, body)


async def head_object(call: Call) -> Answer:
    answer, record = stored_object(call)
    if record is None:
        return answer
    span, counted = _span(call.request, record, int(answer.headers["content-length"]))
    if _wants_checksum(call.request):
        # API_HeadObject: with ChecksumMode the caller needs kms:Decrypt. A plain HEAD asks KMS nothing.
        require_key(call, record)
    return _shown(call.request, answer.with_headers({**counted, **_tag_count(call)}), record, span, b"")


def _tag_count(call: Call) -> dict[str, str]:
    """API_HeadObject: the number of tags, if any, for a caller who may read them."""
    request = call.request
    stored = call.services.store.version(call.owner, request.bucket, request.key, request.version_id)
    tags = call.services.store.tags(call.owner, request.bucket, request.key, stored) if stored else {}
    if not tags:
        return {}
    try:
        call.require("s3:GetObjectVersionTagging" if request.version_id else "s3:GetObjectTagging")
    except S3Error:
        return {}
    return {"x-amz-tagging-count": str(len(tags))}


def stored_object(call: Call) -> tuple[Answer, Record | None]:
    """ministack's answer for the whole version, still sealed, and its record; None if there is nothing to open."""
    request = call.request
    query = {name: value for name, value in request.query.items() if name != "partNumber"}
    answer = call.services.store.call(call.owner, replace(request, query=query))
    if answer.status == 404:
        call.require_listing_for_missing()
    if answer.status != 200:
        return _without_record(answer), None
    record = Record.load(answer.headers[HEADER])
    return _without_record(answer), record


def _without_record(answer: Answer) -> Answer:
    """Drop the gate's record, and ministack's own idea of the encryption."""
    hidden = (HEADER, "x-amz-server-side-encryption")
    return replace(answer, headers={n: v for n, v in answer.headers.items() if not n.startswith(hidden)})


async def plain(call: Call, content: bytes, record: Record) -> bytes:
    """The object's bytes. Asks KMS on each read, as the caller; raises what S3 answers when KMS refuses."""
    if record.seal is None:
        return content
    data_key = call.services.keys.open(call.requester.caller, record.seal)
    return await heavy(len(content), data_key.decrypt, content, record.segments)


def require_key(call: Call, record: Record) -> None:
    if record.seal is not None:
        call.services.keys.open(call.requester.caller, record.seal)


def _wants_checksum(request: Request) -> bool:
    return request.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED"


def _shown(request: Request, answer: Answer, record: Record, span: Span | None, body: bytes) -> Answer:
    headers = {**answer.headers, **record.encryption_headers}
    if span is not None:
        return Answer(206, {**headers, **span.headers}, body[span.first : span.last + 1])
    if _wants_checksum(request):
        headers |= record.checksum.headers
    return Answer(200, headers, body)


def _span(request: Request, record: Record, total: int) -> tuple[Span | None, Mapping[str, str]]:
    """The part of the object that a request asks for, by range or by part number."""
    number, wanted = request.query.get("partNumber"), request.headers.get("range")
    if number and wanted:
        raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
    if number:
        return _part_span(number, record, total)
    return (parse_range(wanted, total) if wanted else None), {}


def _part_span(number: str, record: Record, total: int) -> tuple[Span | None, Mapping[str, str]]:
    sizes = [(part.number, part.size) for part in record.parts] or [(1, total)]
    first = 0
    for part, size in sizes:
        if str(part) == number:
            count = {"x-amz-mp-parts-count": str(len(sizes))} if record.parts else {}
            return (Span(first, first + size - 1, total) if size else None), count
        first += size
    raise S3Error("InvalidPartNumber", "The requested partnumber is not satisfiable", 416)


async def get_attributes(call: Call) -> Answer:
    # API_GetObjectAttributes, Permissions: it reads the object as well.
    call.require("s3:GetObjectVersion" if call.request.version_id else "s3:GetObject")
    asked = {name.strip() for name in call.request.headers.get("x-amz-object-attributes", "").split(",")} - {""}
    if not asked:
        raise S3Error("InvalidRequest", "The x-amz-object-attributes header is required.")
    stored = live_version(call)
    record = Record.of(stored)
    require_key(call, record)
    headers = {**XML, "last-modified": iso_to_rfc7231(stored["last_modified"])}
    if stored.get("version_id"):
        headers["x-amz-version-id"] = stored["version_id"]
    return Answer(
        200, headers, document("GetObjectAttributesResponse", _attributes(asked, stored, record, call.request))
    )


def _attributes(asked: set[str], stored: Mapping[str, Any], record: Record, request: Request) -> Iterator[str]:
    if "ETag" in asked:
        yield element("ETag", stored["etag"].strip('"'))
    if "Checksum" in asked:
        value = element(f"Checksum{record.checksum.algorithm}", record.checksum.value)
        yield group("Checksum", (value, element("ChecksumType", record.checksum.type)))
    if "ObjectParts" in asked and record.parts:
        yield group("ObjectParts", _object_parts(record, request))
    if "StorageClass" in asked:
        yield element("StorageClass", stored.get("storage_class") or "STANDARD")
    if "ObjectSize" in asked:
        yield element("ObjectSize", stored["size"])


def _object_parts(record: Record, request: Request) -> Iterator[str]:
    most = min(int(request.headers.get("x-amz-max-parts", 1000)), 1000)
    marker = int(request.headers.get("x-amz-part-number-marker", 0))
    after = [part for part in record.parts if part.number > marker]
    page = after[:most]
    yield element("PartsCount", len(record.parts))
    yield element("PartNumberMarker", marker)
    yield element("NextPartNumberMarker", page[-1].number if page else 0)
    yield element("MaxParts", most)
    yield element("IsTruncated", str(len(after) > len(page)).lower())
    for part in page:
        checksum = element(f"Checksum{record.checksum.algorithm}", part.checksum)
        yield group("Part", (element("PartNumber", part.number), element("Size", part.size), checksum))


def live_version(call: Call) -> dict[str, Any]:
    """The version that a request names. Raises NoSuchKey, NoSuchVersion, or MethodNotAllowed for a delete marker."""
    request = call.request
    stored = call.services.store.version(call.owner, request.bucket, request.key, request.version_id)
    if stored is None:
        call.require_listing_for_missing()
        raise no_such_key(request)
    if stored.get("is_delete_marker"):
        headers = {"x-amz-delete-marker": "true", "x-amz-version-id": stored["version_id"]}
        message = "The specified method is not allowed against this resource."
        raise S3Error("MethodNotAllowed", message, 405, headers=headers)
    return stored
