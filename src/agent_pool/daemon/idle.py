"""When the daemon ends by itself: nobody has used it for some time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class IdleWatch:
    """Knows when something last happened.

    Args:
        is_busy: says whether there is a client or a task now.
    """

    def __init__(self, is_busy: Callable[[], Awaitable[bool]]) -> None:
        self._is_busy = is_busy
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()

    def touch(self) -> None:
        """Note that something happened: a client came or left, a task changed."""
        self._last = self._clock()

    async def wait(self, seconds: float) -> None:
        """Wait until nothing has happened for so long and nobody is there."""
        while True:
            left = self._last + seconds - self._clock()
            if left > 0:
                await asyncio.sleep(left)
                continue
            seen = self._last
            if await self._is_busy():
                self.touch()
            elif self._last == seen:  # else somebody came while it was asked
                return
