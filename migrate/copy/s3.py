"""What a move asks of S3: listings in true order, one version's description, its deletion.

Everything else that knows S3's request shapes is in `engine` (copying) and `purge` (deleting).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from botocore.exceptions import ClientError

from migrate.aws import code_of, explained
from migrate.errors import RefusedInput, Waiting

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
ASLEEP = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects have to be restored before S3 reads or copies them."""
_ORDER = "KeyshiftOrder"
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""XML 1.0, section 2.2: no document can hold these, not even as a reference."""
_BROKEN_XML = re.compile(
    rb"&#(?:x0*[0-8bBcCeEfF]|x0*1[0-9a-fA-F]|0*(?:[0-8]|1[124-9]|2[0-9]|3[01])|x[fF]{3}[eEfF]|6553[45]);"
    rb"|[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]"
)


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

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


@dataclass(frozen=True)
class Side:
    """A storage and the client to reach it with."""

    s3: Any = field(repr=False)
    storage: StorageRef


@dataclass(frozen=True)
class Entry:
    """One object version or delete marker of a listing. `key` is relative to the storage's prefix."""

    key: str
    version_id: str
    etag: str
    size: int
    last_modified: str
    is_latest: bool
    is_delete_marker: bool
    storage_class: str


@dataclass(frozen=True)
class Description:
    """What must be the same on both sides of a copy, and the key that encrypts it."""

    size: int
    etag: str
    checksum: str | None
    metadata: Mapping[str, str]
    headers: Mapping[str, str]
    key_arn: str | None
    bucket_key: bool
    tag_count: int
    algorithm: str | None = None
    storage_class: str = STANDARD
    is_asleep: bool = False
    """Whether S3 refuses to read it until it is restored."""


def prepare(s3: Any) -> Any:
    """Teach a client what boto3 cannot do by itself; returns the client.

    - The order of versions and delete markers: S3 lists both in one order, newest first, but boto3 sorts
      them into two lists, and `LastModified` (whole seconds) cannot tell what came first within a second.
    - Answers about a key with control characters, which S3 writes into XML that no parser takes.
    - An `Expires` header that is no date (`ExpiresString`): S3 keeps it as it came, boto3 sends dates only.
    """
    events = s3.meta.events
    events.register("before-parse.s3.ListObjectVersions", _remember_order, unique_id="keyshift-order")
    # So named it comes before boto3's own handlers: an answer that cannot be parsed they take for a failure of S3.
    events.register("before-parse.*.*", _mend_xml, unique_id="keyshift-xml")
    create = "s3.CreateMultipartUpload"
    events.register(f"before-parameter-build.{create}", _keep_expires, unique_id="keyshift-expires")
    events.register(f"before-call.{create}", _send_expires, unique_id="keyshift-expires-header")
    return s3


def _mend_xml(response_dict: dict[str, Any], **_: Any) -> None:
    """The key in such an answer is only an echo of what was asked; listings encode their keys."""
    if isinstance(response_dict.get("body"), bytes):
        response_dict["body"] = _BROKEN_XML.sub(b"?", response_dict["body"])


def _keep_expires(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    context["keyshift_expires"] = params.pop("ExpiresString", None)


def _send_expires(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    if context.get("keyshift_expires"):
        params["headers"]["Expires"] = context["keyshift_expires"]


def fits_xml(key: str) -> bool:
    """Whether the body of a request can name this key: DeleteObjects cannot where it has most control characters."""
    return _NOT_IN_XML.search(key) is None


def name_problem(key: str, prefix: str) -> str:
    """Why an object of this relative key cannot lie below `prefix`, "" if it can."""
    size = len((prefix + key).encode())
    if not size:
        return "its name is the prefix itself, and nothing would be left of it"
    return f"its name would have {size} bytes there, {KEY_LIMIT_BYTES} are the most" if size > KEY_LIMIT_BYTES else ""


def _remember_order(response_dict: Mapping[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    customized_response_dict[_ORDER] = [
        tag.decode() for tag in re.findall(rb"<(Version|DeleteMarker)>", response_dict["body"])
    ]


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
    for kind in page[_ORDER]:
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


def list_uploads(side: Side) -> Iterator[tuple[str, str]]:
    """(full key, upload id) of every unfinished multipart upload below the prefix."""
    return ((key, upload_id) for key, upload_id, _ in _uploads(side))


def _uploads(side: Side) -> Iterator[tuple[str, str, datetime]]:
    """(full key, upload id, when it was begun, by S3's clock)."""
    # boto3 asks for encoded keys, and decodes them, in the listings of objects but not in this one.
    ask = {"Bucket": side.storage.bucket, "Prefix": side.storage.prefix, "EncodingType": "url"}
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


def abort_uploads(side: Side, *, begun_before: datetime | None = None) -> int:
    """Abort every unfinished multipart upload below the prefix; returns how many there were.

    `begun_before`: only those begun then or earlier.
    """
    count = 0
    for key, upload_id, begun in _uploads(side):
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
