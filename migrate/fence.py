"""The fence before every call that leaves this process: a runner that was overtaken touches nothing any more.

A runner may stand still for hours (SIGSTOP, a suspended machine) in the middle of a copy or a purge and
wake up when another has ended the operation. The record's writes check the fence themselves; the calls
to clouds are checked here, before they are sent, repeated ones too.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from migrate.records import LEASE, Records

FRESH_SECONDS = min(1.0, LEASE.total_seconds() / 4)
"""How long a look at the record is good for: well under a lease, and not one query a call."""


class Fence:
    """The right that `number` gives on `tenant`, looked up again when the last look is not fresh."""

    def __init__(self, records: Records, tenant: str, number: int) -> None:
        self.number = number
        self._records = records
        self._tenant = tenant
        self._lock = threading.Lock()
        self._looked: float | None = None

    def check(self) -> None:
        """Raises Conflict when the lease has gone to somebody else. The clock runs on while a process is stopped."""
        with self._lock:
            if self._looked is not None and time.monotonic() - self._looked < FRESH_SECONDS:
                return
            began = time.monotonic()
            self._records.check(self._tenant, self.number)
            self._looked = began

    def before_aws(self, client: Any) -> None:
        """Every request of a boto3 client is sent under this fence."""
        client.meta.events.register_last("before-send", self._before_send)

    def before_search(self, client: Any) -> None:
        """Every request of an Elasticsearch client, and of what its `options` make, is sent under this fence."""
        transport = client.transport
        send = transport.perform_request

        def perform_request(*args: Any, **kwargs: Any) -> Any:
            self.check()
            return send(*args, **kwargs)

        transport.perform_request = perform_request

    def _before_send(self, **_: Any) -> None:
        self.check()
