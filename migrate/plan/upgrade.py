"""Upgrade: another version of Elasticsearch for a tenant, by a new search beside the old one."""

from __future__ import annotations

import re

from migrate.errors import RefusedInput
from migrate.operations import Phase, Request
from migrate.plan.rotate import rebuild_search
from stacks.layout import SEARCH_VERSION_PATTERN, Layout

SUPPORTED_MAJOR = 8
"""Elasticsearch's client speaks to servers of its own major version, and ours is 8.x (requirements/runtime.in)."""


def upgrade(request: Request, layout: Layout) -> list[Phase]:
    """A new search of the wanted version, filled from the storage that serves; storage and keys stay as they are.

    Never in place: a deployment that was upgraded cannot be taken back (Elastic: "you cannot downgrade"), the old search
    beside the new one can serve on.
    """
    if layout.serves is None:
        raise RefusedInput(
            f"tenant {layout.tenant} serves nothing yet, so there is no search to upgrade",
            hint=f"keyshift resume {layout.tenant}",
            code="serves-nothing",
        )
    _refuse_unfit(request.search_version or "", layout, layout.search(layout.serves.search).version)
    return rebuild_search(request, layout, version=request.search_version)


def _refuse_unfit(wanted: str, layout: Layout, now: str) -> None:
    again = f"keyshift upgrade {layout.tenant} --search-version {SUPPORTED_MAJOR}.MINOR.PATCH"
    if not re.fullmatch(SEARCH_VERSION_PATTERN, wanted):
        raise RefusedInput(
            f"{wanted or 'nothing'} is no version of Elasticsearch; nothing was changed",
            hint=again,
            code="search-version",
        )
    if _numbers(wanted)[0] != SUPPORTED_MAJOR:
        raise RefusedInput(
            f"this Keyshift speaks to Elasticsearch {SUPPORTED_MAJOR}.x, not {wanted}; nothing was changed",
            hint=again,
            code="search-version",
        )
    if _numbers(wanted) == _numbers(now):
        raise RefusedInput(
            f"the search of tenant {layout.tenant} is at {now} already; nothing was changed",
            hint=f"keyshift tenant show {layout.tenant}",
            code="same-version",
        )
    if _numbers(wanted) < _numbers(now):
        raise RefusedInput(
            f"the search of tenant {layout.tenant} is at {now}; {wanted} is older, and nothing was changed",
            hint=again,
            code="downgrade",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
