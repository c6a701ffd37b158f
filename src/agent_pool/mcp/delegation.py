"""Tasks given to agents: one, or many side by side."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from mcp_types import CallToolResult

from agent_pool import (
    AgentPoolError,
    Denied,
    Ended,
    Outcome,
    PermissionRequest,
    PoolAPI,
    Queued,
    Submitted,
    TaskEvent,
)
from agent_pool.mcp import results
from agent_pool.mcp.calls import Caller
from agent_pool.mcp.permissions import TaskPermissions
from agent_pool.mcp.progress import WIDTH, Progress, SendProgress, progress_line
from agent_pool.mcp.results import EndedTask
from agent_pool.mcp.tool_arguments import InvokeArguments, InvokeManyArguments
from agent_pool.text import one_line

logger = logging.getLogger(__name__)

Update = Callable[[str], None]

_STATES = ("running", "waiting", "done", "failed")


async def invoke(pool: PoolAPI, call: InvokeArguments, caller: Caller) -> CallToolResult:
    """Run one task, and return the agent's answer."""
    with reporting(caller.report) as update:
        update(f"{call.agent} is called")
        return results.task_result(await _run(pool, call, caller, update))


async def _run(pool: PoolAPI, call: InvokeArguments, caller: Caller, update: Update) -> EndedTask:
    """Run one task to its end, whatever that is; only a cancellation is passed on."""

    def on_event(event: TaskEvent) -> None:
        if not isinstance(event, Submitted | Ended):
            caller.accepted()
        if line := progress_line(event):
            update(line)

    permissions = TaskPermissions(caller.ask)
    began = time.monotonic()
    outcome: Outcome | Exception
    try:
        outcome = await pool.invoke(
            call.agent,
            call.task,
            project=call.cwd,
            conversation=call.conversation,
            model=call.model,
            effort=call.effort,
            permission_mode=call.permission_mode,
            isolation=call.isolation,
            max_budget_usd=call.max_budget_usd,
            max_tokens=call.max_tokens,
            on_event=on_event,
            on_permission=permissions.decide,
        )
    except AgentPoolError as error:
        outcome = error
    except Exception as error:
        logger.exception("bug: a task of %s failed", call.agent)
        outcome = error
    return EndedTask(call.agent, outcome, time.monotonic() - began, tuple(permissions.refused))


async def invoke_many(pool: PoolAPI, call: InvokeManyArguments, caller: Caller) -> CallToolResult:
    """Run many tasks side by side, and return every answer in the tasks' order."""
    with reporting(caller.report) as update:
        update(f"{len(call.tasks)} tasks are given out")
        return results.batch_result(await _BatchCall(call.tasks, caller, update).run(pool))


class _BatchCall:
    """The tasks of one `invoke_many`: their progress, permissions and times, by their indexes."""

    def __init__(self, tasks: list[InvokeArguments], caller: Caller, update: Update) -> None:
        self._tasks = tasks
        self._update = update
        self._accepted = caller.accepted
        self._parent = caller.parent
        self._states = ["waiting"] * len(tasks)
        self._permissions = [TaskPermissions(caller.ask) for _ in tasks]
        self._began: dict[int, float] = {}
        self._durations: dict[int, float] = {}

    async def run(self, pool: PoolAPI) -> list[EndedTask]:
        outcomes = await pool.map(
            [replace(task.request, parent=self._parent) for task in self._tasks],
            on_event=self._on_event,
            on_permission=self._on_permission,
            on_end=self._on_end,
        )
        return [
            EndedTask(
                task.agent,
                outcome,
                self._durations.get(index, 0.0),
                tuple(self._permissions[index].refused),
            )
            for index, (task, outcome) in enumerate(zip(self._tasks, outcomes, strict=True))
        ]

    def _on_event(self, index: int, event: TaskEvent) -> None:
        self._began.setdefault(index, time.monotonic())
        if not isinstance(event, Submitted | Ended):
            self._accepted()
            self._states[index] = "waiting" if isinstance(event, Queued) else "running"
        if line := progress_line(event):
            self._report(index, line)

    async def _on_permission(self, index: int, request: PermissionRequest) -> bool | Denied:
        return await self._permissions[index].decide(request)

    def _on_end(self, index: int, outcome: Outcome) -> None:
        now = time.monotonic()
        self._durations[index] = now - self._began.get(index, now)
        self._states[index] = "failed" if EndedTask("", outcome).is_error else "done"
        self._report(index, self._states[index])

    def _report(self, index: int, line: str) -> None:
        """Report how many tasks are in which state, and then the latest line of one of them."""
        agent = self._tasks[index].agent
        who = "" if line.startswith(agent) else f"{agent}: "
        counts = Counter(self._states)
        states = ", ".join(f"{counts[state]} {state}" for state in _STATES if counts[state])
        place = f"{index + 1}/{len(self._tasks)}"
        self._update(one_line(f"{states} | {place} {who}{line}", WIDTH))


@contextmanager
def reporting(report: SendProgress) -> Iterator[Update]:
    """Send the client a line of progress now and then; yields how the line is changed."""
    progress = Progress(report)
    reporting = asyncio.create_task(progress.run())
    try:
        yield progress.update
    finally:
        reporting.cancel()  # not awaited: in a cancelled call every await is cancelled again
