"""Delegated calls as tasks of a store: they outlive their client, and a restart of the daemon.

The id of a call of `invoke` is the task's own. The tasks of an `invoke_many` have the id of the
call as their parent, so the call can be found again by them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from mcp_types import CallToolResult

from agent_pool import (
    AgentPoolError,
    Outcome,
    PermissionAsked,
    Submitted,
    TaskAPI,
    TaskCancelled,
    TaskEvent,
    TaskFilter,
    TaskHandle,
    TaskNotFound,
    TaskRecord,
    TaskRequest,
)
from agent_pool.mcp import results
from agent_pool.mcp.call_tasks import CallTasks, started
from agent_pool.mcp.calls import Call, ConnectionCalls, RunCall, TooManyCalls
from agent_pool.mcp.kept_tasks import ACCEPT_SECONDS, TaskStatus, TaskView, moment
from agent_pool.mcp.permissions import Decision, reply_to
from agent_pool.mcp.progress import WIDTH
from agent_pool.mcp.results import EndedTask
from agent_pool.mcp.tool_arguments import MAX_TASKS, BackgroundArguments
from agent_pool.mcp.tools import called_agents
from agent_pool.text import one_line

STORED_SECONDS: Final = 30 * 86400.0
"""Seconds that clients are told for which a task can be found: the default of `history_age`."""
MAX_SHARED_CALLS: Final = 1024
"""Calls of `invoke_many` that are kept with all that they asked; the store has their tasks."""

_STATUSES: Final[Mapping[str, TaskStatus]] = {
    "queued": "working",
    "running": "working",
    "input_required": "input_required",
    "cancelled": "cancelled",
}


class SharedTasks:
    """What all connections of a daemon share of the calls that outlive them.

    Attributes:
        calls: the calls of `invoke_many`.
        permitted: the tasks in which a person has permitted everything.
    """

    def __init__(self) -> None:
        self.calls = ConnectionCalls(most=MAX_SHARED_CALLS)
        self.permitted: dict[str, asyncio.Task[None]] = {}

    def of(self, pool: TaskAPI) -> StoredTasks:
        """Return the tasks for a caller whose pool is `pool`."""
        return StoredTasks(pool, self)

    def permit_all(self, pool: TaskAPI, task_id: str) -> None:
        """Permit all that a task asks for, until it has ended."""
        if task_id not in self.permitted:
            follower = asyncio.create_task(_permit_all(pool, task_id))
            self.permitted[task_id] = follower
            follower.add_done_callback(lambda _: self.permitted.pop(task_id, None))

    def close(self) -> None:
        """Cancel all calls, because the daemon ends."""
        self.calls.cancel_all()
        for follower in self.permitted.values():
            follower.cancel()


async def _permit_all(pool: TaskAPI, task_id: str) -> None:
    with suppress(AgentPoolError):
        async for event in pool.task_events(task_id):
            if isinstance(event, PermissionAsked):
                await pool.answer(task_id, event.key, True)


class StoredTasks:
    """The tasks of a store for one caller, see `KeptTasks`."""

    def __init__(self, pool: TaskAPI, shared: SharedTasks) -> None:
        self._pool = pool
        self._shared = shared
        self._batches = CallTasks(shared.calls)

    async def begin(
        self, name: str, arguments: Mapping[str, Any] | None, run: RunCall, *, can_ask: bool
    ) -> TaskView | CallToolResult:
        try:
            if name != "invoke":
                return await self._begin_batch(arguments, run, can_ask=can_ask)
            call = BackgroundArguments.read(name, arguments)
            return await self._begin_task(replace(call.request, asks=can_ask))
        except AgentPoolError as error:
            return results.error_result(error)

    async def _begin_batch(
        self, arguments: Mapping[str, Any] | None, run: RunCall, *, can_ask: bool
    ) -> TaskView | CallToolResult:
        agents, calls = called_agents(arguments), self._shared.calls
        try:
            call = calls.add(lambda: Call(run, can_ask=can_ask, name=agents, is_parent=True))
        except TooManyCalls as error:
            return results.error_result(error)
        return await started(calls, call)

    async def _begin_task(self, request: TaskRequest) -> TaskView | CallToolResult:
        accepted = asyncio.Event()

        def on_event(event: TaskEvent) -> None:
            if not isinstance(event, Submitted):
                accepted.set()

        handle = await self._pool.submit(request, on_event=on_event)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(ACCEPT_SECONDS):
                    await accepted.wait()
        except asyncio.CancelledError:
            handle.cancel()  # the client has given up, and never learns the task's id
            raise
        view = self._view_of(await self._pool.task(handle.id))
        has_failed = view.result is not None and view.result.is_error
        return view.result if has_failed and view.result is not None else view

    async def view(self, task_id: str) -> TaskView | None:
        if (batch := await self._batches.view(task_id)) is not None:
            return batch
        if (record := await self._find(task_id)) is not None:
            return self._view_of(record)
        children = await self._children(task_id)
        return _batch_view(task_id, children) if children else None

    def note_fetched(self, task_id: str) -> None:
        self._batches.note_fetched(task_id)

    async def _find(self, task_id: str) -> TaskRecord | None:
        try:
            return await self._pool.task(task_id)
        except TaskNotFound:
            return None

    async def _children(self, task_id: str) -> list[TaskRecord]:
        """Return the tasks of an `invoke_many` of an earlier daemon, in their order."""
        found = await self._pool.tasks(TaskFilter(parent=task_id, limit=MAX_TASKS))
        return sorted(found, key=lambda record: record.number)

    def _view_of(self, record: TaskRecord) -> TaskView:
        is_permitted = record.id in self._shared.permitted
        questions = () if is_permitted else record.questions
        status = _STATUSES.get(record.state, "completed")
        if status == "input_required" and not questions:
            status = "working"
        ended = _ended_task(record) if status == "completed" else None
        return TaskView(
            record.id,
            record.agent,
            status,
            _line(record),
            moment(record.created),
            moment(record.ended or time.time()),
            STORED_SECONDS,
            {one.key: one.request for one in questions},
            None if ended is None else results.task_result(ended),
        )

    async def answer(self, task_id: str, decisions: Mapping[str, Decision]) -> None:
        await self._batches.answer(task_id, decisions)
        if await self._find(task_id) is None:
            return
        if Decision.TASK in decisions.values():
            self._shared.permit_all(self._pool, task_id)
        for key, decision in decisions.items():
            await self._pool.answer(task_id, key, reply_to(decision))

    async def cancel(self, task_id: str) -> None:
        await self._batches.cancel(task_id)
        if await self._find(task_id) is not None:
            await self._pool.cancel(task_id)
        else:
            for record in await self._children(task_id):
                await self._pool.cancel(record.id)

    async def wait(self, task_id: str, seconds: float) -> None:
        if self._shared.calls.find(task_id) is not None:
            await self._batches.wait(task_id, seconds)
            return
        record = await self._find(task_id)
        records = await self._children(task_id) if record is None else [record]
        handles = [await self._pool.attach(one.id) for one in records if not one.has_ended]
        ends = [asyncio.create_task(_end_of(handle)) for handle in handles]
        if ends:
            try:
                await asyncio.wait(ends, timeout=seconds)
            finally:
                for end in ends:
                    end.cancel()

    def explain_unknown(self, task_id: str) -> str:
        return (
            f"Task not found: {one_line(task_id, WIDTH)}. Ended tasks are kept for some time, by "
            "default 30 days (setting history_age); `agent-pool tasks` lists them. If the result "
            "is still needed, give the task to the agent again."
        )


async def _end_of(handle: TaskHandle) -> None:
    with suppress(AgentPoolError):
        await handle.result()


def _outcome(record: TaskRecord) -> Outcome:
    if record.error is not None:
        return record.error
    return record.result or TaskCancelled(f"the task {record.id} was cancelled")


def _ended_task(record: TaskRecord) -> EndedTask:
    seconds = (record.ended or record.created) - record.created
    return EndedTask(record.agent, _outcome(record), max(0.0, seconds))


def _line(record: TaskRecord) -> str:
    for asked in record.questions:
        return f"{record.agent} waits for permission to use {asked.request.tool}"
    if record.state == "succeeded":
        return "done"
    return record.state if record.has_ended else record.line or record.state


def _batch_view(task_id: str, records: Sequence[TaskRecord]) -> TaskView:
    """Return an `invoke_many` of an earlier daemon as its tasks show it."""
    is_over = all(record.has_ended for record in records)
    done = sum(record.has_ended for record in records)
    return TaskView(
        task_id,
        "+".join(dict.fromkeys(record.agent for record in records)),
        "completed" if is_over else "working",
        "done" if is_over else f"{done} of {len(records)} tasks have ended",
        moment(records[0].created),
        moment(max(record.ended or time.time() for record in records)),
        STORED_SECONDS,
        result=results.batch_result([*map(_ended_task, records)]) if is_over else None,
    )
