"""An S3 in memory with the calls that the moves make, as strict as S3 about versions and conditions.

`before` and `after` see every call and may raise: that is how a test cuts a move off at any instant.
"""

# ruff: noqa: N803  # the parameters are named as AWS names them

from __future__ import annotations

import base64
import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote_plus

from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from botocore.response import StreamingBody

from migrate.copy.s3 import Side, StorageRef

SOURCE_KEY, TARGET_KEY = "arn:aws:kms:eu-west-1:111122223333:key/old", "arn:aws:kms:eu-west-1:111122223333:key/new"
HEADERS = (
    "ContentType",
    "ContentEncoding",
    "CacheControl",
    "ContentDisposition",
    "ContentLanguage",
    "ExpiresString",
)
ASLEEP = ("GLACIER", "DEEP_ARCHIVE")
DAY = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Version:
    id: str
    body: bytes = b""
    metadata: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    key_arn: str | None = None
    bucket_key: bool = False
    marker: bool = False
    checksum: str | None = None
    checksum_type: str = "FULL_OBJECT"
    storage_class: str = "STANDARD"
    restored: bool = False
    missing_meta: int = 0
    hold: str | None = None
    retained_until: datetime | None = None
    modified: datetime = DAY

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.id.encode()).hexdigest()[:32]}"'


def error(code: str, status: int, message: str = "", operation: str = "PutObject") -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, operation
    )


def sum_of(algorithm: str, body: bytes) -> str:
    """A stand-in for any algorithm: it depends on the bytes and on the algorithm, and is no other's."""
    return sha256(body) if algorithm == "SHA256" else sha256(algorithm.encode() + body)[:11]


def whole_checksum(source: Version) -> str | None:
    """API_CopyObject: a copy keeps the algorithm, a composite checksum becomes one of the whole object."""
    if source.checksum is None or source.checksum_type == "FULL_OBJECT":
        return source.checksum
    algorithm = source.checksum.partition(":")[0]
    return f"{algorithm}:{sum_of(algorithm, source.body)}"


def _refuse_asleep(version: Version) -> None:
    if version.storage_class in ASLEEP and not version.restored:
        raise error("InvalidObjectState", 403, "The operation is not valid for the object's storage class")


def sha256(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def in_xml(key: str) -> bool:
    """XML 1.0's production Char: what a document can hold, by reference or not."""
    return all(c in "\t\n\r" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" for c in key)


def _checked(key: str) -> None:
    """S3's limit, and boto3's: an empty key would be a call on the bucket."""
    if not key:
        raise ValueError("ParamValidationError: Invalid length for parameter Key, value: 0, valid min length: 1")
    if len(key.encode()) > 1024:
        raise error("KeyTooLongError", 400, "Your key is too long")


def _nothing(_: str, __: Mapping[str, Any]) -> None:
    return None


@dataclass
class FakePages:
    """boto3's paginator of a listing by key."""

    s3: FakeS3
    name: str

    def paginate(self, **asked: Any) -> Iterator[dict[str, Any]]:
        more: dict[str, Any] = {}
        while True:
            page = getattr(self.s3, self.name)(**asked, **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}


class FakeS3:
    def __init__(self) -> None:
        self.versions: dict[tuple[str, str], list[Version]] = {}
        self.uploads: dict[str, dict[str, Any]] = {}
        self.versioned: dict[str, bool] = {}
        self.locked: set[str] = set()
        self.page = 3
        self.retried = 0
        self.now = DAY
        self.default_key: dict[str, str] = {}
        self.dead_keys: set[str] = set()
        self.errors: list[dict[str, str]] = []
        self.calls: list[str] = []
        self.before: Callable[[str, Mapping[str, Any]], None] = _nothing
        self.after: Callable[[str, Mapping[str, Any]], None] = _nothing
        self.tagged: Callable[[str, str, str], None] = lambda *_: None
        self._lock = threading.RLock()
        self._count = 0

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        handler = object.__getattribute__(self, f"_do_{name}")

        def call(**parameters: Any) -> dict[str, Any]:
            if "Key" in parameters:
                _checked(parameters["Key"])
            with self._lock:
                self.calls.append(name)
                self.before(name, parameters)
                answer = handler(**parameters)
                self.after(name, parameters)
                return {"ResponseMetadata": {"HTTPStatusCode": 200, "RetryAttempts": self.retried}, **answer}

        return call

    def get_paginator(self, name: str) -> FakePages:
        return FakePages(self, name)

    # what is there ----------------------------------------------------------------------------

    def current(self, bucket: str, key: str) -> Version | None:
        versions = self.versions.get((bucket, key), [])
        return versions[-1] if versions else None

    def bodies(self, bucket: str) -> dict[str, list[bytes | None]]:
        """Every key's versions, oldest first; None is a delete marker."""
        return {
            key: [None if v.marker else v.body for v in versions]
            for (name, key), versions in sorted(self.versions.items())
            if name == bucket and versions
        }

    def _add(self, bucket: str, key: str, version: Version) -> Version:
        versions = self.versions.setdefault((bucket, key), [])
        if not self.versioned.get(bucket, True):
            version.id = "null"
            versions[:] = [v for v in versions if v.id != "null"]
        # Within one second, as S3's clock has it.
        version.modified = self.now + timedelta(seconds=self._count // 1000)
        versions.append(version)
        return version

    def _new_id(self) -> str:
        self._count += 1
        return f"v{self._count:06d}"

    def _find(self, bucket: str, key: str, version_id: str | None) -> Version:
        for version in reversed(self.versions.get((bucket, key), [])):
            if version_id in (None, version.id):
                if version.marker:
                    raise error(
                        "NoSuchKey" if version_id is None else "MethodNotAllowed", 404 if not version_id else 405
                    )
                return version
        raise error("NoSuchVersion" if version_id else "NoSuchKey", 404)

    def _check(self, bucket: str, key: str, parameters: Mapping[str, Any]) -> None:
        current = self.current(bucket, key)
        there = current is not None and not current.marker
        if parameters.get("IfNoneMatch") == "*" and there:
            raise error("PreconditionFailed", 412)
        if "IfMatch" in parameters:
            if not there:
                raise error("NoSuchKey", 404)
            if current.etag != parameters["IfMatch"]:
                raise error("PreconditionFailed", 412)

    # calls ------------------------------------------------------------------------------------

    def _do_get_bucket_versioning(self, Bucket: str) -> dict[str, Any]:
        return {"Status": "Enabled"} if self.versioned.get(Bucket, True) else {}

    def _do_list_object_versions(
        self, Bucket: str, Prefix: str, KeyMarker: str = "", VersionIdMarker: str = ""
    ) -> dict[str, Any]:
        every = [
            (key, version, version is versions[-1])
            for (bucket, key), versions in sorted(self.versions.items(), key=lambda item: item[0][1].encode())
            if bucket == Bucket and key.startswith(Prefix)
            for version in reversed(versions)
        ]
        start = 0
        if KeyMarker:
            start = next(n for n, (k, v, _) in enumerate(every) if (k, v.id) == (KeyMarker, VersionIdMarker)) + 1
        page = every[start : start + self.page]
        answer: dict[str, Any] = {"Versions": [], "DeleteMarkers": [], "KeyshiftOrder": []}
        for key, v, latest in page:
            found = {"Key": key, "VersionId": v.id, "IsLatest": latest, "LastModified": v.modified}
            kind = "DeleteMarker" if v.marker else "Version"
            if not v.marker:
                found |= {"ETag": v.etag, "Size": len(v.body), "StorageClass": v.storage_class}
            answer[f"{kind}s"].append(found)
            answer["KeyshiftOrder"].append(kind)
        if start + self.page < len(every):
            answer |= {"IsTruncated": True, "NextKeyMarker": page[-1][0], "NextVersionIdMarker": page[-1][1].id}
        return answer

    def _do_get_object_lock_configuration(self, Bucket: str) -> dict[str, Any]:
        if Bucket not in self.locked:
            raise error("ObjectLockConfigurationNotFoundError", 404, operation="GetObjectLockConfiguration")
        return {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}

    def _do_get_object_retention(self, Bucket: str, Key: str, VersionId: str) -> dict[str, Any]:
        version = self._find(Bucket, Key, VersionId)
        if version.retained_until is None:
            raise error("NoSuchObjectLockConfiguration", 404, operation="GetObjectRetention")
        return {"Retention": {"Mode": "COMPLIANCE", "RetainUntilDate": version.retained_until}}

    def _do_get_object_legal_hold(self, Bucket: str, Key: str, VersionId: str) -> dict[str, Any]:
        version = self._find(Bucket, Key, VersionId)
        if version.hold is None:
            raise error("NoSuchObjectLockConfiguration", 404, operation="GetObjectLegalHold")
        return {"LegalHold": {"Status": version.hold}}

    def _do_list_multipart_uploads(self, Bucket: str, Prefix: str, EncodingType: str = "") -> dict[str, Any]:
        """boto3 neither asks for encoded keys here nor decodes them; a raw control character it cannot parse."""
        found = [(u["Key"], id, u["begun"]) for id, u in sorted(self.uploads.items()) if u["Bucket"] == Bucket]
        found = [(key, id, begun) for key, id, begun in found if key.startswith(Prefix)]
        if EncodingType != "url" and not all(in_xml(key) for key, _, _ in found):
            raise ResponseParserError("Unable to parse response (reference to invalid character number)")
        shown = quote_plus if EncodingType == "url" else str
        return {"Uploads": [{"Key": shown(key), "UploadId": id, "Initiated": begun} for key, id, begun in found]}

    def _do_put_object(self, Bucket: str, Key: str, Body: Any = b"", **parameters: Any) -> dict[str, Any]:
        self._check(Bucket, Key, parameters)
        body = Body if isinstance(Body, bytes) else Body.read()
        if parameters.get("ChecksumSHA256", sha256(body)) != sha256(body):
            raise error("BadDigest", 400)
        version = Version(
            self._new_id(),
            body,
            dict(parameters.get("Metadata", {})),
            dict(parameters.get("Tags", {})),
            {name: parameters[name] for name in HEADERS if name in parameters},
            parameters.get("SSEKMSKeyId", self.default_key.get(Bucket, SOURCE_KEY)),
            checksum=f"SHA256:{sha256(body)}",
        )
        return self._written(self._add(Bucket, Key, version))

    def _written(self, version: Version) -> dict[str, Any]:
        return {"ETag": version.etag} | ({} if version.id == "null" else {"VersionId": version.id})

    def _do_head_object(self, Bucket: str, Key: str, VersionId: str | None = None, **_: Any) -> dict[str, Any]:
        version = self._find(Bucket, Key, VersionId)
        answer: dict[str, Any] = {
            "ContentLength": len(version.body),
            "ETag": version.etag,
            "LastModified": version.modified,
            "VersionId": version.id,
            "Metadata": dict(version.metadata),
            "ServerSideEncryption": "aws:kms",
            "SSEKMSKeyId": version.key_arn,
            "BucketKeyEnabled": version.bucket_key,
            "ChecksumType": version.checksum_type,
            **({"TagCount": len(version.tags)} if version.tags else {}),
            **({"MissingMeta": version.missing_meta} if version.missing_meta else {}),
            **({"StorageClass": version.storage_class} if version.storage_class != "STANDARD" else {}),
            **({"Restore": 'ongoing-request="false", expiry-date="…"'} if version.restored else {}),
            **({"ObjectLockLegalHoldStatus": version.hold} if version.hold else {}),
            **version.headers,
        }
        if version.retained_until:
            answer |= {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": version.retained_until}
        if version.checksum:
            algorithm, value = version.checksum.split(":")
            answer[f"Checksum{algorithm}"] = value
        return answer

    def _do_get_object(self, Bucket: str, Key: str, VersionId: str | None = None, **_: Any) -> dict[str, Any]:
        version = self._find(Bucket, Key, VersionId)
        _refuse_asleep(version)
        body = StreamingBody(io.BytesIO(version.body), len(version.body))
        return {**self._do_head_object(Bucket, Key, VersionId), "Body": body}

    def _do_get_object_tagging(self, Bucket: str, Key: str, VersionId: str | None = None) -> dict[str, Any]:
        tags = self._find(Bucket, Key, VersionId).tags
        return {"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]}

    def _do_put_object_tagging(
        self, Bucket: str, Key: str, Tagging: dict[str, Any], VersionId: str | None = None
    ) -> dict[str, Any]:
        version = self._find(Bucket, Key, VersionId)
        version.tags = {tag["Key"]: tag["Value"] for tag in Tagging["TagSet"]}
        self.tagged(Bucket, Key, version.id)
        return {"VersionId": version.id}

    def _do_copy_object(self, Bucket: str, Key: str, CopySource: dict[str, str], **parameters: Any) -> dict[str, Any]:
        source = self._find(CopySource["Bucket"], CopySource["Key"], CopySource["VersionId"])
        if parameters["CopySourceIfMatch"] != source.etag:
            raise error("PreconditionFailed", 412)
        self._check(Bucket, Key, parameters)
        _refuse_asleep(source)
        replaces = parameters.get("MetadataDirective") == "REPLACE"
        given = {name: parameters[name] for name in HEADERS if name in parameters}
        if "Expires" in parameters:
            given["ExpiresString"] = parameters["Expires"]
        copy = Version(
            self._new_id(),
            source.body,
            dict(parameters["Metadata"]) if replaces else dict(source.metadata),
            dict(source.tags) if parameters.get("TaggingDirective") == "COPY" else {},
            given if replaces else dict(source.headers),
            parameters.get("SSEKMSKeyId", SOURCE_KEY),
            checksum=whole_checksum(source),
            storage_class=parameters.get("StorageClass", "STANDARD"),
            missing_meta=source.missing_meta,
        )
        answer = self._written(self._add(Bucket, Key, copy))
        return {"CopyObjectResult": {"ETag": answer.pop("ETag")}, **answer}

    def _do_update_object_encryption(
        self, Bucket: str, Key: str, VersionId: str, ObjectEncryption: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        """API_UpdateObjectEncryption: a new wrapping under an ARN; everything else of the version stays."""
        version, wanted = self._find(Bucket, Key, VersionId), ObjectEncryption["SSEKMS"]
        if version.hold == "ON" or version.retained_until:
            raise error("AccessDenied", 403, "protected by S3 Object Lock", "UpdateObjectEncryption")
        for key_arn in (version.key_arn, wanted["KMSKeyArn"]):
            if key_arn in self.dead_keys:
                raise error("KMS.DisabledException", 400, f"{key_arn} is disabled.", "UpdateObjectEncryption")
        version.key_arn, version.bucket_key = wanted["KMSKeyArn"], wanted["BucketKeyEnabled"]
        return {}

    def _do_create_multipart_upload(self, Bucket: str, Key: str, **parameters: Any) -> dict[str, Any]:
        upload = self._new_id()
        parameters.setdefault("SSEKMSKeyId", self.default_key.get(Bucket, SOURCE_KEY))
        self.uploads[upload] = {"Bucket": Bucket, "Key": Key, "parameters": parameters, "parts": {}, "begun": self.now}
        return {"UploadId": upload}

    def upload(self, upload_id: str, place: tuple[str, str]) -> dict[str, Any]:
        found = self.uploads.get(upload_id)
        if found is None or (found["Bucket"], found["Key"]) != place:
            raise error("NoSuchUpload", 404)
        return found

    def _do_upload_part_copy(
        self, Bucket: str, Key: str, UploadId: str, PartNumber: int, CopySource: dict[str, str], **parameters: Any
    ) -> dict[str, Any]:
        source = self._find(CopySource["Bucket"], CopySource["Key"], CopySource["VersionId"])
        first, last = map(int, parameters["CopySourceRange"].removeprefix("bytes=").split("-"))
        _refuse_asleep(source)
        self.upload(UploadId, (Bucket, Key))["parts"][PartNumber] = source.body[first : last + 1]
        return {"CopyPartResult": {"ETag": f'"part{PartNumber}"'}}

    def _do_complete_multipart_upload(
        self, Bucket: str, Key: str, UploadId: str, MultipartUpload: dict[str, Any], **parameters: Any
    ) -> dict[str, Any]:
        self._check(Bucket, Key, parameters)
        upload = self.upload(UploadId, (Bucket, Key))
        del self.uploads[UploadId]
        facts = upload["parameters"]
        body = b"".join(upload["parts"][part["PartNumber"]] for part in MultipartUpload["Parts"])
        tags = dict(parse_qsl(facts.get("Tagging", ""), keep_blank_values=True))
        algorithm, kind = facts["ChecksumAlgorithm"], facts["ChecksumType"]
        if kind == "COMPOSITE":
            checksum = f"{algorithm}:of-the-parts-{len(upload['parts'])}"
        else:
            checksum = f"{algorithm}:{sum_of(algorithm, body)}"
        version = Version(
            self._new_id(),
            body,
            dict(facts["Metadata"]),
            tags,
            {name: facts[name] for name in HEADERS if name in facts},
            facts.get("SSEKMSKeyId", SOURCE_KEY),
            checksum=checksum,
            checksum_type=kind,
            storage_class=facts.get("StorageClass", "STANDARD"),
        )
        return self._written(self._add(Bucket, Key, version))

    def _do_abort_multipart_upload(self, Bucket: str, Key: str, UploadId: str) -> dict[str, Any]:
        if self.uploads.pop(UploadId, None) is None:
            raise error("NoSuchUpload", 404)
        return {}

    def _do_delete_object(
        self, Bucket: str, Key: str, VersionId: str | None = None, **parameters: Any
    ) -> dict[str, Any]:
        if VersionId is None:
            self._check(Bucket, Key, parameters)
            return self._written(self._add(Bucket, Key, Version(self._new_id(), marker=True)))
        versions = self.versions.get((Bucket, Key), [])
        versions[:] = [version for version in versions if version.id != VersionId]
        return {}

    def _do_delete_objects(self, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
        if self.errors:
            return {"Errors": self.errors}
        if not all(in_xml(entry["Key"]) for entry in Delete["Objects"]):
            raise error("MalformedXML", 400, "The XML you provided was not well-formed", "DeleteObjects")
        for entry in Delete["Objects"]:
            self._do_delete_object(Bucket, entry["Key"], entry["VersionId"])
        return {}


SOURCE = StorageRef("shared", "t/acme/", SOURCE_KEY)
TARGET = StorageRef("dedicated", "", TARGET_KEY)


def two_storages() -> tuple[FakeS3, Side, Side]:
    s3 = FakeS3()
    return s3, Side(s3, SOURCE), Side(s3, TARGET)


def put(s3: FakeS3, key: str, body: bytes = b"x", **parameters: Any) -> str:
    """Write at the source; the version id."""
    return s3.put_object(Bucket="shared", Key=f"t/acme/{key}", Body=body, **parameters)["VersionId"]


def delete(s3: FakeS3, key: str) -> str:
    return s3.delete_object(Bucket="shared", Key=f"t/acme/{key}")["VersionId"]


def a_history(s3: FakeS3) -> None:
    """Versions, delete markers in every place, awkward names, metadata, tags, headers, a neighbour's object."""
    put(s3, "records/a/1.json", b"one", Metadata={"revision": "1"}, Tags={"case": "7"}, ContentType="application/json")
    put(s3, "records/a/1.json", b"two", Metadata={"revision": "2"})
    delete(s3, "records/a/1.json")
    delete(s3, "records/a/1.json")
    put(s3, "records/a/1.json", b"three", Metadata={"revision": "3"})
    put(s3, "attachments/empty", b"")
    put(s3, "attachments/Gro\u0308ße +%&.txt", b"nfd", CacheControl="no-store")
    put(s3, "attachments/Größe +%&.txt", b"nfc")
    put(s3, "attachments/gone", b"gone")
    delete(s3, "attachments/gone")
    delete(s3, "attachments/never")
    s3.put_object(Bucket="shared", Key="t/acme2/records/a/1.json", Body=b"a neighbour's")
