"""`python -m worker.azure`: polls the queue of a pipeline until it is told to stop.

A web app has no trigger that gives failed messages back by themselves one at a time, so the process does what
Lambda's event source does: a message that failed stays hidden for a while that grows, and after five attempts it
goes to the dead letters.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from azure.core.credentials import TokenCredential
from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError
from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient
from azure.storage.blob import ContainerClient
from azure.storage.queue import QueueClient

from ..core import TICK, Way, Worker, take_ticks
from ..edits_index import EditsIndex
from ..elastic import Connection, Elastic
from .blob import BlobObjects

TOGETHER = 16
"""Get Messages gives 32 at most; fewer, so that a burst is shared by the loops."""
HIDDEN_SECONDS = 120
ATTEMPTS = 5
LOOPS = 8
IDLE_SECONDS = 1.0
TICK_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 30.0
FOR_EVER = -1

log = logging.getLogger("keyshift.worker")


@dataclass(frozen=True)
class Settings:
    """What the app's settings say. `takes_edits`: whether this worker is the one that looks for edits."""

    blob_endpoint: str
    container: str
    queue_endpoint: str
    queue: str
    dlq: str
    search_secret: str
    index: str
    edits: str
    kept: str
    search: str
    identity_client_id: str
    takes_edits: bool = False

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        named = {name: environment[name.upper()] for name in cls.__dataclass_fields__ if name != "takes_edits"}
        return cls(**named, takes_edits=environment.get("TAKES_EDITS") == "true")


@dataclass
class Loop:
    """One poll after another. `make` is called anew when the search refused its credential: it may have been renewed."""

    queue: QueueClient
    letters: QueueClient
    make: Callable[[], Way]
    takes_edits: bool
    stop: threading.Event = field(default_factory=threading.Event)
    _way: Way | None = None
    _ticked: float = float("-inf")

    def run(self) -> None:
        pause = IDLE_SECONDS
        while not self.stop.is_set():
            try:
                worked = self.once()
                pause = IDLE_SECONDS
            except (AzureError, OSError) as error:  # the roles may not hold yet, a service may be down
                log.error("the queue cannot be worked on now: %s", error)  # noqa: TRY400 - no trace of a customer's data
                worked, pause = 0, min(pause * 2, LONGEST_PAUSE_SECONDS)
            if not worked:
                self.stop.wait(pause)

    def once(self) -> int:
        """Work on what waits now; how many messages there were."""
        if self._way is None:
            self._way = self.make()
        way, refused = self._way, False
        messages = list(self.queue.receive_messages(max_messages=TOGETHER, visibility_timeout=HIDDEN_SECONDS))
        bodies: list[Mapping[str, Any]] = [
            {"messageId": message.id, "body": _decoded(message.content)} for message in messages
        ]
        way.worker.was_refused = False
        failed = set(way.worker.work(bodies)) if bodies else set()
        refused |= way.worker.was_refused
        for message in messages:
            self._settle(message, is_failed=message.id in failed)
        if self.takes_edits and time.monotonic() - self._ticked >= TICK_SECONDS:
            self._ticked = time.monotonic()
            refused |= not self._tick(way)
        if refused:
            self._way = None
        return len(messages)

    def _tick(self, way: Way) -> bool:
        """Look for edits. The schedule of AWS sends its tick through the queue; here the clock does it."""
        now = int(datetime.now(UTC).timestamp() * 1000)
        tick = {"body": json.dumps(TICK), "attributes": {"SentTimestamp": str(now)}}
        return take_ticks(way, [tick], lambda: not self.stop.is_set())

    def _settle(self, message: Any, *, is_failed: bool) -> None:
        try:
            if not is_failed:
                self.queue.delete_message(message)
            elif message.dequeue_count >= ATTEMPTS:
                self.letters.send_message(message.content, time_to_live=FOR_EVER)
                self.queue.delete_message(message)
            else:
                self._hide(message, min(2 * 5 ** (message.dequeue_count - 1), HIDDEN_SECONDS))
        except ResourceNotFoundError:  # it came back meanwhile and was worked on by another
            log.warning("message %s is not this worker's any more", message.id)

    def _hide(self, message: Any, seconds: int) -> None:
        """A message processor may not update a message; left alone it comes back after `HIDDEN_SECONDS`."""
        try:
            self.queue.update_message(message, visibility_timeout=seconds)
        except HttpResponseError as error:
            if error.status_code != HTTPStatus.FORBIDDEN:
                raise
            log.warning(
                "message %s comes back in %d s: its queue lets nobody hide it shorter", message.id, HIDDEN_SECONDS
            )


def _decoded(content: str) -> str:
    """Event Grid sends base64. What is none is given on as it is, and ends among the dead letters."""
    try:
        return base64.b64decode(content, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return content


def _way(settings: Settings, credential: TokenCredential, container: ContainerClient) -> Way:
    address = urlsplit(settings.search_secret)
    vault, name = f"{address.scheme}://{address.netloc}/", address.path.rpartition("/")[2]
    with SecretClient(vault, credential) as secrets:
        secret = json.loads(secrets.get_secret(name).value or "")
    connection = Connection(secret["endpoint"], secret["api_key"])
    objects = BlobObjects(container)
    return Way(
        Worker(objects, Elastic(connection, settings.index), settings.container),
        objects,
        EditsIndex(connection, settings.edits, settings.kept),
        settings.search,
    )


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """App Service asks every few seconds."""


def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("azure").setLevel(logging.WARNING)
    settings = Settings.read(os.environ)
    credential = ManagedIdentityCredential(client_id=settings.identity_client_id)
    container = ContainerClient(settings.blob_endpoint, settings.container, credential=credential)
    queue, letters = (
        QueueClient(settings.queue_endpoint, name, credential=credential) for name in (settings.queue, settings.dlq)
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if port := os.environ.get("PORT"):
        health = ThreadingHTTPServer(("", int(port)), _Health)
        threading.Thread(target=health.serve_forever, daemon=True).start()
    # Each has a connection of its own to the search; one of them looks for edits.
    loops = [
        Loop(queue, letters, lambda: _way(settings, credential, container), settings.takes_edits and not number, stop)
        for number in range(LOOPS)
    ]
    threads = [threading.Thread(target=loop.run) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
