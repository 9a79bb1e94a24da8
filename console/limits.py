"""How often one caller may ask: a bucket of tokens each, in this process."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from console.problems import Refused

REMEMBERED = 10_000


@dataclass(frozen=True)
class Rate:
    """`burst` at once, then `per_minute`."""

    burst: int
    per_minute: float


READS = Rate(240, 1200)
WRITES = Rate(30, 60)
SIGN_INS = Rate(20, 30)
"""By address, because nobody is known yet."""


class Limits:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when

    def take(self, who: str, rate: Rate) -> None:
        """One request of `who`. Raises Refused (429) with the seconds to wait."""
        name, now = f"{id(rate)}/{who}", self._clock()
        with self._lock:
            tokens, at = self._left.pop(name, (float(rate.burst), now))
            tokens = min(rate.burst, tokens + (now - at) * rate.per_minute / 60)
            is_in = tokens >= 1
            self._left[name] = (tokens - 1 if is_in else tokens, now)
            while len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
        if not is_in:
            wait = math.ceil((1 - tokens) * 60 / rate.per_minute)
            raise Refused(
                f"too many requests at once; nothing of this one was done. The next is taken in {wait} s",
                code="too-many-requests",
                hint="follow an operation by its events instead of asking again and again",
                headers={"Retry-After": str(wait)},
            )
