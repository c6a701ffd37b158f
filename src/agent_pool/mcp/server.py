"""The MCP server around a pool, for both protocol eras; it announces changed agents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from mcp.server.extension import Extension, RequestHandler, compose_tool_call_handler
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    ListToolsResult,
    NotificationParams,
    PaginatedRequestParams,
)

from agent_pool import AgentPoolError, PoolAPI
from agent_pool.mcp.agent_list import description_limit
from agent_pool.mcp.answers import LongAnswers, answer_limit
from agent_pool.mcp.background import begin_in_background
from agent_pool.mcp.call_tasks import CallTasks
from agent_pool.mcp.calls import Caller, ConnectionCalls, RunCall
from agent_pool.mcp.capabilities import (
    Context,
    can_elicit,
    client_of,
    elicit_permission,
    is_modern,
)
from agent_pool.mcp.elicitation import ElicitationRounds
from agent_pool.mcp.greeting import INSTRUCTIONS, NAME, package_version
from agent_pool.mcp.kept_tasks import KeptTasks
from agent_pool.mcp.tasks import TasksExtension, for_this_protocol
from agent_pool.mcp.tools import (
    ANSWERING,
    DELEGATING,
    Listing,
    call_tool,
    declare,
    is_in_background,
)

WATCH_INTERVAL: Final = 1.0
"""Seconds between two checks of the agents' files."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class EarlyList:
    """The list of tools that a client got before the server was loaded.

    Attributes:
        is_wrong: the list differs from the server's own; the client is told to ask again.
    """

    is_wrong: bool = False


def build_server(
    pool: PoolAPI,
    *,
    watch_interval: float = WATCH_INTERVAL,
    calls: ConnectionCalls | None = None,
    early: EarlyList | None = None,
    stored: KeptTasks | None = None,
    is_resumed: bool = False,
) -> Server[Any]:
    """Build the server for one connection; it uses `pool` and never opens or closes it.

    Args:
        pool: the pool.
        watch_interval: seconds between two checks of the agents' files.
        calls: the calls that are kept as long as the connection.
        early: learns of a list of tools that the client got before.
        stored: where delegated calls are kept instead; they outlive the connection.
        is_resumed: the client has a list of tools from another server, so it is told to ask again.
    """
    calls = calls or ConnectionCalls()
    tools = _ToolHandlers(pool, early or EarlyList(), stored or CallTasks(calls))
    if is_resumed:
        tools.expect_another_list()

    @asynccontextmanager
    async def watching(_: Server[Any]) -> AsyncIterator[None]:
        watcher = asyncio.create_task(tools.watch(watch_interval))
        try:
            yield
        finally:
            watcher.cancel()
            calls.cancel_all()
            tools.rounds.cancel_all()

    server: Server[Any] = Server(
        NAME,
        version=package_version(),
        instructions=INSTRUCTIONS,
        lifespan=watching,
        on_list_tools=tools.list_tools,
        on_subscriptions_listen=ListenHandler(tools.bus),
    )
    server.add_notification_handler(
        "notifications/initialized", NotificationParams, tools.remember_session
    )
    extend(server, TasksExtension(tools.tasks, tools), tools.call_tool)
    return server


def extend(server: Server[Any], extension: Extension, call_tool: RequestHandler) -> None:
    """Add an extension to a server, as the SDK's high-level server does by itself.

    Args:
        server: the server.
        extension: the extension.
        call_tool: carries out the calls that the extension passes on.
    """
    handler = compose_tool_call_handler([extension], call_tool)
    server.add_request_handler("tools/call", CallToolRequestParams, handler)
    for binding in extension.methods():
        server.add_request_handler(binding.method, binding.params_type, for_this_protocol(binding))
    server.extensions[extension.identifier] = extension.settings()


def initialization_options(server: Server[Any]) -> InitializationOptions:
    """Return the options for `Server.run`; they announce `tools/list_changed`."""
    return server.create_initialization_options(NotificationOptions(tools_changed=True))


class _ToolHandlers:
    """The handlers of one connection, and the version of the agents that its client knows."""

    def __init__(self, pool: PoolAPI, early: EarlyList, tasks: KeptTasks) -> None:
        self._pool = pool
        self._early = early
        self.tasks = tasks
        self._answers = LongAnswers()
        self.bus = InMemorySubscriptionBus()
        self.rounds = ElicitationRounds()
        self._session: ServerSession | None = None
        self._shown: str | None = None  # the version of the agents in the last list

    async def list_tools(self, ctx: Context, _: PaginatedRequestParams | None) -> ListToolsResult:
        # The version first: a change between the two steps is then announced.
        self._shown = await self._agents_version()
        limit = description_limit(*client_of(ctx))
        return ListToolsResult(tools=declare(await self._agents(), limit))

    def expect_another_list(self) -> None:
        """Tell the client at the next check of the agents' files to ask for its tools again."""
        self._shown = ""

    def bind(self, params: CallToolRequestParams) -> RunCall:
        """Return the call, ready to run for its caller."""
        if is_in_background(params):
            return partial(begin_in_background, self._pool, params.arguments)
        return partial(call_tool, self._pool, params.name, params.arguments)

    def keep(self, ctx: Context, result: CallToolResult, name: str = "") -> CallToolResult:
        """Keep an answer that is too long for the client; see `LongAnswers.keep`."""
        return self._answers.keep(result, answer_limit(client_of(ctx)[0]), name)

    async def call_tool(
        self, ctx: Context, params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult:
        async def report(number: int, line: str) -> None:
            await ctx.session.report_progress(number, message=line)

        bound = self.bind(params)

        async def run(caller: Caller) -> CallToolResult:
            result = await bound(caller)
            return self.keep(ctx, result) if params.name in ANSWERING else result

        caller = Caller(report, answers=self._answers, tasks=self.tasks)
        if params.name not in DELEGATING or not can_elicit(ctx) or is_in_background(params):
            return await run(caller)
        if is_modern(ctx):
            return await self.rounds.call(params, run, report)
        return await run(replace(caller, ask=elicit_permission(ctx)))

    async def remember_session(self, ctx: Context, _: NotificationParams) -> None:
        """Keep the session; only clients of the older protocols send this notification."""
        self._session = ctx.session

    async def watch(self, interval: float) -> None:
        """Tell the client when the agents are not those in its list of tools."""
        while True:
            await asyncio.sleep(interval)
            if self._shown is None:
                continue
            version = await self._agents_version()
            if version != self._shown or self._early.is_wrong:
                self._shown = version
                self._early.is_wrong = False
                await self._announce()

    async def _announce(self) -> None:
        await self.bus.publish(ToolsListChanged())
        if self._session is not None:
            await self._session.send_tool_list_changed()

    async def _agents_version(self) -> str:
        try:
            return await self._pool.agents_version()
        except Exception as error:
            return repr(error)  # an error is a version too, until it changes

    async def _agents(self) -> Listing:
        try:
            return await self._pool.agents()
        except AgentPoolError as error:
            return error
        except Exception as error:
            logger.exception("bug: the agents cannot be listed")
            return error
