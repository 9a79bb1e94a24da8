"""The worker's loop over a storage queue, and what an event of Event Grid says."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from components.worker.azure.__main__ import ATTEMPTS, Loop, Settings
from components.worker.azure.names import of_azure, on_azure
from components.worker.core import Way, changed_objects

SUBJECT = "/blobServices/default/containers/acme-s1/blobs/"


def event(name: str, kind: str = "Microsoft.Storage.BlobCreated") -> dict[str, Any]:
    return {"eventType": kind, "subject": SUBJECT + name, "data": {"api": "PutBlob"}}


@pytest.mark.parametrize("name", ["records/people/1.json", "a b+%41/ü", "x/blobs/y"])
def test_an_event_names_its_container_and_blob_as_they_are(name: str) -> None:
    assert list(changed_objects(event(name))) == [("acme-s1", name)]
    assert list(changed_objects(event(name, "Microsoft.Storage.BlobDeleted"))) == [("acme-s1", name)]


@pytest.mark.parametrize(
    "wrong",
    [
        event("") | {"subject": "/blobServices/default/containers/acme-s1"},
        event("") | {"subject": SUBJECT},
        {"eventType": "Microsoft.Storage.DirectoryCreated", "subject": SUBJECT + "a"},
        [],
    ],
)
def test_what_is_no_event_of_a_blob_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError):
        list(changed_objects(wrong))


def test_metadata_names_lose_nothing_on_the_way_to_azure_and_back() -> None:
    ours = {"archived-at": "now", "revision": "1", "content-revision": "1"}
    assert all("-" not in name for name in on_azure(ours)), "Azure takes identifiers only"
    assert of_azure(on_azure(ours)) == ours


@dataclass
class Message:
    id: str
    content: str
    dequeue_count: int = 1


@dataclass
class Queue:
    """As much of a QueueClient as the loop uses."""

    waiting: list[Message] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    hidden: dict[str, int] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)

    def receive_messages(self, **_: Any) -> list[Message]:
        taken, self.waiting = self.waiting, []
        return taken

    def delete_message(self, message: Message) -> None:
        self.deleted.append(message.id)

    def update_message(self, message: Message, *, visibility_timeout: int) -> None:
        self.hidden[message.id] = visibility_timeout

    def send_message(self, content: str, **_: Any) -> None:
        self.sent.append(content)


@dataclass
class Failing:
    """A worker that fails what it is told to, and may be refused by the search."""

    fails: set[str]
    was_refused: bool = False
    refuses: bool = False
    seen: list[Any] = field(default_factory=list)

    def work(self, messages: list[Any]) -> list[str]:
        self.seen += [json.loads(message["body"]) for message in messages]
        self.was_refused = self.refuses
        return [message["messageId"] for message in messages if message["messageId"] in self.fails]


def loop_with(worker: Failing, *messages: Message) -> tuple[Loop, Queue, Queue, list[int]]:
    queue, letters, made = Queue(list(messages)), Queue(), list[int]()

    def make() -> Any:
        made.append(1)
        return Way(worker, None, None, "e1")  # type: ignore[arg-type]

    return Loop(queue, letters, make, takes_edits=False), queue, letters, made  # type: ignore[arg-type]


def coded(document: Any) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def test_what_was_worked_on_goes_and_what_failed_comes_back_later_and_later() -> None:
    first, often = Message("m2", coded(event("b"))), Message("m3", coded(event("c")), dequeue_count=3)
    worker = Failing({"m2", "m3"})
    loop, queue, letters, _ = loop_with(worker, Message("m1", coded(event("a"))), first, often)
    assert loop.once() == 3
    assert queue.deleted == ["m1"]
    assert queue.hidden["m2"] < queue.hidden["m3"], "a race is over soon, something else is not"
    assert not letters.sent
    assert worker.seen[0]["subject"].endswith("/a"), "the base64 of Event Grid is taken off"


def test_the_last_attempt_makes_a_dead_letter_and_keeps_its_bytes() -> None:
    poison = Message("m1", "no base64 at all", dequeue_count=ATTEMPTS)
    worker = Failing({"m1"})
    worker.work = lambda messages: ["m1"]  # type: ignore[method-assign]
    loop, queue, letters, _ = loop_with(worker, poison)
    loop.once()
    assert letters.sent == ["no base64 at all"]
    assert queue.deleted == ["m1"], "sent first, deleted then"


def test_a_refused_credential_is_read_again() -> None:
    worker = Failing(set(), refuses=True)
    loop, queue, _, made = loop_with(worker, Message("m1", coded(event("a"))))
    loop.once()
    queue.waiting.append(Message("m2", coded(event("b"))))
    loop.once()
    assert len(made) == 2


def test_settings_are_read_whole_or_not_at_all() -> None:
    given = {name.upper(): name for name in Settings.__dataclass_fields__ if name != "takes_edits"}
    assert Settings.read(given).takes_edits is False
    assert Settings.read({**given, "TAKES_EDITS": "true"}).takes_edits is True
    with pytest.raises(KeyError):
        Settings.read({name: value for name, value in given.items() if name != "QUEUE"})
