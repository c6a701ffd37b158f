"""Watch a pool: the events of a call, the stops of workers, its ticks; and move its clock."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from agent_pool import (
    AgentPool,
    Event,
    TaskEvent,
    TaskResult,
    WorkerRetired,
    WorkerStateChanged,
)


async def invoke_with_events(
    pool: AgentPool, task: str, agent: str = "tester", **more: Any
) -> tuple[TaskResult, list[TaskEvent]]:
    """Give the pool a task; return the result, and the events before it."""
    events: list[TaskEvent] = []
    return await pool.invoke(agent, task, on_event=events.append, **more), events


async def wait_for_ticks(pool: AgentPool, count: int) -> None:
    """Wait until the pool's supervisor has ticked `count` times more."""
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


class StopRecorder:
    """Record which workers are retired while this is open, from the pool's events.

    Attributes:
        seen: for each, the reason, and the number of workers at that moment by state.
    """

    def __init__(self, pool: AgentPool) -> None:
        self.seen: list[tuple[str, dict[str, int]]] = []
        self._pool = pool
        self._states: dict[str, str] = {}

    def __enter__(self) -> StopRecorder:
        for name, record in self._pool._supervisor.scheduler.workers.items():
            self._states[name] = str(record.state)
        self._unsubscribe = self._pool.subscribe(self._record)
        return self

    def __exit__(self, *exc: object) -> None:
        self._unsubscribe()

    def _record(self, event: Event) -> None:
        if isinstance(event, WorkerStateChanged):
            self._states[event.worker] = event.state
            if event.state == "gone":
                del self._states[event.worker]
        elif isinstance(event, WorkerRetired):
            self.seen.append((event.reason, dict(Counter(self._states.values()))))


class AdjustableClock:
    """A pool's time: it runs by itself and can be moved forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def skip(self, seconds: float) -> None:
        """Move the clock forward."""
        self._ahead += seconds
