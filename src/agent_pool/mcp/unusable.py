"""What stands in for the pool when it cannot be made: it explains why, to every call.

A server that ends at once shows its user "Connection closed" and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from agent_pool import Agent, AgentPoolError, Broken, TaskEvent, TaskResult, WorkerInfo


class UnusablePool:
    """Raises `error` from everything but `kill`."""

    def __init__(self, error: AgentPoolError) -> None:
        self._error = error

    @property
    def catalog(self) -> UnusablePool:
        return self

    def scan(self) -> Sequence[Agent | Broken]:
        raise self._error

    def stamp(self) -> Hashable:
        return "unusable"

    async def invoke(
        self, agent: str, task: str, *, on_event: Callable[[TaskEvent], None]
    ) -> TaskResult:
        raise self._error

    async def warmup(self, agent: str) -> WorkerInfo:
        raise self._error

    async def list(self) -> Sequence[WorkerInfo]:
        raise self._error

    async def reset(self, agent: str) -> int:
        raise self._error

    def kill(self) -> None:
        """There is nothing to kill."""
