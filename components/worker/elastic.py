"""The little of Elasticsearch that the worker needs of its records: `_bulk` with external versions, and `_mget`."""

from __future__ import annotations

import http.client
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from .document import Document

TIMEOUT_SECONDS = 20
OK, CREATED, CONFLICT = 200, 201, 409
UNAUTHORIZED, FORBIDDEN = 401, 403
BROKEN = (OSError, http.client.HTTPException)


class SearchError(Exception):
    """Elasticsearch did not take a request."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Stored:
    """What the index holds under an `_id`."""

    version: int
    is_tombstone: bool


@dataclass(frozen=True)
class Written:
    """What Elasticsearch answered for one document of a bulk."""

    status: int
    reason: str


class Connection:
    """One deployment, over one connection that is opened anew when it breaks."""

    def __init__(self, endpoint: str, api_key: str) -> None:
        address = urlsplit(endpoint)
        if address.scheme not in {"http", "https"} or not address.hostname:
            raise ValueError(f"the search endpoint {endpoint!r} is not an http(s) address")
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(address.hostname, address.port, timeout=TIMEOUT_SECONDS)
        self._base = address.path.rstrip("/")
        self._headers = {"Authorization": f"ApiKey {api_key}", "Accept": "application/json"}

    def call(
        self,
        method: str,
        path: str,
        body: str = "",
        content_type: str = "application/json",
        *,
        fine: Collection[int] = (OK,),
    ) -> Any:
        """The answer as JSON. `path`: without a leading slash. Raises SearchError for a status that is not `fine`.

        Whatever is sent here may arrive twice.
        """
        try:
            status, text = self._send(method, path, body, content_type)
        except BROKEN:
            # The other side closes a connection that slept between two invocations. Repeating is
            # safe: a write that did arrive is now refused as the same revision.
            try:
                status, text = self._send(method, path, body, content_type)
            except BROKEN as error:
                raise SearchError(f"{path} did not reach the search: {error!r}", status=0) from error
        if status not in fine:
            raise SearchError(f"{path} was answered {status}: {text[:300]!r}", status=status)
        return json.loads(text)

    def _send(self, method: str, path: str, body: str, content_type: str) -> tuple[int, bytes]:
        headers = {**self._headers, "Content-Type": content_type} if body else self._headers
        try:
            self._connection.request(method, f"{self._base}/{path}", body.encode() or None, headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except BROKEN:
            self._connection.close()
            raise


class Elastic:
    """The records index of one deployment."""

    def __init__(self, connection: Connection, index: str) -> None:
        self._connection = connection
        self._index = quote(index)

    def write(self, documents: Sequence[Document], *, or_equal: bool = False) -> list[Written]:
        """Indexes each document if its revision is higher than the stored one; a tombstone also if it is equal.

        `or_equal`: every one also if it is equal, as a repair needs it of a document that was altered.

        Raises SearchError when the whole bulk was refused.
        """
        lines: list[str] = []
        for document in documents:
            version_type = "external_gte" if document.is_tombstone or or_equal else "external"
            lines.append(_json({"index": _target(document, version_type)}))
            lines.append(_json(document.source))
        answer = self._connection.call("POST", f"{self._index}/_bulk", "\n".join([*lines, ""]), "application/x-ndjson")
        return [_written(item["index"]) for item in answer["items"]]

    def stored(self, ids: Iterable[str]) -> Mapping[str, Stored]:
        """What the index holds under each of `ids`; an id that it does not hold is left out."""
        answer = self._connection.call("POST", f"{self._index}/_mget?_source=deleted", _json({"ids": list(ids)}))
        return {
            found["_id"]: Stored(
                version=found["_version"], is_tombstone=found.get("_source", {}).get("deleted") is True
            )
            for found in answer["docs"]
            if found.get("found")
        }


def _target(document: Document, version_type: str) -> dict[str, Any]:
    return {"_id": document.id, "version": document.revision, "version_type": version_type}


def _written(item: Mapping[str, Any]) -> Written:
    return Written(status=item["status"], reason=str(item.get("error", {}).get("reason", "")))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
