"""Server-sent events of an order: from any number on, for many readers, with one look at the database for all."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from sqlalchemy.exc import SQLAlchemyError

from console.orders import PAGE, Orders

POLL_SECONDS = 0.25
KEEP_ALIVE_SECONDS = 15.0
STREAM_SECONDS = 600.0
"""How long one connection lives: who follows comes back with Last-Event-ID, and is asked who they are again."""
KEPT = 500
Row = tuple[int, str, str]


class Feed:
    """One order's newest events, for as long as somebody follows it."""

    def __init__(self) -> None:
        self.readers = 0
        self.newest: deque[Row] = deque(maxlen=KEPT)
        self.changed = asyncio.Condition()
        self.looked = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Hub:
    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._feeds: dict[str, Feed] = {}

    async def follow(self, order: str, after: int) -> AsyncIterator[str]:
        """The stream's text. Ends after the order's last event, or when the connection has lived long enough."""
        yield "retry: 1000\n\n"
        loop = asyncio.get_running_loop()
        until = loop.time() + STREAM_SECONDS
        async with self._reading(order) as feed:
            await feed.looked.wait()
            while loop.time() < until:
                rows = await self._after(feed, order, after)
                for row in rows:
                    after = row[0]
                    yield _text(row)
                    if row[1] == "end":
                        return
                if not rows and not await _news(feed, after, KEEP_ALIVE_SECONDS):
                    yield ": keep-alive\n\n"

    async def _after(self, feed: Feed, order: str, after: int) -> list[Row]:
        newest = list(feed.newest)
        if newest and newest[0][0] <= after + 1:
            return [row for row in newest if row[0] > after]
        return await asyncio.to_thread(self._orders.events, order, after)

    @asynccontextmanager
    async def _reading(self, order: str) -> AsyncIterator[Feed]:
        feed = self._feeds.setdefault(order, Feed())
        feed.readers += 1
        if feed.task is None:
            feed.task = asyncio.create_task(self._look(order, feed))
        try:
            yield feed
        finally:
            feed.readers -= 1
            if feed.readers == 0 and self._feeds.get(order) is feed:
                del self._feeds[order]
                feed.task.cancel()

    async def _look(self, order: str, feed: Feed) -> None:
        """The one reader of the database for all who follow."""
        after = 0
        while True:
            try:
                rows = await asyncio.to_thread(self._orders.events, order, after)
            except SQLAlchemyError as error:
                structlog.get_logger().warning("events could not be read", order=order, because=str(error))
                rows = []
            if rows:
                after = rows[-1][0]
                async with feed.changed:
                    feed.newest.extend(rows)
                    feed.changed.notify_all()
            if len(rows) < PAGE:
                feed.looked.set()
                await asyncio.sleep(POLL_SECONDS)


async def _news(feed: Feed, after: int, seconds: float) -> bool:
    """Waits until there is an event after a number; False if none came in time."""
    async with feed.changed:
        try:
            await asyncio.wait_for(
                feed.changed.wait_for(lambda: bool(feed.newest) and feed.newest[-1][0] > after), seconds
            )
        except TimeoutError:
            return False
    return True


def _text(row: Row) -> str:
    number, name, data = row
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(json.loads(data), separators=(',', ':'))}\n\n"
