"""A tenant's pipelines as an operator sees them: how far behind, each way; dead letters; the edits before a freeze."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError
from elasticsearch import Elasticsearch, NotFoundError

from components.index import EDITS, KEPT
from components.worker.annotations import MalformedEdit, checked
from components.worker.core import WorkerObjects
from components.worker.document import RECORD_SUFFIX, RECORDS, document_id
from components.worker.edits import Busy, Outcome, poll
from components.worker.edits_index import EditsIndex
from components.worker.elastic import Connection, SearchError
from migrate.aws import explained
from migrate.copy.store import Store
from migrate.errors import CloudError, Conflict, RefusedInput
from migrate.index.scan import search_errors
from migrate.live import Live
from migrate.queues import Pipe, Queues
from stacks.layout import Pipeline, PipelineState

Data = dict[str, Any]
QUIET_RECEIVES = 2
EXAMPLES = 10


@contextmanager
def told(doing: str) -> Iterator[None]:
    """The refusals of a search, of S3 and of busy objects, met by the worker's own code, as errors of the product."""
    try:
        yield
    except ClientError as error:
        raise explained(error, doing) from error
    except SearchError as error:
        code = "unreachable" if error.status == 0 else None
        hint = "see that the deployment runs and lets this machine in, then run the same command again"
        raise CloudError(
            f"{doing}: {error}", cloud_code=str(error.status or "unreachable"), hint=hint, code=code
        ) from error
    except Busy as error:
        raise Conflict(f"{doing}: {error}", hint="see which job writes it, then run this again", code="busy") from error


def connection_to(live: Live, search: str) -> Connection:
    """A connection with the rights of the pipeline, and no more."""
    secret = live.cloud.secret(live.outputs["searches"][search]["secrets"]["pipeline"], "runner")
    return Connection(secret["endpoint"], secret["api_key"])


def edits_of(live: Live, search: str) -> EditsIndex:
    return EditsIndex(connection_to(live, search), EDITS, KEPT)


def objects_of(side: Store) -> WorkerObjects:
    """The objects of a storage, as the worker reads and annotates them; with the rights of the side's own client."""
    return side.worker_objects()


# before a freeze and after it -----------------------------------------------------------------


def close_edits(client: Elasticsearch) -> None:
    """From here on no edit is taken; what was acknowledged before is there (`_block`, not a setting: that lets some by)."""
    with search_errors(f"closing {EDITS}"):
        client.indices.add_block(index=EDITS, block="write")


def open_edits(client: Elasticsearch) -> None:
    """Let edits in again. One that is open already stays so."""
    with search_errors(f"opening {EDITS}"):
        client.indices.put_settings(index=EDITS, settings={"index.blocks.write": None})


def drain(live: Live, storage: str, search: str) -> Data:
    """Apply every edit of `search` that is left to `storage`, as the runner: jobs may be closed. How many came to what."""
    edits, objects = edits_of(live, search), objects_of(live.storage(storage))
    with told(f"taking in the edits of {search}"):
        outcomes = poll(edits, objects, search).outcomes
    return {
        "edits": dict(Counter(outcome.outcome for outcome in outcomes)),
        "told": [_told(o) for o in outcomes if _is_told(o)],
    }


def take_in_last(live: Live, search: str) -> Data:
    """Before a search that serves no more goes: what is left of its edits goes to the storage that serves.

    A freeze has left none; where jobs stayed open while the search was changed, there may be some.
    """
    client, serves = live.search(search), live.serves
    with search_errors(f"looking for {EDITS}"):
        if serves.search == search or not client.indices.exists(index=EDITS):
            return {}
    close_edits(client)
    return drain(live, serves.storage, search)


def _is_told(outcome: Outcome) -> bool:
    return outcome.outcome == "refused" or bool(outcome.overrode)


def _told(outcome: Outcome) -> Data:
    """Whose edit, of what, and why; not what it says."""
    return {
        "edit": outcome.edit.id,
        "outcome": outcome.outcome,
        "reason": outcome.reason,
        "overrode": list(outcome.overrode),
    }


# lag ------------------------------------------------------------------------------------------


def status(live: Live) -> Data:
    """How far behind each pipeline is, each way. Reads only."""
    return {"tenant": live.layout.tenant, "pipelines": [_status(live, unit) for unit in live.layout.pipelines]}


def _status(live: Live, unit: Pipeline) -> Data:
    made = live.outputs["pipelines"].get(unit.id)
    facts = {"id": unit.id, "storage": unit.storage, "search": unit.search, "state": str(unit.state)}
    if made is None:
        return {**facts, "to_search": None, "to_bucket": None}
    serves = live.layout.serves is not None and live.layout.serves.pipeline == unit.id
    edits = edits_of(live, unit.search)
    with told(f"asking {unit.search} about its edits"):
        ticked = edits.last_tick() if serves else None
        to_bucket = _to_bucket(edits) if serves else None
    queues = live.cloud.queues
    pipe = live.cloud.pipe(unit.id)
    waiting, in_flight, delayed = queues.counted(pipe.queue_url)
    to_search = {
        "waiting": waiting,
        "in_flight": in_flight,
        "delayed": delayed,
        # What waits was sent after the last tick that came through, as far as a queue keeps its order.
        "oldest_at_most_seconds": _age(ticked) if waiting else 0.0,
        "last_tick_seconds": _age(ticked),
        "dead_letters": sum(queues.counted(pipe.dead_letters_url)),
    }
    return {**facts, "to_search": to_search, "to_bucket": to_bucket}


def _to_bucket(edits: EditsIndex) -> Data:
    unapplied, since = edits.unapplied()
    counts, latest = edits.outcomes(EXAMPLES)
    return {
        "unapplied": unapplied,
        "oldest_seconds": _age(since) if unapplied else 0.0,
        "settled": {name: counts.get(name, 0) for name in ("applied", "unchanged", "refused", "overrode")},
        "told": [dict(one) for one in latest],
    }


def _age(instant: datetime | None) -> float | None:
    return None if instant is None else max(0.0, round((datetime.now(UTC) - instant).total_seconds(), 1))


@dataclass(frozen=True)
class Replayed:
    """`replayed` went back into their queue; `left` are there still, or again."""

    pipeline: str
    replayed: int
    left: int


def replay(live: Live, limit: int) -> list[Replayed]:
    """Give the dead letters of every attached pipeline back to its queue, at most `limit` each.

    At most as many as there were: what fails again and dies again is not replayed for ever. A letter is sent before it
    is deleted; cut off in between it is given twice, which changes nothing: a worker reads what the object is now.
    """
    queues, found = live.cloud.queues, []
    for unit in live.layout.pipelines:
        if unit.id not in live.outputs["pipelines"] or unit.state is PipelineState.DETACHED:
            continue
        pipe = live.cloud.pipe(unit.id)
        replayed = _replay(queues, pipe, limit)
        found.append(Replayed(unit.id, replayed, sum(queues.counted(pipe.dead_letters_url))))
    return found


def _replay(queues: Queues, pipe: Pipe, limit: int) -> int:
    letters = pipe.dead_letters_url
    most, replayed, quiet = min(limit, sum(queues.counted(letters))), 0, 0
    while replayed < most and quiet < QUIET_RECEIVES:
        given = queues.give_back(letters, pipe.queue_url, most - replayed)
        quiet = 0 if given else quiet + 1
        replayed += given
    return replayed


# an edit, as Archive makes it -----------------------------------------------------------------


def edit(live: Live, type: str, id: str, changes: Mapping[str, Any], author: str) -> Data:
    """Write an edit of a record into the search that serves, as Archive. The pipeline takes it from there.

    Raises RefusedInput for what could not be applied anyway; nothing was written then.
    """
    tenant, search = live.layout.tenant, live.serves.search
    key = f"{RECORDS}{type}/{id}{RECORD_SUFFIX}"
    try:
        wanted = checked(changes)
    except MalformedEdit as error:
        raise RefusedInput(
            f"{type}/{id} was not edited: {error}", hint="keyshift archive edit --help", code="edit"
        ) from error
    if live.layout.gate.jobs != "open":
        raise RefusedInput(
            f"{type}/{id} was not edited: jobs of tenant {tenant} are disabled ({live.layout.gate.reason})",
            hint=f"once they are open again: keyshift status {tenant}",
            code="jobs-closed",
        )
    client = live.search(search, "archive")
    base = _revision(client, live.outputs["searches"][search]["read_alias"], key, f"{type}/{id}")
    made = {"key": key, "changes": wanted, "base_revision": base, "author": author, "at": _now()}
    number = str(uuid.uuid4())
    with search_errors(f"editing {type}/{id}"):
        client.create(index=EDITS, id=number, document=made)
    return {"tenant": tenant, "edit": number, **made}


def _revision(client: Elasticsearch, alias: str, key: str, name: str) -> int:
    """The revision that the search shows of a record: what the author of an edit has seen."""
    with search_errors(f"reading {name}"):
        try:
            source = client.get(index=alias, id=document_id(key), source_includes=["revision", "deleted"])["_source"]
        except NotFoundError:
            source = {"deleted": True}
    if source["deleted"]:
        raise RefusedInput(
            f"{name} was not edited: the search has no such record", hint="keyshift search", code="no-record"
        )
    return int(source["revision"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
