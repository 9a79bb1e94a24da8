"""From an object in a storage to a document in the search: the one function that says what is found.

The worker, the fill of a migration and its verification all use it, so that they cannot disagree.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from .annotations import CONTENT_REVISION, MalformedEdit, annotated, shown

RECORDS, ATTACHMENTS = "records/", "attachments/"
RECORD_SUFFIX = ".json"

ID_LIMIT_BYTES = 512
"""Elasticsearch refuses a longer `_id`."""

RECORD_LIMIT_BYTES = 4 * 1024 * 1024
"""A larger record is found by its type, id and time, not by its text: a worker holds one in memory."""

_RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?(Z|\+00:00)")


class NotIndexable(ValueError):
    """The object is not what Archive writes; no retry mends it."""


@dataclass(frozen=True)
class Document:
    """One document: its `_id`, its external version and its source."""

    id: str
    revision: int
    source: Mapping[str, Any]

    @property
    def is_tombstone(self) -> bool:
        return self.source.get("deleted") is True


def is_searchable(key: str) -> bool:
    """Whether an object of this key (below the storage's prefix) has a document at all."""
    return bool(_path(key))


def document_id(key: str) -> str:
    """The `_id` of the object's document, from the key alone: of a deleted object nothing else is left.

    Raises NotIndexable for a key that is neither a record's nor an attachment's.
    """
    path = _path(key)
    if not path:
        raise NotIndexable(f"{key!r} is neither records/<type>/<id>.json nor attachments/<path>")
    if key.startswith(RECORDS) and path.startswith(ATTACHMENTS):
        # A record of a type that is called `attachments`: its plain id would be an attachment's.
        return hashlib.sha256(key.encode()).hexdigest()
    plain = path if key.startswith(RECORDS) else ATTACHMENTS + path
    encoded = plain.encode()
    return plain if len(encoded) <= ID_LIMIT_BYTES else hashlib.sha256(encoded).hexdigest()


def revision_of(key: str, metadata: Mapping[str, str]) -> int:
    """The revision in an object's user metadata. Raises NotIndexable when there is none."""
    return _revision(key, metadata, "revision")


def _revision(key: str, metadata: Mapping[str, str], name: str) -> int:
    text = metadata.get(name, "")
    if not text.isdecimal() or int(text) < 1:
        raise NotIndexable(f"{key!r} has the {name} {text!r} in its metadata; it must be a whole number from 1")
    return int(text)


def content_revision(key: str, metadata: Mapping[str, str]) -> int:
    """The revision in which the object's bytes were archived: an edit raises the revision and leaves the bytes."""
    return _revision(key, metadata, CONTENT_REVISION if CONTENT_REVISION in metadata else "revision")


def document(key: str, metadata: Mapping[str, str], size: int, body: Iterable[bytes]) -> Document:
    """The document of an object; `body` is read once to its end and hashed on the way.

    `key` is the key below the storage's prefix, `size` the object's length in bytes. Of an
    attachment nothing is kept but the hash. Raises NotIndexable, and ValueError when `body` does
    not have `size` bytes: a cut stream must not be indexed.
    """
    id, revision = document_id(key), revision_of(key, metadata)
    is_record = key.startswith(RECORDS)
    source: dict[str, Any] = {
        "kind": "record" if is_record else "attachment",
        "key": key,
        "archived_at": _archived_at(key, metadata),
        "revision": revision,
        "size": size,
        "deleted": False,
        **_annotated(key, metadata),
    }
    keeps_body = is_record and size <= RECORD_LIMIT_BYTES
    digest, text = _read(key, size, body, keeps_body=keeps_body)
    source["content_hash"] = digest
    if is_record:
        source |= _named(key, metadata)
    if keeps_body:
        source |= _content(key, text, {**source, "revision": content_revision(key, metadata)})
    return Document(id=id, revision=revision, source=source)


def tombstone(key: str, revision: int) -> Document:
    """What stands for a deleted object; `revision` is the last one that the object had."""
    return Document(id=document_id(key), revision=revision, source={"deleted": True, "revision": revision})


def _path(key: str) -> str:
    """`<type>/<id>` of a record, the path of an attachment, "" for any other key."""
    if key.startswith(ATTACHMENTS):
        return key.removeprefix(ATTACHMENTS)
    if not (key.startswith(RECORDS) and key.endswith(RECORD_SUFFIX)):
        return ""
    path = key.removeprefix(RECORDS).removesuffix(RECORD_SUFFIX)
    type, _, id = path.partition("/")
    return path if type and id else ""


def _read(key: str, size: int, body: Iterable[bytes], *, keeps_body: bool) -> tuple[str, bytes]:
    digest, length, kept = hashlib.sha256(), 0, bytearray()
    for chunk in body:
        digest.update(chunk)
        length += len(chunk)
        if keeps_body:
            kept += chunk
    if length != size:
        raise ValueError(f"{key!r} should have {size} bytes but {length} came")
    return digest.hexdigest(), bytes(kept)


def _archived_at(key: str, metadata: Mapping[str, str]) -> str:
    text = metadata.get("archived-at", "")
    if not _RFC_3339_UTC.fullmatch(text):
        raise NotIndexable(f"{key!r} has {text!r} as archived-at in its metadata; it must be an RFC 3339 time in UTC")
    instant = datetime.fromisoformat(text)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _named(key: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Type and id by the metadata, which must say what the key says: a delete knows only the key."""
    named = {name: unquote(metadata.get(name, "")) for name in ("type", "id")}
    if f"{named['type']}/{named['id']}" != _path(key):
        raise NotIndexable(f"{key!r} says in its metadata that it is {named['type']!r}/{named['id']!r}")
    return named


def _annotated(key: str, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        return shown(annotated(metadata))
    except MalformedEdit as error:
        raise NotIndexable(f"{key!r} has annotations in its metadata that nobody can read: {error}") from error


def _content(key: str, body: bytes, source: Mapping[str, Any]) -> dict[str, Any]:
    try:
        record = json.loads(body)
    except ValueError as error:
        raise NotIndexable(f"{key!r} is not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("data"), dict):
        raise NotIndexable(f"{key!r} is not a record: it has no object `data`")
    for name in ("type", "id", "revision"):
        if record.get(name) != source[name]:
            raise NotIndexable(f"{key!r} has {name} {record.get(name)!r} in its body, {source[name]!r} in its metadata")
    return {"data": record["data"], "text": " ".join(_values(record["data"]))}


def _values(node: Any) -> Iterator[str]:
    """Every value below `node` as text, in the order it is written."""
    pending = [node]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += reversed(value.values())
        elif isinstance(value, list):
            pending += reversed(value)
        elif value is not None:
            yield value if isinstance(value, str) else json.dumps(value)
