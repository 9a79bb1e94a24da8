"""What searches see: the read alias, its filter, and a search through it.

A filtered alias is a filter, not access control: get-by-id passes it. Who may read is decided by
credentials, what a search finds is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from elasticsearch import Elasticsearch

from components.index import records_filter
from migrate.index.scan import search_errors


@dataclass(frozen=True)
class Found:
    """One page of a search: how many there are, and the sources of the first."""

    total: int
    milliseconds: int
    hits: tuple[Mapping[str, Any], ...]


def set_read_alias(client: Elasticsearch, index: str, alias: str, cutoff: datetime | None) -> None:
    """Let `alias` show `index`, all of it or what was archived before `cutoff`, and nothing else.

    One call: searches that run meanwhile see the old state or the new one, never both or neither.
    """
    with search_errors(f"setting the alias {alias}"):
        others = [name for name in _holders(client, alias) if name != index]
        client.indices.update_aliases(
            actions=[
                *({"remove": {"index": name, "alias": alias, "must_exist": True}} for name in others),
                {"add": {"index": index, "alias": alias, "filter": records_filter(cutoff)}},
            ]
        )


def read_alias_filter(client: Elasticsearch, index: str, alias: str) -> Mapping[str, Any] | None:
    """The filter that `alias` has on `index` now, or None if it does not show it."""
    with search_errors(f"reading the alias {alias}"):
        held = _holders(client, alias).get(index)
    return None if held is None else held["aliases"][alias].get("filter", {})


def search(client: Elasticsearch, alias: str, words: str, limit: int) -> Found:
    """Search records and attachments for `words` ("*": all), the best first, through the read alias."""
    query: dict[str, Any] = {"match_all": {}}
    if words.strip() != "*":
        query = {
            "simple_query_string": {
                "query": words,
                "fields": ["text", "id", "type", "key", "tags", "note"],
                "default_operator": "and",
            }
        }
    with search_errors(f"searching {alias}"):
        answer = client.search(index=alias, query=query, size=limit, track_total_hits=True)
    hits = tuple(hit["_source"] for hit in answer["hits"]["hits"])
    return Found(answer["hits"]["total"]["value"], answer["took"], hits)


def delete_index(client: Elasticsearch, index: str) -> bool:
    """Delete the index with its documents; False if it was gone already."""
    with search_errors(f"deleting {index}"):
        if not client.indices.exists(index=index):
            return False
        client.indices.delete(index=index, ignore_unavailable=True)
        return True


def _holders(client: Elasticsearch, alias: str) -> Mapping[str, Any]:
    if not client.indices.exists_alias(name=alias):
        return {}
    return client.indices.get_alias(name=alias).body
