"""Ending processes: what a task left behind, and a whole worker."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Collection

import psutil

from agent_pool.claude import tree
from agent_pool.claude.process import ChildProcess
from agent_pool.settings import Settings


async def end_leftovers(pid: int, cookie: str, bound: float) -> int:
    """End what a task left running, daemonised processes included; the worker and its own MCP
    servers stay. Looks again until nothing is found: a process may have forked meanwhile.

    Returns:
        How many were still there after `bound` seconds.
    """
    deadline = time.monotonic() + bound
    while left := await asyncio.to_thread(_left_behind, pid, cookie):
        tree.kill(left)
        await asyncio.to_thread(tree.wait_gone, left, max(0.0, deadline - time.monotonic()))
        if time.monotonic() >= deadline:
            return len(left)
    return 0


def _left_behind(pid: int, cookie: str) -> list[psutil.Process]:
    found = tree.members(pid, cookie)
    return [process for process in found if process.pid != pid and not tree.is_server(process)]


async def stop(process: ChildProcess, cookie: str, settings: Settings, *, gentle: bool) -> None:
    """The stop ladder: stdin closed, SIGTERM, SIGKILL; then whatever bears the cookie.

    Args:
        process: the worker's process.
        cookie: its mark.
        settings: how long each step waits.
        gentle: nothing is under way, so the process may be given time to leave by itself.
    """
    doomed = await asyncio.to_thread(tree.members, process.pid, cookie)
    process.close_stdin()
    if not (gentle and await process.wait_exited(settings.stop_grace)):
        tree.kill(doomed, signal.SIGTERM)
        await process.wait_exited(settings.kill_grace)
    process.kill()
    tree.kill(doomed)
    await asyncio.to_thread(lambda: tree.kill(tree.bearers(cookie)))
    await process.wait_exited(settings.kill_grace)


def kill(pids: Collection[int], cookie: str) -> None:
    """SIGKILL workers with everything that they started, at once and without waiting.

    The trees are looked at first: when a worker is dead its children are no longer below it.
    """
    doomed = [process for pid in pids for process in tree.descendants(pid)]
    for pid in pids:
        tree.kill_group(pid)
    tree.kill(doomed)
    tree.kill(tree.bearers(cookie))
