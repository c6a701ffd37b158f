"""The Tasks extension of MCP: a call is answered at once with a task, which the client polls.

Only where the request itself declares the extension. A task belongs to the connection that it was
made on, and ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

from agent_pool.mcp import answers
from agent_pool.mcp.clients import Context, can_be_asked, declares, is_modern
from agent_pool.mcp.jobs import LONGEST, Job, Jobs, Run, TooManyCalls
from agent_pool.mcp.permissions import Verdict, question, verdict_of
from agent_pool.mcp.progress import WIDTH
from agent_pool.mcp.text import one_line
from agent_pool.mcp.tools import DELEGATING

POLL_INTERVAL: Final = 1000  # milliseconds


class TaskParams(RequestParams):
    task_id: str


class UpdateParams(TaskParams):
    input_responses: dict[str, Any]


class Tasks(Extension):
    """The extension around `jobs`; `bind` makes a tool call into something to run."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self, jobs: Jobs, bind: Callable[[CallToolRequestParams], Run]) -> None:
        self._jobs = jobs
        self._bind = bind

    def methods(self) -> Sequence[MethodBinding]:
        """What a client may do with its tasks."""
        bind = partial(MethodBinding, protocol_versions=frozenset(MODERN_PROTOCOL_VERSIONS))
        return (
            bind("tasks/get", TaskParams, self._get),
            bind("tasks/update", UpdateParams, self._update),
            bind("tasks/cancel", TaskParams, self._cancel),
        )

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        """Make a task of a call that takes long, where the client can handle one."""
        is_able = is_modern(ctx) and declares(ctx, self.identifier)
        if params.name not in DELEGATING or not is_able:
            return await call_next(ctx)
        run = self._bind(params)
        try:
            job = self._jobs.add(lambda: Job(run, can_ask=can_be_asked(ctx)))
        except TooManyCalls as error:
            return answers.refusal(error)
        return {"resultType": "task", **self._summary(job)}

    async def _get(self, ctx: Context, params: TaskParams) -> HandlerResult:
        job = self._find(ctx, params)
        return self._summary(job) | _payload(job)

    async def _update(self, ctx: Context, params: UpdateParams) -> HandlerResult:
        job = self._find(ctx, params)
        job.answer({key: _read(key, params.input_responses[key]) for key in _open(job, params)})
        return {}

    async def _cancel(self, ctx: Context, params: TaskParams) -> HandlerResult:
        self._find(ctx, params).cancel()
        return {}

    def _find(self, ctx: Context, params: TaskParams) -> Job:
        if not declares(ctx, self.identifier):
            needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {self.identifier: {}}}}
            raise MCPError(
                MISSING_REQUIRED_CLIENT_CAPABILITY,
                f"{ctx.method} needs a client that declares {self.identifier}",
                needed,
            )
        job = self._jobs.find(params.task_id)
        if job is None:
            raise MCPError(INVALID_PARAMS, "Task not found: unknown here, or expired")
        return job

    def _summary(self, job: Job) -> dict[str, Any]:
        age = (job.updated - job.created).total_seconds()
        return {
            "taskId": job.id,
            "status": _status(job),
            "statusMessage": _message(job),
            "createdAt": job.created.isoformat(),
            "lastUpdatedAt": job.updated.isoformat(),
            "ttlMs": round(1000 * (age + self._jobs.kept if job.has_ended else LONGEST)),
            "pollIntervalMs": POLL_INTERVAL,
        }


def for_this_protocol(binding: MethodBinding) -> Callable[[Context, Any], Any]:
    """The handler, refusing what the connection's protocol does not have."""

    async def handle(ctx: Context, params: Any) -> HandlerResult:
        versions = binding.protocol_versions
        if versions is not None and ctx.protocol_version not in versions:
            raise MCPError(METHOD_NOT_FOUND, "Method not found", binding.method)
        return await binding.handler(ctx, params)

    return handle


def _status(job: Job) -> str:
    if job.is_cancelled:
        return "cancelled"
    if job.error is not None:
        return "failed"
    if job.result is not None:
        return "completed"
    return "input_required" if job.questions else "working"


def _message(job: Job) -> str:
    if job.is_cancelled:
        return "cancelled"
    if job.error is not None:
        return job.error.message
    if job.result is not None:
        return "failed" if job.result.is_error else "done"
    for asked in job.questions.values():
        wanted = asked.request
        return one_line(f"{wanted.agent} waits for permission to use {wanted.tool}", WIDTH)
    return job.line or "given out"


def _payload(job: Job) -> dict[str, Any]:
    match _status(job):
        case "input_required":
            asked = {key: question(one.request) for key, one in job.questions.items()}
            return {"inputRequests": {key: _wire(request) for key, request in asked.items()}}
        case "completed":
            return {"result": _wire(job.result)}
        case "failed":
            return {"error": _wire(job.error)}
    return {}


def _wire(model: Any) -> Any:
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _open(job: Job, params: UpdateParams) -> list[str]:
    return [key for key in params.input_responses if key in job.questions]


def _read(key: str, response: object) -> Verdict:
    try:
        return verdict_of(ElicitResult.model_validate(response, by_name=False))
    except ValidationError:
        expected = '{"action": "accept" | "decline" | "cancel", "content": {…}}'
        raise MCPError(INVALID_PARAMS, f"inputResponses.{key}: expected {expected}") from None
