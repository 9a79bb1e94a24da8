"""Reading a whole index: sliced point-in-time scans, and what Elasticsearch's refusals mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from elastic_transport import ConnectionError as Unreachable
from elasticsearch import ApiError, Elasticsearch

from migrate.errors import CloudError
from migrate.pool import in_threads

PAGE = 5000
SLICES = 2
KEEP_ALIVE = "5m"


@dataclass(frozen=True)
class Indexed:
    """What the index holds under an id. `archived_at` and `content_hash` are empty for a tombstone."""

    id: str
    version: int
    content_hash: str
    archived_at: str
    is_tombstone: bool


@contextmanager
def search_errors(doing: str) -> Iterator[None]:
    """Turn a refusal of Elasticsearch into a CloudError that says what was being done."""
    try:
        yield
    except ApiError as error:
        raise CloudError(
            f"{doing}: the search answered {error.status_code} ({error.message})",
            cloud_code=str(error.status_code),
            hint="mend what it names, then run the same command again",
        ) from error
    except Unreachable as error:
        raise CloudError(
            f"{doing}: the search cannot be reached ({error.message})",
            cloud_code="unreachable",
            hint="see that the deployment runs and lets this machine in, then run the same command again",
            code="unreachable",
        ) from error


def scan(search: Elasticsearch, index: str) -> Iterator[list[Indexed]]:
    """Everything in the index as it is now, in pages of up to 5,000, in no order.

    Values come from doc values: half the node's work of reading sources. A refresh comes first, so
    that what was acknowledged is seen.
    """
    with search_errors(f"reading {index}"):
        search.indices.refresh(index=index)
        pit = search.open_point_in_time(index=index, keep_alive=KEEP_ALIVE)["id"]
        cursors = [_Cursor(pit, number, None) for number in range(SLICES)]
        try:
            while cursors:
                pages = list(in_threads(cursors, lambda cursor: _page(search, cursor), threads=SLICES, name="scan"))
                yield from (page for page, _ in pages)
                cursors = [cursor for _, cursor in pages if cursor is not None]
        finally:
            search.close_point_in_time(id=pit)


_VALUES = (
    {"field": "content_hash"},
    {"field": "deleted"},
    {"field": "archived_at", "format": "strict_date_time"},
)


@dataclass(frozen=True)
class _Cursor:
    """Where one slice of a scan stands."""

    pit: str
    number: int
    after: list[Any] | None


def _page(search: Elasticsearch, cursor: _Cursor) -> tuple[list[Indexed], _Cursor | None]:
    answer = search.search(
        pit={"id": cursor.pit, "keep_alive": KEEP_ALIVE},
        slice={"id": cursor.number, "max": SLICES},
        size=PAGE,
        sort=[{"_shard_doc": "asc"}],
        search_after=cursor.after,
        source=False,
        version=True,
        docvalue_fields=_VALUES,
        track_total_hits=False,
    )
    hits = answer["hits"]["hits"]
    following = _Cursor(answer["pit_id"], cursor.number, hits[-1]["sort"]) if len(hits) == PAGE else None
    return [_indexed(hit) for hit in hits], following


def _indexed(hit: dict[str, Any]) -> Indexed:
    values = hit.get("fields", {})
    return Indexed(
        id=hit["_id"],
        version=hit["_version"],
        content_hash=values.get("content_hash", [""])[0],
        archived_at=values.get("archived_at", [""])[0],
        is_tombstone=values.get("deleted", [False])[0],
    )
