"""What a long move tells whoever watches it."""

from __future__ import annotations

import time
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
