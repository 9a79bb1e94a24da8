"""One port for all of AWS: each request goes to our KMS, to the S3 gate, or to ministack, in one process."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ministack import app as ministack
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandbox.aws import accounts, corrections
from sandbox.aws.faults import Faults
from sandbox.aws.identity import header_map, is_root_key, principal_exists, query_map, resolve
from sandbox.aws.kms import Kms, kms_app, set_faults
from sandbox.aws.s3.access import Access
from sandbox.aws.s3.call import Services
from sandbox.aws.s3.encryption import KeyRing
from sandbox.aws.s3.gate import Gate
from sandbox.aws.s3.message import Answer, S3Error, document, element, group, request_id
from sandbox.aws.s3.store import Store

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("sandbox.aws")
# Service of the credential scope -> the paths its API uses. Anything else would reach ministack's other services.
_PASSED_ON: Mapping[str, re.Pattern[str]] = {
    "iam": re.compile(r"/"),
    "sts": re.compile(r"/"),
    "events": re.compile(r"/"),
    "logs": re.compile(r"/"),
    "secretsmanager": re.compile(r"/"),
    "sqs": re.compile(r"/(\d{12}/[^/]+)?"),
    "lambda": re.compile(r"/20\d\d-\d\d-\d\d/(functions|event-source-mappings|tags|layers|account-settings)(/.*)?"),
}
_SCOPE = re.compile(r"[^/=\s]+/\d{8}/[^/]+/(?P<service>[a-z0-9-]+)/aws4_request")
_JSON = [(b"content-type", b"application/json")]
_connection: contextvars.ContextVar[asyncio.Transport] = contextvars.ContextVar("connection")


class Front:
    """The ASGI application of the AWS process."""

    def __init__(self, folder: Path, port: int, region: str) -> None:
        self._folder = folder
        self._region = region
        self._endpoint = f"http://127.0.0.1:{port}"
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        self._faults = Faults()
        self._kms = Kms(folder / "state", region, principal_exists=principal_exists)
        self._kms_app = kms_app(self._kms, resolve)
        self._store = Store()
        keys, page_limit = KeyRing(self._kms, region), lambda: self._faults.page_limit
        self._gate = Gate(Services(self._store, Access(self._store), keys, region, page_limit))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ministack's own start and stop, with ours around them: its pollers run and its state is kept."""

        async def received() -> Mapping[str, Any]:
            event = await receive()
            if event["type"] == "lifespan.shutdown":
                self._store.save_uploads(self._uploads)
                self._kms.close()
            return event

        async def sent(event: Mapping[str, Any]) -> None:
            if event["type"] == "lifespan.startup.complete":
                corrections.apply()
                self._store.load_uploads(self._uploads)
                await accounts.bootstrap(self._folder / "aws", self._region, self._endpoint)
            await send(event)

        await ministack.app(scope, received, sent)

    @property
    def _uploads(self) -> Path:
        return self._folder / "state" / "uploads.pickle"

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path.startswith("/_sandbox/"):
            await self._admin(scope, receive, send)
        elif path.startswith(("/_ministack", "/_localstack")):
            await _json(send, 404, {"message": "ministack's own endpoints are closed; see /_sandbox/health"})
        else:
            await self._route(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, query = header_map(scope), query_map(scope)
        if headers.get("host") not in self._hosts:
            # ministack takes other host names for buckets, queues and functions, past the gate.
            await _json(send, 501, {"message": f"this endpoint is {' or '.join(sorted(self._hosts))}, path style"})
            return
        service = signed_service(headers, query)
        if service == "kms" or headers.get("x-amz-target", "").startswith("TrentService."):
            self._pass_on_throttling()
            await self._kms_app(scope, receive, send)
        elif service in ("s3", None):
            await self._s3(scope, receive, send)
        else:
            await self._ministack(service, scope, receive, send)

    def _pass_on_throttling(self) -> None:
        """Hand the asked-for throttling to KMS, which counts it down by itself."""
        if self._faults.kms_throttle:
            set_faults(self._kms, {"throttle": self._faults.kms_throttle})
            self._faults.kms_throttle = 0

    async def _s3(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        self._pass_on_throttling()
        await asyncio.sleep(self._faults.latency_ms / 1000)
        if self._faults.strikes("slowdown_503"):
            busy = S3Error("SlowDown", "Please reduce your request rate.", 503)
            await _send(send, busy.answer(scope["path"], request_id()))
            return
        answer = await self._gate.answer(scope, body)
        if self._faults.strikes("drop"):
            _connection.get().abort()
            return
        if answer.body and scope["method"] != "HEAD" and self._faults.strikes("truncate"):
            await _send(send, answer, cut_to=len(answer.body) // 2)
            _connection.get().close()
            return
        await _send(send, answer)

    async def _ministack(self, service: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers, query = header_map(scope), query_map(scope)
        paths = _PASSED_ON.get(service)
        if paths is None or not paths.fullmatch(scope["path"]):
            message = f"The sandbox has no {service} call at {scope['path']}."
            await _refuse(send, headers, 501, "NotImplemented", message)
        elif is_root_key(headers, query):
            message = "The security token included in the request is invalid."
            await _refuse(send, headers, 403, "InvalidClientTokenId", message)
        else:
            await ministack.app(scope, receive, send)

    async def _admin(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = (scope["method"], scope["path"])
        if place == ("GET", "/_sandbox/health"):
            await _json(send, 200, {"status": "ok", "region": self._region})
        elif place == ("GET", "/_sandbox/faults"):
            await _json(send, 200, self._left())
        elif place == ("POST", "/_sandbox/faults"):
            await self._set_faults(receive, send)
        else:
            await _json(send, 404, {"message": "not found"})

    async def _set_faults(self, receive: Receive, send: Send) -> None:
        try:
            self._faults.update(json.loads(await _body(receive) or b"{}"))
        except ValueError as error:
            await _json(send, 400, {"message": str(error)})
            return
        await _json(send, 200, self._left())

    def _left(self) -> dict[str, int]:
        """What has not struck yet; KMS counts down what was passed on to it."""
        state = self._faults.state()
        return {**state, "kms_throttle": state["kms_throttle"] + self._kms.faults.state()["throttle"]}


def signed_service(headers: Mapping[str, str], query: Mapping[str, list[str]]) -> str | None:
    """The service that a request's credential scope names, from its header or its presigned URL."""
    credential = headers.get("authorization") or (query.get("X-Amz-Credential") or [""])[0]
    found = _SCOPE.search(credential)
    return found["service"] if found else None


class Connection(HttpToolsProtocol):
    """uvicorn's connection, known to the requests on it, so that a fault can break it."""

    def on_headers_complete(self) -> None:
        _connection.set(self.transport)
        super().on_headers_complete()


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None if the client went away."""
    chunks = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        chunks.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(chunks)


async def _send(send: Send, answer: Answer, *, cut_to: int | None = None) -> None:
    """The whole answer; with `cut_to` only so many bytes of its body, under the length of all."""
    headers = [(name.encode("latin-1"), value.encode("utf-8")) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body[:cut_to], "more_body": cut_to is not None})


async def _refuse(send: Send, headers: Mapping[str, str], status: int, code: str, message: str) -> None:
    """An error in the protocol of the request, Query or JSON, so that the SDK can read it."""
    if not headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        await _json(send, status, {"__type": code, "message": message})
        return
    error = group("Error", (element("Type", "Sender"), element("Code", code), element("Message", message)))
    body = document("ErrorResponse", (error, element("RequestId", request_id())), namespace=False)
    await _send(send, Answer(status, {"content-type": "text/xml", "content-length": str(len(body))}, body))


async def _json(send: Send, status: int, content: Mapping[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [*_JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
