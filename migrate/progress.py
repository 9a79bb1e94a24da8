"""What a long move tells whoever watches it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

SECONDS_BETWEEN_REPORTS = 0.25


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a move has come. A total is None while it is not known yet; `waiting` is the reason of a wait."""

    move: str
    objects: int = 0
    objects_total: int | None = None
    bytes: int = 0
    bytes_total: int | None = None
    waiting: str | None = None


Report = Callable[[Progress], None]


def unwatched(_: Progress) -> None:
    """The report of a move that nobody watches."""


class Meter:
    """Adds up what is done and reports it, at most four times a second: a report may write to a database."""

    def __init__(self, report: Report, start: Progress) -> None:
        self.now = start
        self._report = report
        self._reported_at = time.monotonic()
        report(start)

    def add(self, objects: int, bytes: int = 0) -> None:
        """`objects` more are done, of `bytes` in total."""
        self.now = replace(self.now, objects=self.now.objects + objects, bytes=self.now.bytes + bytes)
        if time.monotonic() - self._reported_at >= SECONDS_BETWEEN_REPORTS:
            self.tell()

    def tell(self) -> None:
        """Report now, as at the end of a move."""
        self._reported_at = time.monotonic()
        self._report(self.now)


WINDOW_SECONDS = 20.0
"""A rate is that of the newest seconds: a move that was slow an hour ago is not slow for ever."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a move (or a wait) has taken, how fast it goes, how long it still takes. None: not known yet."""

    seconds: float
    objects_per_second: float | None = None
    bytes_per_second: float | None = None
    remaining_seconds: float | None = None


class Speedometer:
    """Turns the progress of one step after another into paces. A new move or a new reason to wait begins anew."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._what: tuple[str, str | None] | None = None
        self._seen: deque[tuple[float, Progress]] = deque()

    def __call__(self, progress: Progress) -> Pace:
        now = self._clock()
        what = (progress.move, progress.waiting)
        if what != self._what:
            self._what, self._began = what, now
            self._seen.clear()
        self._seen.append((now, progress))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_SECONDS:
            self._seen.popleft()
        at, first = self._seen[0]
        objects = _rate(progress.objects - first.objects, now - at)
        size = _rate(progress.bytes - first.bytes, now - at)
        return Pace(
            seconds=round(now - self._began, 1),
            objects_per_second=objects,
            bytes_per_second=size,
            remaining_seconds=_remaining(progress, objects, size),
        )


def _rate(done: int, seconds: float) -> float | None:
    return round(done / seconds, 2) if seconds > 0 else None


def _remaining(progress: Progress, objects: float | None, size: float | None) -> float | None:
    """The longer of the times that objects and bytes still take; None before 1 % of either: it would mislead."""
    parts = [
        (done, total, rate)
        for done, total, rate in (
            (progress.objects, progress.objects_total, objects),
            (progress.bytes, progress.bytes_total, size),
        )
        if total
    ]
    if not parts or any(done * 100 < total for done, total, _ in parts):
        return None
    left = [(total - done, rate) for done, total, rate in parts if done < total]
    if not left or any(not rate for _, rate in left):
        return None
    return round(max(rest / rate for rest, rate in left if rate), 1)
