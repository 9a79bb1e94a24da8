"""What people add to a record on the search side: tags, a note, the legal-hold flag. They live in the object's metadata.

Not S3's own tags and not S3 Object Lock: those belong to who administers the bucket.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

ANNOTATIONS, EDITED, CONTENT_REVISION = "annotations", "edited", "content-revision"
CARRIED = (ANNOTATIONS, EDITED)
"""What a new revision of a record's bytes takes over from the one before."""

METADATA_LIMIT_BYTES = 2048
"""Of all names and values together. S3 User Guide, "User-defined object metadata"."""

TAGS_LIMIT, TAG_LIMIT = 50, 128
FIELDS = ("legal_hold", "note", "tags")
# A header takes ASCII only, and its spaces are folded when a request is signed.
_PLAIN = '{}[]":,.;!?()/+*=@_-'


class MalformedEdit(ValueError):
    """What was asked for is no change of an annotation; no retry mends it."""


@dataclass(frozen=True)
class Field:
    """A field's value (None: taken away again) and the revision in which it became so."""

    value: Any
    revision: int


def annotated(metadata: Mapping[str, str]) -> dict[str, Field]:
    """The annotations in an object's user metadata. Raises MalformedEdit for what was never written here."""
    text = metadata.get(ANNOTATIONS, "{}")
    try:
        read = json.loads(unquote(text))
        found = {name: Field(value, int(revision)) for name, (value, revision) in read.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedEdit(f"{text[:80]!r} is not what an edit writes") from error
    if found:
        checked({name: field.value for name, field in found.items()})
    return found


def written(fields: Mapping[str, Field]) -> str:
    """The annotations as a metadata value: JSON, percent-encoded where a header is not safe."""
    plain = {name: [field.value, field.revision] for name, field in sorted(fields.items())}
    return quote(json.dumps(plain, ensure_ascii=False, separators=(",", ":")), safe=_PLAIN)


def shown(fields: Mapping[str, Field]) -> dict[str, Any]:
    """The annotations as a document holds them: those that have a value."""
    return {name: field.value for name, field in sorted(fields.items()) if field.value is not None}


def checked(changes: Any) -> dict[str, Any]:
    """The changes of an edit, if each is one: a value, or None to take the field away. Raises MalformedEdit."""
    if not isinstance(changes, Mapping) or not changes:
        raise MalformedEdit("it changes nothing")
    for name, value in changes.items():
        if name not in FIELDS:
            raise MalformedEdit(f"there is no field {str(name)[:40]!r} (there are {', '.join(FIELDS)})")
        if value is not None and (wrong := _CHECKS[name](value)):
            raise MalformedEdit(f"{name} {wrong}")
    return dict(changes)


def is_text(value: Any) -> bool:
    """Whether it is text that can be stored: JSON can carry half a character, UTF-8 cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _wrong_tags(value: Any) -> str:
    if not isinstance(value, list) or not all(is_text(tag) and tag.strip() for tag in value):
        return "must be a list of words"
    if len(value) > TAGS_LIMIT or any(len(tag) > TAG_LIMIT for tag in value):
        return f"must be at most {TAGS_LIMIT} tags of at most {TAG_LIMIT} characters"
    return "must name no tag twice" if len(set(value)) != len(value) else ""


_CHECKS = {
    "legal_hold": lambda value: "" if isinstance(value, bool) else "must be true or false",
    "note": lambda value: "" if is_text(value) else "must be text",
    "tags": _wrong_tags,
}


def weight(metadata: Mapping[str, str]) -> int:
    """How many bytes of S3's limit the metadata takes."""
    return sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items())
