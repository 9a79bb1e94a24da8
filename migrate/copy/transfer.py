"""From where to where a move copies, and what a pass of it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from migrate.copy.manifest import Manifest
from migrate.copy.store import Store

GIGABYTE = 1024**3
COPY_LIMIT = 5 * GIGABYTE
PART_BYTES = GIGABYTE

S = TypeVar("S", bound=Store)


@dataclass(frozen=True)
class Transfer(Generic[S]):
    """From where to where, what is known of it, and how it is cut: threads and multipart in bytes."""

    source: S
    target: S
    manifest: Manifest
    threads: int = 16
    multipart_above: int = COPY_LIMIT
    part_bytes: int = PART_BYTES


@dataclass(frozen=True)
class CopyPass:
    """What one pass did. `adopted`: copies that an interrupted pass had made and not noted.

    `source`: the fingerprint of the listing of the source that it copied.
    """

    number: int
    listed: int
    copied: int
    copied_bytes: int
    delete_markers: int
    removed: int
    adopted: int
    uploads_aborted: int
    source: str
