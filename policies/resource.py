"""What a rule looks at: a resource as the program asked for it, frozen, with the unknown as a value."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


class Unknown:
    """A value that only the update will tell. Equal to nothing but itself, and never true."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Resource:
    """`props` are its inputs, `deps` the URNs that each input comes from, `outputs` what is known of the rest.

    While a resource is judged alone nothing is known of `deps` and `outputs`: only rules of a whole stack see them.
    """

    urn: str
    type: str
    props: Mapping[str, Any]
    deps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    protect: bool = False

    @property
    def name(self) -> str:
        return self.urn.rpartition("::")[2]

    @property
    def unit(self) -> str:
        """The unit of the layout that it belongs to, by its logical name: `s2-bucket` -> `s2`."""
        return self.name.partition("-")[0]

    @property
    def stack(self) -> str:
        return self.urn.split("::")[0].rpartition(":")[2]

    @property
    def tenant(self) -> str | None:
        """The tenant whose stack it is in; None in a stamp's."""
        return self.stack.removeprefix("tenant-") if self.stack.startswith("tenant-") else None

    def get(self, path: str, default: Any = None) -> Any:
        """The property at a path of names and numbers; UNKNOWN as soon as a part of the path is unknown."""
        found: Any = self.props
        for part in path.split("."):
            if found is UNKNOWN:
                return UNKNOWN
            if isinstance(found, Mapping):
                found = found.get(part)
            elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
                found = found[int(part)]
            else:
                return default
        return default if found is None else found

    def comes_from(self, property_: str) -> set[str]:
        """The names of the resources that an input is made of."""
        return {urn.rpartition("::")[2] for urn in self.deps.get(property_, ())}


@dataclass(frozen=True)
class Program:
    """Everything that one stack asks for, and what its configuration says of the tenant."""

    resources: tuple[Resource, ...]

    def of(self, *types: str) -> Iterator[Resource]:
        return (one for one in self.resources if one.type in types)

    def named(self, name: str) -> Resource | None:
        return next((one for one in self.resources if one.name == name), None)

    def belonging(self, type_: str, unit: str) -> Resource | None:
        return next((one for one in self.of(type_) if one.unit == unit), None)

    @property
    def stack(self) -> Resource | None:
        return next(self.of("pulumi:pulumi:Stack"), None)


def document(value: Any) -> Any:
    """A JSON property as a structure; UNKNOWN stays, and what is no JSON is an empty document."""
    if value is UNKNOWN or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return {}
