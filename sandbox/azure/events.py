"""Event Grid: what happened to a blob reaches the queues that subscribe to it, as the topic's own identity."""

from __future__ import annotations

import base64
import json
import logging
import queue
import threading
from dataclasses import dataclass
from typing import Any

from sandbox.azure.arm.kit import Kit
from sandbox.azure.azurite import Azurite, backend_name
from sandbox.azure.store import Document
from sandbox.azure.world import new_id, timestamp

log = logging.getLogger(__name__)

_SEND = "Microsoft.Storage/storageAccounts/queueServices/queues/messages/add/action"
_RETRY_SECONDS = 1.0  # Azure: 10 s, 30 s, 1 min, …


@dataclass(frozen=True)
class Change:
    """One change of a blob. `length` is that of the request."""

    account: Document
    api: str
    blob: str
    container: str
    etag: str
    length: int
    type: str


class Events:
    """Delivers on a thread of its own, and again what could not be delivered."""

    def __init__(self, kit: Kit, azurite: Azurite) -> None:
        self._kit = kit
        self._azurite = azurite
        self._waiting: queue.PriorityQueue[tuple[float, int, Document, Document, int]] = queue.PriorityQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="events", daemon=True)
        self._count = 0
        self._lock = threading.Lock()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def happened(self, change: Change) -> None:
        """Queue the events of one change for all subscriptions that it fits."""
        world = self._kit.world
        for topic_id, topic in world.store.all("topic"):
            if topic["source"].lower() != change.account["id"].lower():
                continue
            for _, subscription in world.store.all("subscription", f"{topic_id}/"):
                event = self._event(change, topic)
                if not _fits(subscription["properties"].get("filter") or {}, event):
                    continue
                with self._lock:
                    if world.settings.lose_events:
                        world.settings.lose_events -= 1
                        continue
                self._put(world.now() + world.settings.event_lag_seconds, subscription, event, 1)

    def _put(self, at: float, subscription: Document, event: Document, attempt: int) -> None:
        with self._lock:
            self._count += 1
            count = self._count
        self._waiting.put((at, count, subscription, event, attempt))

    def _event(self, change: Change, topic: Document) -> Document:
        """Docs: event-schema-blob-storage, Event Grid schema."""
        world = self._kit.world
        with self._lock:
            self._count += 1
            sequencer = f"{int(world.now() * 1000):020X}{self._count:028X}"
        return {
            "data": {
                "api": change.api,
                "blobType": "BlockBlob",
                "clientRequestId": new_id(),
                "contentLength": change.length,
                "eTag": change.etag,
                "requestId": new_id(),
                "sequencer": sequencer,
                "url": f"{world.blob_endpoint(change.account['name'])}{change.container}/{change.blob}",
            },
            "dataVersion": "",
            "eventTime": timestamp(world.now()),
            "eventType": change.type,
            "id": new_id(),
            "metadataVersion": "1",
            "subject": f"/blobServices/default/containers/{change.container}/blobs/{change.blob}",
            "topic": topic["source"],
        }

    def _deliver(self) -> None:
        while not self._stopping.is_set():
            try:
                at, _, subscription, event, attempt = self._waiting.get(timeout=0.1)
            except queue.Empty:
                continue
            wait = at - self._kit.world.now()
            if wait > 0:
                self._put(at, subscription, event, attempt)
                self._stopping.wait(min(wait, 0.05))
                continue
            self._try(subscription, event, attempt)

    def _try(self, subscription: Document, event: Document, attempt: int) -> None:
        if self._kit.world.store.get("subscription", subscription["id"]) is None:
            return
        try:
            reason = self._send(subscription, event)
        except OSError as error:
            reason = str(error)
        if reason is None:
            return
        most = subscription["properties"]["retryPolicy"]["maxDeliveryAttempts"]
        log.info("event %s: attempt %s of %s: %s", event["id"], attempt, most, reason)
        if attempt < most:
            self._put(self._kit.world.now() + _RETRY_SECONDS * attempt, subscription, event, attempt + 1)

    def _send(self, subscription: Document, event: Document) -> str | None:
        """None if it was delivered, else why not."""
        world = self._kit.world
        topic = world.store.get("topic", subscription["id"].rsplit("/", 2)[0])
        target: Document = subscription["properties"]["deliveryWithResourceIdentity"]["destination"]["properties"]
        account = world.store.get("account", target["resourceId"].rsplit("/", 1)[-1])
        if (
            topic is None
            or account is None
            or world.store.get("queue", f"{account['name']}/{target['queueName']}") is None
        ):
            return "the queue is gone"
        scope = f"{account['id']}/queueServices/default/queues/{target['queueName']}"
        if not topic["principal"] or not self._kit.rbac.is_allowed(topic["principal"], _SEND, scope, is_data=True):
            return "the topic's identity may not send to the queue"
        text = base64.b64encode(json.dumps(event).encode()).decode()
        life = target.get("queueMessageTimeToLiveInSeconds") or -1
        body = f'<?xml version="1.0" encoding="utf-8"?><QueueMessage><MessageText>{text}</MessageText></QueueMessage>'
        path = f"/{backend_name(account, target['queueName'])}/messages"
        reply = self._azurite.request(
            "queue",
            "POST",
            path,
            f"messagettl={life}",
            headers={"content-type": "application/xml"},
            body=body.encode(),
        )
        return None if reply.status == 201 else f"{reply.status} {reply.body[:200]!r}"


def _fits(filter_: dict[str, Any], event: Document) -> bool:
    subject, begins, ends = (
        event["subject"],
        filter_.get("subjectBeginsWith") or "",
        filter_.get("subjectEndsWith") or "",
    )
    if not filter_.get("isSubjectCaseSensitive"):
        subject, begins, ends = subject.lower(), begins.lower(), ends.lower()
    types = filter_.get("includedEventTypes")
    return subject.startswith(begins) and subject.endswith(ends) and (not types or event["eventType"] in types)
