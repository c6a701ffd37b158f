"""The MCP server around a pool, for both protocol eras; it announces changed agents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from mcp.server.extension import Extension, compose_tool_call_handler
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
from agent_pool.mcp.tasks import TasksExtension, for_this_protocol
from agent_pool.mcp.tools import DELEGATING, Listing, call_tool, declare

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
) -> Server[Any]:
    """Build the server for one connection; it uses `pool` and never opens or closes it."""
    tools = _ToolHandlers(pool, early or EarlyList())
    calls = calls or ConnectionCalls()

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
    _extend(server, TasksExtension(calls, tools.bind), tools)
    return server


def _extend(server: Server[Any], extension: Extension, tools: _ToolHandlers) -> None:
    """Add an extension to the server, as the SDK's high-level server does by itself."""
    handler = compose_tool_call_handler([extension], tools.call_tool)
    server.add_request_handler("tools/call", CallToolRequestParams, handler)
    for binding in extension.methods():
        server.add_request_handler(binding.method, binding.params_type, for_this_protocol(binding))
    server.extensions[extension.identifier] = extension.settings()


def initialization_options(server: Server[Any]) -> InitializationOptions:
    """Return the options for `Server.run`; they announce `tools/list_changed`."""
    return server.create_initialization_options(NotificationOptions(tools_changed=True))


class _ToolHandlers:
    """The handlers of one connection, and the version of the agents that its client knows."""

    def __init__(self, pool: PoolAPI, early: EarlyList) -> None:
        self._pool = pool
        self._early = early
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

    def bind(self, ctx: Context, params: CallToolRequestParams) -> RunCall:
        """Return the call, ready to run for its caller."""
        run = partial(call_tool, self._pool, params.name, params.arguments)
        if params.name not in DELEGATING:
            return run
        limit = answer_limit(client_of(ctx)[0])

        async def run_and_keep(caller: Caller) -> CallToolResult:
            return self._answers.keep(await run(caller), limit)

        return run_and_keep

    async def call_tool(
        self, ctx: Context, params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult:
        async def report(number: int, line: str) -> None:
            await ctx.session.report_progress(number, message=line)

        run = self.bind(ctx, params)
        if params.name not in DELEGATING or not can_elicit(ctx):
            return await run(Caller(report, answers=self._answers))
        if is_modern(ctx):
            return await self.rounds.call(params, run, report)
        return await run(Caller(report, elicit_permission(ctx)))

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
