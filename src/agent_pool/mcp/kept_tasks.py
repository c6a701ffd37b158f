"""Delegated calls that outlive their request, as clients see them; where they are kept varies.

In a process of its own the server keeps them itself (`call_tasks`). In the daemon they are tasks of
its store (`stored_tasks`), which outlive their client and the daemon.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from mcp_types import CallToolResult, ErrorData

from agent_pool import PermissionRequest
from agent_pool.mcp.permissions import Decision

ACCEPT_SECONDS: Final = 2.0
"""Seconds for which the response to a call waits until the pool has taken or refused its task."""

TaskStatus = Literal["working", "input_required", "completed", "failed", "cancelled"]
"""The states of a task in MCP."""


@dataclass(frozen=True, slots=True)
class TaskView:
    """A delegated call as it is now.

    Attributes:
        id: stands for the call; it begins with its name.
        name: the agents, in a few characters.
        status: its state in MCP.
        line: what happens now, or how it ended.
        created: when it began.
        updated: when it last changed.
        ttl: seconds from `created` on for which it can be found.
        questions: the open questions to a person, by key.
        result: the tool's result; None before there is one.
        error: the protocol error that it ended with; usually None.
    """

    id: str
    name: str
    status: TaskStatus
    line: str
    created: datetime
    updated: datetime
    ttl: float
    questions: Mapping[str, PermissionRequest] = field(default_factory=dict)
    result: CallToolResult | None = None
    error: ErrorData | None = None

    @property
    def has_ended(self) -> bool:
        """Return whether it will not change any more."""
        return self.status not in ("working", "input_required")


def moment(seconds: float) -> datetime:
    """Return a time in seconds since 1970 as a date."""
    return datetime.fromtimestamp(seconds, UTC)


class KeptTasks(Protocol):
    """The delegated calls that a client can ask for."""

    async def begin(
        self,
        name: str,
        arguments: Mapping[str, Any] | None,
        run: Callable[[Any], Awaitable[CallToolResult]],
        *,
        can_ask: bool,
    ) -> TaskView | CallToolResult:
        """Begin a call; return its failure instead if it fails at once.

        As a task, the model would be told that it runs, and learn of the failure later.

        Args:
            name: the delegating tool.
            arguments: those of the call; they need not be valid.
            run: the call itself; gets a `Caller`.
            can_ask: a person can be asked for permission.
        """
        ...

    async def view(self, task_id: str) -> TaskView | None:
        """Return a call as it is now; None if it is not kept."""
        ...

    def note_fetched(self, task_id: str) -> None:
        """Note that the client gets the end of a call: its result is not needed any more."""
        ...

    async def answer(self, task_id: str, decisions: Mapping[str, Decision]) -> None:
        """Answer open questions of a call; ignore answers to others."""
        ...

    async def cancel(self, task_id: str) -> None:
        """Cancel a call unless it has ended; its agents are interrupted."""
        ...

    async def wait(self, task_id: str, seconds: float) -> None:
        """Wait until a call has ended, at most so many seconds."""
        ...

    def explain_unknown(self, task_id: str) -> str:
        """Return why there can be no such call, and what to do."""
        ...
