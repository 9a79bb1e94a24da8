"""What passes by itself: throttling, an overloaded or restarting service, a network that is down for a moment.

A step that ends in one of these is waited with, by name, and done again. A window bounds the wait: it opens
at the first failure, not when the step began, because a copy may run for hours before a node restarts.
"""

from __future__ import annotations

import time

from migrate.errors import CloudError, KeyshiftError, KeyUnavailable

OUTAGE_SECONDS = 180.0
"""How long one outage is waited for; a node of Elastic Cloud is back in a minute."""
SEARCH = frozenset({"429", "502", "503", "504"})
"""Statuses of Elasticsearch, and of the proxy before it. AWS says words, not numbers."""
THROTTLED = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
    }
)
"""AWS's words for it, as botocore repeats them; S3 passes those of KMS on."""
OVERLOADED = frozenset({"InternalError", "InternalFailure", "ServiceUnavailable", "RequestTimeout", "500", "503"})
"""AWS's words for a failure of its own. A HEAD has no words: botocore puts the status there."""
UNREACHABLE, UNREADABLE = "unreachable", "unreadable"
"""Our words for what AWS has none for: no answer, and an answer that broke off."""


def passes_by_itself(error: KeyshiftError) -> bool:
    """Whether the same call is likely to succeed soon, with nobody doing anything."""
    if not isinstance(error, CloudError) or isinstance(error, KeyUnavailable):
        return False
    return error.cloud_code in SEARCH | THROTTLED | OVERLOADED | {UNREACHABLE, UNREADABLE}


class Window:
    """How long an outage may last. One that comes after a while of quiet is a new one."""

    def __init__(self, patience: float, limit: float | None = None) -> None:
        """`patience`: what whoever runs the command allows; `limit`, `OUTAGE_SECONDS` if not given, is the most."""
        self._limit = min(patience, OUTAGE_SECONDS if limit is None else limit)
        self._began: float | None = None
        self._last = 0.0

    def allows_another_look(self) -> bool:
        """Called at each failure: whether it is to be waited for and tried again."""
        now = time.monotonic()
        if self._began is None or now - self._last > self._limit:
            self._began = now
        self._last = now
        return now - self._began < self._limit
