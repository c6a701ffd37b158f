"""A pool without processes, and clients that are connected to a server without a pipe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp.server.lowlevel import Server
from mcp.shared.memory import create_client_server_memory_streams
from mcp_types import CallToolResult, Tool

from agent_pool import (
    Agent,
    Broken,
    ConfigError,
    PermissionRequest,
    PoolStats,
    TaskEvent,
    TaskResult,
    Usage,
    WorkerInfo,
)
from agent_pool.mcp.server import initialization_options

ERAS = ("legacy", "2026-07-28")

OnEvent = Callable[[TaskEvent], None]
OnPermission = Callable[[PermissionRequest], Awaitable[bool]]
Invoke = Callable[[str, str, OnEvent], Awaitable[TaskResult]]


def an_agent(name: str = "reviewer", description: str = "Reviews code.") -> Agent:
    return Agent(name=name, description=description, prompt="", path=Path(f"/x/{name}.md"))


def a_broken(name: str) -> Broken:
    return Broken(name, Path(f"/x/{name}.md"), ConfigError("bad YAML"))


def a_result(text: str = "done", **fields: Any) -> TaskResult:
    values: dict[str, Any] = {
        "text": text,
        "is_error": False,
        "subtype": "success",
        "agent": "reviewer",
        "duration": 1.5,
        "waited": 0.25,
        "turns": 2,
        "usage": Usage(1, 2, 3, 4),
        "cost_usd": 0.01,
        "session_id": "s-1",
        "worker": "reviewer-1",
        "pid": 4711,
    }
    return TaskResult(**values | fields)


def a_worker(**fields: Any) -> WorkerInfo:
    values: dict[str, Any] = {
        "worker": "reviewer-1",
        "agent": "reviewer",
        "description": "Reviews code.",
        "state": "idle",
        "pid": 4711,
        "tasks": 3,
        "rss": 190_000_000,
        "uptime": 12.34,
        "usage": Usage(1, 2, 3, 4),
        "cost_usd": 0.5,
    }
    return WorkerInfo(**values | fields)


class FakeCatalog:
    def __init__(self) -> None:
        self.found: list[Agent | Broken] = [an_agent()]
        self.version = 1
        self.looks = 0
        self.error: Exception | None = None

    def scan(self) -> list[Agent | Broken]:
        if self.error is not None:
            raise self.error
        return self.found

    def stamp(self) -> int:
        self.looks += 1
        return self.version

    async def looked_at(self, times: int) -> None:
        """Wait until the stamp has been taken so many times more."""
        enough = self.looks + times
        while self.looks < enough:  # noqa: ASYNC110 - another thread looks
            await asyncio.sleep(0)

    def change(self, *found: Agent | Broken) -> None:
        self.found = list(found)
        self.version += 1


def some_stats(**fields: Any) -> PoolStats:
    values: dict[str, Any] = {
        "uptime": 60.0,
        "waiting": 0,
        "paused": 0.0,
        "workers": {"idle": 1},
        "spawned": 1,
        "resets": 2,
        "strays": 0,
        "retired": {},
        "agents": (),
    }
    return PoolStats(**values | fields)


class FakePool:
    """Answers with what it was given; `error` is raised instead when there is one.

    `asks` are the tools that an agent asks permission for; its answer says what it was permitted.
    """

    asks: tuple[str, ...] = ()

    def __init__(self, invoke: Invoke | None = None) -> None:
        self.catalog = FakeCatalog()
        self.workers: list[WorkerInfo] = []
        self.calls: list[tuple[str, ...]] = []
        self.error: Exception | None = None
        self._invoke = invoke

    def _called(self, *call: str) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    async def invoke(
        self,
        agent: str,
        task: str,
        *,
        on_event: OnEvent,
        on_permission: OnPermission,
        conversation: str | None,
    ) -> TaskResult:
        self._called("invoke", agent, task, *([conversation] if conversation else []))
        if self._invoke is not None:
            return await self._invoke(agent, task, on_event)
        wanted = [PermissionRequest(agent, tool, {"for": task}) for tool in self.asks]
        allowed = [request.tool for request in wanted if await on_permission(request)]
        said = f"{agent} did {task}" + (f", permitted {allowed}" if wanted else "")
        place = self.calls.count(self.calls[-1])
        return a_result(said, agent=agent, conversation=conversation, place=place)

    async def warmup(self, agent: str) -> WorkerInfo:
        self._called("warmup", agent)
        return a_worker(agent=agent, worker=f"{agent}-1")

    async def list(self) -> list[WorkerInfo]:
        self._called("list")
        return self.workers

    async def reset(self, agent: str) -> int:
        self._called("reset", agent)
        return len(self.workers)

    def end_conversation(self, agent: str, conversation: str) -> bool:
        self._called("end_conversation", agent, conversation)
        return conversation == "open"

    def stats(self) -> PoolStats:
        self._called("stats")
        return some_stats()

    def kill(self) -> None:
        self.calls.append(("kill",))


@asynccontextmanager
async def connected(server: Server[Any], era: str, **options: Any) -> AsyncIterator[Client]:
    """A client of `server` that speaks the protocol of `era` over JSON-RPC, in memory."""
    async with Client(_pipe(server), mode=era, **options) as client:
        yield client


@asynccontextmanager
async def _pipe(server: Server[Any]) -> AsyncIterator[Any]:
    async with (
        create_client_server_memory_streams() as (client_side, server_side),
        anyio.create_task_group() as group,
    ):
        group.start_soon(server.run, *server_side, initialization_options(server))
        yield client_side
        await client_side[1].aclose()


def text_of(result: CallToolResult) -> str:
    """The text of a result, which must be its only content."""
    assert result.structured_content is None
    (block,) = result.content
    assert block.type == "text"
    return block.text


async def tool(client: Client, name: str) -> Tool:
    listed = await client.list_tools()
    return next(tool for tool in listed.tools if tool.name == name)
