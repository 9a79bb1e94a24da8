"""How much waits in a pipeline's queues, whatever cloud they are of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from migrate.copy.s3 import called

COUNTS = tuple(f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed"))
TOGETHER = 10
"""What SQS gives and takes at once."""


@dataclass(frozen=True, kw_only=True)
class Pipe:
    """A pipeline's queues, as `Queues` takes them."""

    id: str
    queue_url: str
    dead_letters_url: str


class Queues(Protocol):
    """The right to count a tenant's queues, and to give letters back."""

    def counted(self, url: str) -> list[int]:
        """Messages that wait, that are being worked on, that are put off; by the service's own approximate count."""
        ...

    def give_back(self, letters: str, queue: str, most: int) -> int:
        """Move up to `most` messages of one receive from `letters` to `queue`; how many there were."""
        ...


@dataclass(frozen=True)
class SqsQueues:
    sqs: Any = field(repr=False)

    def counted(self, url: str) -> list[int]:
        doing = f"counting the messages of {url.rpartition('/')[2]}"
        answer = called(doing, self.sqs.get_queue_attributes, QueueUrl=url, AttributeNames=list(COUNTS))
        return [int(answer["Attributes"][name]) for name in COUNTS]

    def give_back(self, letters: str, queue: str, most: int) -> int:
        # A long poll asks all of SQS's servers, a short one only some.
        answer = called(
            "reading dead letters",
            self.sqs.receive_message,
            QueueUrl=letters,
            MaxNumberOfMessages=min(TOGETHER, most),
            WaitTimeSeconds=1,
        )
        messages = answer.get("Messages", [])
        for message in messages:
            called("giving a letter back", self.sqs.send_message, QueueUrl=queue, MessageBody=message["Body"])
            receipt = message["ReceiptHandle"]
            called("removing a letter", self.sqs.delete_message, QueueUrl=letters, ReceiptHandle=receipt)
        return len(messages)
