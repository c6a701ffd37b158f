"""The MCP server around a pool: both protocol eras, and news of changed agents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
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

from agent_pool import AgentPoolError
from agent_pool.mcp.clients import Context, asking, can_be_asked, is_modern
from agent_pool.mcp.greeting import INSTRUCTIONS, NAME, package_version
from agent_pool.mcp.interfaces import Caller, Pool
from agent_pool.mcp.jobs import Jobs, Run
from agent_pool.mcp.rounds import Rounds
from agent_pool.mcp.tasks import Tasks, for_this_protocol
from agent_pool.mcp.tools import DELEGATING, Found, call_tool, declare

WATCH_INTERVAL: Final = 1.0  # seconds between two looks at the agent files

logger = logging.getLogger(__name__)


def build_server(
    pool: Pool, *, watch_interval: float = WATCH_INTERVAL, jobs: Jobs | None = None
) -> Server[Any]:
    """The server for one connection; it uses `pool` and never opens or closes it."""
    tools = _Tools(pool)
    jobs = jobs or Jobs()

    @asynccontextmanager
    async def watching(_: Server[Any]) -> AsyncIterator[None]:
        watcher = asyncio.create_task(tools.watch(watch_interval))
        try:
            yield
        finally:
            watcher.cancel()
            jobs.cancel_all()
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
    _extend(server, Tasks(jobs, tools.bind), tools)
    return server


def _extend(server: Server[Any], extension: Extension, tools: _Tools) -> None:
    """Give the server an extension, as the SDK's other kind of server does by itself."""
    handler = compose_tool_call_handler([extension], tools.call_tool)
    server.add_request_handler("tools/call", CallToolRequestParams, handler)
    for binding in extension.methods():
        server.add_request_handler(binding.method, binding.params_type, for_this_protocol(binding))
    server.extensions[extension.identifier] = extension.settings()


def initialization_options(server: Server[Any]) -> InitializationOptions:
    """What `Server.run` needs; it promises `tools/list_changed`."""
    return server.create_initialization_options(NotificationOptions(tools_changed=True))


class _Tools:
    """The handlers of one connection, and what its client was last shown."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.bus = InMemorySubscriptionBus()
        self.rounds = Rounds()
        self._session: ServerSession | None = None
        self._shown: Hashable = None  # the stamp of the definitions behind the last list

    async def list_tools(self, _: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        self._shown = await asyncio.to_thread(self._stamp)  # before: later changes are news
        return ListToolsResult(tools=declare(self._scan()))

    def bind(self, params: CallToolRequestParams) -> Run:
        """The call, ready to run for whoever makes it."""
        return partial(call_tool, self._pool, params.name, params.arguments)

    async def call_tool(
        self, ctx: Context, params: CallToolRequestParams
    ) -> CallToolResult | InputRequiredResult:
        async def report(number: int, line: str) -> None:
            await ctx.session.report_progress(number, message=line)

        run = self.bind(params)
        if params.name not in DELEGATING or not can_be_asked(ctx):
            return await run(Caller(report))
        if is_modern(ctx):
            return await self.rounds.call(params, run, report)
        return await run(Caller(report, asking(ctx)))

    async def remember_session(self, ctx: Context, _: NotificationParams) -> None:
        """Only clients of the older protocols say that they are initialized."""
        self._session = ctx.session

    async def watch(self, interval: float) -> None:
        """Tell the client when the definitions are not those that it was shown."""
        while True:
            await asyncio.sleep(interval)
            if self._shown is None:
                continue
            now = await asyncio.to_thread(self._stamp)
            if now != self._shown:
                self._shown = now
                await self._announce()

    async def _announce(self) -> None:
        await self.bus.publish(ToolsListChanged())
        if self._session is not None:
            await self._session.send_tool_list_changed()

    def _stamp(self) -> Hashable:
        """A stamp that cannot be taken is a stamp too: its error, until that changes."""
        try:
            return self._pool.catalog.stamp()
        except Exception as error:
            return repr(error)

    def _scan(self) -> Found:
        """On the event loop, as the pool's own look-ups: a catalog is for one thread."""
        try:
            return self._pool.catalog.scan()
        except AgentPoolError as error:
            return error
        except Exception as error:
            logger.exception("bug: the agents cannot be listed")
            return error
