"""The MCP server around a pool: both protocol eras, and news of changed agents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    NotificationParams,
    PaginatedRequestParams,
)

from agent_pool import AgentPoolError
from agent_pool.mcp.tools import Found, Pool, call_tool, declare

NAME: Final = "agent-pool"
INSTRUCTIONS: Final = (
    "Runs this project's agents in warm Claude Code processes. invoke gives a task to an agent "
    "and returns its answer; its description lists the agents. list shows the processes, warmup "
    "starts one beforehand, reset stops an agent's processes."
)
WATCH_INTERVAL: Final = 1.0  # seconds between two looks at the agent files

logger = logging.getLogger(__name__)

Context = ServerRequestContext[Any]


def build_server(pool: Pool, *, watch_interval: float = WATCH_INTERVAL) -> Server[Any]:
    """The server for one connection; it uses `pool` and never opens or closes it."""
    tools = _Tools(pool)

    @asynccontextmanager
    async def watching(_: Server[Any]) -> AsyncIterator[None]:
        watcher = asyncio.create_task(tools.watch(watch_interval))
        try:
            yield
        finally:
            watcher.cancel()

    server: Server[Any] = Server(
        NAME,
        version=package_version(),
        instructions=INSTRUCTIONS,
        lifespan=watching,
        on_list_tools=tools.list_tools,
        on_call_tool=tools.call_tool,
        on_subscriptions_listen=ListenHandler(tools.bus),
    )
    server.add_notification_handler(
        "notifications/initialized", NotificationParams, tools.remember_session
    )
    return server


def initialization_options(server: Server[Any]) -> InitializationOptions:
    """What `Server.run` needs; it promises `tools/list_changed`."""
    return server.create_initialization_options(NotificationOptions(tools_changed=True))


def package_version() -> str:
    """The installed version; ``"unknown"`` when the package is not installed."""
    try:
        return version("claude-agent-pool")
    except PackageNotFoundError:
        return "unknown"


class _Tools:
    """The handlers of one connection, and what its client was last shown."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.bus = InMemorySubscriptionBus()
        self._session: ServerSession | None = None
        self._shown: Hashable = None  # the stamp of the definitions behind the last list

    async def list_tools(self, _: Context, __: PaginatedRequestParams | None) -> ListToolsResult:
        self._shown = await asyncio.to_thread(self._stamp)  # before: later changes are news
        return ListToolsResult(tools=declare(self._scan()))

    async def call_tool(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult:
        async def report(number: int, line: str) -> None:
            await ctx.session.report_progress(number, message=line)

        return await call_tool(self._pool, params.name, params.arguments, report)

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
