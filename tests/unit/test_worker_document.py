"""What is found of an object: the one function that the worker, the fill and the verification share."""

from __future__ import annotations

import hashlib
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.index import RECORDS_MAPPING
from components.worker.document import (
    ID_LIMIT_BYTES,
    RECORD_LIMIT_BYTES,
    NotIndexable,
    document,
    document_id,
    is_searchable,
    revision_of,
    tombstone,
)

METADATA = {"archived-at": "2026-01-02T03:04:05.678Z", "revision": "3", "type": "invoice", "id": "a-1"}
KEY = "records/invoice/a-1.json"


def body(**values: object) -> bytes:
    record = {"type": "invoice", "id": "a-1", "archived_at": METADATA["archived-at"], "revision": 3, "data": {}}
    return json.dumps({**record, **values}).encode()


def made(key: str, metadata: dict[str, str], content: bytes) -> dict:
    return dict(document(key, metadata, len(content), [content]).source)


def test_a_record_becomes_a_document_with_its_data_and_all_its_words():
    content = body(data={"name": "Müller", "lines": [{"amount": 12.5, "paid": True}, None], "note": "late"})
    found = document(KEY, METADATA, len(content), [content[:7], content[7:]])
    assert (found.id, found.revision, found.is_tombstone) == ("invoice/a-1", 3, False)
    assert found.source == {
        "kind": "record",
        "key": KEY,
        "type": "invoice",
        "id": "a-1",
        "archived_at": "2026-01-02T03:04:05.678Z",
        "revision": 3,
        "size": len(content),
        "content_hash": hashlib.sha256(content).hexdigest(),
        "deleted": False,
        "data": {"name": "Müller", "lines": [{"amount": 12.5, "paid": True}, None], "note": "late"},
        "text": "Müller 12.5 true late",
    }


def test_an_attachment_is_hashed_and_nothing_else_of_it_is_kept():
    found = document("attachments/scans/a.pdf", METADATA, 6, [b"%PDF", b"-1"])
    assert found.id == "attachments/scans/a.pdf"
    assert found.source["kind"] == "attachment"
    assert found.source["content_hash"] == hashlib.sha256(b"%PDF-1").hexdigest()
    assert not {"data", "text", "type", "id"} & found.source.keys()


def test_every_field_of_a_document_is_mapped():
    fields = made(KEY, METADATA, body()).keys() | made("attachments/a", METADATA, b"x").keys()
    assert fields | tombstone(KEY, 1).source.keys() <= RECORDS_MAPPING["properties"].keys(), (
        "the mapping takes no new fields: an unmapped one could not be searched"
    )


def test_a_large_attachment_takes_no_memory():
    chunk = bytes(1024 * 1024)
    tracemalloc.start()
    document("attachments/big", METADATA, 64 * len(chunk), (chunk for _ in range(64)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(chunk)


def test_a_record_too_large_to_be_held_is_found_by_its_name_and_not_by_its_text():
    content = body(data={"text": "x" * RECORD_LIMIT_BYTES})
    found = made(KEY, METADATA, content)
    assert (found["type"], found["id"], found["size"]) == ("invoice", "a-1", len(content))
    assert found["content_hash"] == hashlib.sha256(content).hexdigest()
    assert "data" not in found


def test_a_stream_that_ends_early_is_never_indexed():
    with pytest.raises(ValueError, match="should have 10 bytes but 4 came"):
        document("attachments/a", METADATA, 10, [b"half"])


@pytest.mark.parametrize(
    ("key", "metadata", "content", "reason"),
    [
        ("notes/a.json", {}, b"{}", "is neither records/<type>/<id>.json nor attachments/<path>"),
        ("records/a.json", {}, b"{}", "is neither"),
        (KEY, {"revision": "0"}, body(), "revision '0'"),
        (KEY, {"revision": ""}, body(), "revision ''"),
        (KEY, {"revision": "-1"}, body(), "revision '-1'"),
        (KEY, {"archived-at": "yesterday"}, body(), "RFC 3339"),
        (KEY, {"archived-at": "2026-01-02T03:04:05+01:00"}, body(), "in UTC"),
        (KEY, {"id": "b-2"}, body(), "says in its metadata that it is 'invoice'/'b-2'"),
        (KEY, {}, b"not json", "is not JSON"),
        (KEY, {}, b"[1]", "has no object `data`"),
        (KEY, {}, body(data=[1]), "has no object `data`"),
        (KEY, {}, body(revision=2), "has revision 2 in its body, 3 in its metadata"),
        (KEY, {}, body(id="b-2"), "has id 'b-2' in its body"),
    ],
)
def test_what_archive_did_not_write_is_refused_with_the_reason(key, metadata, content, reason):
    with pytest.raises(NotIndexable) as refused:
        made(key, {**METADATA, **metadata}, content)
    assert reason in str(refused.value)


def test_names_that_headers_cannot_hold_come_percent_encoded():
    metadata = {**METADATA, "type": "r%C3%A9sum%C3%A9", "id": "a%2Fb%20c"}
    found = made("records/résumé/a/b c.json", metadata, body(type="résumé", id="a/b c"))
    assert (found["type"], found["id"]) == ("résumé", "a/b c")


def test_a_time_is_kept_to_the_millisecond_however_it_was_written():
    for text in ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000+00:00", "2026-01-02T03:04:05.0Z"):
        found = made("attachments/a", {**METADATA, "archived-at": text}, b"x")
        assert found["archived_at"] == "2026-01-02T03:04:05.000Z"


def test_a_tombstone_says_only_that_something_was_there():
    stone = tombstone(KEY, 4)
    assert (stone.id, stone.revision, stone.is_tombstone) == ("invoice/a-1", 4, True)
    assert stone.source == {"deleted": True, "revision": 4}


@given(st.text(min_size=1, max_size=600), st.text(min_size=1, max_size=600))
def test_ids_fit_elasticsearch_and_no_two_objects_share_one(one, other):
    ids = {}
    for key in (f"attachments/{one}", f"attachments/{other}", f"records/{one}/x.json", f"records/{other}/x.json"):
        if not is_searchable(key):
            continue
        ids.setdefault(document_id(key), key)
        assert len(document_id(key).encode()) <= ID_LIMIT_BYTES
        assert ids[document_id(key)] == key or one == other


def test_a_revision_is_read_without_the_body():
    assert revision_of("attachments/a", {"revision": "12"}) == 12
