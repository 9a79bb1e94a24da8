"""The way of a request through the gate: signature, table, bucket, rights, then its handler."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sandbox.aws.identity import AuthFailure, Requester, authenticate
from sandbox.aws.s3 import buckets, listing, multipart, objects, reading, table, writing
from sandbox.aws.s3.call import Call, Services, bypasses_retention, no_such_bucket
from sandbox.aws.s3.message import Answer, Request, S3Error, request_id
from sandbox.aws.s3.wire import check_payload_hash, finished, request_of

Handler = Callable[[Call], Awaitable[Answer]]
_log = logging.getLogger("sandbox.s3")
_HANDLERS: Mapping[str, Handler] = {
    handler.__name__: handler
    for handler in (
        *(buckets.create_bucket, buckets.get_encryption, buckets.put_encryption),
        *(buckets.put_bucket_tagging, buckets.put_policy),
        *(listing.list_objects, listing.list_objects_v2, listing.list_versions, listing.list_uploads),
        *(reading.get_object, reading.head_object, reading.get_attributes),
        *(writing.put_object, writing.copy_object, writing.update_encryption),
        *(objects.delete_objects, objects.get_tagging, objects.put_tagging, objects.delete_tagging),
        *(multipart.create_upload, multipart.upload_part, multipart.upload_part_copy, multipart.complete_upload),
        *(multipart.abort_upload, multipart.list_parts),
    )
}


class Gate:
    """S3 for the outside world."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def answer(self, scope: Mapping[str, Any], body: bytes) -> Answer:
        """Answer one HTTP request. Never raises: a defect becomes S3's InternalError, and is logged."""
        identifier = request_id()
        try:
            answer = await self._answer(scope, body)
        except S3Error as error:
            answer = error.answer(scope["path"], identifier)
        except AuthFailure as failure:
            answer = S3Error(failure.code, failure.message, failure.status).answer(scope["path"], identifier)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            broken = S3Error("InternalError", "We encountered an internal error. Please try again.", 500)
            answer = broken.answer(scope["path"], identifier)
        return finished(answer, identifier, is_head=scope["method"] == "HEAD")

    async def _answer(self, scope: Mapping[str, Any], body: bytes) -> Answer:
        requester = authenticate(scope, body, "s3")
        await check_payload_hash(scope, body)
        request = request_of(scope, body)
        operation = table.find(request)
        call = self._call(requester, request, operation)
        if operation.action:
            call.require(operation.action_for(request.version_id))
            if bypasses_retention(request):
                call.require("s3:BypassGovernanceRetention")
        if operation.handler != table.STORE:
            return await _HANDLERS[operation.handler](call)
        return self._services.store.call(call.owner, request)

    def _call(self, requester: Requester, request: Request, operation: table.Operation) -> Call:
        """The call with its bucket's owner. Raises NoSuchBucket, a redirect, or AccessDenied for another owner."""
        owner = requester.caller.account
        if request.bucket and operation.name != "CreateBucket":
            found = self._services.store.owner(request.bucket)
            if found is None:
                raise no_such_bucket(request.bucket)
            owner = found
            _check_region(self._services, owner, request)
            expected = request.headers.get("x-amz-expected-bucket-owner")
            if expected and expected != owner:
                raise S3Error("AccessDenied", "Access Denied", 403)
        return Call(request, requester, owner, self._services)


def _check_region(services: Services, owner: str, request: Request) -> None:
    redirect = services.store.region_error(owner, request)
    if redirect is None:
        return
    code = re.search(rb"<Code>([^<]*)</Code>", redirect.body)
    raise S3Error(
        code[1].decode() if code else "PermanentRedirect",
        "The bucket you are attempting to access must be addressed using the specified endpoint.",
        redirect.status,
        headers={n: v for n, v in redirect.headers.items() if n.startswith("x-amz-bucket")},
    )
