"""An MCP server with its client and its offline model, shared by the tests of a module."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mcp import Client
from mcp_types import CallToolResult

from agent_pool.loopback import LoopbackAPI
from support.mcp_server import ServerProject
from support.waiting import TEST_TIMEOUT, bounded

T = TypeVar("T")


class ServerHarness:
    """A running server and the official client, on an event loop that outlives a single test.

    Args:
        folder: a folder for the project and the home.
        era: the protocol that the client speaks.
        settings: variables of the server.
        options: options of the client.

    Attributes:
        api: the model; each test sets its script.
    """

    api: LoopbackAPI
    client: Client
    project: ServerProject

    def __init__(
        self, folder: Path, era: str, settings: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        self.era = era
        self._folder = folder
        self._settings = settings or {}
        self._options = options
        self._runner = asyncio.Runner()

    def open(self) -> None:
        """Start the model, the server and the client."""
        self.run(self._open())

    async def _open(self) -> None:
        self._over = asyncio.Event()
        opened = asyncio.Event()
        self._serving = asyncio.create_task(self._serve(opened))
        waiting = asyncio.create_task(opened.wait())
        await asyncio.wait([self._serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._serving.done():
            self._serving.result()

    async def _serve(self, opened: asyncio.Event) -> None:
        # One task enters and leaves the client: its cancel scopes belong to a task.
        async with LoopbackAPI() as self.api:
            self.project = ServerProject(self._folder, self.api)
            self.project.env.update(self._settings)
            async with self.project.client(self.era, **self._options) as self.client:
                opened.set()
                await self._over.wait()

    def close(self) -> None:
        """End the client, the server and the model."""
        try:
            self.run(self._close())
        finally:
            self._runner.close()

    async def _close(self) -> None:
        self._over.set()
        await self._serving

    def run(self, main: Coroutine[Any, Any, T], bound: float = TEST_TIMEOUT) -> T:
        """Run a test on the harness's loop; raise TimeoutError after `bound` seconds."""
        return self._runner.run(bounded(main, bound))

    async def invoke(self, agent: str, task: str, **options: Any) -> CallToolResult:
        """Call the tool `invoke`."""
        arguments = {"agent": agent, "task": task}
        return await self.client.call_tool("invoke", arguments, **options)
