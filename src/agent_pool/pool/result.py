"""What a caller gets back: a task's result, the events on the way, a row of `list`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from agent_pool.claude.accounts import Usage
from agent_pool.errors import TaskFailed


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The answer to one task, with what it took.

    Attributes:
        text: the agent's last words; the error's text when `is_error`.
        is_error: the CLI reported an error (API error, turn limit, …) instead of an answer.
        subtype: how the turn ended in the CLI's words: ``success``, ``error_max_turns``, ….
        agent: the agent's name.
        duration: seconds from the prompt to the result.
        waited: seconds in the queue before a worker was there.
        turns: steps of the main agent, as the CLI counts them.
        usage: tokens, all models together.
        cost_usd: what the CLI computes from its list prices.
        session_id: the CLI's id of this conversation.
        worker: the worker's id.
        pid: its process id.
        structured: the answer as a Python object, where a schema was given; else None.
        conversation: the name of the conversation that it belongs to, None for none.
        place: its place in the conversation: 1 for the first task, which begins with nothing.
    """

    text: str
    is_error: bool
    subtype: str
    agent: str
    duration: float
    waited: float
    turns: int
    usage: Usage
    cost_usd: float
    session_id: str
    worker: str
    pid: int
    structured: Any = None
    conversation: str | None = None
    place: int = 1

    def as_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        figures = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**figures, "usage": asdict(self.usage)}

    def raise_for_error(self) -> None:
        """Raise `TaskFailed` if the CLI reported an error."""
        if self.is_error:
            raise TaskFailed(
                f"agent {self.agent!r} on worker {self.worker} reported an error"
                f"{'' if self.subtype == 'success' else f' ({self.subtype})'}: {self.text}",
                result=self,
            )


@dataclass(frozen=True, slots=True)
class Queued:
    """The task waits for a worker; said again while it does.

    Attributes:
        agent: the agent's name.
        position: its place among the tasks that wait for this agent, 1 for the next.
        waited: seconds so far.
        paused: seconds for which the API is left alone after it refused work, usually 0.
    """

    agent: str
    position: int
    waited: float = 0.0
    paused: float = 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has the task now."""

    agent: str
    worker: str
    pid: int
    waited: float


@dataclass(frozen=True, slots=True)
class Text:
    """Something that the agent said."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that the agent calls."""

    id: str
    name: str
    input: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a tool answered; `id` is that of its `ToolUse`."""

    id: str
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Retry:
    """The API refused a request; the CLI tries again after `delay` seconds.

    Attributes:
        status: the HTTP status, e.g. 429 or 529.
        error: the CLI's word for it, e.g. ``rate_limit``.
        attempt: 1 for the first refusal.
        delay: seconds.
    """

    status: int
    error: str
    attempt: int
    delay: float


TaskEvent = Queued | Started | Text | ToolUse | ToolOutput | Retry | TaskResult
"""What `AgentPool.stream` yields; the last one is the `TaskResult`."""


@dataclass(frozen=True, slots=True)
class PermissionRequest:
    """What an agent asks permission for, if its `permissionMode` makes it ask.

    It is answered by True, False, or `Denied` with a reason.

    Attributes:
        agent: the agent's name.
        tool: the tool that it wants to use.
        input: with what.
        description: what the CLI says about it; may be empty.
    """

    agent: str
    tool: str
    input: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One worker as it is now.

    Attributes:
        worker: its id, e.g. ``worker-1``.
        agent: the agent's name; empty for a spare that is no agent yet.
        description: the agent's description.
        state: ``starting``, ``idle``, ``leased``, ``resetting`` or ``stopping``.
        pid: process id, None before it was spawned.
        tasks: tasks that it has done.
        rss: resident bytes of its whole process tree.
        uptime: seconds since it was spawned.
        usage: tokens of all its tasks.
        cost_usd: cost of all its tasks.
        note: what is unusual about it now, e.g. that the API refuses requests; usually empty.
    """

    worker: str
    agent: str
    description: str
    state: str
    pid: int | None
    tasks: int
    rss: int
    uptime: float
    usage: Usage
    cost_usd: float
    note: str = ""
