"""Reading bytes again from their beginning where they break off on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import stamina

Made = TypeVar("Made")
ATTEMPTS = 4


def until_whole(read: Callable[[], Made], broken_off: tuple[type[Exception], ...]) -> Made:
    """What `read` makes; called anew where it raises one of `broken_off`, `ATTEMPTS` times in all.

    A client's own retries end with the headers of an answer: the bytes are the caller's.
    """
    for attempt in stamina.retry_context(on=broken_off, attempts=ATTEMPTS):
        with attempt:
            return read()
    raise AssertionError("a retry context either returns or raises")
