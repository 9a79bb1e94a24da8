"""What Elastic Cloud is asked directly, as its provider for Pulumi asks: which versions it offers."""

from __future__ import annotations

import os

import httpx

from migrate.errors import CloudError, RefusedInput
from migrate.operations import Plan

ENDPOINT = "https://api.elastic-cloud.com"
SECONDS = 30


def require_offered(made: Plan) -> None:
    """Raises RefusedInput for a plan that would make a search of a version which Elastic Cloud does not offer.

    Before it begins: a deployment that can never be made would stop the plan's way back too, which makes what it purges.
    A plan that brings no version asks nothing.
    """
    held = {search.version for search in made.start.searches}
    wanted = sorted({search.version for phase in made.phases for search in phase.layout.searches} - held)
    if not wanted or not held:
        return
    offered = offered_versions()
    for version in wanted:
        if version not in offered:
            major = version.split(".", maxsplit=1)[0]
            fit = [one for one in offered if one.split(".", maxsplit=1)[0] == major] or offered
            raise RefusedInput(
                f"Elastic Cloud does not offer Elasticsearch {version}; nothing was changed",
                hint=f"keyshift upgrade {made.start.tenant} --search-version X, of: {', '.join(fit[:8])}",
                code="version-not-offered",
            )


def offered_versions() -> list[str]:
    """Newest first (API: GET /api/v1/stack/versions). Raises CloudError when it cannot be asked."""
    endpoint, key = os.environ.get("EC_ENDPOINT") or ENDPOINT, os.environ.get("EC_API_KEY", "")
    if not key:
        raise CloudError(
            "Elastic Cloud was not asked which versions it offers, for want of a key",
            hint="set EC_API_KEY, as for pulumi up, then run the same command again",
            code="credentials",
        )
    try:
        answer = httpx.get(
            f"{endpoint.rstrip('/')}/api/v1/stack/versions", headers={"Authorization": f"ApiKey {key}"}, timeout=SECONDS
        )
        answer.raise_for_status()
        found = [str(one["version"]) for one in answer.json()["stacks"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        said = f"{type(error).__name__} {error}" if not isinstance(error, httpx.HTTPStatusError) else str(error)
        raise CloudError(
            f"Elastic Cloud could not be asked which versions it offers: {' '.join(said.split())}",
            hint="see EC_ENDPOINT and EC_API_KEY, then run the same command again",
            code="elastic-cloud",
        ) from error
    return sorted(found, key=_numbers, reverse=True)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split(".") if part.isdecimal())
