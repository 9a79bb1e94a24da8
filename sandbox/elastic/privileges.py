"""What a role grants: actions, and for indices the names on which.

Privileges are sets of action names, as in Elasticsearch (`IndexPrivilege`, `ClusterPrivilegeResolver`).
An index privilege holds for the very name in the request: `read` on an alias does not open the index
behind it, nor the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_AUTO_PUT_MAPPING = "indices:admin/mapping/auto_put"
AUTO_CREATE = "indices:admin/auto_create"

INDEX_PRIVILEGES: dict[str, tuple[str, ...]] = {
    "none": (),
    "all": ("indices:*",),
    "read": ("indices:data/read/*", "indices:admin/resolve/index"),
    "create": ("indices:data/write/index*", "indices:data/write/bulk*", _AUTO_PUT_MAPPING),
    "create_doc": ("indices:data/write/index:op_type/create", "indices:data/write/bulk*", _AUTO_PUT_MAPPING),
    "index": ("indices:data/write/index*", "indices:data/write/bulk*", "indices:data/write/update*", _AUTO_PUT_MAPPING),
    "delete": ("indices:data/write/delete*", "indices:data/write/bulk*"),
    "write": ("indices:data/write/*", _AUTO_PUT_MAPPING),
    "monitor": ("indices:monitor/*",),
    "manage": ("indices:monitor/*", "indices:admin/*", "indices:data/read/field_caps*"),
    "create_index": ("indices:admin/create", AUTO_CREATE),
    "delete_index": ("indices:admin/delete",),
    "view_index_metadata": (
        "indices:admin/aliases/get",
        "indices:admin/get",
        "indices:admin/mappings/fields/get*",
        "indices:admin/mappings/get",
        "indices:admin/validate/query*",
        "indices:monitor/settings/get",
        "indices:admin/resolve/index",
        "indices:data/read/field_caps*",
    ),
    "maintenance": ("indices:admin/refresh*", "indices:admin/flush*", "indices:admin/forcemerge*"),
    "auto_configure": (_AUTO_PUT_MAPPING, AUTO_CREATE),
}

_TEMPLATES = ("indices:admin/template/*", "indices:admin/index_template/*", "cluster:admin/component_template/*")
_SECURITY = "cluster:admin/xpack/security/*"

CLUSTER_PRIVILEGES: dict[str, tuple[str, ...]] = {
    "none": (),
    "all": ("cluster:*", *_TEMPLATES),
    "monitor": ("cluster:monitor/*", "indices:admin/template/get", "indices:admin/index_template/get"),
    "manage": ("cluster:*", *_TEMPLATES),
    "manage_index_templates": _TEMPLATES,
    "manage_security": (_SECURITY,),
    "manage_api_key": ("cluster:admin/xpack/security/api_key/*",),
    "manage_own_api_key": ("cluster:admin/xpack/security/api_key/*",),
}
# `manage` is everything but security.
_EXCLUDED = {"manage": (_SECURITY,)}


class DescriptorError(Exception):
    """A role descriptor that Elasticsearch, or this sandbox, refuses."""


@dataclass(frozen=True)
class IndexGrant:
    names: tuple[str, ...]
    actions: tuple[str, ...]


@dataclass(frozen=True)
class Privileges:
    cluster: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]  # granted and excluded patterns, a pair a privilege
    indices: tuple[IndexGrant, ...]

    def allow_cluster(self, action: str) -> bool:
        return any(_matches(granted, action) and not _matches(excluded, action) for granted, excluded in self.cluster)

    def allow_index(self, action: str, name: str) -> bool:
        """`name` may itself hold a wildcard: then one grant has to cover all that it can mean."""
        return any(_matches(grant.actions, action) and _matches(grant.names, name) for grant in self.indices)


def from_descriptors(descriptors: Mapping[str, Any]) -> Privileges:
    """The union of some role descriptors. No descriptor at all means the owner's rights: `elastic`, so all."""
    if not descriptors:
        descriptors = {"owner": {"cluster": ["all"], "indices": [{"names": ["*"], "privileges": ["all"]}]}}
    cluster, indices = [], []
    for descriptor in descriptors.values():
        cluster += [
            (CLUSTER_PRIVILEGES[name.lower()], _EXCLUDED.get(name.lower(), ()))
            for name in descriptor.get("cluster", [])
        ]
        for entry in _index_entries(descriptor):
            actions = tuple(
                action for name in entry["privileges"] for action in INDEX_PRIVILEGES.get(name.lower(), (name,))
            )
            indices.append(IndexGrant(_list(entry["names"]), actions))
    return Privileges(tuple(cluster), tuple(indices))


def validate(descriptor: Any) -> None:
    """Raises DescriptorError for what cannot be granted or cannot be enforced here."""
    if not isinstance(descriptor, dict):
        raise DescriptorError("a role descriptor is an object")
    unknown = set(descriptor) - {"cluster", "indices", "index", "applications", "run_as", "metadata", "description"}
    if unknown:
        raise DescriptorError(f"failed to parse role: unexpected field [{min(unknown)}]")
    if descriptor.get("applications") or descriptor.get("run_as"):
        raise DescriptorError("applications and run_as are not offered by the sandbox")
    for name in descriptor.get("cluster", []):
        if name.lower() not in CLUSTER_PRIVILEGES:
            raise DescriptorError(f"unknown cluster privilege [{name}]")
    for entry in _index_entries(descriptor):
        _validate_indices(entry)


def _validate_indices(entry: dict[str, Any]) -> None:
    if not entry.get("names") or not entry.get("privileges"):
        raise DescriptorError("indices privileges must refer to at least one index name or index name pattern")
    if entry.get("query") or entry.get("field_security"):
        raise DescriptorError("document and field level security are not offered by the sandbox")
    for name in _list(entry["names"]):
        if name.startswith("/"):
            raise DescriptorError(f"regular expressions as index names are not offered by the sandbox: [{name}]")
    for name in entry["privileges"]:
        if name.lower() not in INDEX_PRIVILEGES and not name.startswith("indices:"):
            raise DescriptorError(f"unknown index privilege [{name}]")


def _index_entries(descriptor: Mapping[str, Any]) -> list[dict[str, Any]]:
    return descriptor.get("indices") or descriptor.get("index") or []


def _list(names: str | list[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _matches(patterns: tuple[str, ...], text: str) -> bool:
    expression = _expression(patterns)
    return expression is not None and expression.fullmatch(text) is not None


@lru_cache(maxsize=1024)
def _expression(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    """`*` and `?` as Elasticsearch reads them. A `*` in the text is matched only by a `*` in the pattern."""
    if not patterns:
        return None
    translated = (re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "[^*]") for pattern in patterns)
    return re.compile("|".join(f"(?:{pattern})" for pattern in translated), re.DOTALL)
