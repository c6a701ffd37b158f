"""Tasks in the background: `invoke` with ``background``, and `result`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mcp_types import CallToolResult

from agent_pool import AgentPoolError, PoolAPI, TaskNotFound
from agent_pool.mcp import results
from agent_pool.mcp.calls import Caller
from agent_pool.mcp.delegation import invoke, reporting
from agent_pool.mcp.kept_tasks import KeptTasks, TaskView
from agent_pool.mcp.tool_arguments import BackgroundArguments, ResultArguments


async def begin_in_background(
    pool: PoolAPI, arguments: Mapping[str, Any] | None, caller: Caller
) -> CallToolResult:
    """Begin one task, and return how its answer is read; its failure if it fails at once."""
    try:
        call = BackgroundArguments.read("invoke", arguments)
        given = call.model_dump(exclude={"background"}, exclude_none=True)
        begun = await _tasks_of(caller).begin(
            "invoke", given, partial(invoke, pool, call), can_ask=False
        )
    except AgentPoolError as error:
        return results.error_result(error)
    if isinstance(begun, CallToolResult):
        return begun
    return results.begun_result(call.agent, begun.id)


async def fetch_result(_: PoolAPI, call: ResultArguments, caller: Caller) -> CallToolResult:
    """Return the answer of a task, or after some time how far it is.

    Raises:
        TaskNotFound: there is no such task.
    """
    tasks = _tasks_of(caller)
    found = await _view(tasks, call.id)
    if not found.has_ended and call.wait_seconds:
        with reporting(caller.report) as update:
            update(found.line)
            await tasks.wait(call.id, call.wait_seconds)
        found = await _view(tasks, call.id)
    if found.has_ended:
        tasks.note_fetched(found.id)
    if found.result is not None:
        return found.result
    return results.text_result(_state_text(found), is_error=found.has_ended)


async def _view(tasks: KeptTasks, task_id: str) -> TaskView:
    found = await tasks.view(task_id)
    if found is None:
        raise TaskNotFound(tasks.explain_unknown(task_id))
    return found


def _tasks_of(caller: Caller) -> KeptTasks:
    if caller.tasks is None:
        raise AgentPoolError("no task can be kept here: call invoke without background")
    return caller.tasks


def _state_text(found: TaskView) -> str:
    if found.has_ended:
        return f"The task {found.id} has no answer: {found.line}."
    return (
        f"The task {found.id} has not ended: {found.line}. Call result again, for example with "
        "wait_seconds=60."
    )
