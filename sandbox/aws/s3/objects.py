"""Deleting in bulk, and tags of object versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sandbox.aws.s3 import checksums, tags
from sandbox.aws.s3.call import Call, bypasses_retention
from sandbox.aws.s3.message import NAMESPACE, XML, Answer, Request, S3Error, element, group
from sandbox.aws.s3.reading import live_version

_MOST_DELETIONS = 1000
_MALFORMED = "The XML you provided was not well-formed or did not validate against our published schema"


@dataclass(frozen=True)
class _Deletion:
    key: str
    fields: Mapping[str, str]

    @property
    def version_id(self) -> str:
        return self.fields.get("VersionId", "")

    def document(self) -> str:
        return group("Object", (element(name, value) for name, value in self.fields.items()))


async def delete_objects(call: Call) -> Answer:
    """Each object is judged by itself: those that may not be deleted come back as errors (API_DeleteObjects)."""
    request = call.request
    if checksums.claimed(request.headers) is None and "content-md5" not in request.headers:
        message = "Missing required header for this request: Content-MD5 OR x-amz-checksum-*"
        raise S3Error("InvalidRequest", message)
    checksums.of_body(request.headers, request.body)
    deletions, is_quiet = _deletions(call)
    allowed, refused = [], []
    for deletion in deletions:
        problem = _refusal(call, deletion)
        if problem is None:
            allowed.append(deletion)
        else:
            refused.append(_error(deletion, problem))
    quiet = element("Quiet", str(is_quiet).lower())
    inner = "".join(deletion.document() for deletion in allowed) + quiet
    body = f'<Delete xmlns="{NAMESPACE}">{inner}</Delete>'.encode()
    answer = call.services.store.call(call.owner, request, body=body)
    if answer.is_error or not refused:
        return answer
    return replace(answer, body=_with_errors(answer.body, "".join(refused).encode()))


def _with_errors(document: bytes, errors: bytes) -> bytes:
    opening, closing, _ = document.rpartition(b"</DeleteResult>")
    if closing:
        return opening + errors + closing
    # An empty result is written as one self-closing element.
    return document.removesuffix(b"/>").rstrip() + b">" + errors + b"</DeleteResult>"


def _deletions(call: Call) -> tuple[list[_Deletion], bool]:
    found, is_quiet = [], False
    for item in call.document():
        name = item.tag.rpartition("}")[2]
        if name == "Quiet":
            is_quiet = (item.text or "").strip().lower() == "true"
        elif name == "Object":
            fields = {field.tag.rpartition("}")[2]: field.text or "" for field in item}
            if not fields.get("Key"):
                raise S3Error("MalformedXML", _MALFORMED)
            found.append(_Deletion(fields["Key"], fields))
    if not 1 <= len(found) <= _MOST_DELETIONS:
        raise S3Error("MalformedXML", _MALFORMED)
    return found, is_quiet


def _refusal(call: Call, deletion: _Deletion) -> S3Error | None:
    action = "s3:DeleteObjectVersion" if deletion.version_id else "s3:DeleteObject"
    query = {"versionId": deletion.version_id} if deletion.version_id else {}
    asked = Request("DELETE", call.request.bucket, deletion.key, query, call.request.headers)
    try:
        call.services.access.require(call.requester, action, asked)
        if bypasses_retention(asked):
            call.services.access.require(call.requester, "s3:BypassGovernanceRetention", asked)
    except S3Error as error:
        return error
    return None


def _error(deletion: _Deletion, problem: S3Error) -> str:
    version = [element("VersionId", deletion.version_id)] if deletion.version_id else []
    return group(
        "Error",
        (element("Key", deletion.key), *version, element("Code", problem.code), element("Message", problem.message)),
    )


async def get_tagging(call: Call) -> Answer:
    stored = live_version(call)
    request = call.request
    found = call.services.store.tags(call.owner, request.bucket, request.key, stored)
    return Answer(200, {**XML, **_version(stored)}, tags.render(found))


async def put_tagging(call: Call) -> Answer:
    checksums.of_body(call.request.headers, call.request.body)
    return _tagged(call, tags.of_document(call.document()), "s3:ObjectTagging:Put", 200)


async def delete_tagging(call: Call) -> Answer:
    return _tagged(call, {}, "s3:ObjectTagging:Delete", 204)


def _tagged(call: Call, new: Mapping[str, str], event: str, status: int) -> Answer:
    """Set a version's tags and announce it; ministack sends no event, S3 does (User Guide, "Event notification types")."""
    stored, store, request = live_version(call), call.services.store, call.request
    store.set_tags(call.owner, request.bucket, request.key, stored, new)
    store.announce(call.owner, request.bucket, request.key, event, stored)
    return Answer(status, _version(stored))


def _version(stored: Mapping[str, Any]) -> dict[str, str]:
    return {"x-amz-version-id": stored["version_id"]} if stored.get("version_id") else {}
