"""SQS in memory, and S3's tag events on their way into it: at least once, in any order, as late as a test likes."""

# ruff: noqa: N803  # the parameters are named as AWS names them

from __future__ import annotations

import json
from typing import Any

TAGS = "https://sqs/acme-s1-tags"


class FakeSqs:
    """`delivers`: "at-once"; "later", kept in `on_the_way` until `arrive`; "never"."""

    def __init__(self) -> None:
        self.queues: dict[str, list[str]] = {}
        self.in_flight: dict[str, tuple[str, str]] = {}
        self.on_the_way: list[str] = []
        self.delivers = "at-once"
        self.refuses: list[Exception] = []
        self._receipts = 0

    def tagged(self, bucket: str, key: str, version_id: str) -> None:
        """What S3 calls when tags were set or deleted. The shape: S3 User Guide, "EventBridge event message structure"."""
        changed = {"key": key, "etag": "b1946ac92492d2347c6235b4d2611184", "version-id": version_id}
        event = {
            "version": "0",
            "detail-type": "Object Tags Added",
            "source": "aws.s3",
            "detail": {"version": "0", "bucket": {"name": bucket}, "object": changed, "requester": "111122223333"},
        }
        if bucket != "shared" or not key.startswith("t/acme/") or self.delivers == "never":
            return
        if self.delivers == "later" and ".keyshift/" not in key:
            self.on_the_way.append(json.dumps(event))
        else:
            self.queues.setdefault(TAGS, []).insert(0, json.dumps(event))

    def arrive(self) -> None:
        self.queues.setdefault(TAGS, []).extend(self.on_the_way)
        self.on_the_way = []

    def time_out(self) -> None:
        """What was received and not deleted can be received again."""
        for url, body in self.in_flight.values():
            self.queues.setdefault(url, []).append(body)
        self.in_flight = {}

    def receive_message(self, QueueUrl: str, MaxNumberOfMessages: int, **_: Any) -> dict[str, Any]:
        messages = []
        while self.queues.get(QueueUrl) and len(messages) < MaxNumberOfMessages:
            self._receipts += 1
            receipt, body = str(self._receipts), self.queues[QueueUrl].pop(0)
            self.in_flight[receipt] = (QueueUrl, body)
            messages.append({"ReceiptHandle": receipt, "Body": body})
        return {"Messages": messages} if messages else {}

    def send_message(self, QueueUrl: str, MessageBody: str) -> dict[str, Any]:
        self.queues.setdefault(QueueUrl, []).append(MessageBody)
        return {}

    def delete_message(self, QueueUrl: str, ReceiptHandle: str) -> dict[str, Any]:
        assert self.in_flight.get(ReceiptHandle, (QueueUrl,))[0] == QueueUrl
        self.in_flight.pop(ReceiptHandle, None)
        return {}

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:
        for entry in Entries:
            self.in_flight.pop(entry["ReceiptHandle"], None)
        return {"Successful": [{"Id": entry["Id"]} for entry in Entries]}

    def get_queue_attributes(self, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:
        if self.refuses:
            raise self.refuses.pop(0)
        waiting = len(self.queues.get(QueueUrl, []))
        flying = sum(url == QueueUrl for url, _ in self.in_flight.values())
        counts = {"": waiting, "NotVisible": flying, "Delayed": 0}
        found = {f"ApproximateNumberOfMessages{which}": str(count) for which, count in counts.items()}
        assert set(AttributeNames) == set(found)
        return {"Attributes": found}
