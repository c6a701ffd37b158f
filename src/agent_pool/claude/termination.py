"""Ending processes: those that a task left running, and a whole worker."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Collection
from typing import Final, TypeVar

from agent_pool.claude import process_tree
from agent_pool.claude.process import ChildProcess
from agent_pool.claude.process_tree import ProcessSearch, TreeRoot
from agent_pool.claude.watchdog import Watchdog
from agent_pool.settings import Settings

T = TypeVar("T")

KILLED_SECONDS: Final = 5.0
"""Seconds in which the end of a killed process is awaited at least."""


async def end_leftovers(process: ChildProcess, root: TreeRoot, bound: float) -> int:
    """End the processes that a task left running, daemons included.

    The worker itself and its own MCP servers stay.

    Args:
        process: the worker's process.
        root: the same, for the search.
        bound: seconds for all of it.

    Returns:
        How many processes still lived after `bound` seconds.
    """
    deadline = time.monotonic() + bound
    # Look again until a look finds nothing: a process can fork between the look and its SIGKILL.
    while left := await look(process, lambda search: search.leftovers(root)):
        process_tree.kill(left)
        remaining = max(0.0, deadline - time.monotonic())
        await asyncio.to_thread(process_tree.wait_ended, left, remaining)
        # Checked at the end of a round: even with a bound of 0 each process gets its SIGKILL.
        if time.monotonic() >= deadline:
            return len(left)
    return 0


async def look(process: ChildProcess, ask: Callable[[ProcessSearch], T]) -> T:
    """Search for a worker's processes; in a thread if that takes milliseconds."""
    if process.search.is_slow:
        return await asyncio.to_thread(ask, process.search)
    return ask(process.search)


async def stop(process: ChildProcess, root: TreeRoot, settings: Settings, *, gentle: bool) -> None:
    """Stop a worker by the stop ladder: close stdin, SIGTERM, SIGKILL; then end the rest.

    Args:
        process: the worker's process.
        root: the same, for the search.
        settings: `stop_grace` and `kill_grace`, the seconds of each step.
        gentle: no turn is running, so the process gets `stop_grace` to exit by itself.
    """
    try:
        await _climb(process, root, settings, gentle=gentle)
    finally:
        # A cancelled stop too: afterwards the process has ended, and its pipes are closed.
        process.kill()
        # Bounded, because a process that the kernel does not let go cannot be killed. Not by a
        # short `kill_grace`: on an overloaded machine the event loop hears of the end only after a
        # while.
        await process.wait_ended(max(settings.kill_grace, KILLED_SECONDS))


async def _climb(
    process: ChildProcess, root: TreeRoot, settings: Settings, *, gentle: bool
) -> None:
    # List the tree first: once the worker has died, its children are no longer below it.
    victims = await look(process, lambda search: search.trees({"": root})[""].processes)
    # The CLI exits at the end of its stdin; with a background task it stays (2.1.330).
    process.close_stdin()
    # A CLI in a turn would finish the turn first, but its caller has left.
    if not (gentle and await process.wait_ended(settings.stop_grace)):
        process_tree.kill(victims, signal.SIGTERM)
        await process.wait_ended(settings.kill_grace)
    # After a gentle exit too: commands of its tasks can outlive it.
    process.kill()
    process_tree.kill(victims)
    # Others were started after the list was made, and are the watchdog's children now.
    await process.wait_swept(settings.kill_grace)
    # Without such a watchdog they can be anywhere, but have the cookie.
    process_tree.kill(await look(process, lambda search: search.strays(root.cookie)))


def kill(workers: Collection[tuple[ChildProcess, TreeRoot]], watchdog: Watchdog) -> None:
    """Send SIGKILL to workers and to everything that they started, without waiting."""
    # List the trees first: once a worker has died, its children are no longer below it.
    victims = [
        victim
        for process, root in workers
        for victim in process.search.trees({"": root})[""].processes
    ]
    for process, _ in workers:
        process.kill()
    process_tree.kill(victims)
    process_tree.kill(watchdog.search.strays(watchdog.cookie))
    # What escaped from all this falls to the watchdog. A probe is no worker, but below it too.
    watchdog.end_all()
