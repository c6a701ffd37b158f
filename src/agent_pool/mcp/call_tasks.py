"""Delegated calls that the server keeps itself: they end with their connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from mcp_types import CallToolResult

from agent_pool.mcp import results
from agent_pool.mcp.calls import (
    MAX_CALL_SECONDS,
    Call,
    ConnectionCalls,
    RunCall,
    TooManyCalls,
    ended_result,
    has_failed,
)
from agent_pool.mcp.kept_tasks import ACCEPT_SECONDS, TaskStatus, TaskView
from agent_pool.mcp.permissions import Decision
from agent_pool.mcp.progress import WIDTH
from agent_pool.mcp.tools import called_agents
from agent_pool.text import one_line


class CallTasks:
    """The calls of one connection, see `KeptTasks`."""

    def __init__(self, calls: ConnectionCalls) -> None:
        self._calls = calls

    async def begin(
        self, name: str, arguments: Mapping[str, Any] | None, run: RunCall, *, can_ask: bool
    ) -> TaskView | CallToolResult:
        agents = called_agents(arguments)
        try:
            call = self._calls.add(lambda: Call(run, can_ask=can_ask, name=agents))
        except TooManyCalls as error:
            return results.error_result(error)
        return await started(self._calls, call)

    async def view(self, task_id: str) -> TaskView | None:
        call = self._calls.find(task_id)
        return None if call is None else view_of(call, self._calls.kept)

    def note_fetched(self, task_id: str) -> None:
        if call := self._calls.find(task_id):
            call.is_fetched = call.has_ended

    async def answer(self, task_id: str, decisions: Mapping[str, Decision]) -> None:
        if call := self._calls.find(task_id):
            call.answer(decisions)

    async def cancel(self, task_id: str) -> None:
        if call := self._calls.find(task_id):
            call.cancel()
            call.is_fetched = True

    async def wait(self, task_id: str, seconds: float) -> None:
        if call := self._calls.find(task_id):
            await asyncio.wait([call.running], timeout=seconds)

    def explain_unknown(self, task_id: str) -> str:
        return (
            f"Task not found: {one_line(task_id, WIDTH)}. A task ends with its server, and its "
            f"result is kept for {self._calls.kept / 60:.0f} minutes after its end. If the result "
            "is still needed, give the task to the agent again."
        )


async def started(calls: ConnectionCalls, call: Call) -> TaskView | CallToolResult:
    """Wait until the pool has taken a new call; return its failure if it has failed."""
    try:
        await call.wait_until_accepted(ACCEPT_SECONDS)
    except asyncio.CancelledError:
        call.cancel()  # the client has given up, and never learns the task's id
        calls.forget(call)
        raise
    if has_failed(call):
        calls.forget(call)
        return ended_result(call)
    return view_of(call, calls.kept)


def view_of(call: Call, kept: float) -> TaskView:
    """Return a call as it is now; `kept` are the seconds for which it is kept after its end."""
    age = (call.updated - call.created).total_seconds()
    return TaskView(
        call.id,
        call.name,
        _status(call),
        _line(call),
        call.created,
        call.updated,
        age + kept if call.has_ended else MAX_CALL_SECONDS,
        {key: one.request for key, one in call.questions.items()},
        None if call.is_cancelled else call.result,
        call.error,
    )


def _status(call: Call) -> TaskStatus:
    if call.is_cancelled:
        return "cancelled"
    if call.error is not None:
        return "failed"
    if call.result is not None:
        return "completed"
    return "input_required" if call.questions else "working"


def _line(call: Call) -> str:
    if call.is_cancelled:
        return "cancelled"
    if call.error is not None:
        return call.error.message
    if call.result is not None:
        return "failed" if call.result.is_error else "done"
    for asked in call.questions.values():
        wanted = asked.request
        return f"{wanted.agent} waits for permission to use {wanted.tool}"
    return call.line or "submitted"
