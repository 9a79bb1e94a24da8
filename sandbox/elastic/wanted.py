"""What a request to the deployments API asks for, checked before anything is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sandbox.elastic import launch

_AWS_REGION = re.compile(r"^(?:aws-)?([a-z]{2}(?:-[a-z]+)+-\d)$")


class ApiError(Exception):
    """Answered as `{"errors": [{"code", "message"}]}`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Wanted:
    """What a create request asks for, checked."""

    name: str
    region: str
    ref_id: str
    key_path: str | None
    rulesets: tuple[str, ...]
    tags: list[dict[str, str]]


def checked(body: dict[str, Any]) -> Wanted:
    """Raises ApiError for what Elastic Cloud, or this sandbox, does not make."""
    resources = (body.get("resources") or {}).get("elasticsearch") or []
    if len(resources) != 1:
        raise ApiError(400, "deployments.elasticsearch.missing", "exactly one Elasticsearch resource is needed")
    others = sorted(
        kind for kind, wanted in (body.get("resources") or {}).items() if wanted and kind != "elasticsearch"
    )
    if others:
        raise ApiError(400, "sandbox.not_offered", f"the sandbox makes Elasticsearch only, not {', '.join(others)}")
    [resource] = resources
    check_version(resource)
    if not body.get("name") or not resource.get("region"):
        raise ApiError(400, "deployments.invalid", "a deployment needs a name, and its resource a region")
    settings = body.get("settings") or {}
    return Wanted(
        name=body["name"],
        region=resource["region"],
        ref_id=resource.get("ref_id") or "main-elasticsearch",
        key_path=key_path(settings),
        rulesets=tuple((settings.get("traffic_filter_settings") or {}).get("rulesets") or ()),
        tags=(body.get("metadata") or {}).get("tags") or [],
    )


def key_path(settings: dict[str, Any]) -> str | None:
    byok = settings.get("byok")
    if byok is None:
        return None
    path = byok.get("key_resource_path")
    if not path:
        raise ApiError(400, "deployments.byok.invalid_key", "settings.byok needs key_resource_path")
    return path


def check_version(resource: dict[str, Any]) -> None:
    version = ((resource.get("plan") or {}).get("elasticsearch") or {}).get("version")
    if version != launch.VERSION:
        raise ApiError(
            400, "clusters.plan.version_not_available", f"version [{version}] is not available, only [{launch.VERSION}]"
        )


def aws_region(region: str) -> str:
    """`eu-west-1` of Elastic's `eu-west-1` or `aws-eu-west-1`. Other clouds' keys are not offered here."""
    found = _AWS_REGION.match(region)
    if found is None:
        raise ApiError(400, "deployments.byok.invalid_key", f"the sandbox offers keys on AWS only, not in [{region}]")
    return found[1]
