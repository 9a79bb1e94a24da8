"""Object tags: read from a header or a document, checked as S3 checks them before anything is stored.

Source: S3 User Guide, "Categorizing your storage using tags": 10 tags an object, keys of 1 to 128
and values of up to 256 characters, no key twice, none that begins with `aws:`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, urlencode
from xml.etree.ElementTree import Element

from sandbox.aws.s3.message import S3Error, document, element, group

_LIMIT = 10
_ALLOWED = re.compile(r"[\w\s+\-=.:/@]*")


def of_header(value: str) -> dict[str, str]:
    """Tags of an `x-amz-tagging` header, which is written as a query string."""
    return checked(parse_qsl(value, keep_blank_values=True))


def as_header(tags: Mapping[str, str]) -> str:
    return urlencode(tags)


def of_document(root: Element, *, limit: int = _LIMIT) -> dict[str, str]:
    pairs = []
    for tag in root.iter():
        if tag.tag.rpartition("}")[2] == "Tag":
            fields = {child.tag.rpartition("}")[2]: child.text or "" for child in tag}
            pairs.append((fields.get("Key", ""), fields.get("Value", "")))
    return checked(pairs, limit=limit)


def checked(pairs: Iterable[tuple[str, str]], *, limit: int = _LIMIT) -> dict[str, str]:
    """The tags as a dict. Raises BadRequest for too many, InvalidTag for one that S3 would not take."""
    found: dict[str, str] = {}
    for key, value in pairs:
        if key in found:
            raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key", fields={"TagKey": key})
        if not 1 <= len(key) <= 128 or not _ALLOWED.fullmatch(key):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid", fields={"TagKey": key})
        if key.lower().startswith("aws:"):
            raise S3Error("InvalidTag", "System tags cannot be added/updated by requester", fields={"TagKey": key})
        if len(value) > 256 or not _ALLOWED.fullmatch(value):
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid", fields={"TagKey": key})
        found[key] = value
    if len(found) > limit:
        raise S3Error("BadRequest", f"Object tags cannot be greater than {limit}")
    return found


def render(tags: Mapping[str, str]) -> bytes:
    pairs = (group("Tag", (element("Key", key), element("Value", value))) for key, value in tags.items())
    return document("Tagging", [group("TagSet", pairs)])
