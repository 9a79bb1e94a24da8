"""Listings, rendered here: S3's page limit, url encoding everywhere, whole seconds, checksum algorithms.

Sources: API_ListObjects, API_ListObjectsV2, API_ListObjectVersions, API_ListMultipartUploads.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from sandbox.aws.s3.call import Call
from sandbox.aws.s3.message import XML, Answer, Request, S3Error, document, element, group
from sandbox.aws.s3.record import HEADER, Record, UploadRecord
from sandbox.aws.s3.writing import whole_seconds

_PAGE = 1000


@dataclass(frozen=True)
class _Rows:
    """One page: keys and rolled-up prefixes in one order, and where it ends."""

    names: list[str]
    prefixes: frozenset[str]
    is_truncated: bool


def _rows(names: Iterable[str], prefix: str, delimiter: str, after: str, most: int) -> _Rows:
    """The page that follows `after`, of sorted names; names that share the delimiter count once."""
    found: list[str] = []
    prefixes: set[str] = set()
    for name in names:
        end = name.find(delimiter, len(prefix)) if delimiter else -1
        row = name if end < 0 else name[: end + len(delimiter)]
        if row <= after or row in prefixes:
            continue
        if len(found) == most:
            return _Rows(found, frozenset(prefixes), is_truncated=most > 0)
        found.append(row)
        if end >= 0:
            prefixes.add(row)
    return _Rows(found, frozenset(prefixes), is_truncated=False)


def _limit(call: Call, name: str) -> int:
    value = call.request.query.get(name) or str(_PAGE)
    if not value.isdecimal() or int(value) > 2**31 - 1:
        fields = {"ArgumentName": name, "ArgumentValue": value}
        raise S3Error("InvalidArgument", "Provided max-keys not an integer or within integer range", fields=fields)
    return min(int(value), call.services.page_limit() or _PAGE)


def _encoder(request: Request) -> Callable[[str], str]:
    kind = request.query.get("encoding-type")
    if kind not in (None, "", "url"):
        fields = {"ArgumentName": "encoding-type", "ArgumentValue": str(kind)}
        raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request", fields=fields)
    return (lambda name: quote(name, safe="/")) if kind else (lambda name: name)


def _owner(account: str) -> str:
    # The canonical id that ministack derives, so that every answer names the same owner.
    return group("Owner", [element("ID", hashlib.sha256(account.encode()).hexdigest())])


def _content(stored: Mapping[str, Any]) -> Iterator[str]:
    """The elements that objects and versions have in common."""
    checksum = Record.of(stored).checksum
    yield element("LastModified", whole_seconds(stored["last_modified"]))
    yield element("ETag", stored["etag"])
    yield element("ChecksumAlgorithm", checksum.algorithm)
    yield element("ChecksumType", checksum.type)
    yield element("Size", stored["size"])
    yield element("StorageClass", stored.get("storage_class") or "STANDARD")


async def list_objects(call: Call) -> Answer:
    return _list(call, "Marker", call.request.query.get("marker", ""), is_v2=False)


async def list_objects_v2(call: Call) -> Answer:
    query = call.request.query
    token = query.get("continuation-token")
    after = _after_token(token) if token else query.get("start-after", "")
    return _list(call, "StartAfter", after, is_v2=True)


def _after_token(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except ValueError as error:
        raise S3Error("InvalidArgument", "The continuation token provided is incorrect") from error


def _list(call: Call, marker: str, after: str, *, is_v2: bool) -> Answer:
    request = call.request
    prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
    encode, most = _encoder(request), _limit(call, "max-keys")
    objects = call.services.store.objects(call.owner, request.bucket)
    rows = _rows(sorted(name for name in objects if name.startswith(prefix)), prefix, delimiter, after, most)
    owner = _owner(call.owner) if not is_v2 or request.query.get("fetch-owner") == "true" else ""
    inner = [*_heading(request, "Name", "MaxKeys", most, is_truncated=rows.is_truncated)]
    inner += _v2_markers(request, rows) if is_v2 else _v1_markers(request, rows, marker, encode)
    for name in rows.names:
        if name in rows.prefixes:
            inner.append(group("CommonPrefixes", [element("Prefix", encode(name))]))
        else:
            inner.append(group("Contents", (element("Key", encode(name)), *_content(objects[name]), owner)))
    return Answer(200, XML, document("ListBucketResult", inner))


def _heading(request: Request, bucket: str, limit: str, most: int, *, is_truncated: bool) -> Iterator[str]:
    encode = _encoder(request)
    yield element(bucket, request.bucket)
    yield element("Prefix", encode(request.query.get("prefix", "")))
    if request.query.get("delimiter"):
        yield element("Delimiter", encode(request.query["delimiter"]))
    if request.query.get("encoding-type"):
        yield element("EncodingType", request.query["encoding-type"])
    yield element(limit, most)
    yield element("IsTruncated", str(is_truncated).lower())


def _v1_markers(request: Request, rows: _Rows, marker: str, encode: Callable[[str], str]) -> Iterator[str]:
    yield element(marker, encode(request.query.get("marker", "")))
    if rows.is_truncated and request.query.get("delimiter"):
        yield element("NextMarker", encode(rows.names[-1]))


def _v2_markers(request: Request, rows: _Rows) -> Iterator[str]:
    yield element("KeyCount", len(rows.names))
    if request.query.get("continuation-token"):
        yield element("ContinuationToken", request.query["continuation-token"])
    if request.query.get("start-after"):
        yield element("StartAfter", _encoder(request)(request.query["start-after"]))
    if rows.is_truncated:
        yield element("NextContinuationToken", base64.urlsafe_b64encode(rows.names[-1].encode()).decode())


@dataclass(frozen=True)
class _VersionRow:
    """A version, or a rolled-up prefix (which has no version)."""

    name: str
    version: Mapping[str, Any] | None


async def list_versions(call: Call) -> Answer:
    request = call.request
    key_marker, version_marker = request.query.get("key-marker", ""), request.query.get("version-id-marker", "")
    if version_marker and not key_marker:
        raise S3Error("InvalidArgument", "A version-id marker cannot be specified without a key marker.")
    encode, most = _encoder(request), _limit(call, "max-keys")
    page: list[_VersionRow] = []
    is_truncated = False
    for row in _version_rows(call, key_marker, version_marker):
        if len(page) == most:
            is_truncated = most > 0
            break
        page.append(row)
    inner = [*_heading(request, "Name", "MaxKeys", most, is_truncated=is_truncated)]
    inner += [element("KeyMarker", encode(key_marker)), element("VersionIdMarker", version_marker)]
    if is_truncated:
        last = page[-1]
        inner.append(element("NextKeyMarker", encode(last.name)))
        if last.version is not None:
            inner.append(element("NextVersionIdMarker", last.version["version_id"]))
    owner = _owner(call.owner)
    inner += [_version_element(row, encode, owner) for row in page]
    return Answer(200, XML, document("ListVersionsResult", inner))


def _version_rows(call: Call, key_marker: str, version_marker: str) -> Iterator[_VersionRow]:
    """Every row after the markers, keys in order, the newest version of a key first."""
    request, store = call.request, call.services.store
    prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
    histories = dict(store.histories(call.owner, request.bucket))
    objects = store.objects(call.owner, request.bucket)
    rolled = ""
    for key in sorted(name for name in histories.keys() | objects.keys() if name.startswith(prefix)):
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        if end >= 0:
            common = key[: end + len(delimiter)]
            if common not in (rolled, "") and common > key_marker:
                rolled = common
                yield _VersionRow(common, None)
        elif key > key_marker or (key == key_marker and version_marker):
            versions = _newest_first(histories.get(key), objects.get(key))
            yield from _after_version(key, versions, version_marker if key == key_marker else "")


def _newest_first(history: list[dict[str, Any]] | None, current: dict[str, Any] | None) -> list[dict[str, Any]]:
    if history:
        return history[::-1]
    return [{**current, "version_id": "null", "is_latest": True}] if current else []


def _after_version(key: str, versions: list[dict[str, Any]], marker: str) -> Iterator[_VersionRow]:
    ids = [version["version_id"] for version in versions]
    start = ids.index(marker) + 1 if marker in ids else 0
    return (_VersionRow(key, version) for version in versions[start:])


def _version_element(row: _VersionRow, encode: Callable[[str], str], owner: str) -> str:
    version = row.version
    if version is None:
        return group("CommonPrefixes", [element("Prefix", encode(row.name))])
    named = (
        element("Key", encode(row.name)),
        element("VersionId", version["version_id"]),
        element("IsLatest", str(version["is_latest"]).lower()),
    )
    if version.get("is_delete_marker"):
        return group("DeleteMarker", (*named, element("LastModified", whole_seconds(version["last_modified"])), owner))
    return group("Version", (*named, *_content(version), owner))


async def list_uploads(call: Call) -> Answer:
    request = call.request
    if request.query.get("delimiter"):
        raise S3Error("NotImplemented", "Grouping uploads by a delimiter is not implemented.", 501)
    encode, most = _encoder(request), _limit(call, "max-uploads")
    key_marker, id_marker = request.query.get("key-marker", ""), request.query.get("upload-id-marker", "")
    prefix = request.query.get("prefix", "")
    uploads = [row for row in call.services.store.uploads(call.owner, request.bucket) if row[0].startswith(prefix)]
    uploads = _after_upload(uploads, key_marker, id_marker)
    page = uploads[:most]
    inner = [*_heading(request, "Bucket", "MaxUploads", most, is_truncated=len(uploads) > most > 0)]
    inner += [element("KeyMarker", encode(key_marker)), element("UploadIdMarker", id_marker)]
    if len(uploads) > most > 0:
        inner += [element("NextKeyMarker", encode(page[-1][0])), element("NextUploadIdMarker", page[-1][1])]
    inner += [_upload_element(key, upload_id, upload, encode, _owner(call.owner)) for key, upload_id, upload in page]
    return Answer(200, XML, document("ListMultipartUploadsResult", inner))


def _after_upload(uploads: list[tuple[str, str, Any]], key: str, upload_id: str) -> list[tuple[str, str, Any]]:
    if not key:
        return uploads
    if upload_id:
        place = next((n for n, row in enumerate(uploads) if row[:2] == (key, upload_id)), None)
        if place is not None:
            return uploads[place + 1 :]
    return [row for row in uploads if row[0] > key]


def _upload_element(
    key: str, upload_id: str, upload: Mapping[str, Any], encode: Callable[[str], str], owner: str
) -> str:
    begun = UploadRecord.load(upload["metadata"][HEADER])
    inner = (
        element("Key", encode(key)),
        element("UploadId", upload_id),
        owner,
        element("StorageClass", upload["storage_class"]),
        element("Initiated", whole_seconds(upload["created"])),
        element("ChecksumAlgorithm", begun.algorithm),
        element("ChecksumType", begun.checksum_type),
    )
    return group("Upload", inner)
