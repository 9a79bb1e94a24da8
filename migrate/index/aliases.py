"""What searches see: the read alias, its filter, and a search through it.

A filtered alias is a filter, not access control: get-by-id passes it. Who may read is decided by
credentials, what a search finds is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from elasticsearch import Elasticsearch, NotFoundError

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


def search(client: Elasticsearch, alias: str, words: str, limit: int, cutoff: datetime | None = None) -> Found:
    """Search records and attachments for `words` ("*": all), the best first, through the read alias.

    `cutoff`: nothing archived at or after it, also where the alias does not say so yet.
    """
    with search_errors(f"searching {alias}"):
        answer = client.search(index=alias, query=_query(words, cutoff), size=limit, track_total_hits=True)
    hits = tuple(hit["_source"] for hit in answer["hits"]["hits"])
    return Found(answer["hits"]["total"]["value"], answer["took"], hits)


def page(  # noqa: PLR0913 - what a page is
    client: Elasticsearch, alias: str, words: str, size: int, cutoff: datetime | None, *, after: str | None
) -> tuple[Mapping[str, Any], ...]:
    """The next sources that `search` would find, in the order of their keys, behind the key `after`."""
    with search_errors(f"searching {alias}"):
        answer = client.search(
            index=alias,
            query=_query(words, cutoff),
            size=size,
            sort=[{"key": "asc"}],
            search_after=None if after is None else [after],
        )
    return tuple(hit["_source"] for hit in answer["hits"]["hits"])


def get(client: Elasticsearch, alias: str, id: str) -> Mapping[str, Any] | None:
    """The source of a document, or None. The alias' filter does not hold here: the caller has to look at it."""
    with search_errors(f"reading {id} by {alias}"):
        try:
            return client.get(index=alias, id=id)["_source"]
        except NotFoundError as error:
            if not isinstance(error.body, Mapping) or "found" not in error.body:
                raise  # the alias is not there
            return None


def _query(words: str, cutoff: datetime | None) -> dict[str, Any]:
    query: dict[str, Any] = {"match_all": {}}
    if words.strip() != "*":
        query = {
            "simple_query_string": {
                "query": words,
                "fields": ["text", "id", "type", "key", "tags", "note"],
                "default_operator": "and",
            }
        }
    return query if cutoff is None else {"bool": {"must": [query], "filter": [records_filter(cutoff)]}}


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
