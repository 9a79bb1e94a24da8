"""`_bulk` under a limited key: each item is judged by itself, as Elasticsearch does.

A refused item does not fail the request. It comes back as an item with status 403 among the others, so
a client has to look at every item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from sandbox.elastic.web import BadRequestError

_ACTIONS = {
    "index": "indices:data/write/index",
    "create": "indices:data/write/index:op_type/create",
    "update": "indices:data/write/update",
    "delete": "indices:data/write/delete",
}


@dataclass(frozen=True)
class Item:
    operation: str
    index: str
    id: str | None
    lines: tuple[bytes, ...]

    @property
    def action(self) -> str:
        return _ACTIONS[self.operation]

    def refused(self, error: dict[str, Any]) -> dict[str, Any]:
        return {self.operation: {"_index": self.index, "_id": self.id, "status": 403, "error": error}}


@dataclass(frozen=True)
class Split:
    """`body` holds the allowed items; `refused` the answers to the others, by their place in the request."""

    body: bytes
    refused: dict[int, dict[str, Any]]

    def merge(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Elasticsearch's answer to the allowed items, with the refused ones put back in their places."""
        allowed = iter(answer["items"])
        count = len(answer["items"]) + len(self.refused)
        items = [self.refused.get(place) or next(allowed) for place in range(count)]
        return {**answer, "errors": True, "items": items}


def split(body: bytes, default_index: str | None, judge: Callable[[Item], dict[str, Any] | None]) -> Split:
    """`judge` returns the error of a refused item, or None. Raises BadRequestError for a body it cannot read."""
    allowed: list[bytes] = []
    refused: dict[int, dict[str, Any]] = {}
    for place, item in enumerate(items(body, default_index)):
        error = judge(item)
        if error is None:
            allowed += item.lines
        else:
            refused[place] = item.refused(error)
    return Split(b"".join(line + b"\n" for line in allowed), refused)


def items(body: bytes, default_index: str | None) -> Iterator[Item]:
    if body and not body.endswith(b"\n"):
        raise BadRequestError("The bulk request must be terminated by a newline [\\n]")
    lines = iter(body.split(b"\n"))
    for line in lines:
        if not line.strip():
            continue
        operation, meta = _action_line(line)
        source = () if operation == "delete" else (next(lines, b""),)
        index = meta.get("_index", default_index)
        if not isinstance(index, str):
            raise BadRequestError("Validation Failed: index is missing;")
        yield Item(operation, index, meta.get("_id"), (line, *source))


def _action_line(line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        action = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadRequestError(f"Malformed action/metadata line: {error}") from error
    if isinstance(action, dict) and len(action) == 1:
        [(operation, meta)] = action.items()
        if operation in _ACTIONS and isinstance(meta, dict):
            return operation, meta
    raise BadRequestError("Malformed action/metadata line: expected one of create, delete, index or update")
