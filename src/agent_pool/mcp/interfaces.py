"""What the tools want of a pool, and of whoever calls them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent_pool import (
    Agent,
    Broken,
    Denied,
    PermissionRequest,
    PoolStats,
    TaskEvent,
    TaskResult,
    WorkerInfo,
)
from agent_pool.mcp.permissions import Ask

Report = Callable[[int, str], Awaitable[None]]
"""Passes one line of progress to the client, with a number that grows."""


@dataclass(frozen=True, slots=True)
class Caller:
    """How a running call reaches whoever made it.

    Attributes:
        report: passes progress on.
        ask: puts a permission request to a person; None where that is not possible.
    """

    report: Report
    ask: Ask | None = None


class Definitions(Protocol):
    """What the server wants of `Catalog`."""

    def scan(self) -> Sequence[Agent | Broken]: ...

    def stamp(self) -> Hashable:
        """Called from another thread, as folders may be slow."""
        ...


class Pool(Protocol):
    """What the server wants of `AgentPool`."""

    @property
    def catalog(self) -> Definitions: ...

    async def invoke(
        self,
        agent: str,
        task: str,
        *,
        on_event: Callable[[TaskEvent], None],
        on_permission: Callable[[PermissionRequest], Awaitable[bool | Denied]],
        conversation: str | None,
    ) -> TaskResult: ...

    async def warmup(self, agent: str) -> WorkerInfo: ...
    async def list(self) -> Sequence[WorkerInfo]: ...
    async def reset(self, agent: str) -> int: ...
    def end_conversation(self, agent: str, conversation: str) -> bool: ...
    def stats(self) -> PoolStats: ...
    def kill(self) -> None: ...
