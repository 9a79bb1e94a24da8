"""The records index: its name, its mapping, the filter of its read alias. Plain data, imported by all who search."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

INDEX = "records-000001"
INDEX_PATTERN = "records-*"
READ_ALIAS = "records"
SECRET_AUDIENCES = ("admin", "pipeline", "archive")

# What the pipeline's and Archive's keys may do; a key has the rights of its descriptor and no more.
WRITER = {"cluster": [], "indices": [{"names": [INDEX_PATTERN], "privileges": ["read", "write"]}]}
READER = {"cluster": [], "indices": [{"names": [READ_ALIAS], "privileges": ["read"]}]}
CLOSED = {"cluster": [], "indices": []}
"""A descriptor without any right. No descriptor at all would give a key the rights of who made it."""
API_KEYS: Mapping[str, Mapping[str, Any]] = {"pipeline": WRITER, "archive": READER}
READER_ROLE = "keyshift-records-reader"


def api_key(audience: str) -> str:
    """The name of an audience's API key."""
    return f"keyshift-{audience}"


RECORDS_MAPPING: Mapping[str, Any] = {
    "dynamic": False,
    "properties": {
        "type": {"type": "keyword"},
        "id": {"type": "keyword"},
        "archived_at": {"type": "date"},
        "revision": {"type": "long"},
        "kind": {"type": "keyword"},
        "key": {"type": "keyword"},
        "size": {"type": "long"},
        # A doc value: a verify reads it from there, at half the cost of the source.
        "content_hash": {"type": "keyword"},
        "deleted": {"type": "boolean"},
        "data": {"type": "object", "enabled": False},
        "text": {"type": "text", "analyzer": "standard"},
    },
}
RECORDS_SETTINGS: Mapping[str, Any] = {
    "index": {
        "number_of_shards": "1",
        # Async durability lost acknowledged documents at a kill.
        "translog": {"durability": "request"},
    }
}


def records_filter(cutoff: datetime | None = None) -> dict[str, Any]:
    """The filter of the read alias: no tombstones and, with a cut-off, nothing archived at or after it."""
    query: dict[str, Any] = {"must_not": [{"term": {"deleted": True}}]}
    if cutoff is not None:
        query["filter"] = [{"range": {"archived_at": {"lt": cutoff.isoformat(timespec="milliseconds")}}}]
    return {"bool": query}
