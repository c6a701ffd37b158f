"""What happens in a pool, as it happens: the events of each task, and the pool's own.

An event has a tag (`type`), a number that grows by one with each event of its pool, and the time.
All become JSON values and come back: `event.as_json()`, `event_from_json(data)`.

A task's events, in this order: `Submitted`; `Queued`, again and again while it waits; `Started`;
then `Text`, `Withdrawn`, `ToolUse`, `ToolOutput`, `Retry`, `Spent`, `PermissionAsked` and
`PermissionAnswered` as they come; `Ended`, always and once. After `Started` it can be `Queued` and
`Started` again, if it has done nothing yet: its worker ended, or the account's limit was met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from agent_pool.errors import ConfigError
from agent_pool.models import (
    ErrorValue,
    JsonValue,
    PermissionRequest,
    PoolStats,
    RateLimits,
    TaskRequest,
    TaskResult,
    Usage,
    explain_problems,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseEvent(JsonValue):
    """What all events have.

    Attributes:
        number: 1 for the pool's first event; 0 if it was not published by a pool.
        time: seconds since 1970 (UTC).
        agent: the agent's name; empty where there is none.
        project: the folder of the agent's project.
    """

    number: int = 0
    time: float = 0.0
    agent: str = ""
    project: str = ""


# Of a task


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseTaskEvent(BaseEvent):
    """What all events of a task have.

    Attributes:
        task_id: the pool's id of the task.
    """

    task_id: str = ""


@dataclass(frozen=True, slots=True)
class Submitted(BaseTaskEvent):
    """The pool has a new task."""

    request: TaskRequest
    type: Literal["task.submitted"] = field(default="task.submitted", repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Queued(BaseTaskEvent):
    """The task waits for a worker; repeated while it does.

    Attributes:
        position: its place among the tasks that wait for this agent, 1 for the next.
        waited: seconds so far.
        paused: seconds for which the pool sends the API no work after a refusal; usually 0.
        reason: why it is paused, in words; empty without a pause.
        starting: a process is being started that can have this task.
    """

    position: int
    waited: float = 0.0
    paused: float = 0.0
    reason: str = ""
    starting: bool = False
    type: Literal["task.queued"] = field(default="task.queued", repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Started(BaseTaskEvent):
    """A worker has the task now.

    Attributes:
        worker: the worker's id.
        pid: its process id.
        waited: seconds in the queue.
        reused: the process had been given a task before.
        node: the machine of the worker; empty for this one.
    """

    worker: str
    pid: int
    waited: float
    reused: bool = False
    node: str = ""
    type: Literal["task.started"] = field(default="task.started", repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Text(BaseTaskEvent):
    """Words of the agent."""

    text: str
    type: Literal["task.text"] = field(default="task.text", repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Withdrawn(BaseTaskEvent):
    """Words of an earlier `Text` that are no longer part of the answer.

    A safety check stopped them, or the answer of another model replaces them.
    """

    text: str
    type: Literal["task.withdrawn"] = field(default="task.withdrawn", repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class ToolUse(BaseTaskEvent):
    """A tool that the agent calls."""

    id: str
    name: str
    input: Mapping[str, Any] = field(default_factory=dict)
    type: Literal["task.tool_use"] = field(default="task.tool_use", repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class ToolOutput(BaseTaskEvent):
    """The output of a tool; `id` is that of its `ToolUse`."""

    id: str
    text: str
    is_error: bool
    type: Literal["task.tool_output"] = field(default="task.tool_output", repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Retry(BaseTaskEvent):
    """The API refused a request; the CLI tries again by itself after `delay` seconds.

    Attributes:
        status: the HTTP status, e.g. 429 or 529; 0 if the API could not be reached.
        error: the CLI's word for it, e.g. ``rate_limit``.
        attempt: 1 for the first refusal.
        delay: seconds.
    """

    status: int
    error: str
    attempt: int
    delay: float
    type: Literal["task.retry"] = field(default="task.retry", repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Spent(BaseTaskEvent):
    """What the task has used so far; published while it runs, after each answer of the API.

    Attributes:
        usage: tokens of the task so far.
        cost_usd: cost so far; an estimate until the task has ended.
        context_tokens: tokens of the agent's last request: what is in its context now; 0 if they
            are not known. Sub-agents have contexts of their own, which are not counted.
        context_window: tokens that the context window of its model has room for, as the CLI says;
            0 if that is not known.
    """

    usage: Usage
    cost_usd: float
    context_tokens: int = 0
    context_window: int = 0
    type: Literal["task.spent"] = field(default="task.spent", repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class PermissionAsked(BaseTaskEvent):
    """The agent asks for permission, and somebody can answer: the task waits.

    Attributes:
        key: names the request within its task, for `TaskAPI.answer`.
        request: what it asks for.
    """

    key: str
    request: PermissionRequest
    type: Literal["task.permission_asked"] = field(
        default="task.permission_asked", repr=False, kw_only=True
    )


@dataclass(frozen=True, slots=True)
class PermissionAnswered(BaseTaskEvent):
    """A request for permission was answered, or its time has passed.

    Attributes:
        key: that of its `PermissionAsked`.
        allowed: whether the agent may use the tool.
        reason: why not, in words; can be empty.
    """

    key: str
    allowed: bool
    reason: str = ""
    type: Literal["task.permission_answered"] = field(
        default="task.permission_answered", repr=False, kw_only=True
    )


@dataclass(frozen=True, slots=True)
class Ended(BaseTaskEvent):
    """The task has ended: exactly one of `result` and `error` is not None.

    Attributes:
        result: the agent's result, which can report an error of the CLI.
        error: the error that the caller of `invoke` gets instead.
        worker: the worker that had the task; empty if it had none.
        waited: seconds in the queue.
        running: seconds with the worker.
        reused: the worker's process had been given a task before.
    """

    result: TaskResult | None = None
    error: ErrorValue | None = None
    worker: str = ""
    waited: float = 0.0
    running: float = 0.0
    reused: bool = False
    type: Literal["task.ended"] = field(default="task.ended", repr=False, kw_only=True)

    def as_json(self) -> dict[str, Any]:
        made = JsonValue.as_json(self)
        return made if self.result is None else {**made, "result": self.result.as_json()}

    @property
    def failure(self) -> str:
        """Return the code of the failure; ``task_error`` for one without a code; else empty."""
        if self.error is not None:
            return self.error.code
        if self.result is None or not self.result.is_error:
            return ""
        return self.result.code or "task_error"


# Of a worker


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseWorkerEvent(BaseEvent):
    """What all events of a worker have.

    Attributes:
        worker: the worker's id.
        node: its machine; empty for this one.
    """

    worker: str
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStateChanged(BaseWorkerEvent):
    """A worker has another state.

    Attributes:
        state: ``starting``, ``idle``, ``leased``, ``resetting``, ``stopping``; ``gone`` once its
            processes have ended.
        previous: the state before; empty for a new worker.
    """

    state: str
    previous: str = ""
    type: Literal["worker.state"] = field(default="worker.state", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady(BaseWorkerEvent):
    """A process is ready for a task of its agent: it was started, or it became this agent.

    Attributes:
        pid: its process id.
        seconds: the time from spawn to ready; None if it was started before, as a spare or as a
            worker of another agent.
    """

    pid: int
    seconds: float | None = None
    type: Literal["worker.ready"] = field(default="worker.ready", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAssigned(BaseWorkerEvent):
    """A spare, or an idle worker of another agent, becomes a worker of this agent.

    Attributes:
        previous: the agent that it was before; empty for a spare.
    """

    previous: str = ""
    type: Literal["worker.assigned"] = field(default="worker.assigned", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReset(BaseWorkerEvent):
    """A worker has forgotten its task.

    Attributes:
        way: ``rewind``: its prompt was taken back; ``clear``: `/clear` was sent.
    """

    way: Literal["rewind", "clear"] = "clear"
    type: Literal["worker.reset"] = field(default="worker.reset", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRetired(BaseWorkerEvent):
    """A worker serves no more tasks and is being stopped.

    Attributes:
        reason: why, e.g. ``max_tasks``, ``tainted``, ``closed``.
        taints: what it did that a reset does not undo; usually empty.
    """

    reason: str
    taints: tuple[str, ...] = ()
    type: Literal["worker.retired"] = field(default="worker.retired", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded(BaseWorkerEvent):
    """A turn has ended, with or without a caller that still waits for it.

    Attributes:
        usage: the turn's tokens.
        cost_usd: its cost by the CLI's list prices.
    """

    usage: Usage
    cost_usd: float
    type: Literal["worker.turn_ended"] = field(default="worker.turn_ended", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayResult(BaseWorkerEvent):
    """A worker reported a result that no task had asked for; it is not used again."""

    type: Literal["worker.stray_result"] = field(default="worker.stray_result", repr=False)


# Of the pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(BaseEvent):
    """No work is given out for some time, because the API refused some.

    Attributes:
        seconds: from now; 0 if work is given out again before the end of a pause.
        reason: why, in words.
    """

    seconds: float
    reason: str = ""
    type: Literal["pool.paused"] = field(default="pool.paused", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitsChanged(BaseEvent):
    """The API reported how much of the account's limits is used.

    Attributes:
        limits: the limits now.
    """

    limits: RateLimits
    type: Literal["pool.rate_limits"] = field(default="pool.rate_limits", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(BaseEvent):
    """The pool as it is when a subscription begins; the subscriber's first event.

    Attributes:
        stats: the figures so far; later events add to them.
    """

    stats: PoolStats
    type: Literal["pool.snapshot"] = field(default="pool.snapshot", repr=False)


TaskEvent = (
    Submitted
    | Queued
    | Started
    | Text
    | Withdrawn
    | ToolUse
    | ToolOutput
    | Retry
    | Spent
    | PermissionAsked
    | PermissionAnswered
    | Ended
)
"""The events of one task, which `on_event` and `stream` give."""

PoolEvent = (
    WorkerStateChanged
    | WorkerReady
    | WorkerAssigned
    | WorkerReset
    | WorkerRetired
    | TurnEnded
    | StrayResult
    | Paused
    | RateLimitsChanged
    | Snapshot
)
"""The pool's own events."""

Event = TaskEvent | PoolEvent
"""All events, which `PoolAPI.subscribe` gives."""


def event_from_json(data: object) -> Event:
    """Make the event again whose `as_json` returned `data`; its tag tells which it is.

    Raises:
        ConfigError: the tag is unknown, or a field is missing or has the wrong type.
    """
    try:
        event: Event = _event_adapter().validate_python(data)
    except ValidationError as error:
        problems = explain_problems(error)
        raise ConfigError(f"this is not the JSON of an event: {problems}") from None
    return event


@cache
def _event_adapter() -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[Event, Field(discriminator="type")])
