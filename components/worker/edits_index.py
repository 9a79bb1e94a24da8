"""The edits of a search in Elasticsearch, and what the pipeline keeps there: its cursor, outcomes, the last tick."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from .edits import PAGE, Edit, Outcome, Position
from .elastic import CONFLICT, CREATED, OK, Connection

NOT_FOUND = 404
CURSOR, TICK = "cursor", "tick"
_CHECKPOINTS = "filter_path=indices.*.shards.*.routing.primary,indices.*.shards.*.seq_no.global_checkpoint"


class EditsIndex:
    """`edits`: the index of edits. `kept`: the pipeline's own."""

    def __init__(self, connection: Connection, edits: str, kept: str) -> None:
        self._connection = connection
        self._edits = quote(edits)
        self._kept = quote(kept)

    def checkpoint(self) -> int:
        answer = self._connection.call("GET", f"{self._edits}/_stats/docs?level=shards&{_CHECKPOINTS}")
        shards = [
            copy for index in answer["indices"].values() for copies in index["shards"].values() for copy in copies
        ]
        # One shard: its primary's number is the index's.
        return int(next(copy["seq_no"]["global_checkpoint"] for copy in shards if copy["routing"]["primary"]))

    def page(self, since: int, upto: int) -> Sequence[Edit]:
        if since > upto:
            return []
        self._connection.call("POST", f"{self._edits}/_refresh")
        answer = self._call(
            f"{self._edits}/_search",
            {
                "query": {"range": {"_seq_no": {"gte": since, "lte": upto}}},
                "sort": [{"_seq_no": "asc"}],
                "seq_no_primary_term": True,
                "size": PAGE,
                "track_total_hits": False,
            },
        )
        return [_edit(hit) for hit in answer["hits"]["hits"]]

    def cursor(self) -> Position | None:
        found = self._read(CURSOR)
        return None if found is None else Position(found["term"], found["seq"])

    def known(self, ids: Collection[str]) -> Collection[str]:
        answer = self._call(f"{self._kept}/_mget?_source=false", {"ids": [_outcome_id(id) for id in ids]})
        held = {found["_id"] for found in answer["docs"] if found.get("found")}
        return {id for id in ids if _outcome_id(id) in held}

    def keep(self, outcome: Outcome) -> None:
        source = outcome.edit.source
        key, author, at = (source.get(name) for name in ("key", "author", "at"))
        document = {
            "kind": "outcome",
            "edit": outcome.edit.id,
            "key": key if isinstance(key, str) else "",
            "author": author if isinstance(author, str) else "",
            "edited_at": at if isinstance(at, str) else "",
            "outcome": outcome.outcome,
            "reason": outcome.reason,
            "revision": outcome.revision,
            "overrode": list(outcome.overrode),
            "settled_at": _now(),
        }
        path = f"{self._kept}/_create/{quote(_outcome_id(outcome.edit.id), safe='')}"
        self._call(path, document, fine=(OK, CREATED, CONFLICT))

    def advance(self, position: Position) -> None:
        # Two pollers may set it back: what is read again then is known.
        self._write(CURSOR, {"kind": CURSOR, "term": position.term, "seq": position.seq, "settled_at": _now()})

    def note_tick(self, sent_at: datetime) -> None:
        """A message of the pipeline's own, sent at `sent_at`, has come through its queue."""
        self._write(TICK, {"kind": TICK, "sent_at": _text(sent_at), "settled_at": _now()})

    def last_tick(self) -> datetime | None:
        """When the last of its own messages that came through was sent."""
        found = self._read(TICK)
        return None if found is None else datetime.fromisoformat(found["sent_at"])

    def unapplied(self) -> tuple[int, datetime | None]:
        """How many edits the cursor has not reached, and when the first of them says it was made."""
        cursor = self.cursor()
        self._connection.call("POST", f"{self._edits}/_refresh")
        answer = self._call(
            f"{self._edits}/_search",
            {
                "query": {"range": {"_seq_no": {"gt": cursor.seq if cursor else -1}}},
                "sort": [{"_seq_no": "asc"}],
                "size": 1,
                "track_total_hits": True,
            },
        )["hits"]
        first = answer["hits"][0]["_source"].get("at") if answer["hits"] else None
        return answer["total"]["value"], _instant(first)

    def outcomes(self, size: int = 10) -> tuple[Mapping[str, int], Sequence[Mapping[str, Any]]]:
        """How many edits came to what, and the latest that were refused or overrode what their authors had not seen."""
        self._connection.call("POST", f"{self._kept}/_refresh")
        told = {"bool": {"filter": [{"term": {"kind": "outcome"}}], "should": _TOLD, "minimum_should_match": 1}}
        answer = self._call(f"{self._kept}/_search", {"query": told, "sort": [{"settled_at": "desc"}], "size": size})
        counted = self._call(
            f"{self._kept}/_search",
            {
                "size": 0,
                "aggs": {"by": {"terms": {"field": "outcome"}}, "told": {"filter": {"exists": {"field": "overrode"}}}},
            },
        )["aggregations"]
        counts = {bucket["key"]: bucket["doc_count"] for bucket in counted["by"]["buckets"]}
        return {**counts, "overrode": counted["told"]["doc_count"]}, [hit["_source"] for hit in answer["hits"]["hits"]]

    def _read(self, id: str) -> Mapping[str, Any] | None:
        found = self._connection.call("GET", f"{self._kept}/_doc/{id}", fine=(OK, NOT_FOUND))
        return found["_source"] if found.get("found") else None

    def _write(self, id: str, document: Mapping[str, Any]) -> None:
        self._call(f"{self._kept}/_doc/{id}", document, fine=(OK, CREATED))

    def _call(self, path: str, body: Mapping[str, Any], *, fine: Collection[int] = (OK,)) -> Any:
        return self._connection.call("POST", path, json.dumps(body), fine=fine)


_TOLD = [{"term": {"outcome": "refused"}}, {"exists": {"field": "overrode"}}]


def _edit(hit: Mapping[str, Any]) -> Edit:
    return Edit(hit["_id"], Position(hit["_primary_term"], hit["_seq_no"]), hit["_source"])


def _outcome_id(edit: str) -> str:
    """As long as Elasticsearch allows, whatever id the edit was given."""
    return f"edit-{hashlib.sha256(edit.encode()).hexdigest()}"


def _instant(text: Any) -> datetime | None:
    try:
        read = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")
