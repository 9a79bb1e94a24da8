"""What a move and Archive ask of S3: listings in true order, one version's description, conditional writes, deletion.

Everything else that knows S3's request shapes is in `engine` (copying).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import IO, Any, TypeVar
from urllib.parse import unquote_plus

from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from components.worker.handler import S3Objects
from migrate.aws import code_of, explained, is_about_a_key, status_of
from migrate.copy.reading import until_whole
from migrate.copy.s3_client import ORDER, prepare
from migrate.copy.store import Content, Description, Entry, Store
from migrate.errors import CloudError, KeyshiftError, RefusedInput, Waiting

__all__ = ["prepare"]

Made = TypeVar("Made")

NULL_VERSION = "null"
CHECKSUMS = ("SHA256", "SHA512", "SHA1", "CRC64NVME", "CRC32C", "CRC32")
"""Algorithms that boto3 reports, the strongest first."""
CONTENT_HEADERS = (
    "ContentType",
    "ContentEncoding",
    "ContentDisposition",
    "ContentLanguage",
    "CacheControl",
    "ExpiresString",
    "WebsiteRedirectLocation",
    "ObjectLockMode",
    "ObjectLockRetainUntilDate",
    "ObjectLockLegalHoldStatus",
    "MissingMeta",
)
KEY_LIMIT_BYTES = 1024
"""S3 user guide, "Naming Amazon S3 objects": at most 1,024 bytes of UTF-8."""
STANDARD = "STANDARD"
CHUNK = 1024 * 1024
DENIALS = frozenset({"AccessDenied", "403"})
BROKEN_OFF = (IncompleteReadError, ResponseStreamingError, ReadTimeoutError, ConnectionClosedError)
"""What boto3 raises while a body is read."""
ASLEEP = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects have to be restored before S3 reads or copies them."""
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""XML 1.0, section 2.2: no document can hold these, not even as a reference."""


@dataclass(frozen=True)
class StorageRef:
    """A storage: a bucket, and the prefix in it ("" for a dedicated bucket, else ending in "/").

    `key_arn` is the KMS key that its objects must be under, None to leave that to the bucket.
    """

    bucket: str
    prefix: str
    key_arn: str | None = None

    def __post_init__(self) -> None:
        if self.prefix and not self.prefix.endswith("/"):
            raise RefusedInput(
                f"the prefix {self.prefix!r} has to end in a slash: it would also take in its neighbours"
            )

    def keyless(self) -> StorageRef:
        return replace(self, key_arn=None)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True)
class Side:
    """A storage and the client to reach it with: a `Store`. The client has to be `prepare`d."""

    s3: Any = field(repr=False)
    storage: StorageRef

    lists_tags = False
    counts_from = 0

    def list_versions(self, below: str = "") -> Iterator[Entry]:
        return list_versions(self, below)

    def list_uploads(self, below: str = "") -> Iterator[tuple[str, str]]:
        return list_uploads(self, below)

    def abort_uploads(self, below: str = "") -> int:
        return abort_uploads(self, below)

    def describe(self, key: str, version_id: str) -> Description:
        return describe(self, key, version_id)

    def tags(self, key: str, version_id: str) -> dict[str, str]:
        return tags(self, key, version_id)

    def read_version(self, key: str, version_id: str, make: Callable[[Content], Made]) -> Made:
        """Raises CloudError for a refusal, boto3's own error once the body has broken off again and again."""

        def read() -> Made:
            answer = called(f"reading {self.storage}{key}", self.s3.get_object, **self.place(key), VersionId=version_id)
            with closing(answer["Body"]):
                return make(_content(answer))

        return until_whole(read, BROKEN_OFF)

    def read_now(self, key: str, make: Callable[[Content], Made]) -> Made | None:
        try:
            answer = self.s3.get_object(**self.place(key), ChecksumMode="ENABLED")
        except ClientError as error:
            if self._is_absent(key, error):
                return None
            raise explained(error, f"reading {self.storage}{key}") from error
        with closing(answer["Body"]):
            return make(_content(answer))

    def _is_absent(self, key: str, error: ClientError) -> bool:
        """Whether a read failed because there is no object now.

        S3 answers 403 instead of 404 to a role that may list one prefix only (API_GetObject, Permissions).
        """
        if status_of(error) == 404:
            return True
        if status_of(error) != 403 or is_about_a_key(error):
            return False
        newest = next((entry for entry in list_versions(self, key) if entry.key == key), None)
        return newest is None or newest.is_delete_marker

    def last_revision(self, key: str) -> int | None:
        for entry in list_versions(self, key):
            if entry.key != key:
                break
            if not entry.is_delete_marker:
                return int(describe(self, key, entry.version_id).metadata["revision"])
        return None

    def write(  # noqa: PLR0913 - the parts of one request
        self, key: str, body: bytes | IO[bytes], metadata: Mapping[str, str], *, condition: str, sha256: str, size: int
    ) -> bool:
        try:
            self.s3.put_object(
                **self.place(key),
                Body=body,
                ContentLength=size,
                Metadata=metadata,
                ChecksumSHA256=sha256,
                **({"IfMatch": condition} if condition else {"IfNoneMatch": "*"}),
            )
        except ClientError as error:
            if status_of(error) in {404, 409, 412} and code_of(error) != "NoSuchBucket":
                return False
            raise explained(error, f"archiving {self.storage}{key}") from error
        return True

    def put(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        about = {"Metadata": metadata} if metadata else {}
        called(f"writing {self.storage}{key}", self.s3.put_object, **self.place(key), Body=body, **about)

    def remove(self, key: str) -> None:
        called(f"deleting {key}", self.s3.delete_object, **self.place(key))

    def delete_version(self, key: str, version_id: str) -> None:
        delete_version(self, key, version_id)

    def delete_versions(self, doomed: Iterable[tuple[str, str]], guard: Callable[[], None]) -> None:
        """One call for all whose keys XML can carry; the others, which a document can only misname, one by one."""
        batch = list(doomed)
        together = [one for one in batch if fits_xml(one[0])]
        if together:
            guard()
            _delete_together(self, together)
        for key, version_id in batch:
            if not fits_xml(key):
                guard()
                delete_version(self, key, version_id)

    def write_attempts(self, key: str) -> Iterator[tuple[str, Callable[[], Any]]]:
        """A part of an upload needs PutObject."""
        s3, place = self.s3, self.place(key)
        tagging = {"TagSet": [{"Key": "probe", "Value": "write"}]}
        yield "PutObject", lambda: s3.put_object(**place, Body=b"")
        yield "PutObjectTagging", lambda: s3.put_object_tagging(**place, Tagging=tagging)
        yield "CreateMultipartUpload", lambda: s3.create_multipart_upload(**place)
        yield "DeleteObject", lambda: s3.delete_object(**place)

    def denial(self, action: str, attempt: Callable[[], Any]) -> str:
        try:
            attempt()
        except ClientError as error:
            # A role that could not even be assumed says nothing about what its holders may do.
            is_denied = error.operation_name == action and code_of(error) in DENIALS
            if is_denied and not is_about_a_key(error):
                return code_of(error)
            raise explained(error, f"probing whether {self.storage} can still be written") from error
        return ""

    def worker_objects(self) -> S3Objects:
        return S3Objects(self.s3, self.storage.bucket, self.storage.prefix)

    def key_problem(self, described: Description) -> str:
        wanted = self.storage.key_arn
        if wanted is not None and described.key_arn != wanted:
            return f"encrypted under {described.key_arn or 'no KMS key'} instead of {wanted}"
        return "encrypted through a bucket key" if wanted is not None and described.bucket_key else ""

    def name_problem(self, key: str) -> str:
        return name_problem(key, self.storage.prefix)

    def way_out(self) -> str:
        place = f"--bucket {self.storage.bucket} --key {self.storage.prefix}KEY"
        return (
            f"fetch each of them (aws s3api get-object {place} --version-id ID FILE), archive it anew if it is wanted,"
            f" remove it (aws s3api delete-object {place} --version-id ID; abort-multipart-upload for an upload)"
        )

    def place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.storage.bucket, "Key": self.storage.prefix + key}


def _content(answer: Mapping[str, Any]) -> Content:
    stored = answer.get("ChecksumSHA256")
    is_whole = stored and answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
    return Content(
        metadata=answer.get("Metadata", {}),
        size=answer["ContentLength"],
        chunks=answer["Body"].iter_chunks(CHUNK),
        condition=answer["ETag"],
        sha256=stored if is_whole else None,
    )


def _delete_together(side: Side, batch: list[tuple[str, str]]) -> None:
    answer: dict[str, Any] = called(
        f"deleting {len(batch)} versions of {side.storage}",
        side.s3.delete_objects,
        Bucket=side.storage.bucket,
        Delete={
            "Objects": [{"Key": side.storage.prefix + key, "VersionId": version_id} for key, version_id in batch],
            "Quiet": True,
        },
    )
    if errors := answer.get("Errors"):
        first = errors[0]
        raise CloudError(
            f"{len(errors)} of {len(batch)} versions of {side.storage} could not be deleted, the first of them"
            f" {first.get('Key')}: {first.get('Code')} ({first.get('Message')})",
            cloud_code=str(first.get("Code")),
            hint="run it again when the reason is gone; what was deleted stays deleted",
        )


def in_s3(store: Store) -> Side:
    """A storage of a move that only S3 knows. Raises KeyshiftError for another: its plan is wrong."""
    if not isinstance(store, Side):
        raise KeyshiftError(f"{store.storage} does not lie in S3, where alone this can be done", code="plan-unfit")
    return store


def fits_xml(key: str) -> bool:
    """Whether the body of a request can name this key: DeleteObjects cannot where it has most control characters."""
    return _NOT_IN_XML.search(key) is None


def name_problem(key: str, prefix: str) -> str:
    """Why an object of this relative key cannot lie below `prefix`, "" if it can."""
    size = len((prefix + key).encode())
    if not size:
        return "its name is the prefix itself, and nothing would be left of it"
    return f"its name would have {size} bytes there, {KEY_LIMIT_BYTES} are the most" if size > KEY_LIMIT_BYTES else ""


def list_versions(side: Side, below: str = "") -> Iterator[Entry]:
    """Every object version and delete marker, by key, newest first in a key. Flat in memory.

    `below` narrows it to relative keys that begin so. The client has to be `prepare`d.
    """
    ask = {"Bucket": side.storage.bucket, "Prefix": side.storage.prefix + below}
    while True:
        page = called(f"listing {side.storage}", side.s3.list_object_versions, **ask)
        yield from _entries(page, len(side.storage.prefix))
        if not page.get("IsTruncated"):
            return
        ask |= {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}


def _entries(page: Mapping[str, Any], cut: int) -> Iterator[Entry]:
    lists = {"Version": iter(page.get("Versions", ())), "DeleteMarker": iter(page.get("DeleteMarkers", ()))}
    for kind in page[ORDER]:
        found = next(lists[kind])
        yield Entry(
            key=found["Key"][cut:],
            version_id=found["VersionId"],
            etag=found.get("ETag", ""),
            size=found.get("Size", 0),
            last_modified=found["LastModified"].isoformat(),
            is_latest=found["IsLatest"],
            is_delete_marker=kind == "DeleteMarker",
            storage_class=found.get("StorageClass", STANDARD),
        )


def list_uploads(side: Side, below: str = "") -> Iterator[tuple[str, str]]:
    """(full key, upload id) of every unfinished multipart upload below the prefix."""
    return ((key, upload_id) for key, upload_id, _ in _uploads(side, below))


def _uploads(side: Side, below: str = "") -> Iterator[tuple[str, str, datetime]]:
    """(full key, upload id, when it was begun, by S3's clock)."""
    # boto3 asks for encoded keys, and decodes them, in the listings of objects but not in this one.
    ask = {"Bucket": side.storage.bucket, "Prefix": side.storage.prefix + below, "EncodingType": "url"}
    while True:
        page = called(f"listing uploads of {side.storage}", side.s3.list_multipart_uploads, **ask)
        for upload in page.get("Uploads", ()):
            yield unquote_plus(upload["Key"]), upload["UploadId"], upload["Initiated"]
        if not page.get("IsTruncated"):
            return
        ask |= {"KeyMarker": unquote_plus(page["NextKeyMarker"]), "UploadIdMarker": page["NextUploadIdMarker"]}


def describe(side: Side, key: str, version_id: str) -> Description:
    """HEAD of one version, with its stored checksum where it covers the whole object.

    A COMPOSITE checksum hashes the hashes of the parts: it compares only with the same parts, so it
    does not count here (S3 user guide, "Checking object integrity").
    """
    head = called(
        f"reading {side.storage}{key}",
        side.s3.head_object,
        Bucket=side.storage.bucket,
        Key=side.storage.prefix + key,
        VersionId=version_id,
        ChecksumMode="ENABLED",
    )
    return Description(
        size=head["ContentLength"],
        etag=head["ETag"],
        checksum=full_checksum(head),
        metadata=head.get("Metadata", {}),
        headers={name: str(head[name]) for name in CONTENT_HEADERS if head.get(name) and _counts(name, head)},
        key_arn=head.get("SSEKMSKeyId"),
        bucket_key=head.get("BucketKeyEnabled", False),
        tag_count=head.get("TagCount", 0),
        algorithm=next((name for name in CHECKSUMS if head.get(f"Checksum{name}")), None),
        storage_class=head.get("StorageClass", STANDARD),
        is_asleep=_is_asleep(head),
    )


def _is_asleep(head: Mapping[str, Any]) -> bool:
    """API_HeadObject: `Restore` says whether a restored copy is there, `ArchiveStatus` is Intelligent-Tiering's."""
    is_restored = 'ongoing-request="false"' in head.get("Restore", "")
    return bool(head.get("ArchiveStatus")) or (head.get("StorageClass") in ASLEEP and not is_restored)


def _counts(name: str, head: Mapping[str, Any]) -> bool:
    """A lock that is over, or a hold that is off, no longer says anything."""
    if name == "ObjectLockLegalHoldStatus":
        return head[name] == "ON"
    if name in {"ObjectLockMode", "ObjectLockRetainUntilDate"}:
        return head["ObjectLockRetainUntilDate"] > datetime.now(UTC)
    return True


def class_at_target(storage_class: str) -> str:
    """What was restored arrives awake: the fill and every later proof have to read it."""
    return STANDARD if storage_class in ASLEEP else storage_class


def same_algorithm(one: str | None, other: str | None) -> bool:
    """True if both are checksums of the whole object, made by the same algorithm: only then they compare."""
    return one is not None and other is not None and one.partition(":")[0] == other.partition(":")[0]


def full_checksum(answer: Mapping[str, Any]) -> str | None:
    """`ALGORITHM:base64` of the whole object as S3 stored it, or None."""
    if answer.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    stored = ((name, answer.get(f"Checksum{name}")) for name in CHECKSUMS)
    return next((f"{name}:{value}" for name, value in stored if value and "-" not in value), None)


def tags(side: Side, key: str, version_id: str) -> dict[str, str]:
    """The object tags of one version. HEAD only counts them, and only for who may read them."""
    answer = called(
        f"reading the tags of {side.storage}{key}",
        side.s3.get_object_tagging,
        Bucket=side.storage.bucket,
        Key=side.storage.prefix + key,
        VersionId=version_id,
    )
    return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}


def require_versioning(side: Side) -> None:
    """Raise Waiting unless the bucket keeps versions.

    A bucket whose versioning was just turned on may take up to 15 minutes to honour it (S3 user
    guide, "Enabling versioning on buckets"); `refuse_null_version` catches a write made in that time.
    """
    status = called(
        f"reading the versioning of {side.storage}", side.s3.get_bucket_versioning, Bucket=side.storage.bucket
    ).get("Status")
    if status != "Enabled":
        raise Waiting(
            f"the bucket {side.storage.bucket} keeps no versions (versioning: {status or 'never enabled'})",
            waits_for=f"versioning of {side.storage.bucket}",
            hint="it has to be enabled before anything is copied",
            code="versioning",
        )


def refuse_null_version(side: Side, key: str, version_id: str | None) -> str:
    """The version id of something just written; removes the object and raises Waiting if it has none."""
    if version_id and version_id != NULL_VERSION:
        return version_id
    delete_version(side, key, NULL_VERSION)
    raise Waiting(
        f"{side.storage}{key} was written without a version id: versioning has not reached the whole bucket yet",
        waits_for=f"versioning of {side.storage.bucket}",
        hint="S3 takes up to 15 minutes after versioning was turned on; run it again then",
        code="null-version",
    )


def delete_version(side: Side, key: str, version_id: str) -> None:
    """Remove one version for good."""
    called(
        f"deleting one version of {side.storage}{key}",
        side.s3.delete_object,
        Bucket=side.storage.bucket,
        Key=side.storage.prefix + key,
        VersionId=version_id,
    )


def abort_uploads(side: Side, below: str = "", *, begun_before: datetime | None = None) -> int:
    """Abort every unfinished multipart upload below the prefix; returns how many there were.

    `begun_before`: only those begun then or earlier.
    """
    count = 0
    for key, upload_id, begun in _uploads(side, below):
        if begun_before is not None and begun > begun_before:
            continue
        count += 1
        try:
            side.s3.abort_multipart_upload(Bucket=side.storage.bucket, Key=key, UploadId=upload_id)
        except ClientError as error:
            if code_of(error) != "NoSuchUpload":
                raise explained(error, f"aborting an upload of {key}") from error
    return count


def called(doing: str, call: Any, **parameters: Any) -> Any:
    """`call(**parameters)`, with AWS's refusal turned into a CloudError that says what was being done."""
    try:
        return call(**parameters)
    except ClientError as error:
        raise explained(error, doing) from error
