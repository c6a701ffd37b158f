"""The Tasks extension of MCP: the response to a call is a task, which the client polls.

It applies only to requests that declare the extension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol

from mcp.server.context import CallNext, HandlerResult
from mcp.server.extension import Extension, MethodBinding
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    ElicitResult,
    RequestParams,
)
from mcp_types.jsonrpc import HEADER_MISMATCH
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from agent_pool.mcp.agent_list import CLAUDE_CODE
from agent_pool.mcp.calls import RunCall
from agent_pool.mcp.capabilities import Context, can_elicit, client_of, declares, is_modern
from agent_pool.mcp.kept_tasks import KeptTasks, TaskView
from agent_pool.mcp.permissions import Decision, decision_of, permission_elicitation
from agent_pool.mcp.progress import WIDTH
from agent_pool.mcp.tools import DELEGATING
from agent_pool.text import one_line

POLL_INTERVAL_MS: Final = 1000
MAX_AGENTS_SHOWN: Final = 40
"""Characters of the agents' names in a status message."""


class TaskParams(RequestParams):
    task_id: str


class UpdateParams(TaskParams):
    input_responses: dict[str, Any]


class ToolCalls(Protocol):
    """The tools of a connection."""

    def bind(self, params: CallToolRequestParams) -> RunCall: ...

    def keep(self, ctx: Context, result: CallToolResult, name: str = "") -> CallToolResult: ...


class TasksExtension(Extension):
    """The extension around the delegated calls of a connection.

    Args:
        tasks: where the calls are kept.
        tools: makes a call ready to run, and keeps long answers.
        long_running: the tools whose calls become tasks.
    """

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(
        self, tasks: KeptTasks, tools: ToolCalls, *, long_running: Set[str] = DELEGATING
    ) -> None:
        self._tasks = tasks
        self._tools = tools
        self._long_running = long_running

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
        if params.name not in self._long_running or not is_able:
            return await call_next(ctx)
        # A task is in the background anyway.
        given = {
            name: one for name, one in (params.arguments or {}).items() if name != "background"
        }
        params = params.model_copy(update={"arguments": given})
        begun = await self._tasks.begin(
            params.name, given, self._tools.bind(params), can_ask=can_elicit(ctx)
        )
        if isinstance(begun, CallToolResult):
            return self._tools.keep(ctx, begun)
        return {"resultType": "task", **_summary(begun)}

    async def _get(self, ctx: Context, params: TaskParams) -> HandlerResult:
        self._check_request(ctx, params)
        view = await self._tasks.view(params.task_id)
        if view is None:
            return self._unknown(ctx, params.task_id)
        if view.has_ended:
            self._tasks.note_fetched(view.id)
        return _summary(view) | self._payload(ctx, view)

    async def _update(self, ctx: Context, params: UpdateParams) -> HandlerResult:
        view = await self._find(ctx, params)
        answers = params.input_responses
        decisions = {key: _read(key, answers[key]) for key in answers if key in view.questions}
        await self._tasks.answer(view.id, decisions)
        return {}

    async def _cancel(self, ctx: Context, params: TaskParams) -> HandlerResult:
        view = await self._find(ctx, params)
        await self._tasks.cancel(view.id)
        return {}

    def _check_request(self, ctx: Context, params: TaskParams) -> None:
        _check_name_header(ctx, params.task_id)
        if not declares(ctx, self.identifier):
            needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {self.identifier: {}}}}
            raise MCPError(
                MISSING_REQUIRED_CLIENT_CAPABILITY,
                f"{ctx.method} needs a client that declares {self.identifier}",
                needed,
            )

    async def _find(self, ctx: Context, params: TaskParams) -> TaskView:
        self._check_request(ctx, params)
        view = await self._tasks.view(params.task_id)
        if view is None:
            raise MCPError(INVALID_PARAMS, self._tasks.explain_unknown(params.task_id))
        return view

    def _unknown(self, ctx: Context, task_id: str) -> dict[str, Any]:
        """Return the state of a task that is not kept here: failed, with the reason.

        Raises:
            MCPError: the client is not Claude Code.
        """
        words, now = self._tasks.explain_unknown(task_id), datetime.now(UTC).isoformat()
        # The protocol demands an error. Claude Code 2.1.332 polls once a second for five minutes
        # after one, for example after `--continue`, when the server is a new one.
        if client_of(ctx)[0] != CLAUDE_CODE:
            raise MCPError(INVALID_PARAMS, words)
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

    def _payload(self, ctx: Context, view: TaskView) -> dict[str, Any]:
        match view.status:
            case "input_required":
                asked = view.questions.items()
                forms = {key: permission_elicitation(request) for key, request in asked}
                return {"inputRequests": {key: _wire(form) for key, form in forms.items()}}
            case "completed" if view.result is not None:
                return {"result": _wire(self._tools.keep(ctx, view.result, view.id))}
            case "failed":
                return {"error": _wire(view.error)}
        return {}


def _check_name_header(ctx: Context, task_id: str) -> None:
    """Refuse a request over HTTP whose header names another task, as the extension demands.

    A proxy can route by the header. The SDK (mcp 2.3.0) compares it for the protocol's own methods
    only. A request without the header is served.
    """
    headers = getattr(ctx.request, "headers", {})  # no request on stdio
    named = headers.get(MCP_NAME_HEADER)
    if named is not None and decode_header_value(named) != task_id:
        words = f"the header {MCP_NAME_HEADER} names another task than the request's taskId"
        raise MCPError(HEADER_MISMATCH, words)


def _summary(view: TaskView) -> dict[str, Any]:
    return {
        "taskId": view.id,
        "status": view.status,
        "statusMessage": _message(view),
        "createdAt": view.created.isoformat(),
        "lastUpdatedAt": view.updated.isoformat(),
        "ttlMs": round(1000 * view.ttl),
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


def _message(view: TaskView) -> str:
    if view.line.startswith(view.name):
        return view.line
    agents = one_line(view.name, MAX_AGENTS_SHOWN)
    return one_line(f"{agents}: {view.line}", WIDTH)


def _wire(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _read(key: str, response: object) -> Decision:
    try:
        return decision_of(ElicitResult.model_validate(response, by_name=False))
    except ValidationError:
        expected = '{"action": "accept" | "decline" | "cancel", "content": {…}}'
        raise MCPError(INVALID_PARAMS, f"inputResponses.{key}: expected {expected}") from None
