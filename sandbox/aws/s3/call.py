"""One call on its way through the gate, and what its handler may use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring

from sandbox.aws.identity import Requester
from sandbox.aws.s3.access import Access
from sandbox.aws.s3.encryption import BucketEncryption, Encryption, KeyRing, of_write
from sandbox.aws.s3.message import Request, S3Error
from sandbox.aws.s3.record import HEADER
from sandbox.aws.s3.store import Store

LARGEST_PUT = 5 * 1024**3
_LARGEST_METADATA = 2048
_WORTH_A_THREAD = 256 * 1024


@dataclass(frozen=True)
class Services:
    store: Store
    access: Access
    keys: KeyRing
    region: str
    page_limit: Callable[[], int] = lambda: 0
    """The most that a listing may hold now, 0 for S3's own limit: S3 may return fewer keys than were asked for."""

    def bucket_encryption(self, owner: str, bucket: str) -> BucketEncryption:
        document = self.store.encryption(owner, bucket)
        return _bucket_encryption(document, owner, self.region) if document else BucketEncryption()


@lru_cache(maxsize=64)
def _bucket_encryption(document: str, owner: str, region: str) -> BucketEncryption:
    """Asked for at every write: the document is read once for as long as it stays the same."""
    return BucketEncryption.parse(fromstring(document), owner, region)


@dataclass(frozen=True)
class Call:
    """An authenticated, listed request. `owner` is the account of the bucket, or the caller's if there is none."""

    request: Request
    requester: Requester
    owner: str
    services: Services

    def elsewhere(self, request: Request) -> Call:
        """The same caller's request to another bucket, of whoever owns that. Raises NoSuchBucket."""
        owner = self.services.store.owner(request.bucket)
        if owner is None:
            raise no_such_bucket(request.bucket)
        return replace(self, request=request, owner=owner)

    def require(self, action: str) -> None:
        self.services.access.require(self.requester, action, self.request)

    def require_listing_for_missing(self) -> None:
        """A caller who may not list the bucket does not learn that a key is missing (API_GetObject, Permissions)."""
        bucket = replace(self.request, key="", query={})
        self.services.access.require(self.requester, "s3:ListBucket", bucket)

    def encryption_of_write(self) -> Encryption:
        return of_write(self.request.headers, self.services.bucket_encryption(self.owner, self.request.bucket))

    def document(self) -> Element:
        """The request's body as XML. Raises MalformedXML."""
        return parse(self.request.body)


def parse(body: bytes) -> Element:
    try:
        return fromstring(body)
    except ParseError as error:
        message = "The XML you provided was not well-formed or did not validate against our published schema"
        raise S3Error("MalformedXML", message) from error


async def heavy(size: int, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run work on `size` bytes; beside the event loop where it would hold up others."""
    if size < _WORTH_A_THREAD:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


def write_headers(request: Request) -> dict[str, str]:
    """The headers of a write as they are kept, after the checks that ministack leaves out."""
    headers = dict(request.headers)
    metadata = {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}
    if HEADER in metadata:
        raise S3Error("InvalidArgument", f"The metadata name {HEADER} is reserved.")
    size = sum(len(name) - len("x-amz-meta-") + len(value.encode()) for name, value in metadata.items())
    if size > _LARGEST_METADATA:
        raise S3Error(
            "MetadataTooLarge",
            "Your metadata headers exceed the maximum allowed metadata size",
            fields={"Size": str(size), "MaxSizeAllowed": str(_LARGEST_METADATA)},
        )
    # ministack's default is application/octet-stream, S3's is this.
    headers.setdefault("content-type", "binary/octet-stream")
    return headers


def bypasses_retention(request: Request) -> bool:
    """Whether a request asks to get past Object Lock's governance mode, which needs a right of its own."""
    return request.headers.get("x-amz-bypass-governance-retention", "").lower() == "true"


def no_such_bucket(name: str) -> S3Error:
    return S3Error("NoSuchBucket", "The specified bucket does not exist", 404, fields={"BucketName": name})


def no_such_key(request: Request) -> S3Error:
    if request.version_id:
        fields = {"Key": request.key, "VersionId": request.version_id}
        return S3Error("NoSuchVersion", "The specified version does not exist.", 404, fields=fields)
    return S3Error("NoSuchKey", "The specified key does not exist.", 404, fields={"Key": request.key})


def precondition_failed(condition: str) -> S3Error:
    message = "At least one of the pre-conditions you specified did not hold"
    return S3Error("PreconditionFailed", message, 412, fields={"Condition": condition})
