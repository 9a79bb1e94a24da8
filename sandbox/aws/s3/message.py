"""What goes in and out of the gate: a request, an answer, an S3 error, and XML as S3 writes it."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from xml.sax.saxutils import escape

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
XML = {"content-type": "application/xml"}
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


@dataclass(frozen=True)
class Request:
    """One S3 request: path style, signature already taken off, body as the client meant it.

    `query` holds the first value of each key; `headers` has lower-case names.
    """

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def version_id(self) -> str | None:
        return self.query.get("versionId") or None

    @property
    def level(self) -> str:
        if self.key:
            return "object"
        return "bucket" if self.bucket else "service"

    def with_headers(self, headers: Mapping[str, str]) -> Request:
        return replace(self, headers=headers)


@dataclass(frozen=True)
class Answer:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def is_error(self) -> bool:
        return self.status >= 400

    def with_headers(self, more: Mapping[str, str]) -> Answer:
        return replace(self, headers={**self.headers, **more})


class S3Error(Exception):
    """An error as S3 answers it. `fields` are the elements that follow the message."""

    def __init__(
        self,
        code: str,
        message: str,
        status: int = 400,
        *,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.fields = dict(fields or {})
        self.headers = dict(headers or {})

    def answer(self, resource: str, request_id: str) -> Answer:
        fields = {"Code": self.code, "Message": self.message, **self.fields, "Resource": resource}
        fields |= {"RequestId": request_id, "HostId": host_id()}
        body = document("Error", (element(name, value) for name, value in fields.items()), namespace=False)
        return Answer(self.status, {**XML, **self.headers}, body)


def host_id() -> str:
    return base64.b64encode(os.urandom(48)).decode()


def request_id() -> str:
    return base64.b32encode(os.urandom(10)).decode()


def text(value: object) -> str:
    # A bare carriage return would come back as a line feed from every XML parser. What XML cannot hold S3
    # writes as a reference all the same, which every parser refuses: hence the encoding of listings.
    escaped = escape(str(value), {"\r": "&#13;", '"': "&quot;"})
    return _NOT_IN_XML.sub(lambda found: f"&#x{ord(found[0]):x};", escaped)


def element(name: str, value: object) -> str:
    return f"<{name}>{text(value)}</{name}>"


def group(name: str, inner: Iterable[str]) -> str:
    return f"<{name}>{''.join(inner)}</{name}>"


def document(root: str, inner: Iterable[str], *, namespace: bool = True) -> bytes:
    opening = f'<{root} xmlns="{NAMESPACE}">' if namespace else f"<{root}>"
    return f"{_DECLARATION}{opening}{''.join(inner)}</{root}>".encode()
