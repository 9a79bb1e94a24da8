"""Faults on demand: a slow, busy or broken AWS, for the next so many S3 requests.

POST /_sandbox/faults with any of: `latency_ms` (every S3 request, until set again), `slowdown_503`
(the next n S3 requests are refused with SlowDown), `drop` (the next n S3 requests are carried out,
but the connection breaks before the answer), `truncate` (the next n S3 answers that have a body break
off in its middle), `page_limit` (a listing holds so many keys at most, until set to 0), `kms_throttle`
(the next n KMS calls, S3's included).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class Faults:
    latency_ms: int = 0
    slowdown_503: int = 0
    drop: int = 0
    truncate: int = 0
    page_limit: int = 0
    kms_throttle: int = 0

    def update(self, asked: Mapping[str, Any]) -> None:
        """Set what is named, leave the rest. Raises ValueError for an unknown name or no count."""
        known = {field.name for field in fields(self)}
        for name, value in asked.items():
            if name not in known:
                raise ValueError(f"{name} is no fault; known are {', '.join(sorted(known))}")
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} takes a whole number, not {value!r}")
            setattr(self, name, value)

    def strikes(self, name: str) -> bool:
        """Whether the fault is due, using up one of its count."""
        left = getattr(self, name)
        if left:
            setattr(self, name, left - 1)
        return left > 0

    def state(self) -> dict[str, int]:
        return asdict(self)
