"""The indices of a search: names, mappings, who may do what, the filter of the read alias. Plain data.

`records` holds the documents, `edits` what people changed on the search side (append-only, Archive may add to it and
nothing else), `pipeline` what the pipeline keeps about them: its cursor and what each edit came to.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

INDEX = "records-000001"
INDEX_PATTERN = "records-*"
READ_ALIAS = "records"
EDITS, EDITS_PATTERN = "edits-000001", "edits-*"
KEPT, KEPT_PATTERN = "pipeline-000001", "pipeline-*"
INDICES = (INDEX, EDITS, KEPT)
"""All of them hold what is the customer's."""
SECRET_AUDIENCES = ("admin", "pipeline", "archive")

# What the pipeline's and Archive's keys may do; a key has the rights of its descriptor and no more.
WRITER = {
    "cluster": [],
    "indices": [
        {"names": [INDEX_PATTERN], "privileges": ["read", "write"]},
        # A poll refreshes and asks for the checkpoint: anything less was seen to miss edits.
        {"names": [EDITS], "privileges": ["read", "monitor", "maintenance"]},
        {"names": [KEPT], "privileges": ["read", "write", "maintenance"]},
    ],
}
READER = {
    "cluster": [],
    "indices": [
        {"names": [READ_ALIAS], "privileges": ["read"]},
        {"names": [EDITS], "privileges": ["create_doc"]},
    ],
}
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
        "tags": {"type": "keyword"},
        "note": {"type": "text", "analyzer": "standard"},
        "legal_hold": {"type": "boolean"},
    },
}
# What people send is kept whatever it is: an edit that cannot be indexed would be lost before it could be refused.
_TEXT = {"type": "keyword", "ignore_above": 1024}
EDITS_MAPPING: Mapping[str, Any] = {
    "dynamic": False,
    "properties": {"key": _TEXT, "author": _TEXT, "changes": {"type": "object", "enabled": False}},
}
KEPT_MAPPING: Mapping[str, Any] = {
    "dynamic": False,
    "properties": {
        **dict.fromkeys(("kind", "edit", "key", "author", "edited_at", "outcome", "overrode"), _TEXT),
        "revision": {"type": "long"},
        "settled_at": {"type": "date"},
    },
}
SETTINGS: Mapping[str, Any] = {
    "index": {
        # One shard has one order of its sequence numbers.
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
