"""The pool, as a library and through its MCP server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from agent_pool.errors import TaskFailed
from benchmarks.methods.base import POLL_INTERVAL_SECONDS, Method


class PoolLibrary(Method):
    """`AgentPool.invoke`."""

    async def open(self) -> None:
        from agent_pool import AgentPool

        self._pool = await self.resources.enter_async_context(AgentPool())
        await self._pool.warmup(self.agent)

    async def run_task(self, task: str) -> str:
        result = await self._pool.invoke(self.agent, task)
        result.raise_for_error()
        return result.text

    async def settle(self) -> None:
        while set((await self._pool.stats()).workers) - {"idle"}:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(POLL_INTERVAL_SECONDS)


class PoolServer(Method):
    """The tools of `agent-pool serve`, called by the official MCP client."""

    async def open(self) -> None:
        from mcp import Client, StdioServerParameters

        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "agent_pool", "serve"],
            env=dict(os.environ),
            cwd=Path.cwd(),
        )
        self._client = await self.resources.enter_async_context(Client(server))
        await self._call("warmup", agent=self.agent)

    async def run_task(self, task: str) -> str:
        return await self._call("invoke", agent=self.agent, task=task)

    async def settle(self) -> None:
        while await self._is_busy():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(POLL_INTERVAL_SECONDS)

    async def _is_busy(self) -> bool:
        return bool(set(json.loads(await self._call("stats"))["workers"]) - {"idle"})

    async def _call(self, tool: str, **arguments: Any) -> str:
        result = await self._client.call_tool(tool, arguments)
        text = "".join(getattr(block, "text", "") for block in result.content)
        if result.is_error:
            raise TaskFailed(f"the tool {tool} failed: {text}")
        return text
