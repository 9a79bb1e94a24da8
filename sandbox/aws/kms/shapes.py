"""Requests checked against AWS's own API model (the one botocore ships), before anything else runs."""

import base64
import binascii
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from botocore.loaders import Loader

from sandbox.aws.kms import refusals


@cache
def _model() -> dict[str, Any]:
    return Loader().load_service_model("kms", "service-2")


@cache
def operation_names() -> frozenset[str]:
    """Every operation that AWS KMS has."""
    return frozenset(_model()["operations"])


def decode(operation: str, request: dict[str, Any]) -> dict[str, Any]:
    """The request with its blobs as bytes.

    Raises KmsError: SerializationException for a wrong JSON type, ValidationException for a missing
    member or a broken constraint, in the words AWS uses.
    """
    return _structure("", _model()["operations"][operation]["input"]["shape"], request)


def _invalid(path: str, value: str, constraint: str) -> refusals.KmsError:
    text = f"1 validation error detected: Value{value} at '{path}' failed to satisfy constraint: {constraint}"
    return refusals.INVALID_REQUEST.error(text=text)


def _member(path: str, name: str, value: Any) -> Any:
    shape = _model()["shapes"][name]
    return _READERS[shape["type"]](path, name, value)


def _structure(path: str, name: str, value: Any) -> dict[str, Any]:
    shape = _model()["shapes"][name]
    if not isinstance(value, dict):
        raise refusals.NOT_READABLE.error(text=f"'{path or 'the request'}' is not a structure")
    given = {member: content for member, content in value.items() if content is not None}
    prefix = f"{path}." if path else ""
    if unknown := given.keys() - shape["members"].keys():
        raise refusals.INVALID_REQUEST.error(text=f"'{prefix}{min(unknown)}' is not a parameter of this operation")
    for member in shape.get("required", ()):
        if member not in given:
            raise _invalid(prefix + _camel(member), " null", "Member must not be null")
    return {
        member: _member(prefix + _camel(member), shape["members"][member]["shape"], content)
        for member, content in given.items()
    }


def _camel(member: str) -> str:
    return member[:1].lower() + member[1:]


def _limits(path: str, shape: dict[str, Any], value: str, size: int, measure: str) -> None:
    if size < shape.get("min", 0):
        raise _invalid(path, value, f"Member must have {measure} greater than or equal to {shape['min']}")
    if "max" in shape and size > shape["max"]:
        raise _invalid(path, value, f"Member must have {measure} less than or equal to {shape['max']}")


def _string(path: str, name: str, value: Any) -> str:
    shape = _model()["shapes"][name]
    if not isinstance(value, str):
        raise refusals.NOT_READABLE.error(text=f"'{path}' is not a string")
    if "enum" in shape and value not in shape["enum"]:
        raise _invalid(path, f" '{value}'", f"Member must satisfy enum value set: [{', '.join(shape['enum'])}]")
    _limits(path, shape, f" '{value}'", len(value), "length")
    if value and "pattern" in shape and not re.fullmatch(shape["pattern"], value):
        raise _invalid(path, f" '{value}'", f"Member must satisfy regular expression pattern: {shape['pattern']}")
    return value


def _blob(path: str, name: str, value: Any) -> bytes:
    """The value never shows in an error: it may be a plaintext."""
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise refusals.NOT_READABLE.error(text=f"'{path}' is not base64") from error
    _limits(path, _model()["shapes"][name], "", len(content), "length")
    return content


def _integer(path: str, name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise refusals.NOT_READABLE.error(text=f"'{path}' is not an integer")
    _limits(path, _model()["shapes"][name], f" '{value}'", value, "value")
    return value


def _boolean(path: str, _name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise refusals.NOT_READABLE.error(text=f"'{path}' is not a boolean")
    return value


def _timestamp(path: str, _name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise refusals.NOT_READABLE.error(text=f"'{path}' is not a timestamp in seconds")
    return float(value)


def _list(path: str, name: str, value: Any) -> list[Any]:
    shape = _model()["shapes"][name]
    if not isinstance(value, list):
        raise refusals.NOT_READABLE.error(text=f"'{path}' is not a list")
    _limits(path, shape, "", len(value), "length")
    return [_member(f"{path}.{i}.member", shape["member"]["shape"], item) for i, item in enumerate(value, 1)]


def _map(path: str, name: str, value: Any) -> dict[str, Any]:
    shape = _model()["shapes"][name]
    if not isinstance(value, dict):
        raise refusals.NOT_READABLE.error(text=f"'{path}' is not a map")
    return {
        _string(path, shape["key"]["shape"], key): _member(f"{path}.{key}", shape["value"]["shape"], content)
        for key, content in value.items()
    }


_READERS: dict[str, Callable[[str, str, Any], Any]] = {
    "structure": _structure,
    "string": _string,
    "blob": _blob,
    "integer": _integer,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "list": _list,
    "map": _map,
}
