"""Property values between Pulumi's wire form and Python.

On the wire an unknown is a reserved string and a secret, asset, archive or output is a struct that carries
a signature. Here they are `UNKNOWN`, `Asset` and `Archive`; secrets are taken off on the way in, with the
names of the top-level properties that held one, and put back on the way out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import struct_pb2

# The signatures of pulumi/sdk: go/common/resource/properties.go and plugin/rpc.go.
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_ASSET = "c44067f5952c0a294b673a41bacd8c17"
_ARCHIVE = "0def7320c3a5731c473e5ecbe6d01bc7"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"
_RESOURCE = "5cf8f73096256a8f31e491e813e4eb8e"
_OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_UNKNOWN_STRING = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_UNKNOWNS = {
    _UNKNOWN_STRING,
    "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # bool
    "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
    "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # array
    "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
    "e48ece36-62e2-4504-bad9-02848725956a",  # archive
    "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # object
}


class Unknown:
    """A value that exists only after the `up`."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Asset:
    """One file of an archive: its text, or the path to read it from."""

    hash: str
    text: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class Archive:
    """A folder or zip file at `path`, or named members. `hash` is the engine's, over the content."""

    hash: str
    path: str | None = None
    members: Mapping[str, Asset | Archive] | None = None


def decode(struct: struct_pb2.Struct) -> tuple[dict[str, Any], frozenset[str]]:
    """The properties of a message and the names of those that hold a secret at any depth. Nulls are left out."""
    secrets: set[str] = set()
    properties = {}
    for name, value in struct.fields.items():
        found: list[bool] = []
        decoded = _decode(value, found)
        if decoded is not None:
            properties[name] = decoded
        if found:
            secrets.add(name)
    return properties, frozenset(secrets)


def _decode(value: struct_pb2.Value, secrets: list[bool]) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return UNKNOWN if value.string_value in _UNKNOWNS else value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if math.isfinite(number) and number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_decode(item, secrets) for item in value.list_value.values]
    if kind == "struct_value":
        return _decode_struct(value.struct_value, secrets)
    return None


def _decode_struct(struct: struct_pb2.Struct, secrets: list[bool]) -> Any:
    fields = struct.fields
    signature = fields[_SIGNATURE].string_value if _SIGNATURE in fields else ""
    if signature == _SECRET:
        secrets.append(True)
        return _decode(fields["value"], secrets)
    if signature == _OUTPUT:
        if "secret" in fields and fields["secret"].bool_value:
            secrets.append(True)
        return _decode(fields["value"], secrets) if "value" in fields else UNKNOWN
    if signature == _RESOURCE:
        return _decode(fields["id"], secrets) if "id" in fields else fields["urn"].string_value
    if signature == _ASSET:
        return Asset(
            hash=fields["hash"].string_value if "hash" in fields else "",
            text=fields["text"].string_value if "text" in fields else None,
            path=fields["path"].string_value if "path" in fields else None,
        )
    if signature == _ARCHIVE:
        return _decode_archive(fields, secrets)
    decoded = {name: _decode(item, secrets) for name, item in fields.items()}
    return {name: item for name, item in decoded.items() if item is not None}


def _decode_archive(fields: Mapping[str, struct_pb2.Value], secrets: list[bool]) -> Archive:
    members = None
    if "assets" in fields:
        members = {name: _decode(item, secrets) for name, item in fields["assets"].struct_value.fields.items()}
    return Archive(
        hash=fields["hash"].string_value if "hash" in fields else "",
        path=fields["path"].string_value if "path" in fields else None,
        members=members,
    )


def encode(properties: Mapping[str, Any], secrets: Iterable[str] = ()) -> struct_pb2.Struct:
    """The wire form of properties; those named in `secrets` are marked secret whole. Nulls are left out."""
    hidden = frozenset(secrets)
    struct = struct_pb2.Struct()
    for name, value in properties.items():
        if value is None:
            continue
        encoded = _encode(value)
        if name in hidden:
            encoded = _signed(_SECRET, value=encoded)
        struct.fields[name].CopyFrom(encoded)
    return struct


def _encode(value: Any) -> struct_pb2.Value:
    if value is UNKNOWN:
        return struct_pb2.Value(string_value=_UNKNOWN_STRING)
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, int | float):
        return struct_pb2.Value(number_value=value)
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    if isinstance(value, Mapping):
        struct = struct_pb2.Struct(fields={str(key): _encode(item) for key, item in value.items() if item is not None})
        return struct_pb2.Value(struct_value=struct)
    if isinstance(value, Asset):
        return _signed(_ASSET, **_texts(hash=value.hash, text=value.text, path=value.path))
    if isinstance(value, Archive):
        members = {} if value.members is None else {"assets": _encode(value.members)}
        return _signed(_ARCHIVE, **_texts(hash=value.hash, path=value.path), **members)
    return struct_pb2.Value(list_value=struct_pb2.ListValue(values=[_encode(item) for item in value]))


def _texts(**fields: str | None) -> dict[str, struct_pb2.Value]:
    return {name: struct_pb2.Value(string_value=text) for name, text in fields.items() if text is not None}


def _signed(signature: str, **fields: struct_pb2.Value) -> struct_pb2.Value:
    marked = {_SIGNATURE: struct_pb2.Value(string_value=signature), **fields}
    return struct_pb2.Value(struct_value=struct_pb2.Struct(fields=marked))


def has_unknown(value: Any) -> bool:
    """Whether a value is unknown, or holds something unknown."""
    return any(item is UNKNOWN for item in _leaves(value))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
