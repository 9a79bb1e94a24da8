"""What stands before every call: the size of a body, and the headers that keep a browser from mischief."""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.problems import MEDIA_TYPE, Refused, body

BODY_BYTES = 64 * 1024
"""A wrapped key has 512 bytes; nothing that is sent here is large."""


class Guarded:
    """ASGI: refuses large bodies, answers what was raised, sets the security headers of every answer."""

    def __init__(self, app: ASGIApp, *, is_secure: bool, failed: Callable[[Request, Exception], Response]) -> None:
        """`failed` makes an answer of whatever a call raised."""
        self._app, self._failed = app, failed
        self._headers = {
            "Content-Security-Policy": (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
                "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
            ),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        if is_secure:
            self._headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        size, is_answered = 0, False

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > BODY_BYTES:
                raise _TooLarge
            return message

        async def headed(message: MutableMapping[str, Any]) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                self._set_headers(message)
            await send(message)

        if _is_declared_large(scope):
            await _refuse(headed)
            return
        try:
            await self._app(scope, counted, headed)
        except _TooLarge:
            await _refuse(headed)
        except Exception as error:
            if is_answered:
                raise
            await self._failed(Request(scope), error)(scope, receive, headed)

    def _set_headers(self, message: MutableMapping[str, Any]) -> None:
        headers = MutableHeaders(raw=message.setdefault("headers", []))
        for name, value in self._headers.items():
            headers[name] = value
        # A back button or a shared machine shows nobody what another one saw.
        headers.setdefault("Cache-Control", "no-store")


def _is_declared_large(scope: Scope) -> bool:
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return declared.isdigit() and int(declared) > BODY_BYTES


class _TooLarge(BaseException):
    """No Exception: a handler below would make it an answer of its own."""


async def _refuse(send: Send) -> None:
    refused = Refused(
        f"more than {BODY_BYTES} bytes were sent; nothing was done",
        code="too-large",
        hint="a wrapped key has 512 bytes: see that it is the right file",
    )
    await send(
        {
            "type": "http.response.start",
            "status": 413,
            "headers": [(b"content-type", MEDIA_TYPE.encode()), (b"connection", b"close")],
        }
    )
    await send({"type": "http.response.body", "body": json.dumps(body(refused)).encode()})
