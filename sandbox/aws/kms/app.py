"""The AWS JSON 1.1 protocol in front of Kms, as an ASGI application."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, runtime_checkable
from urllib.parse import parse_qs

from sandbox.aws.caller import Caller
from sandbox.aws.kms import refusals
from sandbox.aws.kms.server import Kms

Resolve = Callable[[Mapping[str, Any], dict[str, str], dict[str, list[str]], bytes], Caller]
_TARGET = "TrentService."
_CONTENT_TYPE = "application/x-amz-json-1.1"


@runtime_checkable
class _WireError(Protocol):
    """What goes back to the client: KmsError, and what `resolve` raises for bad credentials."""

    code: str
    message: str
    status: int


def kms_app(kms: Kms, resolve: Resolve) -> Callable[..., Awaitable[None]]:
    """An ASGI application. `resolve(scope, headers, query, body)` says who calls.

    It gets lower-case header names. An exception with `code`, `message` and `status` is sent as the
    answer; any other is a defect, and left to the server to report.
    """

    async def app(scope: Mapping[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            return
        body = await _body(receive)
        try:
            status, document = 200, await _answer(kms, resolve, scope, body)
        except Exception as error:
            if not isinstance(error, _WireError):
                raise
            status, document = error.status, {"__type": error.code, "message": error.message}
        content = json.dumps(document).encode()
        headers = [
            (b"content-type", _CONTENT_TYPE.encode()),
            (b"content-length", str(len(content)).encode()),
            (b"x-amzn-requestid", str(uuid.uuid4()).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


async def _body(receive: Callable[..., Any]) -> bytes:
    parts: list[bytes] = []
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def _answer(kms: Kms, resolve: Resolve, scope: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """Off the event loop: a call may wait for the disk, or for an RSA pair to be made."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    target = headers.get("x-amz-target", "")
    caller = resolve(scope, headers, query, body)
    if not target.startswith(_TARGET):
        raise refusals.UNKNOWN_OPERATION.error(operation=target or "The request")
    return await asyncio.to_thread(kms.call, caller, target.removeprefix(_TARGET), _request(body))


def _request(body: bytes) -> dict[str, Any]:
    try:
        return json.loads(body or b"{}")
    except ValueError as error:
        raise refusals.NOT_READABLE.error(text="The request is not JSON") from error
