"""The tools of the conformance suite that run as tasks, on the project's own extension."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
)

from agent_pool import PermissionRequest
from agent_pool.mcp.calls import Caller
from agent_pool.mcp.capabilities import Context, declares
from agent_pool.mcp.tasks import TasksExtension
from support.conformance_content import answer, text
from support.conformance_questions import answers_text, missing_answers

Arguments = Mapping[str, Any]


async def _compute(caller: Caller, arguments: Arguments) -> CallToolResult:
    await asyncio.sleep(float(arguments.get("seconds", 0)))
    return answer(text(f"computed {arguments.get('label')}"))


async def _fail(caller: Caller, arguments: Arguments) -> CallToolResult:
    return answer(text("this job always fails"), is_error=True)


async def _break(caller: Caller, arguments: Arguments) -> CallToolResult:
    raise MCPError(INTERNAL_ERROR, "this job always ends with an error of the protocol")


async def _ask(caller: Caller, *questions: str) -> CallToolResult:
    assert caller.ask is not None
    wanted = [PermissionRequest("tester", question, {}) for question in questions]
    decisions = await asyncio.gather(*map(caller.ask, wanted))
    return answer(text(", ".join(decisions)))


async def _confirm(caller: Caller, arguments: Arguments) -> CallToolResult:
    return await _ask(caller, f"delete {arguments.get('filename')}")


async def _ask_two(caller: Caller, arguments: Arguments) -> CallToolResult:
    return await _ask(caller, "first", "second")


async def _greet(caller: Caller, arguments: Arguments) -> CallToolResult:
    return answer(text(arguments["answers"]))


_RUNS: Final[Mapping[str, Callable[[Caller, Arguments], Awaitable[CallToolResult]]]] = {
    "slow_compute": _compute,
    "failing_job": _fail,
    "protocol_error_job": _break,
    "confirm_delete": _confirm,
    "multi_input": _ask_two,
    "test_tool_with_task": _greet,
}
LONG_RUNNING: Final = frozenset(_RUNS)
"""The tools whose calls become tasks."""
ONLY_TASKS: Final = frozenset({"failing_job"})
"""Tools that a client without tasks cannot call."""


async def run_tool(name: str, arguments: Arguments | None, caller: Caller) -> CallToolResult:
    """Carry out one of these tools."""
    caller.accepted()
    # As a pool takes a task before it works: a call that fails at once would be no task.
    await asyncio.sleep(0.01)
    return await _RUNS[name](caller, arguments or {})


class FixtureTasks(TasksExtension):
    """The project's extension, with the rules of two tools of the suite before it."""

    identifier = TasksExtension.identifier

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        """Make a task of a call, after its questions."""
        if params.name in ONLY_TASKS and not declares(ctx, self.identifier):
            needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {self.identifier: {}}}}
            words = f"{params.name} runs as a task only"
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, words, needed)
        if params.name == "test_tool_with_task":
            if (asked := missing_answers(params)) is not None:
                return asked
            given = {"answers": answers_text(params)}
            params = params.model_copy(update={"arguments": given})
        return await super().intercept_tool_call(params, ctx, call_next)
