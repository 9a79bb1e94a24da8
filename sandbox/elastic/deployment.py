"""One deployment: its URL, its node, its key.

A thread of its own keeps it: starts the node, starts it again should it die, and asks every few
seconds whether KMS still unwraps the data key. Lost: the front refuses, then the node is stopped.
Back: the node is started and the front opens. Elastic Cloud documents up to 30 minutes for the former.
KMS out of reach locks nothing, but a node is only started after KMS has unwrapped the key.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from sandbox.elastic import node as nodes
from sandbox.elastic.customer_key import CustomerKeys, Usability
from sandbox.elastic.faults import Faults
from sandbox.elastic.housing import Housing
from sandbox.elastic.record import DeploymentRecord, Store

log = logging.getLogger(__name__)

_PAUSE_AFTER_A_FAILED_START = 5.0  # seconds


class Phase(StrEnum):
    """`locked` is the sandbox's word; what Elastic's API shows for it is not documented."""

    INITIALIZING = "initializing"
    STARTED = "started"
    LOCKED = "locked"
    STOPPED = "stopped"


class Deployment:
    """`port` of the node is None while none serves. `reason` says why it is not started."""

    def __init__(
        self,
        record: DeploymentRecord,
        store: Store[DeploymentRecord],
        housing: Housing,
        keys: CustomerKeys,
        key_check_seconds: float,
    ) -> None:
        self.record = record
        self.phase = Phase.STOPPED if record.is_shut_down else Phase.INITIALIZING
        self.reason = ""
        self.faults = Faults()
        self._store = store
        self._housing = housing
        self._keys = keys
        self._interval = key_check_seconds
        self._node: nodes.Node | None = None
        self._record_lock = threading.Lock()
        self._closing = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=f"deployment-{record.id[:8]}", daemon=True)

    def open(self) -> None:
        """Begin to keep it. Its node starts in the background."""
        if not self.record.is_shut_down:
            self._keeper.start()

    def close(self) -> None:
        """Stop the node cleanly and keep all data. Returns when the node has ended."""
        self._closing.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self.phase = Phase.STOPPED

    def shut_down(self) -> None:
        """Stop for good: the data is deleted, locked first as Elastic Cloud does."""
        self.close()
        nodes.remove(self._housing, self.record.cluster_id)
        self.update(lambda _: {"is_shut_down": True})

    def node_port(self) -> int | None:
        """The node's port while the deployment serves."""
        node = self._node
        return node.port if node is not None and self.phase is Phase.STARTED else None

    def node_pid(self) -> int | None:
        node = self._node
        return node.pid if node is not None else None

    def kill_node(self) -> None:
        if self._node is not None:
            self._node.kill()

    def update(self, change: Callable[[DeploymentRecord], dict[str, Any]]) -> None:
        """Change the record and keep it. `change` gets the present record and returns new values."""
        with self._record_lock:
            record = self.record.model_copy(update=change(self.record))
            self._store.save(record)
            self.record = record

    def _keep(self) -> None:
        while not self._closing.is_set():
            try:
                pause = self._tend()
            except Exception as error:
                log.exception("deployment %s is not tended", self.record.id)
                self.reason, pause = str(error), _PAUSE_AFTER_A_FAILED_START
            self._closing.wait(pause)
        self.phase = Phase.STOPPED
        self._stop_node()

    def _tend(self) -> float:
        """Do what the key and the node need now. Returns the seconds until the next look."""
        usability = self._usability()
        if usability is Usability.LOST:
            self._lock()
        elif self._node is None or self._node.ended.is_set():
            if usability is Usability.USABLE:
                return self._start_node()
            if self.phase is Phase.STARTED:
                self.phase = Phase.INITIALIZING
        return self._interval

    def _usability(self) -> Usability:
        key = self.record.key
        if key is None:
            return Usability.USABLE
        finding = self._keys.check(key)
        self.reason = finding.reason
        if finding.key != key:
            log.info("deployment %s: the alias %s now names %s", self.record.id, key.path, finding.key.key_arn)
            self.update(lambda _: {"key": finding.key})
        return finding.usability

    def _lock(self) -> None:
        if self.phase is not Phase.LOCKED:
            log.warning("deployment %s is locked: %s", self.record.id, self.reason)
        self.phase = Phase.LOCKED  # the front refuses before the node is gone
        self._stop_node()

    def _start_node(self) -> float:
        self.phase = Phase.INITIALIZING
        self._stop_node()
        try:
            self._node = nodes.start(self._housing, self.record.cluster_id, self._closing)
            self._node.wait_until_ready(self._closing)
        except nodes.NodeError as error:
            log.warning("deployment %s: %s", self.record.id, error)
            self.reason = str(error)
            self._stop_node()
            return _PAUSE_AFTER_A_FAILED_START
        if not self._closing.is_set():
            self.phase, self.reason = Phase.STARTED, ""
        return self._interval

    def _stop_node(self) -> None:
        if self._node is not None:
            self._node.stop()
            self._node = None
