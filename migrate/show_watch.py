"""The watch's events as lines that people read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.text import Text

from migrate.watching.findings import WHY, Cause

Event = dict[str, Any]


def event(event: Event) -> Text:
    """One line: when, about whom, what."""
    line = _LINES.get(event["event"], _failed)(event)
    about = f"{event['tenant']} {event['key']}: " if "tenant" in event else ""
    return Text(f"{event['at'][11:19]} {about}{line}")


def _round(event: Event) -> str:
    parts = [f"{event['looked_at']} tenants looked at"]
    names = ("lost", "closed", "reopened", "waiting", "failed")
    parts += [f"{name}: {', '.join(event[name])}" for name in names if event[name]]
    return "; ".join([*parts, *([] if event["lost"] or event["failed"] else ["all that serves can be read"])])


def _key(event: Event) -> str:
    canary = "" if event["canary"] == "ok" else f"; data canary ({event['canary_of'] or 'none'}): {event['canary']}"
    return f"{event['cause']}: {WHY[Cause(event['cause'])]} ({event['said'] or 'no error'}){canary}"


def _closed(event: Event) -> str:
    if event["still_open"]:
        return f"CLOSED, BUT STILL OPEN: {'; '.join(event['still_open'])}"
    slowest = "" if event["slowest"] is None else f", every path refused after {event['slowest']} s here"
    return f"closed{slowest}; it opens again when the key is back"


def _rotated(event: Event) -> str:
    what = "another key" if event["was_arn"] != event["arn"] else "new key material"
    handled = "handed on" if event["handled"] else "nothing in this installation acts on it"
    return f"rotated to {what}: {event['was_arn']} -> {event['arn']}; {handled}"


def _failed(event: Event) -> str:
    error = event.get("error") or {}
    hint = f"; {error['hint']}" if error.get("hint") else ""
    return f"{event['event'].replace('-', ' ')}: {error.get('message', '')}{hint}"


_LINES: dict[str, Callable[[Event], str]] = {
    "round": _round,
    "key": _key,
    "closing": lambda event: f"closing: {event['reason']}",
    "closed": _closed,
    "reopening": lambda _: "the key works again; comparing and reading before it is opened",
    "reopened": lambda event: f"open again; {sum(one['objects_read'] for one in event['checked'])} objects were read",
    "rotated": _rotated,
    "breaker": lambda event: f"ALARM: {event['because']}",
}
