"""Ending processes: those that a task left running, and a whole worker."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Collection
from typing import Final

import psutil

from agent_pool.claude import process_tree
from agent_pool.claude.process import ChildProcess
from agent_pool.settings import Settings

KILLED_SECONDS: Final = 5.0
"""Seconds in which the end of a killed process is awaited at least."""


async def end_leftovers(
    pid: int, cookie: str, bound: float, servers: Collection[str] | None = None
) -> int:
    """End the processes that a task left running, daemons included.

    The worker itself and its own MCP servers stay.

    Args:
        pid: the worker's process id.
        cookie: the worker's cookie.
        bound: seconds for all of it.
        servers: the marks of its MCP servers; None if all that it started are its own.

    Returns:
        How many processes still lived after `bound` seconds.
    """
    deadline = time.monotonic() + bound
    # Scan again until a scan finds nothing: a process can fork between the scan and its SIGKILL.
    while left := await asyncio.to_thread(_leftovers, pid, cookie, servers):
        process_tree.kill(left)
        remaining = max(0.0, deadline - time.monotonic())
        await asyncio.to_thread(process_tree.wait_ended, left, remaining)
        # Checked at the end of a round: even with a bound of 0 each process gets its SIGKILL.
        if time.monotonic() >= deadline:
            return len(left)
    return 0


def _leftovers(pid: int, cookie: str, servers: Collection[str] | None) -> list[psutil.Process]:
    found = process_tree.members(pid, cookie)
    return [one for one in found if one.pid != pid and not process_tree.is_server(one, servers)]


async def stop(process: ChildProcess, cookie: str, settings: Settings, *, gentle: bool) -> None:
    """Stop a worker by the stop ladder: close stdin, SIGTERM, SIGKILL; then end the rest.

    Args:
        process: the worker's process.
        cookie: the worker's cookie.
        settings: `stop_grace` and `kill_grace`, the seconds of each step.
        gentle: no turn is running, so the process gets `stop_grace` to exit by itself.
    """
    try:
        await _climb(process, cookie, settings, gentle=gentle)
    finally:
        # A cancelled stop too: afterwards the process has ended, and its pipes are closed.
        process.kill()
        # Bounded, because a process that the kernel does not let go cannot be killed. Not by a
        # short `kill_grace`: on an overloaded machine the event loop hears of the end only after a
        # while.
        await process.wait_ended(max(settings.kill_grace, KILLED_SECONDS))


async def _climb(process: ChildProcess, cookie: str, settings: Settings, *, gentle: bool) -> None:
    # List the tree first: once the worker has died, its children are no longer below it.
    victims = await asyncio.to_thread(process_tree.members, process.pid, cookie)
    # The CLI exits at the end of its stdin; with a background task it stays (2.1.330).
    process.close_stdin()
    # A CLI in a turn would finish the turn first, but its caller has left.
    if not (gentle and await process.wait_ended(settings.stop_grace)):
        process_tree.kill(victims, signal.SIGTERM)
        await process.wait_ended(settings.kill_grace)
    # After a gentle exit too: commands of its tasks can outlive it.
    process.kill()
    process_tree.kill(victims)
    # Daemons have left the tree, and others were started after the list was made.
    await asyncio.to_thread(lambda: process_tree.kill(process_tree.with_cookie(cookie)))


def kill(pids: Collection[int], cookie: str) -> None:
    """Send SIGKILL to workers and to everything that they started, without waiting."""
    # List the trees first: once a worker has died, its children are no longer below it.
    victims = [process for pid in pids for process in process_tree.descendants(pid)]
    for pid in pids:
        process_tree.kill_group(pid)
    process_tree.kill(victims)
    process_tree.kill(process_tree.with_cookie(cookie))
