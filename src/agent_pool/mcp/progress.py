"""What a client is told while an agent works: one short line at a time, never too many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from agent_pool import Queued, Retry, Started, TaskEvent, Text, ToolUse
from agent_pool.mcp.text import one_line

WIDTH: Final = 120
GAP: Final = 0.3  # seconds between two lines at least
BEAT: Final = 15.0  # seconds of silence at most; clients give up on silent calls

# The input that says most about a call, by what tools commonly name it.
_TELLING: Final = ("command", "file_path", "notebook_path", "path", "pattern", "query", "url")
_ALSO_TELLING: Final = ("description", "skill", "prompt", "title", "name")


def narrate(event: TaskEvent) -> str | None:
    """One line on what the agent does now; None when the event is no news.

    It never holds more of a tool's input than the start of one value.
    """
    match event:
        case Queued():
            return _queue_line(event)
        case Started(agent=agent, worker=worker):
            return one_line(f"{agent} has begun, on {worker}", WIDTH)
        case Retry(status=0, delay=delay):
            return f"the API cannot be reached; trying again in {delay:.0f} s"
        case Retry(status=status, delay=delay):
            return f"the API refused (HTTP {status}); trying again in {delay:.0f} s"
        case Text(text) if text.strip():
            return one_line(text, WIDTH)
        case ToolUse():
            return _tool_line(event)
    return None


def _queue_line(queued: Queued) -> str:
    if queued.paused:
        line = f"{queued.agent} waits {queued.paused:.0f} s: the API has refused work"
    else:
        line = f"{queued.agent} waits for a worker, place {queued.position} in the queue"
    return one_line(line, WIDTH)


def _tool_line(call: ToolUse) -> str:
    for key in (*_TELLING, *_ALSO_TELLING):
        value = call.input.get(key)
        if isinstance(value, str) and value.strip():
            return one_line(f"{call.name}: {value}", WIDTH)
    return one_line(call.name, WIDTH)


class Progress:
    """Passes lines on: the latest wins, at most one in `gap` seconds, at least one in `beat`.

    `send` gets a number that grows with each call, and the line. `say` may be called at any
    time; nothing is sent before the first line.
    """

    def __init__(
        self, send: Callable[[int, str], Awaitable[None]], *, gap: float = GAP, beat: float = BEAT
    ) -> None:
        self._send = send
        self._gap = gap
        self._beat = beat
        self._line = ""
        self._since = 0.0
        self._news = asyncio.Event()

    def say(self, line: str) -> None:
        """Make `line` the one to send next."""
        self._line = line
        self._since = time.monotonic()
        self._news.set()

    async def run(self) -> None:
        """Send lines until cancelled."""
        await self._news.wait()
        number = 0
        while True:
            number += 1
            await self._send(number, self._current())
            await asyncio.sleep(self._gap)
            await self._wait_for_news()

    def _current(self) -> str:
        if self._news.is_set():
            self._news.clear()
            return self._line
        return f"{self._line} ({time.monotonic() - self._since:.0f} s)"

    async def _wait_for_news(self) -> None:
        try:
            async with asyncio.timeout(self._beat):
                await self._news.wait()
        except TimeoutError:
            pass
