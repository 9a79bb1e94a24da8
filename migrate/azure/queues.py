"""A pipeline's storage queues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from azure.storage.queue import QueueClient

from migrate.azure.errors import told

TOGETHER = 32
"""What Get Messages gives at once."""
HIDDEN_SECONDS = 30
FOR_EVER = -1


@dataclass(frozen=True)
class StorageQueues:
    """Takes a queue by its URL. `client` makes a client of one."""

    client: Callable[[str], QueueClient] = field(repr=False)

    def counted(self, url: str) -> list[int]:
        """Storage counts what is being worked on and what is put off with what waits, and never too low."""
        with told(f"counting the messages of {url.rpartition('/')[2]}"):
            return [self.client(url).get_queue_properties().approximate_message_count or 0, 0, 0]

    def give_back(self, letters: str, queue: str, most: int) -> int:
        with told("giving letters back"):
            source, target = self.client(letters), self.client(queue)
            found = list(
                source.receive_messages(
                    messages_per_page=min(TOGETHER, most),
                    max_messages=min(TOGETHER, most),
                    visibility_timeout=HIDDEN_SECONDS,
                )
            )
            for message in found:
                target.send_message(message.content, time_to_live=FOR_EVER)
                source.delete_message(message)
        return len(found)
