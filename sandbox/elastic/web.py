"""A small HTTP/1.1 server on 127.0.0.1: one thread a connection, whole bodies in and out.

Threads carry this well: a fill is a handful of connections with large bodies, copied in C.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import sys
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson

LARGEST_BODY = 100 * 1024 * 1024  # http.max_content_length on Elastic Cloud, not configurable there
HOST = "127.0.0.1"

log = logging.getLogger(__name__)


class BadRequestError(Exception):
    """The body is not what the operation needs: answered with 400."""


@dataclass(frozen=True)
class Request:
    """`target` is the path with its query, exactly as sent."""

    method: str
    target: str
    headers: Message
    body: bytes
    client: str = HOST

    @cached_property
    def raw_segments(self) -> tuple[str, ...]:
        path = urlsplit(self.target).path.strip("/")
        return tuple(path.split("/")) if path else ()

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """The path's parts, decoded after splitting, as Elasticsearch does: `a%2Cb` becomes `a,b`."""
        return tuple(unquote(segment) for segment in self.raw_segments)

    @cached_property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @cached_property
    def content(self) -> bytes:
        """The body without its compression. Raises BadRequestError."""
        if self.headers.get("Content-Encoding", "").lower() != "gzip":
            return self.body
        try:
            return zlib.decompressobj(wbits=31).decompress(self.body, LARGEST_BODY)
        except zlib.error as error:
            raise BadRequestError(f"the body is not gzip: {error}") from error

    def json(self) -> dict[str, Any]:
        """The content as an object; an empty body is an empty object. Raises BadRequestError."""
        return json_object(self.content)


def json_object(text: bytes) -> dict[str, Any]:
    """Raises BadRequestError. Nothing at all is an empty object."""
    if not text.strip():
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequestError("the body is not a JSON object")
    return value


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = field(default=())


def json_response(status: int, value: Any, *headers: tuple[str, str]) -> Response:
    return Response(status, json.dumps(value).encode(), (("content-type", "application/json"), *headers))


Answer = Callable[[Request], Response]


class LoopbackServer:
    """Serves `answer` on one loopback port until closed, under TLS if a context is given."""

    def __init__(self, port: int, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._server = _Server((HOST, port), _handler(answer))
        self._server.tls = tls
        self._thread = threading.Thread(target=self._server.serve_forever, name=f"http-{self.port}", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def close(self) -> None:
        """Stop listening and end the connections that are open."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    tls: ssl.SSLContext | None = None

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.tls is not None:
            # The handshake comes with the first read, on the connection's own thread.
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exception(), ssl.SSLError | ConnectionError):
            log.debug("a connection ended badly: %r", sys.exception())  # a client that does not trust us, or left
        else:
            super().handle_error(request, client_address)

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):  # the client was faster
                connection.shutdown(socket.SHUT_RDWR)


def _handler(answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        pass

    Handler.answer = staticmethod(answer)
    return Handler


class _Handler(BaseHTTPRequestHandler):
    answer: Answer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * 1024  # headers and a small body leave in one packet

    def _serve(self) -> None:
        body = self._read_body()
        if body is None:
            return
        request = Request(self.command, self.path, self.headers, body, self.client_address[0])
        try:
            response = self.answer(request)
        except Exception:
            log.exception("no answer to %s %s", self.command, self.path)
            response = json_response(500, {"ok": False, "message": "the sandbox failed; its log says why"})
        self._send(response)

    def __getattr__(self, name: str) -> Any:
        """`BaseHTTPRequestHandler` looks for `do_<METHOD>`: all methods are served alike."""
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _read_body(self) -> bytes | None:
        """None if the body was refused; then the answer is sent and the connection ends."""
        if self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            self._send(Response(411))
            return None
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_BODY:
            # Elasticsearch's own 413: an empty body and no X-elastic-product.
            self.close_connection = True
            self._send(Response(413))
            return None
        return self.rfile.read(length)

    def _send(self, response: Response) -> None:
        has_length = False
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that left needs no answer
            self.send_response_only(response.status)
            for name, value in response.headers:
                has_length = has_length or name.lower() == "content-length"
                self.send_header(name, value)
            if not has_length:
                self.send_header("content-length", str(len(response.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response.body)
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)
