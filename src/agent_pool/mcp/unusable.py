"""What stands in for the pool when it cannot be made: it explains why, to every call.

A server that ends at once shows its user "Connection closed" and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence

from agent_pool import (
    Agent,
    AgentPoolError,
    Broken,
    ConfigError,
    Denied,
    PermissionRequest,
    PoolStats,
    TaskEvent,
    TaskResult,
    WorkerInfo,
)


class UnusablePool:
    """Whatever is asked of it, it raises a ConfigError that explains `error`."""

    def __init__(self, error: AgentPoolError) -> None:
        self._problem = (
            f"agent-pool cannot work: {error}\nSettings are read when the server starts: "
            "correct them, then connect to it again (in Claude Code: /mcp)."
        )

    async def open(self) -> None:
        """There is nothing to open."""

    @property
    def catalog(self) -> UnusablePool:
        return self

    def scan(self) -> Sequence[Agent | Broken]:
        raise ConfigError(self._problem)

    def stamp(self) -> Hashable:
        return "unusable"

    async def invoke(
        self,
        agent: str,
        task: str,
        *,
        on_event: Callable[[TaskEvent], None],
        on_permission: Callable[[PermissionRequest], Awaitable[bool | Denied]],
        conversation: str | None,
    ) -> TaskResult:
        raise ConfigError(self._problem)

    async def warmup(self, agent: str) -> WorkerInfo:
        raise ConfigError(self._problem)

    async def list(self) -> Sequence[WorkerInfo]:
        raise ConfigError(self._problem)

    async def reset(self, agent: str) -> int:
        raise ConfigError(self._problem)

    def end_conversation(self, agent: str, conversation: str) -> bool:
        raise ConfigError(self._problem)

    def stats(self) -> PoolStats:
        raise ConfigError(self._problem)

    def kill(self) -> None:
        """There is nothing to kill."""
