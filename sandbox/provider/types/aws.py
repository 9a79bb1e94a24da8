"""What the AWS types share: errors by code, tags, and the mark by which a create knows its own object."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sandbox.provider.clouds import MARK
from sandbox.provider.errors import GoneError, ProviderError
from sandbox.provider.kinds import Properties, Resource

Tags = dict[str, str]


def error_code(error: Exception) -> str:
    """The service's code of a botocore ClientError, empty for any other error."""
    return getattr(error, "response", {}).get("Error", {}).get("Code", "")


@contextmanager
def gone_on(*codes: str) -> Iterator[None]:
    """Turns a service's words for "there is no such thing" into GoneError."""
    try:
        yield
    except Exception as error:
        if error_code(error) not in codes:
            raise
        raise GoneError(str(error)) from error


def wanted_tags(resource: Resource) -> Tags:
    """The tags of an object: the provider's, the program's and our mark."""
    return resource.clouds.default_tags | (resource.inputs.get("tags") or {}) | {MARK: resource.mark}


def found_tags(resource: Resource, tags: Tags) -> Properties:
    """`tags` and `tagsAll` as the real provider states them, without our mark."""
    visible = {key: value for key, value in tags.items() if key != MARK}
    defaults = resource.clouds.default_tags
    own = resource.inputs.get("tags") or {}
    return {
        "tags": {key: value for key, value in visible.items() if key in own or defaults.get(key) != value} or None,
        "tagsAll": visible,
    }


def surplus_tags(resource: Resource, present: Iterable[str]) -> list[str]:
    """The keys that an update removes."""
    return sorted(set(present) - wanted_tags(resource).keys())


def is_ours(resource: Resource, tags: Tags) -> bool:
    """Whether a create found the object that an earlier, lost create of the same resource made."""
    return resource.may_adopt and tags.get(MARK) == resource.mark


def pairs(tags: Tags, key: str = "Key", value: str = "Value") -> list[dict[str, str]]:
    return [{key: name, value: text} for name, text in tags.items()]


def from_pairs(tags: Iterable[dict[str, str]], key: str = "Key", value: str = "Value") -> Tags:
    return {tag[key]: tag[value] for tag in tags}


def given(properties: Properties, names: dict[str, str]) -> dict[str, Any]:
    """The request parameters among `names` (wire name → parameter) that a program gives."""
    return {parameter: properties[name] for name, parameter in names.items() if properties.get(name) is not None}


def wait_until(is_reached: Callable[[], bool], *, what: str, limit: float = 120, interval: float = 0.2) -> None:
    """Polls until the condition holds; ProviderError after `limit` seconds."""
    deadline = time.monotonic() + limit
    pause = threading.Event()
    while not is_reached():
        if time.monotonic() > deadline:
            raise ProviderError(f"{what}: not reached within {limit:.0f} s")
        pause.wait(interval)
