"""One task of a `RayPool`, and its handle."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent_pool.api import OnEvent, OnPermission
from agent_pool.cluster.placement import ClusterTicket, Lane
from agent_pool.cluster.project_source import ProjectSource
from agent_pool.errors import AgentPoolError, TaskCancelled, TaskError
from agent_pool.events import Ended, Started, Submitted, TaskEvent
from agent_pool.models import Denied, PermissionRequest, TaskRequest, TaskResult
from agent_pool.pool.event_bus import EventBus, call_listener

END_TIMEOUT: Final = 10.0
"""Seconds for the end of a task that was cancelled; a node that is lost is noticed earlier."""

Answer = Callable[[str, bool, str], object]
"""Sends the decision on a request to the node: its key, whether it is permitted, and the reason."""


class ClusterTask:
    """A task that waits for a node, or that one runs.

    Args:
        request: the task.
        project: the folder of its project.
        bus: the pool's events.
        on_event: called with each event of the task.
        on_permission: decides requests for permission.
        task_id: its id; None for a new one.

    Attributes:
        id: its id.
        source: where nodes find its project; None before it is known.
        cancel_error: what it ends with when it was cancelled; None before.
        node: the name of the node that has it; empty before.
        lacking: for each node that does not have its project, the reason.
        outcome: its result or its error.
    """

    def __init__(
        self,
        request: TaskRequest,
        project: str,
        bus: EventBus,
        on_event: OnEvent | None,
        on_permission: OnPermission | None,
        task_id: str | None,
    ) -> None:
        self.id = task_id or f"task-{secrets.token_hex(8)}"
        self.request = request
        self.on_permission = on_permission
        self.lane = Lane(project, request.agent)
        self.source: ProjectSource | None = None
        self.cancel_error: TaskError | None = None
        self.node = ""
        self.lacking: dict[str, str] = {}
        self.outcome: asyncio.Future[TaskResult] = asyncio.get_running_loop().create_future()
        # Without a caller that waits, its error is not an unseen one.
        self.outcome.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._bus = bus
        self._on_event = on_event
        self._submitted = time.monotonic()
        self._placed: float | None = None
        self._started: float | None = None
        self._worker = ""
        self._questions: dict[str, asyncio.Task[None]] = {}
        self.emit(Submitted(request.without_secrets()))

    @property
    def has_ended(self) -> bool:
        """Return whether it has its result or its error."""
        return self.outcome.done()

    @property
    def conversation(self) -> tuple[Lane, str] | None:
        """Return the key of its conversation; None without one."""
        name = self.request.conversation
        return None if name is None else (self.lane, name)

    def ticket(self) -> ClusterTicket:
        """Return its ticket for the placement."""
        return ClusterTicket(self.id, self.lane, self.conversation)

    @property
    def waited(self) -> float:
        """Return the seconds until a node had it, or until now."""
        return (time.monotonic() if self._placed is None else self._placed) - self._submitted

    def placed(self, node: str) -> None:
        """Note the node that has it from now on; empty if it waits again."""
        self.node = node
        self._placed = time.monotonic() if node else None

    def emit(self, event: TaskEvent) -> None:
        """Publish an event of this task."""
        labels = {"task_id": self.id, "project": self.lane.project}
        if not event.agent:
            labels["agent"] = str(self.request.agent)
        published = self._bus.publish(event, **labels)
        if self._on_event is not None:
            call_listener(self._on_event, published)

    def heard(self, event: TaskEvent) -> None:
        """Pass on an event of the node that has it."""
        if isinstance(event, Submitted) or self.has_ended:
            return
        if isinstance(event, Started):
            self._started, self._worker = time.monotonic(), event.worker
            event = replace(event, node=self.node, waited=event.waited + self.waited)
        if isinstance(event, Ended):
            self._hear_end(event)
        else:
            self.emit(event)

    def _hear_end(self, event: Ended) -> None:
        waited = event.waited + self.waited
        result, error = event.result, event.error
        if result is not None:
            result = replace(result, node=self.node, waited=result.waited + self.waited)
        if isinstance(error, TaskError) and error.result is not None:
            error.result = replace(error.result, node=self.node)
        self._finish(replace(event, result=result, error=error, waited=waited))

    def fail(self, error: AgentPoolError) -> None:
        """End it with an error that its node did not report; no effect if it has ended."""
        if not self.has_ended:
            running = 0.0 if self._started is None else time.monotonic() - self._started
            self._finish(
                Ended(error=error, worker=self._worker, waited=self.waited, running=running)
            )

    def _finish(self, event: Ended) -> None:
        for question in tuple(self._questions.values()):
            question.cancel()
        # First: a listener of the event can try to cancel it, which must have no effect.
        if event.result is not None:
            self.outcome.set_result(event.result)
        else:
            assert event.error is not None
            self.outcome.set_exception(event.error)
        self.emit(event)

    # Permissions

    def asked(self, key: str, request: PermissionRequest, answer: Answer) -> None:
        """Let the caller decide a request for permission of the node."""
        work = self._decide(key, request, answer)
        question = asyncio.get_running_loop().create_task(work, name=f"agent-pool {self.id}")
        self._questions[key] = question
        question.add_done_callback(lambda _: self._questions.pop(key, None))

    def withdrawn(self, key: str) -> None:
        """Stop asking: the node does not wait for the answer any more."""
        if (question := self._questions.get(key)) is not None:
            question.cancel()

    async def _decide(self, key: str, request: PermissionRequest, answer: Answer) -> None:
        assert self.on_permission is not None
        decision: bool | Denied
        try:
            decision = await self.on_permission(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # of the user's function: the agent goes on without permission
            decision = Denied(f"The request could not be decided: {error!r}")
        answer(key, bool(decision), decision.reason if isinstance(decision, Denied) else "")


class ClusterHandle:
    """The handle of a task of a `RayPool`; see `TaskHandle`."""

    def __init__(
        self, task: ClusterTask, cancel: Callable[[ClusterTask, TaskError | None], bool]
    ) -> None:
        self._task = task
        self._cancel = cancel

    @property
    def id(self) -> str:
        return self._task.id

    @property
    def request(self) -> TaskRequest:
        return self._task.request

    async def result(self) -> TaskResult:
        # `wait` does not cancel the future if this caller is cancelled.
        await asyncio.wait([self._task.outcome])
        return self._task.outcome.result()

    async def result_or_cancel(self) -> TaskResult:
        """Return the result as `result` does; cancel the task if this caller is cancelled."""
        try:
            return await self.result()
        except asyncio.CancelledError:
            await self.cancel_and_wait()
            raise

    def cancel(self) -> bool:
        return self._cancel(self._task, None)

    async def cancel_and_wait(self) -> None:
        """Cancel the task unless it has ended, and wait for its end, some seconds at most."""
        self.cancel()
        await asyncio.wait([self._task.outcome], timeout=END_TIMEOUT)


def cancelled_error(request: TaskRequest) -> TaskCancelled:
    """Build the error of a task that was cancelled."""
    return TaskCancelled(f"the task of agent {request.agent!r} was cancelled")
