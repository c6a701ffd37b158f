"""One task of the daemon as its client sees it: its events, its questions, its result."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final, TypeVar

from agent_pool.api import OnEvent, OnPermission
from agent_pool.client.connection import CONNECTION_ERRORS, DaemonConnection, Search
from agent_pool.errors import (
    AgentPoolError,
    ConfigError,
    TaskInterrupted,
)
from agent_pool.events import (
    BaseTaskEvent,
    Ended,
    Event,
    PermissionAnswered,
    PermissionAsked,
    TaskEvent,
    event_from_json,
)
from agent_pool.models import Denied, TaskRecord, TaskRequest, TaskResult

log = logging.getLogger("agent_pool")

CANCEL_SECONDS: Final = 5.0
"""How long a caller that leaves waits until the daemon has cancelled its task."""

POLL_SECONDS: Final = 25.0
"""How long one request waits for the end of a task; then the next one is sent."""
STEADY_SECONDS: Final = 5.0
"""A stream that was open for this time was a success, also without an event."""
_DECIDER_FAILED: Final = "This is not permitted: asking for permission failed."

E = TypeVar("E", bound=Event)
StartTask = Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]]
"""Runs a coroutine beside its caller; the pool owns the task, and ends it when it is closed."""


class RemoteTask:
    """A task of the daemon; see `TaskHandle`.

    Args:
        connection: to the daemon.
        task_id: the task's id.
        request: what was submitted.
        start: runs what the task needs beside its caller.
    """

    def __init__(
        self, connection: DaemonConnection, task_id: str, request: TaskRequest, start: StartTask
    ) -> None:
        self._connection = connection
        self._id = task_id
        self._request = request
        self._start = start
        self._end: asyncio.Task[TaskResult] | None = None
        self._cancelling: asyncio.Task[bool] | None = None
        self._has_ended = False

    @property
    def id(self) -> str:
        return self._id

    @property
    def request(self) -> TaskRequest:
        return self._request

    def follow(self, on_event: OnEvent | None, on_permission: OnPermission | None) -> None:
        """Pass the events of the task on, and answer its questions, from now on."""
        follower = _Follower(self._connection, self._id, self._start, on_event, on_permission)
        self._end = self._start(self._note_end(follower.run), f"agent-pool follow {self._id}")

    async def result(self) -> TaskResult:
        if self._end is None:
            self._end = self._start(self._note_end(self._poll), f"agent-pool wait {self._id}")
        # `wait` does not cancel what others wait for, too.
        await asyncio.wait([self._end])
        if self._end.cancelled():
            raise self._connection.closed_error()
        return self._end.result()

    def cancel(self) -> bool:
        """Have the task cancelled, soon; return False if it is known to have ended."""
        if self._has_ended:
            return False
        if self._cancelling is None or self._cancelling.done():
            self._cancelling = self._start(self._cancel(), f"agent-pool cancel {self._id}")
        return True

    async def result_or_cancel(self) -> TaskResult:
        """Return the result as `result` does; cancel the task if this caller is cancelled."""
        try:
            return await self.result()
        except asyncio.CancelledError:
            await self.cancel_and_wait()
            raise

    async def cancel_and_wait(self) -> None:
        """Cancel the task unless it has ended, and wait until the daemon has done so."""
        if self.cancel() and self._cancelling is not None:
            await asyncio.wait([self._cancelling], timeout=CANCEL_SECONDS)

    async def _cancel(self) -> bool:
        try:
            return await cancel_task(self._connection, self._id)
        except AgentPoolError as error:
            log.warning("task %s could not be cancelled: %s", self._id, error)
            return False

    async def _note_end(self, find_end: Callable[[], Awaitable[TaskRecord | Ended]]) -> TaskResult:
        ended = await find_end()
        self._has_ended = True
        if ended.error is not None:
            raise ended.error
        if ended.result is None:
            raise TaskInterrupted(f"task {self._id!r} ended without a result")
        return ended.result

    async def _poll(self) -> TaskRecord:
        while True:
            found = await self._connection.get("tasks", self._id, wait=POLL_SECONDS)
            record = TaskRecord.from_json(found)
            if record.has_ended:
                return record


async def cancel_task(connection: DaemonConnection, task_id: str) -> bool:
    """Cancel a task; return False if it has ended or does not exist."""
    try:
        await connection.request("DELETE", "tasks", task_id)
    except AgentPoolError as error:
        # By its code: the class belongs to the daemon, so this process does not know it.
        if error.code in ("task_ended", "task_not_found"):
            return False
        raise
    return True


async def task_events(
    connection: DaemonConnection, task_id: str, after: int = 0
) -> AsyncGenerator[TaskEvent, None]:
    """Yield the events of a task until it ends, each once, also if the connection is lost.

    Args:
        connection: to the daemon.
        task_id: the task.
        after: the number of the last event that the caller has.

    Raises:
        TaskNotFound: there is no such task.
        DaemonUnavailable: the daemon was lost and could not be reached again.
        PoolClosed: the connection was closed.
    """
    search = Search(connection)
    while True:
        opened = time.monotonic()
        cause: Exception = ConnectionResetError("the stream of events ended too early")
        try:
            place = ("tasks", task_id, "events")
            async with connection.stream(*place, query={"after": after}) as events:
                async for event_id, data in events:
                    # The id, because an event that this version does not know has one too.
                    if not event_id.isdigit() or int(event_id) <= after:
                        continue
                    after = int(event_id)
                    search.succeeded()
                    if (event := _read_event(data)) is not None:
                        yield event
                    if isinstance(event, Ended):
                        return
            if TaskRecord.from_json(await connection.get("tasks", task_id)).has_ended:
                return  # the caller has the last event already
        except CONNECTION_ERRORS as error:
            cause = error
        if time.monotonic() - opened > STEADY_SECONDS:
            search.succeeded()
        await search.failed(cause)


def _read_event(data: Any) -> TaskEvent | None:
    """Return an event; None for one that this version of the package does not know."""
    try:
        event = event_from_json(data)
    except ConfigError as error:
        log.warning("an event of the daemon was left out: %s", error)
        return None
    return event if isinstance(event, BaseTaskEvent) else None


class _Follower:
    """Passes the events of one task on, and has its questions answered.

    Args:
        connection: to the daemon.
        task_id: the task.
        start: runs the answers beside the events.
        on_event: called with each event.
        on_permission: decides each request for permission; None leaves that to others.
    """

    def __init__(
        self,
        connection: DaemonConnection,
        task_id: str,
        start: StartTask,
        on_event: OnEvent | None,
        on_permission: OnPermission | None,
    ) -> None:
        self._connection = connection
        self._task_id = task_id
        self._start = start
        self._on_event = on_event
        self._on_permission = on_permission
        self._decisions: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> TaskRecord | Ended:
        """Follow the task until it ends; return its end."""
        last: TaskEvent | None = None
        try:
            async with aclosing(task_events(self._connection, self._task_id)) as events:
                async for last in events:
                    self._pass_on(last)
        finally:
            for decision in self._decisions.values():
                decision.cancel()
        if isinstance(last, Ended):
            return last
        return TaskRecord.from_json(await self._connection.get("tasks", self._task_id))

    def _pass_on(self, event: TaskEvent) -> None:
        if isinstance(event, PermissionAsked) and self._on_permission is not None:
            decision = self._decide(event, self._on_permission)
            name = f"agent-pool permission {self._task_id}"
            self._decisions[event.key] = self._start(decision, name)
        if isinstance(event, PermissionAnswered) and event.key in self._decisions:
            # By somebody else, or its time has passed.
            self._decisions.pop(event.key).cancel()
        if self._on_event is not None:
            call_listener(self._on_event, event)

    async def _decide(self, asked: PermissionAsked, on_permission: OnPermission) -> None:
        answer: bool | Denied
        try:
            answer = await on_permission(asked.request)
        except Exception:  # the agent waits for an answer
            log.exception("the decision on a permission request failed; the request is denied")
            answer = Denied(_DECIDER_FAILED)
        try:
            await answer_question(self._connection, self._task_id, asked.key, answer)
        except AgentPoolError as error:
            log.warning("an answer for task %s was not taken: %s", self._task_id, error)


async def answer_question(
    connection: DaemonConnection, task_id: str, key: str, answer: bool | Denied
) -> bool:
    """Answer a request for permission; return False if it does not wait any more."""
    # Only True permits: another true value can be a "no" in other words.
    reason = answer.reason if isinstance(answer, Denied) else ""
    body = {"key": key, "allow": answer is True, "reason": str(reason)}
    found = await connection.post("tasks", task_id, "answer", body=body)
    return bool(found["accepted"])


def call_listener(listener: Callable[[E], None], event: E) -> None:
    """Pass an event to a listener of a user; log the exception if it raises one."""
    try:
        listener(event)
    except Exception:
        log.exception("a listener failed for the event %s", event.type)
