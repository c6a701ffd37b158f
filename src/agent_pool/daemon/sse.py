"""Events as server-sent events: those of one task, and those of the whole pool.

A client that comes back names the last event that it has, in `Last-Event-ID`, and gets the rest.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Receive, Scope, Send

from agent_pool.api import PoolAPI
from agent_pool.daemon.http_json import dump_json
from agent_pool.events import Event, Snapshot, TaskEvent

log = logging.getLogger("agent_pool")

KEEP_ALIVE_SECONDS: Final = 15
"""A comment is sent after this time, so that both sides notice a connection that is lost."""
SEND_TIMEOUT: Final = 30.0
"""Seconds after which a client is dropped that does not read what was sent."""
RING_EVENTS: Final = 2048
RING_BYTES: Final = 2 << 20
"""How many events of the pool are kept for clients that come back, and their bytes together."""
_LINE_END: Final = "\n"


class EventStream(EventSourceResponse):
    """A stream of events, whose client is dropped if it does not read.

    Args:
        events: the events as text for the wire.
        send_timeout: seconds, see `SEND_TIMEOUT`.
    """

    def __init__(self, events: AsyncIterator[ServerSentEvent], send_timeout: float) -> None:
        super().__init__(
            events,
            ping=KEEP_ALIVE_SECONDS,
            ping_message_factory=lambda: ServerSentEvent(comment="", sep=_LINE_END),
            sep=_LINE_END,
            send_timeout=send_timeout,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            connection = scope.get("state", {}).get("connection")
            if connection is None:  # another server than the daemon's: it closes after an error
                raise
            log.info("a client was dropped: it has read no event for %.0f s", self.send_timeout)
            # uvicorn's own close waits until everything was read, which is never.
            connection.abort()
            # uvicorn logs an error about an answer without an end, unless its client has left.
            while (await receive())["type"] != "http.disconnect":
                pass


def encode_event(event: Event, event_id: str) -> ServerSentEvent:
    """Return an event for the wire: its tag as the name, its JSON as the data."""
    # JSON has no line end in it, so each event is one line of data.
    return ServerSentEvent(dump_json(event.as_json()), event=event.type, id=event_id, sep=_LINE_END)


async def task_stream(
    events: AsyncGenerator[TaskEvent, None],
) -> AsyncGenerator[ServerSentEvent, None]:
    """Yield the events of one task for the wire; the id of each is its number within the task."""
    try:
        async for event in events:
            yield encode_event(event, str(event.number))
    finally:
        await events.aclose()


class PoolEvents:
    """The events of a pool for any number of clients, with one bounded memory for all of them.

    A client that is slower than the pool loses the events that left the ring, and gets a new
    `Snapshot` instead. The pool is subscribed to when the first client comes, and from then on: a
    client that comes back finds the events that it missed.

    Args:
        pool: the pool.
        boot: tells this ring from that of an earlier daemon; by default random.
        most_events: how many events are kept.
        most_bytes: how large they are together at most; the last event is always kept.
    """

    def __init__(
        self,
        pool: PoolAPI,
        boot: str = "",
        most_events: int = RING_EVENTS,
        most_bytes: int = RING_BYTES,
    ) -> None:
        self._pool = pool
        self._boot = boot or secrets.token_hex(4)
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._ring: deque[tuple[ServerSentEvent, int]] = deque()
        self._bytes = 0
        self._last = 0  # how many events came; the place of the newest one
        self._is_subscribed = False
        self._news = asyncio.Event()

    async def stream(self, last_id: str = "") -> AsyncGenerator[ServerSentEvent, None]:
        """Yield the events after the one with this id; first a `Snapshot` if that is not kept."""
        if not self._is_subscribed:
            self._pool.subscribe(self._keep)
            self._is_subscribed = True
        place = self._known_place(last_id)
        while True:
            oldest = self._last - len(self._ring) + 1
            if place is None or place < oldest - 1:
                # Before the yield: the snapshot has all events until now.
                place = self._last
                yield self._snapshot()
            elif place < self._last:
                place += 1
                yield self._ring[place - oldest][0]
            else:
                await self._news.wait()

    def _known_place(self, last_id: str) -> int | None:
        boot, _, number = last_id.rpartition("-")
        if boot != self._boot or not (number.isascii() and number.isdigit()):
            return None
        return int(number[:15]) if int(number[:15]) <= self._last else None

    def _snapshot(self) -> ServerSentEvent:
        # A subscription of its own gives the figures as they are now, and ends at once.
        first: list[Event] = []
        self._pool.subscribe(first.append)()
        return encode_event(first[0], f"{self._boot}-{self._last}")

    def _keep(self, event: Event) -> None:
        if isinstance(event, Snapshot):
            return  # each client gets one of its own
        self._last += 1
        line = encode_event(event, f"{self._boot}-{self._last}")
        size = len(line.encode())
        self._ring.append((line, size))
        self._bytes += size
        while len(self._ring) > 1 and (
            len(self._ring) > self._most_events or self._bytes > self._most_bytes
        ):
            self._bytes -= self._ring.popleft()[1]
        # Everybody who waits now wakes up; the next wait is for the next event.
        self._news.set()
        self._news = asyncio.Event()
