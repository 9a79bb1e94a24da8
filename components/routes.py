"""A pipeline as those see it who give rights: plain data, the same on every cloud."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Route:
    """`is_attached`: events reach it, so it reads storage and writes search.

    `takes_edits`: it serves, so it also writes to the storage what is edited in the search.
    """

    id: str
    storage: str
    search: str
    is_attached: bool
    takes_edits: bool = False
