"""The little of Elasticsearch that the worker needs: `_bulk` with external versions, and `_mget`."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping, Sequence
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


class Elastic:
    """One index of one deployment, over one connection that is opened anew when it breaks."""

    def __init__(self, endpoint: str, api_key: str, index: str) -> None:
        address = urlsplit(endpoint)
        if address.scheme not in {"http", "https"} or not address.hostname:
            raise ValueError(f"the search endpoint {endpoint!r} is not an http(s) address")
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(address.hostname, address.port, timeout=TIMEOUT_SECONDS)
        self._base = address.path.rstrip("/")
        self._index = index
        self._headers = {"Authorization": f"ApiKey {api_key}", "Accept": "application/json"}

    def write(self, documents: Sequence[Document]) -> list[Written]:
        """Indexes each document if its revision is higher than the stored one; a tombstone also if it is equal.

        Raises SearchError when the whole bulk was refused.
        """
        lines: list[str] = []
        for document in documents:
            version_type = "external_gte" if document.is_tombstone else "external"
            lines.append(_json({"index": _target(document, version_type)}))
            lines.append(_json(document.source))
        answer = self._call("_bulk", "\n".join([*lines, ""]), "application/x-ndjson")
        return [_written(item["index"]) for item in answer["items"]]

    def stored(self, ids: Iterable[str]) -> Mapping[str, Stored]:
        """What the index holds under each of `ids`; an id that it does not hold is left out."""
        answer = self._call("_mget?_source=deleted", _json({"ids": list(ids)}), "application/json")
        return {
            found["_id"]: Stored(
                version=found["_version"], is_tombstone=found.get("_source", {}).get("deleted") is True
            )
            for found in answer["docs"]
            if found.get("found")
        }

    def _call(self, what: str, body: str, content_type: str) -> Any:
        try:
            status, text = self._post(what, body, content_type)
        except BROKEN:
            # The other side closes a connection that slept between two invocations. Repeating is
            # safe: a write that did arrive is now refused as the same revision.
            try:
                status, text = self._post(what, body, content_type)
            except BROKEN as error:
                raise SearchError(f"{what} did not reach the search: {error!r}", status=0) from error
        if status != OK:
            raise SearchError(f"{what} was answered {status}: {text[:300]!r}", status=status)
        return json.loads(text)

    def _post(self, what: str, body: str, content_type: str) -> tuple[int, bytes]:
        path = f"{self._base}/{quote(self._index)}/{what}"
        try:
            self._connection.request("POST", path, body.encode(), {**self._headers, "Content-Type": content_type})
            response = self._connection.getresponse()
            return response.status, response.read()
        except BROKEN:
            self._connection.close()
            raise


def _target(document: Document, version_type: str) -> dict[str, Any]:
    return {"_id": document.id, "version": document.revision, "version_type": version_type}


def _written(item: Mapping[str, Any]) -> Written:
    return Written(status=item["status"], reason=str(item.get("error", {}).get("reason", "")))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
