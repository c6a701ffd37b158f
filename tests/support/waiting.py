"""Bounded waiting, for asynchronous tests and for conditions that no event announces."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TEST_TIMEOUT = 60.0
"""Seconds in which an asynchronous test must have ended."""
WAIT_TIMEOUT = 15.0
"""Seconds in which a single condition must have come true."""


def run(main: Coroutine[Any, Any, T], bound: float = TEST_TIMEOUT) -> T:
    """Run an asynchronous test; raise TimeoutError after `bound` seconds."""
    return asyncio.run(bounded(main, bound))


async def bounded(main: Coroutine[Any, Any, T], bound: float) -> T:
    """Await a coroutine; raise TimeoutError after `bound` seconds."""
    async with asyncio.timeout(bound):
        return await main


def blocking_wait(condition: Callable[[], object], within: float = WAIT_TIMEOUT) -> None:
    """Wait as `wait_until`, without an event loop."""
    deadline = time.monotonic() + within
    asked = time.thread_time()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {within:g} s")
        time.sleep(_pause_after(time.thread_time() - asked))
        asked = time.thread_time()


async def wait_until(condition: Callable[[], object], within: float = WAIT_TIMEOUT) -> None:
    """Wait until the condition is true; raise TimeoutError after `within` seconds."""
    async with asyncio.timeout(within):
        asked = time.thread_time()
        while not condition():
            await asyncio.sleep(_pause_after(time.thread_time() - asked))
            asked = time.thread_time()


def _pause_after(seconds: float) -> float:
    """Return how long to wait after a question that took so much processor time.

    Some conditions look at all processes of the machine; asked without a pause they take more
    time than what they wait for.
    """
    return max(0.005, 4 * seconds)
