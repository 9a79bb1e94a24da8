"""A dry run: the plan, what the engine would do for each of its layouts, what its moves would cost.

Reads only. A layout is previewed beside the stack as it is now, from a stack file of its own; the
source is listed once. What a listing cannot tell (how many jobs write meanwhile, whether checksums
are stored) is said as an assumption and not guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from components import naming
from migrate import prices
from migrate.copy.store import Entry, Store
from migrate.copy.transfer import COPY_LIMIT, PART_BYTES
from migrate.live import Live
from migrate.operations import Move, Phase, Plan
from migrate.pool import in_threads
from migrate.progress import Meter, Progress, Report
from migrate.records import Records
from migrate.stack import Project, Stack, Step, UnexpectedPlan, judge
from stacks.record import connect

Data = dict[str, Any]

PREVIEWS_AT_ONCE = 2
"""Each is an engine, a program and its plugins: some 400 MB."""
PAGE = 1000
"""Entries of one ListObjectVersions answer."""
REQUESTS_A_SECOND = 160
BYTES_A_SECOND = 100_000_000
ASSUMED = (
    (
        f"the minutes assume {REQUESTS_A_SECOND} requests a second (16 at a time, 100 ms each) and "
        f"{BYTES_A_SECOND // 1_000_000} MB a second; neither is measured"
    ),
    "bringing up the layouts and waiting for people are not in the minutes",
    "every version has a checksum that covers it whole; one that has none is read on both sides to be compared",
    "jobs write nothing meanwhile; what they write is copied, compared and filled once more",
    "a re-key in place is priced as a PUT: no price of its own was found",
    "KMS requests are the most that there can be: one a request to an object; a bucket key saves some at the source",
)
NOT_PRICED = (
    "the second search deployment while both exist: Elastic Cloud's price depends on hardware, region and contract",
    "events, queues and functions of the pipelines: nothing of a move goes through them but one canary",
)


def dry_run(project: Project, plan: Plan, report: Report, *, with_previews: bool) -> Data:
    """The plan with `previews` (None if they were not asked for) and `price`.

    Raises RefusedInput when the tenant was never brought up, CloudError when a layout cannot be previewed.
    """
    live = Live.find(project, plan.start.tenant)
    previews = None
    if with_previews:
        stack = Stack(project, naming.tenant_stack(plan.start.tenant))
        generation = Records(connect(project.home)).tenant(plan.start.tenant).generation
        previews = preview_all(stack, plan, generation, report)
    return {
        **plan.model_dump(mode="json"),
        "previews": previews,
        "price": price(plan, _inventories(plan, live, report)),
    }


# previews -------------------------------------------------------------------------------------


def preview_all(stack: Stack, plan: Plan, generation: int, report: Report) -> list[Data]:
    """What an `up` of each layout of the plan would do, compared with now; later layouts hold the earlier changes."""
    meter = Meter(report, Progress(move="preview", objects_total=len(plan.phases)))

    def look(phase: Phase) -> tuple[str, Data]:
        return phase.name, _previewed(phase, stack.preview_proposed(phase.layout, generation))

    found: dict[str, Data] = {}
    for name, preview in in_threads(plan.phases, look, threads=PREVIEWS_AT_ONCE, name="preview"):
        found[name] = preview
        meter.add(1)
    meter.tell()
    return [found[phase.name] for phase in plan.phases]


def _previewed(phase: Phase, steps: list[Step]) -> Data:
    changes = [
        {"op": step.op, "type": step.type, "name": step.name}
        for step in steps
        if not step.type.startswith("keyshift:")  # a component is no resource of a cloud
    ]
    counts = Counter(change["op"] for change in changes)
    return {
        "phase": phase.name,
        "compared_with": "now",
        "counts": {op: counts[op] for op in sorted({"create", "update", "delete"} | counts.keys())},
        "changes": changes,
        "refused": _judgement(phase, steps),
    }


def _judgement(phase: Phase, steps: list[Step]) -> str | None:
    """Why the runner would not carry this out; None: it would."""
    try:
        judge(steps, phase.layout)
    except UnexpectedPlan as unexpected:
        return unexpected.message
    return None


# the price ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What one listing of a storage shows. `parts`: of the versions above 5 GB, which are copied in parts."""

    versions: int = 0
    delete_markers: int = 0
    objects: int = 0
    bytes: int = 0
    current_bytes: int = 0
    large: int = 0
    parts: int = 0

    @property
    def pages(self) -> int:
        return max(1, math.ceil((self.versions + self.delete_markers) / PAGE))


def inventory(entries: Iterable[Entry], meter: Meter | None = None) -> Inventory:
    counts: Counter[str] = Counter()
    for entry in entries:
        if meter:
            meter.add(1, entry.size)
        if entry.is_delete_marker:
            counts["delete_markers"] += 1
            continue
        counts += Counter(versions=1, bytes=entry.size)
        if entry.is_latest:
            counts += Counter(objects=1, current_bytes=entry.size)
        if entry.size > COPY_LIMIT:
            counts += Counter(large=1, parts=math.ceil(entry.size / PART_BYTES))
    return Inventory(**counts)


def _inventories(plan: Plan, live: Live, report: Report) -> dict[str, Inventory]:
    """Of every storage that the plan's moves read and that is there now, by one listing each."""
    there = {unit.id for unit in plan.start.storages}
    named = {move.storage for phase in plan.phases for move in phase.moves if move.storage in there}
    return {id: _listed(live.storage(id), report) for id in sorted(id for id in named if id)}


def _listed(side: Store, report: Report) -> Inventory:
    meter = Meter(report, Progress(move="list"))
    found = inventory(side.list_versions(), meter)
    meter.tell()
    return found


def price(plan: Plan, storages: dict[str, Inventory]) -> Data:
    """Requests by kind, bytes, minutes and dollars of a plan's moves."""
    moves, seen = [], set()
    for phase in plan.phases:
        for move in phase.moves:
            held = storages.get(move.storage) if move.storage else Inventory()
            if held is None:
                continue
            requests, size = _needed(move, held, is_first=(move.kind, move.storage, move.target) not in seen)
            seen.add((move.kind, move.storage, move.target))
            seconds = max(sum(requests.values()) / REQUESTS_A_SECOND, size / BYTES_A_SECOND)
            moves.append(
                {
                    "phase": phase.name,
                    "move": move.kind,
                    "requests": requests,
                    "bytes": size,
                    "seconds": round(seconds, 1),
                }
            )
    total: Counter[str] = sum((Counter(move["requests"]) for move in moves), Counter())
    requests = {kind: total[kind] for kind in prices.REQUESTS if total[kind]}
    listing = {"LIST": sum(held.pages for held in storages.values())}
    is_priced = plan.start.region in prices.REGIONS
    copies = any(move["move"] == "copy" for move in moves)
    copied = sum(held.bytes for held in storages.values()) if copies else 0
    return {
        "region": plan.start.region,
        "storages": {id: vars(held) | {"pages": held.pages} for id, held in storages.items()},
        "moves": moves,
        "requests": [_priced(kind, count, is_priced=is_priced) for kind, count in requests.items()],
        "bytes_copied": copied,
        "expected_minutes": round(sum(move["seconds"] for move in moves) / 60, 1),
        "dollars": round(prices.cost(requests), 4) if is_priced else None,
        "standing": _standing(plan, copied, is_priced=is_priced),
        "this_dry_run": {"requests": listing, "dollars": round(prices.cost(listing), 4) if is_priced else None},
        "prices": _sources() if is_priced else f"no list price of {plan.start.region} is kept here; counts only",
        "assumed": list(ASSUMED),
        "not_priced": list(NOT_PRICED),
    }


def _needed(move: Move, held: Inventory, *, is_first: bool) -> tuple[dict[str, int], int]:
    """(requests by kind, bytes moved) of one move. What an earlier move of its kind did is not done again."""
    if move.kind not in _REQUESTS:
        return {}, 0
    needed = _REQUESTS[move.kind](held, is_first)
    size = {"copy": held.bytes, "fill": held.current_bytes}.get(move.kind, 0) if is_first else 0
    return {kind: count for kind, count in needed.items() if count}, size


def _copy(held: Inventory, is_first: bool) -> dict[str, int]:
    if not is_first:
        return {"LIST": held.pages, "GET": 2}
    whole = held.versions - held.large
    return {
        "LIST": held.pages,
        "GET": 2,  # is versioning on, on both sides
        "COPY": whole + held.parts,
        "PUT": 2 * held.large,  # an upload in parts is begun and completed
        "HEAD": held.large,
        "GET tags": held.large,
        "DELETE": held.delete_markers,
        "KMS Decrypt": whole + held.parts + held.large,
        "KMS GenerateDataKey": whole + held.parts,
    }


def _compare(held: Inventory, is_first: bool) -> dict[str, int]:
    if not is_first:
        return {"GET tags": 2}
    return {"HEAD": 2 * held.versions, "GET tags": 2, "KMS Decrypt": 2 * held.versions}


def _fill(held: Inventory, is_first: bool) -> dict[str, int]:
    return {"GET": held.objects, "KMS Decrypt": held.objects} if is_first else {}


def _rekey(held: Inventory, _: bool) -> dict[str, int]:
    """Asked for, then re-keyed, each; a second pass lists once more, and a probe shows where new writes land."""
    return {
        "LIST": 2 * held.pages + 2,
        "HEAD": held.versions + 1,
        "GET": 1,
        "PUT": held.versions + 1,
        "DELETE": 1,
        "KMS Decrypt": held.versions,
        "KMS GenerateDataKey": held.versions + 1,
    }


_REQUESTS = {
    "preflight": lambda held, _: {"LIST": held.pages, "GET": 1},
    "copy": _copy,
    "verify-copied": _compare,
    "fill": _fill,
    # Each kind of write is tried once a writer; a tag of a probe shows that tag changes are heard.
    "settle": lambda held, _: {"LIST": 2 * held.pages + 3, "PUT": 5, "DELETE": 2},
    "still-settled": lambda held, _: {"LIST": held.pages + 1},
    # What differs from the comparison before the freeze was copied since, and is assumed to be nothing.
    "verify-storage": lambda held, _: {"LIST": 2 * held.pages, "GET tags": 2},
    "list": lambda held, _: {"LIST": held.pages},
    "rekey": _rekey,
    "drain": lambda held, _: {"LIST": held.pages + 1, "HEAD": held.versions},
    "canary": lambda *_: {"PUT": 1, "LIST": 1, "DELETE": 2, "KMS GenerateDataKey": 1},
    "prove-untouched": lambda held, _: {"LIST": held.pages + 3},
    "purge-target": lambda held, _: {"LIST": held.pages + 1, "DELETE": held.pages},
    "purge-storage": lambda held, _: {"LIST": held.pages + 1, "DELETE": held.pages},
    "prove-empty": lambda *_: {"LIST": 2},
    "inventory": lambda held, _: {"LIST": 4 * held.pages + 3, "PUT": 5, "DELETE": 2},
}
"""Move -> (what the source holds, whether nothing of its kind came before) -> requests by kind."""


def _priced(kind: str, count: int, *, is_priced: bool) -> Data:
    return {"kind": kind, "count": count, "dollars": round(prices.cost({kind: count}), 4) if is_priced else None}


def _standing(plan: Plan, copied: int, *, is_priced: bool) -> Data | None:
    """What it costs that both copies exist, and what a new key costs from then on."""
    if not is_priced:
        return None
    keys = len(plan.end.keys) - len(plan.start.keys)
    per_hour = copied / 2**30 * prices.STORAGE.dollars / prices.HOURS_A_MONTH
    return {"second_copy_per_hour": round(per_hour, 6), "new_keys_per_month": keys * prices.KEY.dollars}


def _sources() -> list[Data]:
    """Each page once, with the month that its prices were read."""
    found = {(price.source, price.as_of) for price in (*prices.REQUESTS.values(), prices.STORAGE, prices.KEY)}
    regions = ", ".join(sorted(prices.REGIONS))
    return [{"source": source, "as_of": as_of, "regions": regions} for source, as_of in sorted(found)]
