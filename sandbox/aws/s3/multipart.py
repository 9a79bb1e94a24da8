"""Multipart uploads: one data key an upload, one nonce a part, checksums of parts and of the whole.

Sources: API_CreateMultipartUpload, API_UploadPart, API_UploadPartCopy, API_CompleteMultipartUpload;
S3 User Guide, "Checking object integrity", "Amazon S3 multipart upload limits".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sandbox.aws.s3 import checksums, tags
from sandbox.aws.s3.call import LARGEST_PUT, Call, heavy, write_headers
from sandbox.aws.s3.message import XML, Answer, Request, S3Error, document, element, group
from sandbox.aws.s3.ranges import Span
from sandbox.aws.s3.record import COMPOSITE, FULL_OBJECT, HEADER, Checksum, Part, Record, Segment, UploadRecord
from sandbox.aws.s3.store import Stored
from sandbox.aws.s3.writing import copy_source, source_bytes, source_version, whole_seconds

SMALLEST_PART = 5 * 1024**2
_MOST_PARTS = 10_000
_SEALED = "gate_segment"  # the part's Segment, kept with ministack's record of the part
_SUM = "gate_checksum"  # the part's checksum, in the upload's algorithm
_COPY_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


async def create_upload(call: Call) -> Answer:
    request, services = call.request, call.services
    named = checksums.named(request.headers)
    algorithm = named or checksums.DEFAULT_ALGORITHM
    asked_tags = tags.of_header(request.headers.get("x-amz-tagging", ""))
    if asked_tags:
        call.require("s3:PutObjectTagging")
    encryption = call.encryption_of_write()
    data_key = services.keys.new(call.requester.caller, encryption, request.bucket, request.key)
    record = UploadRecord(
        algorithm=algorithm,
        checksum_type=checksums.upload_type(algorithm, request.headers.get("x-amz-checksum-type")),
        names_algorithm=named is not None,
        seal=data_key.seal if data_key else None,
        tags=asked_tags,
    )
    headers = {**write_headers(request), HEADER: record.dump()}
    headers.pop("x-amz-checksum-algorithm", None)
    answer = services.store.call(call.owner, request, headers=headers)
    if answer.is_error:
        return answer
    shown = {"content-type": answer.headers["content-type"], **record.encryption_headers}
    if named:
        shown |= {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": record.checksum_type}
    return Answer(200, shown, answer.body)


async def upload_part(call: Call) -> Answer:
    request = call.request
    _part_number(request)
    upload, record = _upload(call)
    if len(request.body) > LARGEST_PUT:
        raise S3Error("EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
    claim = checksums.claimed(request.headers)
    if record.names_algorithm and (claim is None or claim[0] != record.algorithm):
        actual = claim[0].lower() if claim else "null"
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {record.algorithm.lower()}, "
            f"actual checksum Type: {actual}",
        )
    verified = await heavy(len(request.body), checksums.of_body, request.headers, request.body)
    answer = await _store_part(call, upload, record, request.body, verified)
    return answer.with_headers({f"x-amz-checksum-{verified.algorithm.lower()}": verified.value})


async def upload_part_copy(call: Call) -> Answer:
    _part_number(call.request)
    upload, record = _upload(call)
    source = copy_source(call)
    stored = source_version(call, source)
    span = _copied_span(call.request, stored["size"])
    body, _ = await source_bytes(source)
    if span is not None:
        body = body[span.first : span.last + 1]
    value = await heavy(len(body), checksums.compute, record.algorithm, body)
    answer = await _store_part(call, upload, record, body, Checksum(record.algorithm, value))
    part = upload["parts"][int(call.request.query["partNumber"])]
    result = document(
        "CopyPartResult",
        (
            element("LastModified", whole_seconds(part["last_modified"])),
            element("ETag", part["etag"]),
            element(f"Checksum{record.algorithm}", value),
        ),
    )
    headers = {**XML, **record.encryption_headers}
    if stored.get("version_id"):
        headers["x-amz-copy-source-version-id"] = stored["version_id"]
    return replace(answer, headers=headers, body=result)


async def _store_part(call: Call, upload: Stored, record: UploadRecord, body: bytes, verified: Checksum) -> Answer:
    request, services = call.request, call.services
    content, segment = body, None
    if record.seal is not None:
        # S3 needs kms:Decrypt on every part, for the data key that the upload was begun with.
        data_key = services.keys.open(call.requester.caller, record.seal)
        content, segment = await heavy(len(body), data_key.encrypt, body)
    value = verified.value
    if verified.algorithm != record.algorithm:
        value = await heavy(len(body), checksums.compute, record.algorithm, body)
    plain = replace(request, query={name: request.query[name] for name in ("partNumber", "uploadId")})
    answer = services.store.call(call.owner, plain, body=content)
    if answer.is_error:
        raise S3Error("NoSuchUpload", "The specified upload does not exist.", 404)
    upload["parts"][int(request.query["partNumber"])] |= {_SEALED: segment, _SUM: value}
    return Answer(200, {"etag": answer.headers["etag"], **record.encryption_headers})


def _upload(call: Call) -> tuple[Stored, UploadRecord]:
    upload = call.services.store.upload(call.owner, call.request)
    return upload, UploadRecord.load(upload["metadata"][HEADER])


def _part_number(request: Request) -> int:
    number = request.query["partNumber"]
    if not number.isdecimal() or not 1 <= int(number) <= _MOST_PARTS:
        message = "Part number must be an integer between 1 and 10000, inclusive"
        raise S3Error("InvalidArgument", message, fields={"ArgumentName": "partNumber", "ArgumentValue": number})
    return int(number)


def _copied_span(request: Request, size: int) -> Span | None:
    wanted = request.headers.get("x-amz-copy-source-range")
    if wanted is None:
        return None
    found = _COPY_RANGE.fullmatch(wanted)
    if found is None or int(found[2]) < int(found[1]):
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy",
        )
    if int(found[2]) >= size:
        raise S3Error("InvalidArgument", f"Range specified is not valid for source object of size: {size}")
    return Span(int(found[1]), int(found[2]), size)


@dataclass(frozen=True)
class _Asked:
    """A part as CompleteMultipartUpload names it."""

    number: int
    etag: str
    checksums: Mapping[str, str]


async def complete_upload(call: Call) -> Answer:
    request, store = call.request, call.services.store
    finished = store.finished_upload(call.owner, request)
    if finished is not None:
        return finished
    upload, begun = _upload(call)
    if begun.seal is not None:
        # User Guide, "Multipart upload API and permissions": completing needs kms:Decrypt too.
        call.services.keys.open(call.requester.caller, begun.seal)
    asked = _asked_parts(call)
    record = _completed(asked, upload, begun)
    _check_claims(request, record, upload, asked)
    upload["metadata"][HEADER] = record.dump()
    answer = store.call(call.owner, request, body=_parts_document(asked))
    if answer.is_error:
        upload["metadata"][HEADER] = begun.dump()
        return answer
    version = answer.headers.get("x-amz-version-id")
    stored = store.version(call.owner, request.bucket, request.key, version)
    if stored is not None and begun.tags:
        store.set_tags(call.owner, request.bucket, request.key, stored, begun.tags)
    store.release_bytes(call.owner, request.bucket, request.key)
    shown = {**XML, **record.encryption_headers, **({"x-amz-version-id": version} if version else {})}
    result = Answer(200, shown, _result(request, answer, record))
    store.finish_upload(call.owner, request, result)
    return result


def _asked_parts(call: Call) -> list[_Asked]:
    asked = []
    for part in call.document():
        fields = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in part}
        sums = {name.removeprefix("Checksum"): value for name, value in fields.items() if name.startswith("Checksum")}
        if not fields.get("PartNumber", "").isdecimal():
            raise S3Error(
                "MalformedXML",
                "The XML you provided was not well-formed or did not validate against our published schema",
            )
        asked.append(_Asked(int(fields["PartNumber"]), fields.get("ETag", "").strip('"'), sums))
    if not asked:
        raise S3Error("MalformedXML", "You must specify at least one part")
    numbers = [part.number for part in asked]
    if numbers != sorted(set(numbers)):
        message = "The list of parts was not in ascending order. Parts must be ordered by part number."
        raise S3Error("InvalidPartOrder", message)
    return asked


def _parts_document(asked: list[_Asked]) -> bytes:
    """The parts without checksums: ministack would compare them with those of the ciphertext."""
    parts = (group("Part", (element("PartNumber", part.number), element("ETag", part.etag))) for part in asked)
    return document("CompleteMultipartUpload", parts)


def _completed(asked: list[_Asked], upload: Stored, begun: UploadRecord) -> Record:
    parts = [_stored_part(part, upload, begun) for part in asked]
    for part, stored in zip(asked[:-1], parts[:-1], strict=True):
        if stored["size"] < SMALLEST_PART:
            raise S3Error(
                "EntityTooSmall",
                "Your proposed upload is smaller than the minimum allowed size",
                fields={
                    "ProposedSize": str(stored["size"]),
                    "MinSizeAllowed": str(SMALLEST_PART),
                    "PartNumber": str(part.number),
                    "ETag": part.etag,
                },
            )
    whole = checksums.of_parts(begun.algorithm, begun.checksum_type, [(p[_SUM], p["size"]) for p in parts])
    segments: tuple[Segment, ...] = tuple(stored[_SEALED] for stored in parts) if begun.seal else ()
    made = tuple(Part(part.number, stored["size"], stored[_SUM]) for part, stored in zip(asked, parts, strict=True))
    return Record(whole, begun.seal, segments, made)


def _stored_part(part: _Asked, upload: Stored, begun: UploadRecord) -> Stored:
    stored = upload["parts"].get(part.number)
    claim = part.checksums.get(begun.algorithm)
    is_same = stored is not None and stored["etag"].strip('"') == part.etag and claim in (None, stored[_SUM])
    if stored is None or not is_same:
        raise S3Error(
            "InvalidPart",
            "One or more of the specified parts could not be found.  The part may not have been uploaded, or the "
            "specified entity tag may not match the part's entity tag.",
            fields={"PartNumber": str(part.number), "ETag": part.etag},
        )
    if claim is None and begun.names_algorithm and begun.checksum_type == COMPOSITE:
        name = begun.algorithm.lower()
        raise S3Error(
            "InvalidRequest",
            f"The upload was created using a {name} checksum. The complete request must include the checksum for each "
            f"part. It was missing for part {part.number} in the request.",
        )
    return stored


def _check_claims(request: Request, record: Record, upload: Stored, asked: list[_Asked]) -> None:
    """What the client says of the whole object must be true before it becomes visible."""
    claimed_type = request.headers.get("x-amz-checksum-type")
    if claimed_type and claimed_type != record.checksum.type:
        raise S3Error("InvalidRequest", f"The upload was created using the {record.checksum.type} checksum mode.")
    claim = checksums.claimed(request.headers)
    if (
        claim is not None
        and record.checksum.type == FULL_OBJECT
        and claim
        != (
            record.checksum.algorithm,
            record.checksum.value,
        )
    ):
        raise S3Error("BadDigest", f"The {claim[0]} you specified did not match the calculated checksum.")
    if claim is not None and record.checksum.type == COMPOSITE:
        value = record.checksum.value.rpartition("-")[0]
        if claim[1].rpartition("-")[0] != value and claim[1] != value:
            raise S3Error("BadDigest", f"The {claim[0]} you specified did not match the calculated checksum.")
    size = sum(upload["parts"][part.number]["size"] for part in asked)
    declared = request.headers.get("x-amz-mp-object-size")
    if declared is not None and declared != str(size):
        raise S3Error("InvalidRequest", "The provided 'x-amz-mp-object-size' header value does not match the object.")


def _result(request: Request, answer: Answer, record: Record) -> bytes:
    etag = re.search(rb"<ETag>(.*?)</ETag>", answer.body)
    if etag is None:
        raise AssertionError("a completed upload has an ETag")
    host = request.headers.get("host", "")
    return document(
        "CompleteMultipartUploadResult",
        (
            element("Location", f"http://{host}/{request.bucket}/{request.key}"),
            element("Bucket", request.bucket),
            element("Key", request.key),
            element("ETag", etag[1].decode().replace("&quot;", '"')),
            element(f"Checksum{record.checksum.algorithm}", record.checksum.value),
            element("ChecksumType", record.checksum.type),
        ),
    )


async def abort_upload(call: Call) -> Answer:
    call.services.store.upload(call.owner, call.request)
    return call.services.store.call(call.owner, call.request)


async def list_parts(call: Call) -> Answer:
    upload, record = _upload(call)
    most = min(int(call.request.query.get("max-parts") or 1000), 1000)
    marker = int(call.request.query.get("part-number-marker") or 0)
    after = sorted(number for number in upload["parts"] if number > marker)
    page = after[:most]
    request = call.request
    inner = [
        element("Bucket", request.bucket),
        element("Key", request.key),
        element("UploadId", request.query["uploadId"]),
        element("StorageClass", upload["storage_class"]),
        element("PartNumberMarker", marker),
        element("NextPartNumberMarker", page[-1] if page else 0),
        element("MaxParts", most),
        element("IsTruncated", str(len(after) > len(page)).lower()),
        element("ChecksumAlgorithm", record.algorithm),
        element("ChecksumType", record.checksum_type),
    ]
    return Answer(200, XML, document("ListPartsResult", [*inner, *_listed_parts(upload, record, page)]))


def _listed_parts(upload: Mapping[str, Any], record: UploadRecord, page: list[int]) -> Iterator[str]:
    for number in page:
        part = upload["parts"][number]
        yield group(
            "Part",
            (
                element("PartNumber", number),
                element("LastModified", whole_seconds(part["last_modified"])),
                element("ETag", part["etag"]),
                element("Size", part["size"]),
                element(f"Checksum{record.algorithm}", part[_SUM]),
            ),
        )
