"""The worker against a bucket and an index in memory: order, doubles, losses, deletes, conflicts."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote_plus

import pytest
from botocore.exceptions import ClientError
from botocore.stub import ANY, Stubber
from hypothesis import given, settings
from hypothesis import strategies as st

from components.worker import handler
from components.worker.core import Found, Worker, changed_objects, is_settled
from components.worker.document import Document
from components.worker.elastic import Connection, Elastic, SearchError, Stored, Written
from components.worker.handler import S3Objects

BUCKET = "shared"
PREFIX = "t/acme/"


@dataclass
class Memory:
    """A versioned bucket: the versions of each key, None for a delete marker."""

    versions: dict[str, list[int | None]] = field(default_factory=dict)
    reads: int = 0

    def put(self, key: str, revision: int) -> None:
        self.versions.setdefault(key, []).append(revision)

    def delete(self, key: str) -> None:
        self.versions.setdefault(key, []).append(None)

    def now(self, key: str) -> int | None:
        return self.versions.get(key, [None])[-1]

    def read(self, key: str) -> Found | None:
        self.reads += 1
        revision = self.now(key)
        if revision is None:
            return None
        content = f"{key}@{revision}".encode()
        metadata = {"archived-at": "2026-01-01T00:00:00Z", "revision": str(revision)}
        return Found(metadata, len(content), [content])

    def last_revision(self, key: str) -> int | None:
        return next((r for r in reversed(self.versions.get(key, [])) if r is not None), None)


@dataclass
class MemoryIndex:
    """Elasticsearch's external versions, and nothing else of it."""

    documents: dict[str, Document] = field(default_factory=dict)
    bulks: list[int] = field(default_factory=list)
    status: int | None = None

    def write(self, documents: list[Document]) -> list[Written]:
        if self.status:
            raise SearchError("refused", status=self.status)
        self.bulks.append(len(documents))
        return [self._one(one) for one in documents]

    def _one(self, one: Document) -> Written:
        held = self.documents.get(one.id)
        if held and (held.revision > one.revision or (held.revision == one.revision and not one.is_tombstone)):
            return Written(409, "version conflict")
        self.documents[one.id] = one
        return Written(200 if held else 201, "")

    def stored(self, ids: Any) -> dict[str, Stored]:
        return {
            id: Stored(self.documents[id].revision, self.documents[id].is_tombstone)
            for id in ids
            if id in self.documents
        }

    def shows(self, id: str) -> int | None:
        """The revision that a search through the read alias finds."""
        held = self.documents.get(id)
        return None if held is None or held.is_tombstone else held.revision


def message(id: str, *keys: str, bucket: str = BUCKET) -> dict[str, str]:
    records = [{"s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(PREFIX + key)}}} for key in keys]
    return {"messageId": id, "body": json.dumps({"Records": records})}


@pytest.fixture
def bucket() -> Memory:
    return Memory()


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex()


@pytest.fixture
def worker(bucket, index) -> Worker:
    return Worker(bucket, index, BUCKET, PREFIX)


def test_a_put_becomes_a_document(worker, bucket, index):
    bucket.put("attachments/a b+c", 1)
    assert worker.work([message("m1", "attachments/a b+c")]) == []
    assert index.shows("attachments/a b+c") == 1


def test_what_counts_is_what_the_object_is_now_not_what_the_event_says(worker, bucket, index):
    for revision in (1, 2, 3):
        bucket.put("attachments/a", revision)
    assert worker.work([message("m1", "attachments/a")]) == []
    assert index.shows("attachments/a") == 3


def test_doubled_and_late_events_change_nothing(worker, bucket, index):
    bucket.put("attachments/a", 2)
    for id in ("m1", "m2", "m1"):
        assert worker.work([message(id, "attachments/a")]) == [], "a 409 at the same revision is success"
    assert index.shows("attachments/a") == 2


def test_one_object_named_by_many_messages_is_read_once(worker, bucket):
    bucket.put("attachments/a", 1)
    worker.work([message(f"m{n}", "attachments/a") for n in range(10)])
    assert bucket.reads == 1


def test_a_deleted_object_leaves_a_tombstone_at_its_last_revision(worker, bucket, index):
    bucket.put("attachments/a", 3)
    worker.work([message("m1", "attachments/a")])
    bucket.delete("attachments/a")
    assert worker.work([message("m2", "attachments/a")]) == []
    assert index.documents["attachments/a"].source == {"deleted": True, "revision": 3}


def test_a_slow_worker_cannot_bring_a_deleted_object_back(worker, bucket, index):
    """The delete is worked on before the last put ever reached the index."""
    bucket.put("attachments/a", 3)
    late = Worker(Memory({"attachments/a": [3]}), index, BUCKET, PREFIX)
    bucket.delete("attachments/a")
    assert worker.work([message("m2", "attachments/a")]) == []
    assert late.work([message("m1", "attachments/a")]) == ["m1"], "the next attempt sees that the object is gone"
    assert index.shows("attachments/a") is None


def test_an_object_archived_again_after_its_delete_is_found_again(worker, bucket, index):
    bucket.put("attachments/a", 3)
    bucket.delete("attachments/a")
    worker.work([message("m1", "attachments/a")])
    bucket.put("attachments/a", 4)
    assert worker.work([message("m2", "attachments/a")]) == []
    assert index.shows("attachments/a") == 4, "a tombstone at revision 4 would have hidden it for ever"


def test_a_late_delete_does_not_hide_what_was_archived_again_meanwhile(bucket, index):
    """The object comes back, and into the index, between the worker's look at the bucket and its write."""
    bucket.put("attachments/a", 3)
    bucket.delete("attachments/a")
    write = index.write

    def comes_back_first(documents: list[Document]) -> list[Written]:
        bucket.put("attachments/a", 4)
        index.write = write
        Worker(bucket, index, BUCKET, PREFIX).work([message("m2", "attachments/a")])
        return write(documents)

    index.write = comes_back_first
    assert Worker(bucket, index, BUCKET, PREFIX).work([message("m1", "attachments/a")]) == []
    assert index.shows("attachments/a") == 4


def test_a_purged_object_is_hidden_at_the_revision_that_the_index_knows(worker, bucket, index):
    bucket.put("attachments/a", 5)
    worker.work([message("m1", "attachments/a")])
    bucket.versions.clear()
    assert worker.work([message("m2", "attachments/a")]) == []
    assert index.documents["attachments/a"].source == {"deleted": True, "revision": 5}


def test_an_object_that_nobody_ever_knew_needs_no_tombstone(worker, index):
    assert worker.work([message("m1", "attachments/never")]) == []
    assert index.documents == {}


def test_a_conflict_is_success_only_if_the_stored_revision_is_not_lower():
    written = Document("a", 3, {"deleted": False})
    assert is_settled(written, Stored(3, is_tombstone=False))
    assert is_settled(written, Stored(4, is_tombstone=False))
    assert is_settled(written, Stored(4, is_tombstone=True))
    assert not is_settled(written, Stored(2, is_tombstone=False))
    assert not is_settled(written, Stored(3, is_tombstone=True)), (
        "the object was there: it is not settled that it is gone"
    )
    assert not is_settled(written, None)


def test_one_bad_object_fails_its_own_messages_and_no_others(worker, bucket, index):
    bucket.put("attachments/good", 1)
    bucket.put("attachments/bad", 0)
    messages = [message("m1", "attachments/good"), message("m2", "attachments/bad", "attachments/good")]
    assert worker.work(messages) == ["m2"]
    assert index.shows("attachments/good") == 1


@pytest.mark.parametrize(
    "poison",
    [
        "not json",
        "[]",
        "{}",
        '{"Records": [{"s3": {}}]}',
        '{"source": "aws.s3", "detail": {}}',
        message("m", "attachments/a", bucket="another")["body"],
        json.dumps(
            {"source": "aws.s3", "detail": {"bucket": {"name": BUCKET}, "object": {"key": "t/other/attachments/a"}}}
        ),
    ],
)
def test_poison_is_given_back_until_it_becomes_a_dead_letter(worker, bucket, index, poison):
    bucket.put("attachments/a", 1)
    assert worker.work([{"messageId": "bad", "body": poison}, message("m1", "attachments/a")]) == ["bad"]
    assert index.shows("attachments/a") == 1


def test_objects_that_have_no_document_are_passed_over(worker, bucket):
    bucket.put("canary/x", 1)
    assert worker.work([message("m1", "canary/x")]) == []
    assert bucket.reads == 0


@pytest.mark.parametrize("status", [0, 401, 429, 503])
def test_when_the_search_takes_nothing_every_message_of_the_bulk_is_given_again(worker, bucket, index, status):
    bucket.put("attachments/a", 1)
    bucket.put("attachments/b", 1)
    index.status = status or 500
    assert worker.work([message("m1", "attachments/a"), message("m2", "attachments/b")]) == ["m1", "m2"]
    assert worker.was_refused is (status == 401)


def test_a_large_batch_goes_out_in_bulks_that_a_small_node_takes(index):
    content = json.dumps({"type": "t", "id": "x", "revision": 1, "data": {"text": "y" * (3 * 1024 * 1024)}}).encode()

    class Heavy(Memory):
        def read(self, key: str) -> Found:
            id = key.removeprefix("records/t/").removesuffix(".json")
            this = content.replace(b'"id": "x"', f'"id": "{id}"'.encode())
            metadata = {"archived-at": "2026-01-01T00:00:00Z", "revision": "1", "type": "t", "id": id}
            return Found(metadata, len(this), [this])

    worker = Worker(Heavy(), index, BUCKET, PREFIX)
    assert worker.work([message("m1", *(f"records/t/{n}.json" for n in range(5)))]) == []
    assert index.bulks == [1, 1, 1, 1, 1]


def test_a_key_is_decoded_from_s3s_own_notification_and_not_from_eventbridge():
    own = json.loads(message("m", "attachments/a b+ü%41")["body"])
    assert list(changed_objects(own)) == [(BUCKET, "t/acme/attachments/a b+ü%41")]
    bridged = {"source": "aws.s3", "detail": {"bucket": {"name": BUCKET}, "object": {"key": "t/acme/a+b%20c"}}}
    assert list(changed_objects(bridged)) == [(BUCKET, "t/acme/a+b%20c")]
    assert list(changed_objects({"Event": "s3:TestEvent", "Bucket": BUCKET})) == []


events = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "delete"])), max_size=12)


@settings(max_examples=200)
@given(events, st.randoms(use_true_random=False))
def test_after_any_disorder_and_doubling_the_search_shows_what_the_bucket_holds(changes, random):
    """Events are worked on late, in any order and twice; none is lost."""
    bucket, index = Memory(), MemoryIndex()
    worker = Worker(bucket, index, BUCKET, PREFIX)
    revisions: dict[str, int] = {}
    queue: list[str] = []
    for name, change in changes:
        key = f"attachments/{name}"
        if change == "put":
            revisions[key] = revisions.get(key, 0) + 1
            bucket.put(key, revisions[key])
        else:
            bucket.delete(key)
        queue += [key] * random.randint(1, 2)
        while queue and random.random() < 0.5:
            worker.work([message("m", queue.pop(random.randrange(len(queue))))])
    random.shuffle(queue)
    for key in queue:
        assert worker.work([message("m", key)]) == []
    for key in {f"attachments/{name}" for name, _ in changes}:
        assert index.shows(key) == bucket.now(key), key


# the S3 side ---------------------------------------------------------------------------------


@pytest.fixture
def stubbed(monkeypatch) -> Iterator[tuple[S3Objects, Stubber]]:
    import boto3

    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    client = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="y")
    with Stubber(client) as stub:
        yield S3Objects(client, BUCKET, PREFIX), stub
        stub.assert_no_pending_responses()


def test_an_object_is_read_with_its_metadata_and_as_a_stream(stubbed):
    objects, stub = stubbed

    class Body(io.BytesIO):
        def iter_chunks(self, size: int) -> Iterator[bytes]:
            return iter(lambda: self.read(size), b"")

    answer = {"Metadata": {"revision": "1"}, "ContentLength": 4, "Body": Body(b"data")}
    stub.add_response("get_object", answer, {"Bucket": BUCKET, "Key": "t/acme/attachments/a"})
    found = objects.read("attachments/a")
    assert found is not None
    assert (found.metadata, found.size, b"".join(found.body)) == ({"revision": "1"}, 4, b"data")


def test_a_missing_object_is_none(stubbed):
    objects, stub = stubbed
    stub.add_client_error("get_object", "NoSuchKey", http_status_code=404)
    assert objects.read("attachments/a") is None


def test_a_403_is_a_missing_object_only_if_the_listing_does_not_hold_it(stubbed):
    objects, stub = stubbed
    listed = {"Versions": [{"Key": "t/acme/attachments/a", "VersionId": "v1", "IsLatest": False}]}
    stub.add_client_error("get_object", "AccessDenied", http_status_code=403)
    stub.add_response("list_object_versions", listed, {"Bucket": BUCKET, "Prefix": "t/acme/attachments/a"})
    assert objects.read("attachments/a") is None
    listed["Versions"][0]["IsLatest"] = True
    stub.add_client_error("get_object", "AccessDenied", http_status_code=403)
    stub.add_response("list_object_versions", listed, ANY_ARGUMENTS)
    with pytest.raises(ClientError):
        objects.read("attachments/a")


def test_a_lost_key_is_an_error_and_never_a_missing_object(stubbed):
    objects, stub = stubbed
    stub.add_client_error("get_object", "KMS.DisabledException", http_status_code=400)
    with pytest.raises(ClientError, match=r"KMS\.DisabledException"):
        objects.read("attachments/a")


def test_the_last_revision_is_that_of_the_newest_version_of_this_very_key(stubbed):
    objects, stub = stubbed
    key = "t/acme/attachments/a"
    versions = [
        {"Key": key, "VersionId": "v2", "IsLatest": False},
        {"Key": key, "VersionId": "v1", "IsLatest": False},
        {"Key": key + "b", "VersionId": "v9", "IsLatest": True},
    ]
    stub.add_response("list_object_versions", {"Versions": versions}, {"Bucket": BUCKET, "Prefix": key})
    stub.add_response("head_object", {"Metadata": {"revision": "7"}}, {"Bucket": BUCKET, "Key": key, "VersionId": "v2"})
    assert objects.last_revision("attachments/a") == 7
    stub.add_response("list_object_versions", {"Versions": versions[2:]}, {"Bucket": BUCKET, "Prefix": key})
    assert objects.last_revision("attachments/a") is None


ANY_ARGUMENTS = {"Bucket": ANY, "Prefix": ANY}


# the search side -----------------------------------------------------------------------------


@dataclass
class Exchange:
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    answers: list[tuple[int, object]] = field(default_factory=list)
    closes_idle: bool = False


@contextmanager
def search_server(exchange: Exchange) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            exchange.requests.append((self.path, self.headers["Authorization"], text))
            status, answer = exchange.answers.pop(0)
            payload = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
            self.close_connection = exchange.closes_idle

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/es"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_bulk_carries_external_versions_and_a_tombstone_may_equal_the_stored_one():
    items = [{"index": {"status": 201}}, {"index": {"status": 409, "error": {"reason": "conflict"}}}]
    exchange = Exchange(answers=[(200, {"items": items})])
    with search_server(exchange) as endpoint:
        elastic = Elastic(Connection(endpoint, "credential"), "records-000001")
        answers = elastic.write([Document("a/1", 3, {"deleted": False}), Document("a/2", 4, {"deleted": True})])
    assert answers == [Written(201, ""), Written(409, "conflict")]
    path, authorization, text = exchange.requests[0]
    assert (path, authorization) == ("/es/records-000001/_bulk", "ApiKey credential")
    assert text.endswith("\n"), "Elasticsearch refuses a bulk without its last newline"
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0] == {"index": {"_id": "a/1", "version": 3, "version_type": "external"}}
    assert lines[2] == {"index": {"_id": "a/2", "version": 4, "version_type": "external_gte"}}


def test_what_is_stored_is_asked_by_id_and_missing_documents_are_left_out():
    docs = [
        {"_id": "a", "found": True, "_version": 4, "_source": {"deleted": True}},
        {"_id": "b", "found": True, "_version": 2, "_source": {"deleted": False}},
        {"_id": "c", "found": False},
    ]
    exchange = Exchange(answers=[(200, {"docs": docs})])
    with search_server(exchange) as endpoint:
        stored = Elastic(Connection(endpoint, "x"), "records-000001").stored(["a", "b", "c"])
    assert stored == {"a": Stored(4, is_tombstone=True), "b": Stored(2, is_tombstone=False)}


def test_a_refused_request_says_its_status_and_the_connection_serves_again():
    exchange = Exchange(answers=[(429, {"error": "busy"}), (200, {"docs": []})])
    with search_server(exchange) as endpoint:
        elastic = Elastic(Connection(endpoint, "x"), "records-000001")
        with pytest.raises(SearchError, match="answered 429") as refused:
            elastic.stored(["a"])
        assert refused.value.status == 429
        assert elastic.stored(["a"]) == {}


def test_a_connection_that_was_closed_while_the_function_slept_is_opened_anew():
    exchange = Exchange(answers=[(200, {"docs": []}), (200, {"docs": []})], closes_idle=True)
    with search_server(exchange) as endpoint:
        elastic = Elastic(Connection(endpoint, "x"), "records-000001")
        assert elastic.stored(["a"]) == {}
        assert elastic.stored(["b"]) == {}


def test_a_search_that_cannot_be_reached_is_a_search_error():
    with search_server(Exchange()) as endpoint:
        pass
    with pytest.raises(SearchError, match="did not reach the search"):
        Elastic(Connection(endpoint, "x"), "records-000001").stored(["a"])


def test_an_endpoint_that_is_no_address_is_refused():
    with pytest.raises(ValueError, match="is not an http"):
        Connection("ftp://x", "x")


# Lambda's side -------------------------------------------------------------------------------


def test_lambda_is_told_which_messages_failed_and_a_refused_credential_is_read_anew(monkeypatch, bucket, index):
    made = []

    def make() -> handler.Way:
        made.append(Worker(bucket, index, BUCKET, PREFIX))
        return handler.Way(made[-1], None, None, "e1")

    class Queue:
        def change_message_visibility(self, **asked):
            given_again.append(asked)

    given_again = []
    monkeypatch.setattr(handler.boto3, "client", lambda _service: Queue())
    monkeypatch.setenv("QUEUE_URL", "http://queue")
    cached = handler.functools.cache(make)
    monkeypatch.setattr(handler, "way", cached)
    bucket.put("attachments/a", 1)
    received = {"receiptHandle": "r1", "attributes": {"ApproximateReceiveCount": "2"}}
    event = {"Records": [message("m1", "attachments/a") | received]}
    index.status = 401
    assert handler.handle(event, None) == {"batchItemFailures": [{"itemIdentifier": "m1"}]}
    index.status = None
    assert handler.handle(event, None) == {"batchItemFailures": []}
    assert handler.handle(event, None) == {"batchItemFailures": []}
    assert len(made) == 2
    assert given_again == [{"QueueUrl": "http://queue", "ReceiptHandle": "r1", "VisibilityTimeout": 10}], (
        "a failed message has to come back in seconds: a freeze waits for it with jobs closed"
    )
