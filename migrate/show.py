"""What people see: tables, lines of progress, errors. Data in, text out."""

from __future__ import annotations

import time
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from migrate import show_rotate
from migrate.errors import KeyshiftError
from migrate.events import Begun, Ended, Event, Place, Progressed, StepBegun, StepDone, Waits
from migrate.progress import Pace, Progress

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


def progress_text(progress: Progress, pace: Pace, width: int | None = None) -> str:
    """One line: what, done of total, bytes, rates, remaining time; or the reason of a wait.

    Where `width` columns do not hold it all, what matters least is left out.
    """
    if progress.waiting:
        return f"waiting {seconds_text(pace.seconds)} for {progress.waiting}"
    parts = _progress_parts(progress, pace)
    for unneeded in ("bytes/s", "bytes", "/s"):
        if width is None or len(" · ".join(parts.values())) <= width:
            break
        parts.pop(unneeded, None)
    return " · ".join(parts.values())


def _progress_parts(progress: Progress, pace: Pace) -> dict[str, str]:
    done, total = progress.objects, progress.objects_total
    parts = {"move": progress.move}
    if total is not None:
        share = f" ({done * 100 // total} %)" if total else ""
        parts["objects"] = f"{done:,} of {total:,}{share}"
    elif done:
        parts["objects"] = f"{done:,}"
    if progress.bytes_total:
        parts["bytes"] = f"{bytes_text(progress.bytes)} of {bytes_text(progress.bytes_total)}"
    elif progress.bytes:
        parts["bytes"] = bytes_text(progress.bytes)
    if pace.objects_per_second:
        parts["/s"] = f"{pace.objects_per_second:,.0f}/s"
    if pace.bytes_per_second:
        parts["bytes/s"] = f"{bytes_text(round(pace.bytes_per_second))}/s"
    if pace.remaining_seconds is not None:
        parts["left"] = f"{seconds_text(pace.remaining_seconds)} left"
    return parts


def place_text(place: Data) -> str:
    """`2/7 build, 3/6: compare what is copied so far`; the fields are those of `events.Place`."""
    if place["phase"] is None:
        return place["step"] or "begins"
    return (
        f"{place['phase_number']}/{place['phases']} {place['phase']}, "
        f"{place['step_number']}/{place['steps']}: {place['step_title']}"
    )


class Ticker:
    """Prints each step once and its progress at most once a second; a rewritten line on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._last = 0.0
        self._open = False

    def __call__(self, event: Event) -> None:
        match event:
            case Begun():
                verb = "goes on" if event.resumed else "begins"
                self.line(f"{event.operation} {verb}: {' > '.join(event.phases)}")
            case StepBegun():
                self.line(place_text(event.model_dump()))
            case Progressed() | Waits():
                self.progress(*_told(event))
            case StepDone() | Ended():
                pass  # the next step says so, and the closing table or the error

    def line(self, text: str) -> None:
        """A line that stays."""
        self._end_line()
        self._console.print(f"{self._clock()}{text}", markup=False)

    def progress(self, progress: Progress, pace: Pace) -> None:
        is_last = progress.objects_total is not None and progress.objects >= progress.objects_total
        room = self._room() if self._console.is_terminal else None
        self.moment(progress_text(progress, pace, room), is_last=is_last)

    def moment(self, text: str, *, is_last: bool = False) -> None:
        """A line that the next moment takes the place of, on a terminal; at most one a second."""
        now = time.monotonic()
        if now - self._last < 1 and not is_last:
            return
        self._last = now
        line = f"{self._clock()}  {text}"
        if self._console.is_terminal:
            clear_line(self._console)
            self._console.print(line[: self._console.width - 1], end="", markup=False)
            self._open = True
        else:
            self._console.print(line, markup=False)

    def _clock(self) -> str:
        return f"[{time.monotonic() - self._started:6.1f} s] "

    def _room(self) -> int:
        return self._console.width - 1 - len(self._clock()) - 2

    def _end_line(self) -> None:
        if self._open:
            self._console.print()
            self._open = False


def _told(event: Progressed | Waits) -> tuple[Progress, Pace]:
    if isinstance(event, Waits):
        return Progress(move="wait", waiting=event.reason), Pace(seconds=event.seconds)
    return _split(event.model_dump())


def _split(facts: Data) -> tuple[Progress, Pace]:
    """Progress and pace out of one flat dictionary that holds both."""
    found: list[Data] = [{field.name: facts.get(field.name) for field in fields(one)} for one in (Progress, Pace)]
    return Progress(**found[0]), Pace(**found[1])


def clear_line(console: Console) -> None:
    """Takes away a line of progress that was left open, so that what follows begins on a line of its own."""
    if console.is_terminal:
        console.control(Control((ControlType.CARRIAGE_RETURN,), (ControlType.ERASE_IN_LINE, 2)))


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def pairs(rows: list[tuple[str, Any]], title: str | None = None) -> Table:
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
            units.add_row(unit["id"], unit.get("kind") or f"search {unit['version']}", unit["key"] or "vendor's", state)
    for pipe in layout["pipelines"]:
        units.add_row(pipe["id"], f"pipeline {pipe['storage']} -> {pipe['search']}", "-", pipe["state"])
    gate = layout["gate"]
    head = pairs(
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
        f"public key   {data['public_key']}   (RSA-4096; send it to the customer)",
        f"valid until  {data['valid_until']}",
        "",
        "the customer runs one of",
        f"  {data['wrap']}",
        *(f"  {line}" for line in data["openssl"]),
        "and sends back the wrapped key with the SHA-256 that is printed; then:",
        f"  keyshift key upload {data['tenant']} WRAPPED --sha256 ...",
    ]
    return Text("\n".join(lines))


def wrapped(data: Data) -> RenderableType:
    kept = data["kept"] or "nowhere: it cannot be imported again if the vendor loses it"
    return pairs(
        [("wrapped key", data["file"]), ("bytes", data["bytes"]), ("SHA-256", data["sha256"]), ("plaintext kept", kept)]
    )


def uploaded(data: Data) -> RenderableType:
    return pairs(
        [("key", data["key"]), ("state", data["state"]), ("fingerprint", data["fingerprint"]), ("next", data["next"])]
    )


def _limits_searches(phase: Data) -> bool:
    return any(move["kind"] == "limit-search" for move in phase["moves"])


def plan(data: Data) -> RenderableType:
    table = _table("phase", "what", "jobs", "searches", "can be aborted")
    steps: list[RenderableType] = []
    for phase in data["phases"]:
        gate = phase["layout"]["gate"]
        table.add_row(
            phase["name"],
            phase["title"],
            gate["jobs"],
            "limited" if gate["jobs"] == "closed" or _limits_searches(phase) else "all",
            "yes" if phase["reversible"] else "no",
        )
        steps += [f"  {phase['name']}: wait for {wait['reason']}" for wait in phase["waits"]]
        steps += [f"  {phase['name']}: {move['title']}" for move in phase["moves"]]
    looked = [preflight(data["preflight"]), ""] if data.get("preflight") else []
    return Group(
        f"plan of {data['kind']} for tenant {data['start']['tenant']}; nothing was changed",
        "",
        table,
        "",
        *looked,
        *steps,
    )


def preflight(data: Data) -> str:
    asked = f" and {data['head_requests']:,} HEAD" if data["head_requests"] else ""
    return (
        f"preflight: {data['versions']:,} versions, {bytes_text(data['bytes'])}, all of them can be moved"
        f" (looked at with {data['list_requests']:,} LIST{asked} requests)"
    )


def status(data: Data, now: datetime | None = None) -> RenderableType:
    """Where a tenant stands; ages are told as of `now`."""
    now = now or datetime.now(UTC)
    since = data["jobs_since"]
    jobs = f"{data['jobs']} since {_instant(since)} ({_age(since, now)})" if since else data["jobs"]
    head = [
        ("tenant", f"{data['tenant']}, mode {data['mode']}, generation {data['generation']}"),
        *([("sealed", _sealed(data))] if data.get("sealed") else []),
        ("jobs", f"{jobs}: {data['reason']}" if data["reason"] else jobs),
        *(("warning", text) for text in data.get("warnings", ())),
        ("searches", data["searches"]),
        *show_rotate.pending_rows(data),
    ]
    operation = data["operation"]
    if operation is None:
        return pairs([*head, ("operation", "none so far"), *_next_row(data["next"])])
    rows = _ended_rows(operation) if operation["state"] in {"done", "aborted"} else _open_rows(data, operation, now)
    return pairs([*head, *rows, *_next_row(data["next"])])


def _next_row(command: str | None) -> list[tuple[str, Any]]:
    return [("next", command)] if command else []


def _ended_rows(operation: Data) -> list[tuple[str, Any]]:
    ended = "was done" if operation["state"] == "done" else f"was {operation['state']}"
    text = f"none; the last, {operation['id']}, {ended} in {seconds_text(operation['seconds'])}"
    if operation["jobs_disabled_seconds"] is not None:
        text += f" with jobs disabled for {seconds_text(operation['jobs_disabled_seconds'])}"
    return [("operation", text)]


def _open_rows(data: Data, operation: Data, now: datetime) -> list[tuple[str, Any]]:
    is_cut_off = _is_cut_off(operation, data["worked_on_by"])
    state = "cut off" if is_cut_off else operation["state"]
    begun = f"begun {_instant(operation['started_at'])} ({_age(operation['started_at'], now)})"
    rows = [
        ("operation", f"{operation['id']}: {state}, {begun}"),
        ("worked on by", data["worked_on_by"] or ("nobody; a runner died" if is_cut_off else "nobody")),
    ]
    if operation["phase"]:
        phase = (
            f"{operation['phase_number']} of {operation['phases']}, {operation['phase']}: {operation['phase_title']}"
        )
        step = f"{operation['step_number']} of {operation['steps']}: {operation['step_title']}"
        rows += [
            ("phase", phase + _for(operation["phase_began_at"], now)),
            ("step", step + _for(operation["step_began_at"], now)),
        ]
    if operation["progress"]:
        progress, pace = progress_of(operation)
        told = f"told {_age(operation['progress']['reported_at'], now)} ago"
        rows.append(("progress", f"{progress_text(progress, pace)} · {told}"))
    if operation["message"]:
        rows.append(("because", operation["message"]))
    return rows


def _is_cut_off(operation: Data, worker: str | None) -> bool:
    return operation["state"] == "running" and worker is None


def _instant(text: str) -> str:
    """`2026-01-02 03:04:05 UTC` of an ISO instant."""
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _age(text: str, now: datetime) -> str:
    return seconds_text(max(0.0, (now - datetime.fromisoformat(text)).total_seconds()))


def _for(since: str | None, now: datetime) -> str:
    return f" ({_age(since, now)})" if since else ""


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


def is_only_progress(before: Data, now: Data) -> bool:
    """Whether two looks at a status differ in nothing but how far the step is."""
    if not before or not before["operation"] or not now["operation"] or not now["operation"]["progress"]:
        return before == now
    same = {"progress": None}
    return {**before, "operation": before["operation"] | same} == {**now, "operation": now["operation"] | same}


def is_only_step(before: Data, now: Data) -> bool:
    """Whether two looks at a status differ in nothing but the step and how far it is."""
    if not before or not before["operation"] or not now["operation"]:
        return False
    steps = dict.fromkeys((*Place.model_fields, "phase_began_at", "step_began_at", "progress"))
    return {**before, "operation": before["operation"] | steps} == {**now, "operation": now["operation"] | steps}


def progress_of(operation: Data) -> tuple[Progress, Pace]:
    """The stored progress of a step, and its pace by then."""
    return _split(operation["progress"])


def operations(rows: list[Data]) -> RenderableType:
    if not rows:
        return "no operations yet"
    table = _table("operation", "state", "begun", "took", "jobs disabled", "because")
    for row in rows:
        times = (row["seconds"], row["jobs_disabled_seconds"])
        took, disabled = ("-" if seconds is None else seconds_text(seconds) for seconds in times)
        state = "cut off" if _is_cut_off(row, row["worked_on_by"]) else row["state"]
        table.add_row(row["id"], state, _instant(row["started_at"]), took, disabled, row["message"] or "-")
    return table


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
    rows += show_rotate.report_rows(data)
    if data["left_behind"] is not None:
        rows.append(("left behind", data["left_behind"]))
    for id, verdict_id in data["verdicts"].items():
        rows.append((f"verdict {id}", verdict_id))
    return pairs(rows)


def imported(data: Data) -> RenderableType:
    return pairs(
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
    return pairs([(name.replace("_", " "), value) for name, value in data.items()])


def proof(rows: list[Data]) -> RenderableType:
    lines = []
    for row in rows:
        lines += [f"version {row['version']}: {row['leaf']}", "  leaf   SHA-256 of a 0 byte and the line above"]
        lines += [f"  {step['side']:<5}  {step['sibling']}" for step in row["path"]]
        lines += [f"  root   {row['root']}, as signed"]
    return Text("\n".join(lines))


def checks(data: Data) -> RenderableType:
    table = _table("verdict", "kind", "result", "because", "later changes")
    examples = []
    for row in data["checks"]:
        later = ", ".join(f"{count:,} {what}" for what, count in row["later"].items() if count)
        table.add_row(row["verdict"], row["kind"], row["result"], row["because"], later or "none")
        examples += [f"  {row['verdict']}: {example}" for example in row["examples"]]
    log = data["log"]
    head = f"signatures fit; the log of {log['lines']:,} lines is whole, its head is {log['head']}"
    return Group(head, "", table, *([Text("\n".join(examples))] if examples else []))


def rendered(data: Data) -> RenderableType:
    return f"{data['file']} holds generation {data['generation']} of tenant {data['tenant']}"
