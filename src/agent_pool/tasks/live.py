"""One task that has not ended, and those who follow it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final

from agent_pool.api import OnEvent, OnPermission, TaskHandle
from agent_pool.errors import AgentPoolError, TaskError
from agent_pool.events import (
    Ended,
    PermissionAnswered,
    PermissionAsked,
    Spent,
    Started,
    TaskEvent,
)
from agent_pool.models import (
    NO_USAGE,
    Denied,
    PermissionRequest,
    TaskQuestion,
    TaskRecord,
    TaskRequest,
    TaskResult,
    TaskState,
    Usage,
)
from agent_pool.tasks.dispatch import QueuedTask
from agent_pool.tasks.rows import shown_request
from agent_pool.tasks.transcript import TranscriptBound
from agent_pool.views.activity import WAITING, describe_activity

FOLLOWER_EVENTS: Final = 1000
"""Events that wait for a slow reader; it reads later ones from the store again."""


@dataclass(eq=False, slots=True)
class WaitingQuestion:
    """A request for permission that waits for an answer."""

    shown: TaskQuestion
    answer: asyncio.Future[bool | Denied]


class Follower:
    """The live events of one task for one reader, bounded.

    Attributes:
        has_lost: events were dropped because the reader is slow; it must read the store again.
    """

    def __init__(self) -> None:
        self.has_lost = False
        self._events: deque[TaskEvent] = deque()
        self._changed = asyncio.Event()

    def push(self, event: TaskEvent) -> None:
        """Pass an event to the reader; never waits."""
        if len(self._events) >= FOLLOWER_EVENTS:
            self._events.clear()
            self.has_lost = True
        self._events.append(event)
        self._changed.set()

    async def next(self) -> TaskEvent | None:
        """Return the next event; None if events were dropped before it."""
        while not self._events:
            self._changed.clear()
            await self._changed.wait()
        if self.has_lost:
            self.has_lost = False
            return None
        return self._events.popleft()


class LiveTask:
    """A task that is queued or runs, in memory.

    Attributes:
        request: what was submitted, with its secrets.
        accepted: done when the task is on the disk; it has an exception if it could not be written.
        handle: the pool's handle while the pool has the task.
        cancel_error: what the task ends with if it was cancelled.
        rejected: the store refused the task, so it ends without a trace.
        has_begun: a worker has or had the task in this attempt.
        context: the tokens in its context and those that its window has room for; 0 if unknown.
        ended: set when the task has ended; then `result` or `error` is not None.
    """

    def __init__(
        self,
        task_id: str,
        number: int,
        request: TaskRequest,
        project: str,
        *,
        created: float,
        attempts: int = 0,
        last_event: int = 0,
        transcript_size: int,
    ) -> None:
        self.id = task_id
        self.number = number
        self.request = request
        self.shown = shown_request(request)
        self.agent = request.agent
        self.project = project
        # The names can change when a worker has the task; its lane must not.
        self.lane: Hashable = (project, request.agent)
        self.created = created
        self.attempts = attempts
        self.state: TaskState = "queued"
        self.started: float | None = None
        self.ended_at: float | None = None
        self.worker = ""
        self.pid = 0
        self.node = ""
        self.line = ""
        self.usage: Usage = NO_USAGE
        self.cost_usd = 0.0
        self.context = (0, 0)
        self.result: TaskResult | None = None
        self.error: AgentPoolError | None = None
        self.questions: dict[str, WaitingQuestion] = {}
        self.listeners: list[OnEvent] = []
        self.followers: list[Follower] = []
        self.on_permission: OnPermission | None = None
        self.accepted: asyncio.Future[None] | None = None
        self.handle: TaskHandle | None = None
        self.cancel_error: TaskError | None = None
        self.rejected: AgentPoolError | None = None
        self.has_begun = False
        self.ended = asyncio.Event()
        self.pool_end: Ended | None = None
        self.transcript = TranscriptBound(transcript_size)
        self.last_event = last_event
        self.announced: tuple[float, int] = (0.0, 0)
        self._queued_at = time.monotonic()
        self._given_at: float | None = None

    @property
    def has_ended(self) -> bool:
        """Return whether the task has its result or its error."""
        return self.ended_at is not None

    @property
    def has_readers(self) -> bool:
        """Return whether anybody follows the task."""
        return bool(self.listeners or self.followers)

    @property
    def waited(self) -> float:
        """Return the seconds in the queue of the store."""
        until = time.monotonic() if self._given_at is None else self._given_at
        return until - self._queued_at

    def ticket(self) -> QueuedTask:
        """Return the task as the dispatcher knows it."""
        name = self.request.conversation
        return QueuedTask(
            self.id,
            self.number,
            self.lane,
            self.request.priority,
            self.request.not_before,
            self.request.deadline,
            None if name is None else (self.lane, name),
        )

    def begin(self) -> None:
        """Note that the task is given to the pool."""
        self.state = "running"
        self.attempts += 1
        self.line = WAITING
        self._given_at = time.monotonic()

    def put_back(self) -> None:
        """Note that the task was not given to the pool after all."""
        self.state = "queued"
        self.attempts -= 1
        self.line = ""
        self._given_at = None

    def begin_anew(self) -> None:
        """Note that the task is queued again, because its machine was lost while it ran."""
        self.state = "queued"
        # It had begun before its deadline; that it begins again does not make it late.
        self.request = replace(self.request, deadline=None)
        self.shown = shown_request(self.request)
        self.has_begun = False
        self.handle = self.pool_end = None
        self.started = self._given_at = None
        self.worker, self.pid, self.node, self.line = "", 0, "", ""
        # The day's budgets keep what it has used; the new attempt counts from zero.
        self.usage, self.cost_usd, self.context = NO_USAGE, 0.0, (0, 0)
        self.questions.clear()

    def label(self, event: TaskEvent) -> TaskEvent:
        """Return an event of the task with its number, its time and the names of the task."""
        self.last_event += 1
        return replace(
            event,
            number=self.last_event,
            time=event.time or time.time(),
            task_id=self.id,
            agent=self.agent,
            project=self.project,
        )

    def note(self, event: TaskEvent) -> None:
        """Update the task by what an event says."""
        if isinstance(event, Started):
            self.has_begun = True
            self.context = (0, 0)  # of a worker that had the task before
            self.worker, self.pid, self.node = event.worker, event.pid, event.node
            self.started = event.time or time.time()
        elif isinstance(event, Spent):
            self.usage, self.cost_usd = event.usage, event.cost_usd
            self.context = event.context_tokens, event.context_window
        elif isinstance(event, PermissionAsked | PermissionAnswered):
            self.state = "input_required" if self.questions else "running"
        if line := describe_activity(event):  # an ended task keeps its last step
            self.line = line

    def ask(self, request: PermissionRequest) -> WaitingQuestion:
        """Open a question."""
        key = f"q{self.last_event + 1}"
        answer: asyncio.Future[bool | Denied] = asyncio.get_running_loop().create_future()
        question = WaitingQuestion(TaskQuestion(key, request, time.time()), answer)
        self.questions[key] = question
        return question

    def record(self) -> TaskRecord:
        """Return the task as it is now."""
        tokens, window = (0, 0) if self.has_ended else self.context
        return TaskRecord(
            id=self.id,
            number=self.number,
            state=self.state,
            request=self.shown,
            agent=self.agent,
            project=self.project,
            created=self.created,
            started=self.started,
            ended=self.ended_at,
            attempts=self.attempts,
            worker=self.worker,
            pid=self.pid,
            node=self.node,
            line=self.line,
            usage=self.usage,
            cost_usd=self.cost_usd,
            result=self.result,
            error=self.error,
            questions=tuple(one.shown for one in self.questions.values()),
            context_tokens=tokens,
            context_window=window,
        )
