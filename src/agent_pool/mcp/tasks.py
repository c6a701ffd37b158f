"""The Tasks extension of MCP: the response to a call is a task, which the client polls.

It applies only to requests that declare the extension. A task belongs to the connection on which it
was made, and ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from mcp.server.context import CallNext, HandlerResult
from mcp.server.extension import Extension, MethodBinding
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    ElicitResult,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

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
from agent_pool.mcp.capabilities import Context, can_elicit, declares, is_modern
from agent_pool.mcp.permissions import Decision, decision_of, permission_elicitation
from agent_pool.mcp.progress import WIDTH
from agent_pool.mcp.tools import DELEGATING, called_agents
from agent_pool.text import one_line

POLL_INTERVAL_MS: Final = 1000
ACCEPT_SECONDS: Final = 2.0
"""Seconds for which the response to a call waits until the pool has taken or refused its task."""
MAX_AGENTS_SHOWN: Final = 40
"""Characters of the agents' names in a status message."""


class TaskParams(RequestParams):
    task_id: str


class UpdateParams(TaskParams):
    input_responses: dict[str, Any]


class TasksExtension(Extension):
    """The extension around the calls of a connection.

    Args:
        calls: where the tasks are kept.
        bind: returns a tool call, ready to run.
    """

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(
        self, calls: ConnectionCalls, bind: Callable[[Context, CallToolRequestParams], RunCall]
    ) -> None:
        self._calls = calls
        self._bind = bind

    def methods(self) -> Sequence[MethodBinding]:
        """Return the methods by which a client polls, answers and cancels its tasks."""
        bind = partial(MethodBinding, protocol_versions=frozenset(MODERN_PROTOCOL_VERSIONS))
        return (
            bind("tasks/get", TaskParams, self._get),
            bind("tasks/update", UpdateParams, self._update),
            bind("tasks/cancel", TaskParams, self._cancel),
        )

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        """Make a task of a call that takes long, if the client can handle one."""
        is_able = is_modern(ctx) and declares(ctx, self.identifier)
        if params.name not in DELEGATING or not is_able:
            return await call_next(ctx)
        run = self._bind(ctx, params)
        name = called_agents(params.arguments)
        try:
            call = self._calls.add(lambda: Call(run, can_ask=can_elicit(ctx), name=name))
        except TooManyCalls as error:
            return results.error_result(error)
        await self._wait_for_start(call)
        if has_failed(call):
            # Known at once: an unknown agent, a broken definition, a full queue, bad arguments.
            # As a task, the model would be told that it runs, and learn of the failure later.
            self._calls.forget(call)
            return ended_result(call)
        return {"resultType": "task", **self._summary(call)}

    async def _wait_for_start(self, call: Call) -> None:
        try:
            await call.wait_until_accepted(ACCEPT_SECONDS)
        except asyncio.CancelledError:
            call.cancel()  # the client has given up, and never learns the task's id
            self._calls.forget(call)
            raise

    async def _get(self, ctx: Context, params: TaskParams) -> HandlerResult:
        self._check_client(ctx)
        call = self._calls.find(params.task_id)
        if call is None:
            return self._unknown(params.task_id)
        call.is_fetched = call.has_ended
        return self._summary(call) | _payload(call)

    async def _update(self, ctx: Context, params: UpdateParams) -> HandlerResult:
        call = self._find(ctx, params)
        answers = params.input_responses
        call.answer({key: _read(key, answers[key]) for key in answers if key in call.questions})
        return {}

    async def _cancel(self, ctx: Context, params: TaskParams) -> HandlerResult:
        call = self._find(ctx, params)
        call.cancel()
        call.is_fetched = True
        return {}

    def _check_client(self, ctx: Context) -> None:
        if not declares(ctx, self.identifier):
            needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {self.identifier: {}}}}
            raise MCPError(
                MISSING_REQUIRED_CLIENT_CAPABILITY,
                f"{ctx.method} needs a client that declares {self.identifier}",
                needed,
            )

    def _find(self, ctx: Context, params: TaskParams) -> Call:
        self._check_client(ctx)
        call = self._calls.find(params.task_id)
        if call is None:
            raise MCPError(INVALID_PARAMS, self._unknown_words(params.task_id))
        return call

    def _unknown(self, task_id: str) -> dict[str, Any]:
        """Return the state of a task that is not kept here: failed, with the reason.

        Claude Code 2.1.332 polls a task once a second for five minutes if the answer is an error
        of the protocol, for example after `--continue`, when the server is a new one.
        """
        words, now = self._unknown_words(task_id), datetime.now(UTC).isoformat()
        return {
            "taskId": task_id,
            "status": "failed",
            "statusMessage": words,
            "createdAt": now,
            "lastUpdatedAt": now,
            "ttlMs": 0,
            "pollIntervalMs": POLL_INTERVAL_MS,
            "error": {"code": INVALID_PARAMS, "message": words},
        }

    def _unknown_words(self, task_id: str) -> str:
        return (
            f"Task not found: {one_line(task_id, WIDTH)}. A task ends with its server, and its "
            f"result is kept for {self._calls.kept / 60:.0f} minutes after its end. If the result "
            "is still needed, give the task to the agent again."
        )

    def _summary(self, call: Call) -> dict[str, Any]:
        age = (call.updated - call.created).total_seconds()
        ttl = age + self._calls.kept if call.has_ended else MAX_CALL_SECONDS
        return {
            "taskId": call.id,
            "status": _status(call),
            "statusMessage": _message(call),
            "createdAt": call.created.isoformat(),
            "lastUpdatedAt": call.updated.isoformat(),
            "ttlMs": round(1000 * ttl),
            "pollIntervalMs": POLL_INTERVAL_MS,
        }


def for_this_protocol(binding: MethodBinding) -> Callable[[Context, Any], Any]:
    """Return the handler of a method; it refuses protocols that do not have the method."""

    async def handle(ctx: Context, params: Any) -> HandlerResult:
        versions = binding.protocol_versions
        if versions is not None and ctx.protocol_version not in versions:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", binding.method)
        return await binding.handler(ctx, params)

    return handle


def _status(call: Call) -> str:
    if call.is_cancelled:
        return "cancelled"
    if call.error is not None:
        return "failed"
    if call.result is not None:
        return "completed"
    return "input_required" if call.questions else "working"


def _message(call: Call) -> str:
    line = _current_line(call)
    agents = one_line(call.name, MAX_AGENTS_SHOWN)
    return line if line.startswith(call.name) else one_line(f"{agents}: {line}", WIDTH)


def _current_line(call: Call) -> str:
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


def _payload(call: Call) -> dict[str, Any]:
    match _status(call):
        case "input_required":
            asked = {
                key: permission_elicitation(one.request) for key, one in call.questions.items()
            }
            return {"inputRequests": {key: _wire(request) for key, request in asked.items()}}
        case "completed":
            return {"result": _wire(call.result)}
        case "failed":
            return {"error": _wire(call.error)}
    return {}


def _wire(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _read(key: str, response: object) -> Decision:
    try:
        return decision_of(ElicitResult.model_validate(response, by_name=False))
    except ValidationError:
        expected = '{"action": "accept" | "decline" | "cancel", "content": {…}}'
        raise MCPError(INVALID_PARAMS, f"inputResponses.{key}: expected {expected}") from None
