"""What a Resource Manager path names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """A resource or a collection. `types` and `names` run side by side; a collection lacks the last name."""

    subscription: str
    group: str
    namespace: str
    types: tuple[str, ...]
    names: tuple[str, ...]
    scope: str = ""  # of an extension resource: what it is attached to
    action: str = ""

    @property
    def is_collection(self) -> bool:
        return len(self.names) < len(self.types)

    @property
    def type(self) -> str:
        """`Microsoft.Storage/storageAccounts/blobServices`; a group is `Microsoft.Resources/resourceGroups`."""
        return "/".join((self.namespace, *self.types))

    @property
    def name(self) -> str:
        return self.names[-1] if self.names else ""

    @property
    def group_id(self) -> str:
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.group}"

    @property
    def id(self) -> str:
        if self.types == ("resourceGroups",):
            return self.group_id
        base = self.scope or (self.group_id if self.group else f"/subscriptions/{self.subscription}")
        pairs = "".join(f"/{kind}/{name}" for kind, name in zip(self.types, self.names, strict=False))
        return f"{base}/providers/{self.namespace}{pairs}"

    @property
    def parent_id(self) -> str:
        """The resource that this one is part of: itself without its last type and name."""
        return self.id.rsplit("/", 2)[0]


_EXTENSION = "microsoft.authorization"


def parse(segments: tuple[str, ...]) -> Place | None:
    """The place of a path, None if it has not the form of one."""
    lowered = [segment.lower() for segment in segments]
    if len(segments) < 2 or lowered[0] != "subscriptions":
        if lowered[:2] == ["providers", _EXTENSION]:
            return _resource(segments, 0, "", "", "")
        return None
    subscription = segments[1].lower()
    group = segments[3] if len(segments) > 3 and lowered[2] == "resourcegroups" else ""
    if len(segments) == 4 and group:
        return Place(subscription, group, "Microsoft.Resources", ("resourceGroups",), (group,))
    if len(segments) == 3 and lowered[2] == "resourcegroups":
        return Place(subscription, "", "Microsoft.Resources", ("resourceGroups",), ())
    if "providers" not in lowered:
        return None
    at = len(lowered) - 1 - lowered[::-1].index("providers")
    scope = "/" + "/".join(segments[:at]) if at + 1 < len(segments) and lowered[at + 1] == _EXTENSION else ""
    return _resource(segments, at, subscription, group, scope)


def _resource(segments: tuple[str, ...], at: int, subscription: str, group: str, scope: str) -> Place | None:
    rest = segments[at + 2 :]
    if not rest:
        return None
    return Place(subscription, group, segments[at + 1], rest[::2], rest[1::2], scope)
