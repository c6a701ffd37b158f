"""Progress for the client while an agent works: one short line at a time, at a bounded rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from agent_pool import PermissionAsked, Queued, Retry, Started, TaskEvent, Text, ToolUse
from agent_pool.text import one_line
from agent_pool.views.activity import describe_tool_call

WIDTH: Final = 120
"""Characters of a line."""
GAP_SECONDS: Final = 0.3
"""Seconds between two lines at least."""
BEAT_SECONDS: Final = 15.0
"""Seconds without a line at most: clients give up on silent calls."""

_REFUSED_WORK: Final = "the API has refused work"

SendProgress = Callable[[int, str], Awaitable[None]]
"""Sends one line of progress to the client, with a number that grows."""


def progress_line(event: TaskEvent) -> str | None:
    """Return one line on what the agent does now; None if the event changes nothing.

    It holds at most the beginning of one value of a tool's input.
    """
    match event:
        case Queued():
            return _queue_line(event)
        case Started(worker=worker):
            return one_line(f"{event.agent} has started on {worker}", WIDTH)
        case Retry(status=0, delay=delay):
            return f"the API cannot be reached; trying again in {delay:.0f} s"
        case Retry(status=status, delay=delay):
            return f"the API refused (HTTP {status}); trying again in {delay:.0f} s"
        case Text(text) if text.strip():
            return one_line(text, WIDTH)
        case ToolUse():
            return describe_tool_call(event, WIDTH)
        case PermissionAsked(request=request):
            return one_line(f"{event.agent} waits for permission to use {request.tool}", WIDTH)
    return None


def _queue_line(queued: Queued) -> str:
    if queued.paused:
        line = f"{queued.agent} waits {queued.paused:.0f} s: {queued.reason or _REFUSED_WORK}"
    elif queued.starting:
        line = f"{queued.agent}: starting a process"
    else:
        line = f"{queued.agent} waits for a worker, place {queued.position} in the queue"
    return one_line(line, WIDTH)


class Progress:
    """Sends the latest line: at most one in `gap` seconds, at least one in `beat` seconds.

    Args:
        send: sends a line; no line is sent before the first `update`.
        gap: seconds between two lines at least.
        beat: seconds between two lines at most; a repeated line tells how long it has held.
    """

    def __init__(
        self, send: SendProgress, *, gap: float = GAP_SECONDS, beat: float = BEAT_SECONDS
    ) -> None:
        self._send = send
        self._gap = gap
        self._beat = beat
        self._line = ""
        self._since = 0.0
        self._changed = asyncio.Event()

    def update(self, line: str) -> None:
        """Make `line` the next one to send."""
        self._line = line
        self._since = time.monotonic()
        self._changed.set()

    async def run(self) -> None:
        """Send lines until cancelled."""
        await self._changed.wait()
        number = 0
        while True:
            number += 1
            await self._send(number, self._current())
            await asyncio.sleep(self._gap)
            await self._wait_for_change()

    def _current(self) -> str:
        if self._changed.is_set():
            self._changed.clear()
            return self._line
        return f"{self._line} ({time.monotonic() - self._since:.0f} s)"

    async def _wait_for_change(self) -> None:
        try:
            async with asyncio.timeout(self._beat):
                await self._changed.wait()
        except TimeoutError:
            pass
