"""The Check of a resource's inputs: names, types, what is required, and what the real provider adds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from sandbox.provider.kinds import Autoname, Kind, Properties
from sandbox.provider.schema import Property, Schema
from sandbox.provider.values import UNKNOWN, Archive

_SCALARS = {"string": str, "boolean": bool, "integer": int, "number": (int, float), "archive": Archive}


def problems(
    schema: Schema, owner: str, properties: dict[str, Property], values: Properties
) -> Iterator[tuple[str, str]]:
    """(path, reason) for each unknown, missing or mistyped property, at any depth."""
    yield from _object_problems(schema, owner, properties, values, "")


def _object_problems(
    schema: Schema, owner: str, properties: dict[str, Property], values: Properties, path: str
) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if name.startswith("__"):
            continue  # the engine's own, such as __internal
        if name not in properties:
            yield path + name, f"unknown property '{path}{name}': {owner} has no property of that name"
        else:
            yield from _value_problems(schema, properties[name].type, value, path + name)
    for name, property_ in properties.items():
        if property_.is_required and values.get(name) is None:
            yield path + name, f"missing required property '{path}{name}' of {owner}"


def _value_problems(schema: Schema, type_: str, value: Any, path: str) -> Iterator[tuple[str, str]]:
    if value is UNKNOWN or value is None or type_ == "any":
        return
    alternatives = type_.split("|")
    fitting = [alternative for alternative in alternatives if _fits(alternative, value)]
    if not fitting:
        yield path, f"property '{path}' must be {_words(type_)}, not {type(value).__name__}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _value_problems(schema, fitting[0][1:-1], item, f"{path}[{index}]")
    elif fitting[0].startswith("{"):
        for key, item in value.items():
            yield from _value_problems(schema, fitting[0][1:-1], item, f"{path}.{key}")
    elif fitting[0].startswith("#"):
        # of a union, the object that the value comes closest to
        yield from min(
            (list(_object_problems(schema, name[1:], schema.types[name[1:]], value, f"{path}.")) for name in fitting),
            key=len,
        )


def _fits(type_: str, value: Any) -> bool:
    if type_.startswith("["):
        return isinstance(value, list)
    if type_.startswith(("{", "#")):
        return isinstance(value, dict)
    if isinstance(value, bool):
        return type_ == "boolean"
    return isinstance(value, _SCALARS[type_])


def _words(type_: str) -> str:
    words = {"[": "a list", "{": "a map", "#": "an object", "i": "an integer", "a": "an archive"}
    return " or ".join(words.get(part[0], f"a {part}") for part in type_.split("|"))


def kind_problems(kind: Kind, values: Properties) -> Iterator[tuple[str, str]]:
    """(property, reason) for what this type in particular refuses."""
    for name in sorted(kind.unsupported & values.keys()):
        yield name, f"property '{name}' is not offered by the sandbox's provider"
    for name in sorted((kind.policies | kind.documents) & values.keys()):
        if isinstance(values[name], str) and not _is_json(values[name]):
            yield name, f"property '{name}' contains an invalid JSON document"
    yield from kind.validate(values)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


DEFAULTS = "__defaults"
"""The input in which the real providers too keep the names of what they filled in."""


def filled(kind: Kind, values: Properties, *, urn: str, olds: Properties, taken: str | None) -> Properties:
    """What the real provider adds to the inputs: defaults, documents as text, a name, and the list of these.

    A name made earlier is kept. `taken` is the name of the object that this one replaces: a new one is
    made. Names depend on the URN and nothing else, so that a lost create finds its object again.
    """
    added = {name: default for name, default in kind.defaults.items() if values.get(name) is None}
    autoname = kind.autoname
    if autoname and values.get(autoname.property) is None:
        was_made = autoname.property in olds.get(DEFAULTS, ())
        added[autoname.property] = olds[autoname.property] if was_made else _generated(autoname, urn, taken)
    texts = {name: json.dumps(values[name]) for name in kind.policies if isinstance(values.get(name), dict)}
    return {**added, **texts, DEFAULTS: sorted(added)}


def is_deleted_first(kind: Kind, inputs: Properties) -> bool:
    """Whether a replacement has to delete first, because the program gave the name."""
    return (
        kind.autoname is not None
        and kind.autoname.deletes_first
        and DEFAULTS in inputs
        and kind.autoname.property not in inputs[DEFAULTS]
    )


def _generated(autoname: Autoname, urn: str, taken: str | None) -> str:
    digits = hashlib.sha256(f"{urn} {taken or ''}".encode()).hexdigest()[: autoname.suffix_digits]
    logical = urn.rsplit("::", 1)[1]
    room = autoname.max_length - len(autoname.prefix) - autoname.suffix_digits - 1
    name = f"{autoname.prefix}{logical[:room]}-{digits}"
    return name.lower() if autoname.is_lower else name
