"""What people see: tables, lines of progress, errors. Data in, text out."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from migrate.errors import KeyshiftError
from migrate.progress import Progress

Data = dict[str, Any]


def kind_of(error: KeyshiftError) -> str:
    """The word before an error's text, by its exit code."""
    return {2: "refused", 3: "waiting"}.get(error.exit_code, "error")


def bytes_text(count: int) -> str:
    """12 B, 3.4 KB, 64.0 MB: powers of 1,000."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def seconds_text(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def progress_text(progress: Progress, seconds: float) -> str:
    """One line: what, done of total, bytes, rate, remaining time, the reason of a wait.

    `seconds`: since the step began. No remaining time before 1 % is done: it would mislead.
    """
    done, total = progress.objects, progress.objects_total
    parts = [progress.move]
    if total is not None:
        share = f" ({done * 100 // total} %)" if total else ""
        parts.append(f"{done:,} of {total:,}{share}")
    elif done:
        parts.append(f"{done:,}")
    if progress.bytes:
        parts.append(bytes_text(progress.bytes))
    if done and seconds > 0:
        parts.append(f"{done / seconds:,.0f}/s")
        if total and done < total <= done * 100:
            parts.append(f"{seconds_text((total - done) * seconds / done)} left")
    if progress.waiting:
        parts.append(f"waiting: {progress.waiting}")
    return " · ".join(parts)


def event(step: str, progress: Progress | None, seconds: float) -> str:
    """The same as one JSON line."""
    return json.dumps({"step": step, "seconds": round(seconds, 1), "progress": asdict(progress) if progress else None})


class Ticker:
    """Prints each step once and its progress at most once a second; a rewritten line on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._last = 0.0
        self._open = False

    def __call__(self, step: str, progress: Progress | None, seconds: float) -> None:
        now = time.monotonic()
        clock = f"[{now - self._started:6.1f} s] "
        if progress is None:
            self._end_line()
            self._console.print(f"{clock}{step}", markup=False)
            return
        is_last = progress.objects_total is not None and progress.objects >= progress.objects_total
        if now - self._last < 1 and not is_last:
            return
        self._last = now
        line = f"{clock}  {progress_text(progress, seconds)}"
        if self._console.is_terminal:
            clear_line(self._console)
            self._console.print(line[: self._console.width - 1], end="", markup=False)
            self._open = True
        else:
            self._console.print(line, markup=False)

    def _end_line(self) -> None:
        if self._open:
            self._console.print()
            self._open = False


def clear_line(console: Console) -> None:
    """Takes away a line of progress that was left open, so that what follows begins on a line of its own."""
    if console.is_terminal:
        console.control(Control((ControlType.CARRIAGE_RETURN,), (ControlType.ERASE_IN_LINE, 2)))


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _pairs(rows: list[tuple[str, Any]], title: str | None = None) -> Table:
    table = _table("", "", title=title)
    table.show_header = False
    for name, value in rows:
        table.add_row(name, "-" if value is None else str(value))
    return table


def tenants(rows: list[Data]) -> RenderableType:
    if not rows:
        return "no tenants yet: keyshift tenant create NAME --customer NAME"
    table = _table("tenant", "customer", "mode", "storage", "search", "jobs", "operation")
    for row in rows:
        serves = row["serves"] or {}
        table.add_row(
            row["tenant"],
            row["customer"],
            row["mode"],
            serves.get("storage", "-"),
            serves.get("search", "-"),
            _sealed(row) or row["gate"]["jobs"],
            row["operation"] or "-",
        )
    return table


def tenant(data: Data) -> RenderableType:
    layout = data["layout"]
    units = _table("unit", "kind", "key", "state")
    for key in layout["keys"]:
        units.add_row(key["id"], "key", "-", key["state"])
    serves = set((layout["serves"] or {}).values())
    for name in ("storages", "searches"):
        for unit in layout[name]:
            state = "serves" if unit["id"] in serves else "to be dropped" if unit["release"] else "being built"
            units.add_row(unit["id"], unit.get("kind", "search"), unit["key"] or "vendor's", state)
    for pipe in layout["pipelines"]:
        units.add_row(pipe["id"], f"pipeline {pipe['storage']} -> {pipe['search']}", "-", pipe["state"])
    gate = layout["gate"]
    head = _pairs(
        [
            ("tenant", layout["tenant"]),
            ("customer", layout["customer"]),
            ("mode", f"{layout['mode']} on {layout['cloud']}, {layout['region']}, {layout['stamp']}"),
            ("generation", data["generation"]),
            (
                "gate",
                f"jobs {gate['jobs']}, access {gate['access']}" + (f": {gate['reason']}" if gate["reason"] else ""),
            ),
            *([("sealed", _sealed(data))] if data.get("sealed") else []),
            ("searches see", f"what was archived before {gate['search_cutoff']}" if gate["search_cutoff"] else "all"),
            ("next", data.get("next")),
        ]
    )
    return Group(head, "", units)


def keys(rows: list[Data]) -> RenderableType:
    if not rows:
        return "no customer keys"
    table = _table("key", "state", "in KMS", "used by", "fingerprint", "ARN")
    for row in rows:
        table.add_row(row["id"], row["state"], row["kms_state"], row["used_by"], row["fingerprint"], row["arn"])
    return table


def key_request(data: Data) -> RenderableType:
    lines = [
        f"key {data['key']} of tenant {data['tenant']} is empty and waits for its material.",
        f"public key   {data['public_key']}   (RSA-4096, DER; send it to the customer)",
        f"valid until  {data['valid_until']}",
        "",
        "the customer runs one of",
        f"  keyshift key wrap {data['public_key']}",
        *(f"  {line}" for line in data["openssl"]),
        "and sends back the wrapped key with the SHA-256 that is printed; then:",
        f"  keyshift key upload {data['tenant']} wrapped-key.bin --sha256 ...",
    ]
    return Text("\n".join(lines))


def wrapped(data: Data) -> RenderableType:
    kept = data["kept"] or "nowhere: it cannot be imported again if the vendor loses it"
    return _pairs(
        [("wrapped key", data["file"]), ("bytes", data["bytes"]), ("SHA-256", data["sha256"]), ("plaintext kept", kept)]
    )


def uploaded(data: Data) -> RenderableType:
    return _pairs(
        [("key", data["key"]), ("state", data["state"]), ("fingerprint", data["fingerprint"]), ("next", data["next"])]
    )


def plan(data: Data) -> RenderableType:
    table = _table("phase", "what", "jobs", "searches", "can be aborted")
    steps: list[RenderableType] = []
    for phase in data["phases"]:
        gate = phase["layout"]["gate"]
        table.add_row(
            phase["name"],
            phase["title"],
            gate["jobs"],
            "limited" if gate["jobs"] == "closed" else "all",
            "yes" if phase["reversible"] else "no",
        )
        steps += [f"  {phase['name']}: wait for {wait['reason']}" for wait in phase["waits"]]
        steps += [f"  {phase['name']}: {move['title']}" for move in phase["moves"]]
    return Group(
        f"plan of {data['kind']} for tenant {data['start']['tenant']}; nothing was changed", "", table, "", *steps
    )


def status(data: Data) -> RenderableType:
    operation = data["operation"]
    head = [
        ("tenant", f"{data['tenant']}, mode {data['mode']}"),
        *([("sealed", _sealed(data))] if data.get("sealed") else []),
        ("jobs", data["jobs"]),
        ("searches", data["searches"]),
    ]
    if operation is None:
        return _pairs([*head, ("operation", "none")])
    is_cut_off = operation["state"] == "running" and data["worked_on_by"] is None
    state = "cut off; nobody works on it" if is_cut_off else operation["state"]
    rows = [*head, ("operation", f"{operation['id']}: {state}"), ("step", operation["step"])]
    if operation["progress"]:
        rows.append(("progress", progress_text(*progress_of(operation))))
    if operation["message"]:
        rows += [("because", operation["message"]), ("next", operation["hint"])]
    elif is_cut_off:
        rows.append(("next", f"keyshift resume {data['tenant']}"))
    return _pairs(rows)


def _sealed(data: Data) -> str | None:
    seal = data.get("sealed")
    return seal and f"SEALED since {seal['at'][:19]} UTC by {seal['by']}: {seal['reason']}"


def seal(data: Data) -> RenderableType:
    """What was denied, and how long each path took to be refused."""
    doors = _table("denied", "what", "result", "because")
    for one in data["denials"]:
        doors.add_row(one["id"], one["what"], one["came_to"], one["because"] or "-")
    ways = _table("path", "as", "to", "refused after", "answer", "documented bound")
    for one in data["paths"]:
        after = "STILL OPEN" if one["after"] is None else f"{one['after']:.1f} s"
        ways.add_row(one["name"], one["role"], one["unit"], after, one["said"], one["bound"])
    head = f"tenant {data['tenant']} is sealed since {data['at'][:19]} UTC by {data['by']}: {data['reason']}"
    ended = [f"{one}: it was at work on the tenant's stack" for one in data["engines"]]
    still_open = ["", "STILL OPEN; run the same command again:", *(f"  {one}" for one in data["still_open"])]
    return Group(
        Text("\n".join([head, *ended])),
        "",
        doors,
        "",
        ways,
        "",
        MEASURED,
        *(Text(one) for one in (still_open if data["still_open"] else ["every path is refused"])),
        Text(f"to open it again: keyshift restore {data['tenant']}"),
    )


MEASURED = "a time measured once shows that the procedure works; how long it may take is the documented bound"


def restored(data: Data) -> RenderableType:
    read = ", ".join(f"{one['objects_read']} of {one['storage']}" for one in data["checked"])
    ways = ", ".join(f"{one['name']} of {one['unit']}" for one in data["paths"])
    rows = [("tenant", f"{data['tenant']}, open again"), ("was sealed for", data["was_sealed_for"])]
    rows += [("objects read", read)] if read else []
    return _pairs([*rows, ("as Archive", ways or "serves nothing yet"), ("next", data["next"])])


def is_only_progress(before: Data, now: Data) -> bool:
    """Whether two looks at a status differ in nothing but how far the step is."""
    if not before or not before["operation"] or not now["operation"] or not now["operation"]["progress"]:
        return before == now
    same = {"progress": None}
    return {**before, "operation": before["operation"] | same} == {**now, "operation": now["operation"] | same}


def progress_of(operation: Data) -> tuple[Progress, float]:
    """The stored progress of a step, and the seconds that it had taken by then."""
    kept = dict(operation["progress"])
    seconds = kept.pop("seconds")
    return Progress(**kept), seconds


def report(data: Data) -> RenderableType:
    rows = [("operation", data["operation"]), ("result", data["state"]), ("took", seconds_text(data["seconds"]))]
    if data["jobs_disabled_seconds"] is not None:
        rows.append(("jobs disabled", seconds_text(data["jobs_disabled_seconds"])))
    storage, index = data.get("storage"), data.get("index")
    if storage:
        rows += [
            ("objects", f"{storage['objects']:,} in {storage['versions']:,} versions, {bytes_text(storage['bytes'])}"),
            ("verified", f"{storage['verified']:,} versions, Merkle root {storage['merkle_root'][:16]}…"),
        ]
    if index:
        rows.append(("documents", f"{index['expected']:,} expected, {index['found']:,} found"))
    if data["left_behind"] is not None:
        rows.append(("left behind", data["left_behind"]))
    for id, verdict_id in data["verdicts"].items():
        rows.append((f"verdict {id}", verdict_id))
    return _pairs(rows)


def imported(data: Data) -> RenderableType:
    return _pairs(
        [
            ("records", f"{data['records']:,}"),
            ("attachments", f"{data['attachments']:,}"),
            ("bytes", bytes_text(data["bytes"])),
            ("unchanged", f"{data['unchanged']:,}"),
            ("took", seconds_text(data["seconds"])),
        ]
    )


def found(data: Data) -> RenderableType:
    table = _table("type", "id", "archived at", "revision", "key")
    for hit in data["hits"]:
        table.add_row(hit["type"], hit["id"], hit["archived_at"], str(hit["revision"]), hit["key"])
    limited = f", limited to what was archived before {data['cutoff']}" if data["cutoff"] else ""
    return Group(f"{data['total']:,} found in {data['search']} in {data['milliseconds']} ms{limited}", table)


def verdicts(rows: list[Data]) -> RenderableType:
    if not rows:
        return "no verdicts yet"
    table = _table("verdict", "kind", "passed", "count", "bytes", "finished", "signature")
    for row in rows:
        table.add_row(
            row["id"],
            row["kind"],
            "yes" if row["passed"] else "NO",
            f"{row['count']:,}",
            bytes_text(row["bytes"]),
            row["finished_at"],
            row["signature"],
        )
    return table


def verdict(data: Data) -> RenderableType:
    return _pairs([(name.replace("_", " "), value) for name, value in data.items()])


def rendered(data: Data) -> RenderableType:
    return f"{data['file']} holds generation {data['generation']} of tenant {data['tenant']}"
