"""Byte ranges of a read (RFC 9110, section 14, as far as API_GetObject takes it)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sandbox.aws.s3.message import S3Error

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_UNSATISFIABLE = "The requested range is not satisfiable"


@dataclass(frozen=True)
class Span:
    """A range of an object's bytes, both ends included, of `total`."""

    first: int
    last: int
    total: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1

    @property
    def headers(self) -> dict[str, str]:
        return {
            "content-range": f"bytes {self.first}-{self.last}/{self.total}",
            "content-length": str(self.length),
        }


def parse_range(value: str, total: int) -> Span | None:
    """A single byte range. None, which means the whole object, for what is no range S3 serves (API_GetObject)."""
    found = _RANGE.fullmatch(value.replace(" ", ""))
    if found is None or found[0] == "bytes=-":
        return None
    if not found[1]:
        first, last = max(0, total - int(found[2])), total - 1
    else:
        first, last = int(found[1]), min(int(found[2] or total - 1), total - 1)
        if found[2] and int(found[2]) < int(found[1]):
            return None
    if first >= total or last < first:
        fields = {"RangeRequested": value, "ActualObjectSize": str(total)}
        headers = {"content-range": f"bytes */{total}"}
        raise S3Error("InvalidRange", _UNSATISFIABLE, 416, fields=fields, headers=headers)
    return Span(first, last, total)
