"""The allow-list: every S3 call that passes the gate. Anything else is answered 501.

ministack takes an unknown PUT on a key for an upload and an unknown DELETE for a deletion, so a
call that is not listed here must never reach it. A call is found by (method, level, the query keys
that make it what it is); a query key that the row does not name is enough to refuse it.

The column `source` is the page of the Amazon S3 API Reference; the IAM actions are those of the
Service Authorization Reference for Amazon S3, with the action for a named version after the bar.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sandbox.aws.s3.message import Request, S3Error

STORE = "store"  # handler: ministack's answer is AWS's
_LISTING = ("prefix", "delimiter", "encoding-type")
_OVERRIDES = (
    *("response-cache-control", "response-content-disposition", "response-content-encoding"),
    *("response-content-language", "response-content-type", "response-expires"),
)


@dataclass(frozen=True)
class Operation:
    """One row. `marks`: the query keys that must be there; `takes`: those that may be."""

    name: str
    method: str
    level: str
    action: str
    handler: str = STORE
    marks: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    is_copy: bool = False
    source: str = field(default="", compare=False)

    def action_for(self, version_id: str | None) -> str:
        plain, _, versioned = self.action.partition("|")
        return f"s3:{versioned if version_id and versioned else plain}"


def _row(
    name: str,
    where: str,
    action: str,
    handler: str = STORE,
    *,
    marks: Collection[str] = (),
    takes: Collection[str] = (),
    is_copy: bool = False,
) -> Operation:
    method, level = where.split()
    return Operation(name, method, level, action, handler, frozenset(marks), frozenset(takes), is_copy, f"API_{name}")


def _configuration(sub_resource: str, noun: str, rights: str, *, can_delete: bool, put: str = STORE) -> list[Operation]:
    """The rows of one bucket configuration. `rights` is the IAM noun; deleting one needs the right to put it."""
    rows = [
        _row(f"Get{noun}", "GET bucket", f"Get{rights}", marks=(sub_resource,)),
        _row(f"Put{noun}", "PUT bucket", f"Put{rights}", put, marks=(sub_resource,)),
    ]
    if can_delete:
        rows.append(_row(f"Delete{noun}", "DELETE bucket", f"Put{rights}", marks=(sub_resource,)))
    return rows


OPERATIONS: tuple[Operation, ...] = (
    # The service
    _row(
        *("ListBuckets", "GET service", "ListAllMyBuckets"),
        takes=("prefix", "max-buckets", "continuation-token", "bucket-region"),
    ),
    # Buckets
    _row("CreateBucket", "PUT bucket", "CreateBucket", "create_bucket"),
    _row("HeadBucket", "HEAD bucket", "ListBucket"),
    _row("DeleteBucket", "DELETE bucket", "DeleteBucket"),
    _row("GetBucketLocation", "GET bucket", "GetBucketLocation", marks=("location",)),
    _row("GetBucketAcl", "GET bucket", "GetBucketAcl", marks=("acl",)),
    *_configuration("versioning", "BucketVersioning", "BucketVersioning", can_delete=False),
    *_configuration("lifecycle", "BucketLifecycleConfiguration", "LifecycleConfiguration", can_delete=True),
    *_configuration("notification", "BucketNotificationConfiguration", "BucketNotification", can_delete=False),
    *_configuration("tagging", "BucketTagging", "BucketTagging", can_delete=True, put="put_bucket_tagging"),
    *_configuration("publicAccessBlock", "PublicAccessBlock", "BucketPublicAccessBlock", can_delete=True),
    *_configuration("ownershipControls", "BucketOwnershipControls", "BucketOwnershipControls", can_delete=True),
    *_configuration("object-lock", "ObjectLockConfiguration", "BucketObjectLockConfiguration", can_delete=False),
    _row("GetBucketEncryption", "GET bucket", "GetEncryptionConfiguration", "get_encryption", marks=("encryption",)),
    _row("PutBucketEncryption", "PUT bucket", "PutEncryptionConfiguration", "put_encryption", marks=("encryption",)),
    _row("DeleteBucketEncryption", "DELETE bucket", "PutEncryptionConfiguration", marks=("encryption",)),
    _row("GetBucketPolicy", "GET bucket", "GetBucketPolicy", marks=("policy",)),
    _row("PutBucketPolicy", "PUT bucket", "PutBucketPolicy", "put_policy", marks=("policy",)),
    _row("DeleteBucketPolicy", "DELETE bucket", "DeleteBucketPolicy", marks=("policy",)),
    # Listings
    _row("ListObjects", "GET bucket", "ListBucket", "list_objects", takes=(*_LISTING, "marker", "max-keys")),
    _row(
        *("ListObjectsV2", "GET bucket", "ListBucket", "list_objects_v2"),
        marks=("list-type",),
        takes=(*_LISTING, "max-keys", "continuation-token", "start-after", "fetch-owner"),
    ),
    _row(
        *("ListObjectVersions", "GET bucket", "ListBucketVersions", "list_versions"),
        marks=("versions",),
        takes=(*_LISTING, "max-keys", "key-marker", "version-id-marker"),
    ),
    _row(
        *("ListMultipartUploads", "GET bucket", "ListBucketMultipartUploads", "list_uploads"),
        marks=("uploads",),
        takes=(*_LISTING, "max-uploads", "key-marker", "upload-id-marker"),
    ),
    # Objects
    _row("PutObject", "PUT object", "PutObject", "put_object"),
    _row("CopyObject", "PUT object", "PutObject", "copy_object", is_copy=True),
    _row(
        *("GetObject", "GET object", "GetObject|GetObjectVersion", "get_object"),
        takes=("versionId", "partNumber", *_OVERRIDES),
    ),
    _row(
        *("HeadObject", "HEAD object", "GetObject|GetObjectVersion", "head_object"),
        takes=("versionId", "partNumber", *_OVERRIDES),
    ),
    _row("DeleteObject", "DELETE object", "DeleteObject|DeleteObjectVersion", takes=("versionId",)),
    # Authorized object by object, by its handler.
    _row("DeleteObjects", "POST bucket", "", "delete_objects", marks=("delete",)),
    _row(
        *("GetObjectAttributes", "GET object", "GetObjectAttributes|GetObjectVersionAttributes", "get_attributes"),
        marks=("attributes",),
        takes=("versionId",),
    ),
    _row(
        *("UpdateObjectEncryption", "PUT object", "UpdateObjectEncryption", "update_encryption"),
        marks=("encryption",),
        takes=("versionId",),
    ),
    _row(
        *("GetObjectTagging", "GET object", "GetObjectTagging|GetObjectVersionTagging", "get_tagging"),
        marks=("tagging",),
        takes=("versionId",),
    ),
    _row(
        *("PutObjectTagging", "PUT object", "PutObjectTagging|PutObjectVersionTagging", "put_tagging"),
        marks=("tagging",),
        takes=("versionId",),
    ),
    _row(
        *("DeleteObjectTagging", "DELETE object", "DeleteObjectTagging|DeleteObjectVersionTagging", "delete_tagging"),
        marks=("tagging",),
        takes=("versionId",),
    ),
    _row("GetObjectRetention", "GET object", "GetObjectRetention", marks=("retention",), takes=("versionId",)),
    _row("PutObjectRetention", "PUT object", "PutObjectRetention", marks=("retention",), takes=("versionId",)),
    _row("GetObjectLegalHold", "GET object", "GetObjectLegalHold", marks=("legal-hold",), takes=("versionId",)),
    _row("PutObjectLegalHold", "PUT object", "PutObjectLegalHold", marks=("legal-hold",), takes=("versionId",)),
    # Multipart uploads
    _row("CreateMultipartUpload", "POST object", "PutObject", "create_upload", marks=("uploads",)),
    _row("UploadPart", "PUT object", "PutObject", "upload_part", marks=("partNumber", "uploadId")),
    _row(
        *("UploadPartCopy", "PUT object", "PutObject", "upload_part_copy"),
        marks=("partNumber", "uploadId"),
        is_copy=True,
    ),
    _row("CompleteMultipartUpload", "POST object", "PutObject", "complete_upload", marks=("uploadId",)),
    _row("AbortMultipartUpload", "DELETE object", "AbortMultipartUpload", "abort_upload", marks=("uploadId",)),
    _row(
        *("ListParts", "GET object", "ListMultipartUploadParts", "list_parts"),
        marks=("uploadId",),
        takes=("max-parts", "part-number-marker"),
    ),
)

# Query keys that say nothing about which operation it is ("x-id" is an SDK's label).
_IGNORED = frozenset({"x-id"})
# Headers that turn an operation into another one.
_CHANGING_HEADERS = frozenset({"x-amz-write-offset-bytes", "x-amz-rename-source"})

_BY_PLACE: Mapping[tuple[str, str], tuple[Operation, ...]] = {
    (row.method, row.level): tuple(
        # The most specific first, so that a call is never taken for a wider one.
        sorted(
            (other for other in OPERATIONS if (other.method, other.level) == (row.method, row.level)),
            key=lambda other: (other.is_copy, len(other.marks)),
            reverse=True,
        )
    )
    for row in OPERATIONS
}


def find(request: Request) -> Operation:
    """The operation that a request asks for. Raises NotImplemented (501) for one that is not in the table."""
    keys = request.query.keys() - _IGNORED
    is_copy = "x-amz-copy-source" in request.headers
    if not _CHANGING_HEADERS & request.headers.keys():
        for row in _BY_PLACE.get((request.method, request.level), ()):
            if row.is_copy == is_copy and row.marks <= keys <= row.marks | row.takes and _is_listing_type(row, request):
                return row
    raise S3Error(
        "NotImplemented",
        "A header or query parameter you provided implies functionality that is not implemented.",
        501,
        fields={"Method": request.method, "ResourceType": request.level.upper(), "Query": "&".join(sorted(keys))},
    )


def _is_listing_type(row: Operation, request: Request) -> bool:
    return "list-type" not in row.marks or request.query["list-type"] == "2"
