"""Faults on demand: the next calls fail as KMS fails under load."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sandbox.aws.kms import refusals

if TYPE_CHECKING:
    from sandbox.aws.kms.server import Kms

_KINDS = {"throttle": refusals.THROTTLED, "internal": refusals.INTERNAL}


class Faults:
    """How many of the next calls fail, by kind; an empty set of operations means any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = dict.fromkeys(_KINDS, 0)
        self._operations: frozenset[str] = frozenset()

    def set(self, *, throttle: int = 0, internal: int = 0, operations: frozenset[str] = frozenset()) -> None:
        with self._lock:
            self._left = {"throttle": throttle, "internal": internal}
            self._operations = operations

    def state(self) -> dict[str, Any]:
        with self._lock:
            return {**self._left, "operations": sorted(self._operations)}

    def strike(self, operation: str) -> None:
        """Raise the fault that is due for this call, if any."""
        if not any(self._left.values()):
            return
        with self._lock:
            if self._operations and operation not in self._operations:
                return
            for kind, refusal in _KINDS.items():
                if self._left[kind]:
                    self._left[kind] -= 1
                    raise refusal.error()


def set_faults(kms: "Kms", body: Mapping[str, Any]) -> dict[str, Any]:
    """For the admin endpoint: {"throttle": n, "internal": n, "operations": [names]}; {} clears. Returns the state.

    Raises ValueError for anything else.
    """
    if unknown := body.keys() - {*_KINDS, "operations"}:
        raise ValueError(f"unknown fault: {min(unknown)}")
    counts = {kind: body.get(kind, 0) for kind in _KINDS}
    if not all(isinstance(count, int) and count >= 0 for count in counts.values()):
        raise ValueError("a fault is a number of calls")
    kms.faults.set(**counts, operations=frozenset(body.get("operations", ())))
    return kms.faults.state()
