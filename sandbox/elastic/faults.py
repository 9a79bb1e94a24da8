"""Faults on demand: `POST /_sandbox/faults` on the port of the deployments API."""

from __future__ import annotations

import threading

from pydantic import BaseModel, ConfigDict, Field


class FaultOrder(BaseModel):
    """`bulk_429`: how many of the next bulks are refused whole. `latency_ms`: added to every request, until 0.

    `kill_node`: SIGKILL for the node's process; it is started again, as Elastic Cloud would.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    deployment: str
    bulk_429: int | None = Field(default=None, ge=0)
    latency_ms: int | None = Field(default=None, ge=0)
    kill_node: bool = False


class Faults:
    """The faults set for one deployment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bulks_to_refuse = 0
        self.latency = 0.0  # seconds

    def set(self, order: FaultOrder) -> None:
        with self._lock:
            if order.bulk_429 is not None:
                self._bulks_to_refuse = order.bulk_429
            if order.latency_ms is not None:
                self.latency = order.latency_ms / 1000

    def refuses_bulk(self) -> bool:
        with self._lock:
            if self._bulks_to_refuse == 0:
                return False
            self._bulks_to_refuse -= 1
            return True
