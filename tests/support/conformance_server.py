"""A server for the conformance suite: the project's own classes with the suite's tools.

Guard, HTTP server, callers, MCP server, tasks and questions are those of the daemon. The tools,
prompts and resources are those that the suite calls; the daemon has none of them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from mcp.server.lowlevel import Server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ServerEvent,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    CreateMessageResult,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from starlette.applications import Starlette

from agent_pool import PermissionRequest, PoolAPI, Settings
from agent_pool.api import TaskAPI
from agent_pool.daemon.mcp_http import McpHttp
from agent_pool.mcp.call_tasks import CallTasks
from agent_pool.mcp.calls import Caller, ConnectionCalls, RunCall
from agent_pool.mcp.capabilities import Context
from agent_pool.mcp.elicitation import ElicitationRounds
from agent_pool.mcp.server import build_server, extend
from agent_pool.mcp.stored_tasks import SharedTasks
from support import conformance_content as content
from support import conformance_questions as questions
from support import conformance_tasks as tasks
from support.conformance_content import answer, text
from support.daemons import guarded_server
from support.fake_pool import FakePool

ROUNDS = ("test_input_required_result_request_state", "test_input_required_result_tampered_state")
"""Tools that ask by the project's own rounds of questions."""
EVENTS: Mapping[str, ServerEvent] = {
    "test_trigger_tool_change": ToolsListChanged(),
    "test_trigger_prompt_change": PromptsListChanged(),
}
"""Tools that change a list."""


def make_fixture_server(pool: PoolAPI, shared: SharedTasks) -> Server[Any]:
    """Return the MCP server of one caller."""
    calls = ConnectionCalls()
    server = build_server(pool, calls=calls)
    server.get_tool_input_schema = content.schema_of
    _Fixtures(CallTasks(calls)).add_to(server)
    return server


class _Fixtures:
    """The handlers of the suite's tools, prompts and resources."""

    def __init__(self, kept: CallTasks) -> None:
        self._kept = kept
        self._rounds = ElicitationRounds()
        self._bus = InMemorySubscriptionBus()

    def add_to(self, server: Server[Any]) -> None:
        """Register the handlers; they replace those of the project's own tools."""
        extension = tasks.FixtureTasks(self._kept, self, long_running=tasks.LONG_RUNNING)
        extend(server, extension, self.call_tool)
        add = server.add_request_handler
        listen = ListenHandler(self._bus)
        add("subscriptions/listen", SubscriptionsListenRequestParams, listen)
        add("tools/list", PaginatedRequestParams, _list_tools)
        add("prompts/list", PaginatedRequestParams, _list_prompts)
        add("prompts/get", GetPromptRequestParams, _get_prompt)
        add("resources/list", PaginatedRequestParams, _list_resources)
        add("resources/templates/list", PaginatedRequestParams, _list_templates)
        add("resources/read", ReadResourceRequestParams, _read_resource)
        add("completion/complete", CompleteRequestParams, _complete)
        add("resources/subscribe", SubscribeRequestParams, _accept)
        add("resources/unsubscribe", UnsubscribeRequestParams, _accept)
        add("logging/setLevel", SetLevelRequestParams, _accept)

    def bind(self, params: CallToolRequestParams) -> RunCall:
        """Return the call, ready to run."""
        return partial(tasks.run_tool, params.name, params.arguments)

    def keep(self, ctx: Context, result: CallToolResult, name: str = "") -> CallToolResult:
        """Return the result: those of the suite are short."""
        return result

    async def call_tool(
        self, ctx: Context, params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult:
        """Carry out one call."""
        name = params.name
        if name in content.PLAIN_RESULTS:
            return content.PLAIN_RESULTS[name]
        if name in tasks.LONG_RUNNING:
            return await tasks.run_tool(name, params.arguments, Caller(_silent))
        if name in questions.ONE_QUESTION:
            return questions.ask_once(params)
        if name in questions.FORMS:
            return await questions.ask_during_call(ctx, name)
        if name in ROUNDS:
            return await self._rounds.call(params, _ask_permission, _silent)
        if name in EVENTS:
            await self._bus.publish(EVENTS[name])
            return answer(text("published"))
        if name in OTHERS:
            return await OTHERS[name](ctx, params)
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {name}")


async def _silent(number: int, line: str) -> None:
    """Report no progress."""


async def _ask_permission(caller: Caller) -> CallToolResult:
    assert caller.ask is not None
    decision = await caller.ask(PermissionRequest("tester", "confirm", {}))
    return answer(text(f"state-ok: {decision}"))


async def _greet(ctx: Context, params: CallToolRequestParams) -> CallToolResult:
    return answer(text(f"Hello, {(params.arguments or {}).get('name')}!"))


async def _report_progress(ctx: Context, params: CallToolRequestParams) -> CallToolResult:
    for number in range(3):
        await ctx.session.report_progress(number, 3, f"step {number}")
    return answer(text("reported"))


async def _ask_twice(
    ctx: Context, params: CallToolRequestParams
) -> CallToolResult | InputRequiredResult:
    return questions.ask_twice(params)


async def _ask_by_capabilities(ctx: Context, params: CallToolRequestParams) -> InputRequiredResult:
    return questions.ask_what_the_client_can(ctx)


async def _log(ctx: Context, params: CallToolRequestParams) -> CallToolResult:
    # Logging is deprecated in the newest protocol, and the SDK warns.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        for words in ("started", "processing data", "completed"):
            await ctx.session.send_log_message("info", words, related_request_id=ctx.request_id)
    return answer(text("logged"))


async def _sample(ctx: Context, params: CallToolRequestParams) -> CallToolResult:
    request = questions.sampling(str((params.arguments or {}).get("prompt")))
    channel = ServerMessageMetadata(related_request_id=ctx.request_id)
    found = await ctx.session.send_request(request, CreateMessageResult, metadata=channel)
    return answer(text(f"LLM response: {json.dumps(found.model_dump(mode='json'))}"))


async def _need_sampling(ctx: Context, params: CallToolRequestParams) -> CallToolResult:
    capabilities = ctx.session.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "this tool needs a client that declares sampling",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return answer(text("the client declares sampling"))


OTHERS: Mapping[str, Callable[..., Awaitable[CallToolResult | InputRequiredResult]]] = {
    "greet": _greet,
    "test_tool_with_logging": _log,
    "test_logging_tool": _log,
    "test_tool_with_progress": _report_progress,
    "test_streaming_elicitation": _report_progress,
    "test_sampling": _sample,
    "test_missing_capability": _need_sampling,
    "test_input_required_result_multi_round": _ask_twice,
    "test_input_required_result_capabilities": _ask_by_capabilities,
}
TOOLS = [
    *content.PLAIN_RESULTS,
    *sorted({*questions.ONE_QUESTION, *tasks.LONG_RUNNING} - {*content.PROMPTS}),
    *questions.FORMS,
    *ROUNDS,
    *EVENTS,
    *OTHERS,
]


async def _list_tools(ctx: Context, _: PaginatedRequestParams) -> ListToolsResult:
    return ListToolsResult(tools=[content.declare_tool(name) for name in TOOLS])


async def _list_prompts(ctx: Context, _: PaginatedRequestParams) -> ListPromptsResult:
    return ListPromptsResult(prompts=[content.declare_prompt(name) for name in content.PROMPTS])


async def _get_prompt(
    ctx: Context, params: GetPromptRequestParams
) -> GetPromptResult | InputRequiredResult:
    if params.name in questions.ONE_QUESTION:
        return questions.ask_for_prompt(params)
    return content.render_prompt(params.name, params.arguments or {})


async def _list_resources(ctx: Context, _: PaginatedRequestParams) -> ListResourcesResult:
    return ListResourcesResult(resources=content.RESOURCES)


async def _list_templates(ctx: Context, _: PaginatedRequestParams) -> ListResourceTemplatesResult:
    return ListResourceTemplatesResult(resource_templates=content.TEMPLATES)


async def _read_resource(ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    return content.read_resource(str(params.uri))


async def _complete(ctx: Context, _: CompleteRequestParams) -> CompleteResult:
    return CompleteResult(completion=Completion(values=[], total=0, has_more=False))


async def _accept(ctx: Context, _: Any) -> EmptyResult:
    return EmptyResult()


@asynccontextmanager
async def fixture_server(folder: Path) -> AsyncIterator[int]:
    """Serve behind the daemon's guard; return the port."""
    pool = cast(TaskAPI, FakePool())
    settings, shared = Settings(project_dir=folder), SharedTasks()
    mcp = McpHttp(pool, settings, lambda: shared, {}, make_server=make_fixture_server)
    async with guarded_server(folder, Starlette(routes=mcp.routes()), pool) as server:
        try:
            yield server.port
        finally:
            await mcp.close()
