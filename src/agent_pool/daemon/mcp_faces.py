"""MCP on the daemon: for relays and over HTTP, with tasks that belong to both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute

from agent_pool.api import TaskAPI
from agent_pool.daemon.mcp_http import McpHttp
from agent_pool.daemon.relay_server import RelayServer
from agent_pool.runtime import config_scope
from agent_pool.settings import Settings

if TYPE_CHECKING:
    from agent_pool.mcp.stored_tasks import SharedTasks


class McpFaces:
    """Both ways to the MCP server of the daemon."""

    def __init__(self, pool: TaskAPI, settings: Settings, environ: Mapping[str, str]) -> None:
        self._shared: SharedTasks | None = None
        scope = config_scope(environ)
        self._relays = RelayServer(pool, settings, scope=scope, shared=self._share, environ=environ)
        self._http = McpHttp(pool, settings, self._share, environ)

    def _share(self) -> SharedTasks:
        if self._shared is None:
            from agent_pool.mcp.stored_tasks import SharedTasks

            self._shared = SharedTasks()
        return self._shared

    @property
    def client_count(self) -> int:
        """Return how many relays are connected; clients on HTTP have a connection of their own."""
        return self._relays.client_count

    def routes(self) -> list[BaseRoute]:
        """Return the routes for the daemon's application."""
        return self._http.routes()

    async def start(self, path: Path) -> None:
        """Listen for relays on a Unix socket of this path.

        Raises:
            OSError: the socket cannot be made.
        """
        await self._relays.start(path)

    async def drain(self) -> None:
        """Accept no relay any more, and return when no call of one runs."""
        await self._relays.drain()

    async def close(self) -> None:
        """End all connections and what only belongs to them."""
        await self._relays.close()
        await self._http.close()
        if self._shared is not None:
            self._shared.close()
