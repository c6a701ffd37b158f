"""What the benchmark wants of a way to carry out tasks. Ways run in the driver's process.

What a way needs is imported when it opens, so that no way carries the memory of another.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

POLLED_EVERY: Final = 0.005
"""Seconds between two questions whether a pool is at rest."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a task: the agent's words, and the seconds from asking to having them."""

    text: str
    seconds: float


class Way(ABC):
    """One way to carry out tasks.

    Attributes:
        agent: the name of the agent that does them.
        opened: what `open` and the tasks have opened; closed in the end.
    """

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.opened = AsyncExitStack()

    async def open(self) -> None:  # noqa: B027 - most ways have nothing to do here
        """Get ready for the first task."""

    async def prepare(self, at_once: int) -> None:  # noqa: B027
        """Get ready for so many tasks at once."""

    @abstractmethod
    async def one(self, task: str) -> str:
        """Carry out one task.

        Raises:
            AgentPoolError: it cannot be carried out.
        """

    async def settle(self) -> None:  # noqa: B027
        """Wait until nothing of the last tasks is left to clean up."""

    async def many(self, tasks: Sequence[str], at_once: int) -> tuple[list[Answer], float]:
        """Carry out tasks, never more than `at_once` together; their answers, and the seconds."""
        places = asyncio.Semaphore(at_once)

        async def timed(task: str) -> Answer:
            async with places:
                began = time.perf_counter()
                return Answer(await self.one(task), time.perf_counter() - began)

        began = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(timed(task)) for task in tasks]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in running], time.perf_counter() - began
