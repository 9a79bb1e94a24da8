"""When two property values mean the same, and what that says of a resource: nothing, an update, a replacement."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from sandbox.provider.kinds import Kind, Properties
from sandbox.provider.schema import ResourceSchema
from sandbox.provider.values import Archive, has_unknown

_ABSENT = (None, "", False, 0, [], {})


def is_absent(value: Any) -> bool:
    """Whether a value says nothing: Terraform's SDK, under the real providers, keeps unset and zero alike."""
    return not isinstance(value, Archive) and value in _ABSENT


def canonical_policy(text: str) -> Any:
    """An IAM document reduced to its meaning: one-element lists, orders, an account and its root ARN."""
    document = json.loads(text)
    statements = document.get("Statement", [])
    if isinstance(statements, dict):
        statements = [statements]
    return {**document, "Statement": [_canonical_clause(statement) for statement in statements]}


def _canonical_clause(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical_clause(item) for key, item in value.items()}
    if isinstance(value, list):
        items = sorted((_canonical_clause(item) for item in value), key=repr)
        return items[0] if len(items) == 1 else items
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    root = re.fullmatch(r"arn:aws:iam::(\d{12}):root", text)
    return root.group(1) if root else text


def canonical(kind: Kind, name: str, value: Any) -> Any:
    """A property's value in the form in which two are compared."""
    if isinstance(value, str) and value and name in kind.policies:
        return canonical_policy(value)
    if isinstance(value, str) and value and name in kind.documents:
        return json.loads(value)
    if isinstance(value, Archive):
        return value.hash
    stripped = _stripped(value)
    if name in kind.sets and isinstance(stripped, list):
        return sorted(stripped, key=repr)
    return stripped


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        items = {key: _stripped(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if not is_absent(item)}
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def is_same(kind: Kind, name: str, wanted: Any, found: Any) -> bool:
    """Whether what a program wants of a property is what the cloud holds."""
    if has_unknown(wanted):
        return False
    if name in kind.same and wanted is not None and found is not None:
        return kind.same[name](wanted, found)
    wanted, found = canonical(kind, name, wanted), canonical(kind, name, found)
    if is_absent(wanted) and is_absent(found):
        return True
    return _contains(found, wanted) if name in kind.partial else wanted == found


def _contains(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_contains(found.get(key), item) for key, item in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_contains(have, want) for have, want in zip(found, wanted, strict=True))
        )
    return wanted == found or (is_absent(wanted) and is_absent(found))


def changes(
    kind: Kind, schema: ResourceSchema, *, state: Properties, old_inputs: Properties, inputs: Properties
) -> Iterator[str]:
    """The inputs in which a program differs from the recorded state."""
    for name in schema.inputs:
        wanted = inputs.get(name)
        found = old_inputs.get(name) if name in kind.unread else state.get(name, old_inputs.get(name))
        if wanted is None:
            is_filled_in = schema.outputs.get(name, False) or name in kind.computed
            if not is_filled_in and not is_absent(canonical(kind, name, found)):
                yield name
        elif not is_same(kind, name, wanted, found) or (name in kind.partial and _lost(old_inputs.get(name), wanted)):
            yield name


def _lost(old: Any, new: Any) -> bool:
    """Whether a program stopped saying something within an object that it says in part."""
    if isinstance(old, dict) and isinstance(new, dict):
        return any(not is_absent(item) and (key not in new or _lost(item, new[key])) for key, item in old.items())
    return False


def settle(kind: Kind, inputs: Properties, found: Properties) -> tuple[Properties, Properties]:
    """Inputs and state as a read leaves them: the program's spelling stands wherever it means what was found.

    `found` may lack inputs that cannot be read (a secret's text, a function's code); they stay as they were.
    """
    kept, state = dict(inputs), {name: value for name, value in found.items() if value is not None}
    for name, wanted in inputs.items():
        if name.startswith("__") or (name in kind.unread and name in found):
            continue  # the bridge's own book-keeping, or what only the program knows whole
        if name not in found:
            state[name] = wanted
        elif is_same(kind, name, wanted, found[name]):
            if name not in kind.partial:
                state[name] = wanted
        elif found[name] is None:
            del kept[name]
        else:
            kept[name] = _restricted(found[name], wanted) if name in kind.partial else found[name]
    return kept, state


def _restricted(found: Any, wanted: Any) -> Any:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return {key: _restricted(found.get(key), item) for key, item in wanted.items()}
    return found
