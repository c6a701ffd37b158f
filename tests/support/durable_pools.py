"""Durable pools over a fake pool: tasks that end when a test lets them, crashes, many records."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable

from agent_pool import Spent, Started, TaskResult, Text, Usage
from agent_pool.api import OnEvent
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.fake_pool import make_result

OpenPool = Callable[..., DurablePool]
"""Builds a durable pool over a fake pool, with the settings that are given."""


class TaskGate:
    """Runs tasks that end when their gate is opened.

    Attributes:
        begun: the tasks in the order in which they began.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._open = asyncio.Event()
        self._free: set[str] = set()
        self._waiting: dict[str, asyncio.Event] = {}

    def has_begun(self, task: str) -> bool:
        """Return whether a task has begun."""
        return task in self.begun

    def open(self, *tasks: str) -> None:
        """Let these tasks end; without any, all of them, also later ones."""
        if not tasks:
            self._open.set()
        self._free.update(tasks)
        for task, event in self._waiting.items():
            if not tasks or task in tasks:
                event.set()

    async def __call__(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        self.begun.append(task)
        emit(Started("worker-1", 4711, 0.0, agent=agent))
        emit(Text(f"working on {task}"))
        emit(Spent(Usage(10, 5, 0, 0), 0.01))
        event = self._waiting.setdefault(task, asyncio.Event())
        if not self._open.is_set() and task not in self._free:
            await event.wait()
        return make_result(f"{task} done", agent=agent, usage=Usage(20, 10, 0, 0), cost_usd=0.02)


async def crash(pool: DurablePool) -> None:
    """End a pool as a kill does: nothing more is written, the file is as it is."""
    await pool._store.flush()
    for task in list(pool._engine._background):
        task.cancel()
    pool._engine.is_closing = True
    if pool._pruning is not None:
        pool._pruning.cancel()
    await pool._store._database.close()
    if (keeper := pool._store._keeper) is not None and keeper._descriptor is not None:
        os.close(keeper._descriptor)  # as the kernel does; the file stays


async def fill_store(store: Store, count: int, *, text: str = "look", agents: int = 5) -> None:
    """Store ended tasks, as an owner of the store does, but in one transaction."""

    def fill(connection: sqlite3.Connection) -> None:
        states = ("succeeded", "succeeded", "failed", "cancelled")
        now = time.time()
        for number in range(1, count + 1):
            agent = f"agent-{number % agents}"
            connection.execute(
                "INSERT INTO tasks (number, id, state, agent, project, created, ended) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(number, f"{agent}-{number}", states[number % 4], agent),
                    *(f"/srv/project-{number % 3}", now + number / 1e6, now + number / 1e6),
                ),
            )
            request = '{"agent":"%s"}' % agent  # noqa: UP031 - the braces of JSON
            connection.execute(
                "INSERT INTO contents (number, task, request) VALUES (?, ?, ?)",
                (number, text, request),
            )

    await store._database.write(fill)
