"""What tests of limits look at: the events of a call, the stops of workers, the pool's ticks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import psutil

from agent_pool import AgentPool, TaskEvent, TaskResult
from agent_pool.pool.actions import Action, Stop

MIB = 1 << 20


async def told(
    pool: AgentPool, task: str, agent: str = "tester", **more: Any
) -> tuple[TaskResult, list[TaskEvent]]:
    """The answer to a task, and what its caller was told before."""
    events: list[TaskEvent] = []
    return await pool.invoke(agent, task, on_event=events.append, **more), events


async def ticks(pool: AgentPool, count: int) -> None:
    """Wait until the pool has looked at the time and its workers so many times more."""
    supervisor = pool._supervisor
    passed = asyncio.Event()
    own = supervisor.on_tick

    def tick() -> None:
        nonlocal count
        own()
        count -= 1
        if count <= 0:
            passed.set()

    supervisor.on_tick = tick
    try:
        await passed.wait()
    finally:
        supervisor.on_tick = own


class Stops:
    """The workers that are stopped while this is open.

    Attributes:
        seen: for each, why it is stopped and how many workers there were then, by state.
    """

    def __init__(self, pool: AgentPool) -> None:
        self.seen: list[tuple[str, dict[str, int]]] = []
        self._pool = pool
        self._own = pool._supervisor._perform

    def __enter__(self) -> Stops:
        self._pool._supervisor._perform = self._perform  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool._supervisor._perform = self._own  # type: ignore[method-assign]

    def _perform(self, actions: Iterable[Action]) -> None:
        actions = list(actions)
        for action in actions:
            if isinstance(action, Stop):
                self.seen.append((str(action.reason), dict(self._pool.stats().workers)))
        self._own(actions)


def watchers(pid: int) -> list[psutil.Process]:
    """The living watchers of the pools in this process."""
    try:
        children = psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if _is_watcher(child)]


def _is_watcher(process: psutil.Process) -> bool:
    try:
        return any(part.endswith("watcher.py") for part in process.cmdline())
    except psutil.Error:
        return False
