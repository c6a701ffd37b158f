"""The interface of a method: one way to run an agent's tasks.

A method imports its libraries in `open`, so that its process does not hold the memory of the
libraries of other methods.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

POLL_INTERVAL_SECONDS: Final = 0.005
"""How often `settle` asks a pool whether its workers are idle."""


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """The answer to a task, and the seconds from the request to the answer."""

    text: str
    seconds: float


class Method(ABC):
    """One way to run tasks.

    Attributes:
        agent: the name of the agent that gets the tasks.
        resources: everything that `open` and the tasks have opened; closed at the end.
    """

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.resources = AsyncExitStack()

    async def open(self) -> None:  # noqa: B027 - most methods have nothing to prepare
        """Prepare for the first task."""

    async def prepare(self, at_once: int) -> None:  # noqa: B027
        """Prepare for this many tasks at the same time."""

    @abstractmethod
    async def run_task(self, task: str) -> str:
        """Run one task and return its answer.

        Raises:
            AgentPoolError: the task could not be run.
        """

    async def settle(self) -> None:  # noqa: B027
        """Wait until the clean-up after the last tasks has ended."""

    async def run_tasks(
        self, tasks: Sequence[str], at_once: int
    ) -> tuple[list[TimedAnswer], float]:
        """Run tasks, at most `at_once` at the same time.

        Returns:
            The answers in the order of the tasks, and the seconds of all together.
        """
        free = asyncio.Semaphore(at_once)

        async def timed(task: str) -> TimedAnswer:
            async with free:
                started = time.perf_counter()
                return TimedAnswer(await self.run_task(task), time.perf_counter() - started)

        started = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(timed(task)) for task in tasks]
        except BaseExceptionGroup as failed:
            # The caller reports a single error; the first one is the cause of the cancelled rest.
            raise failed.exceptions[0] from None
        return [task.result() for task in running], time.perf_counter() - started
