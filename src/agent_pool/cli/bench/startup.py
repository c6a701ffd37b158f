"""How long the MCP server takes to answer, beside what no server on its SDK can do without."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import psutil

from agent_pool.cli.bench.figures import Start, spread
from agent_pool.cli.offline import World

BOUND: Final = 60.0
PLAIN: Final = "python -c pass"
SDK: Final = "a server of the SDK alone"
SERVER: Final = "agent-pool serve"
_ALONE: Final = """\
import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import ListToolsResult

async def list_tools(context, params):
    return ListToolsResult(tools=[])

async def main():
    server = Server("alone", on_list_tools=list_tools)
    async with stdio_server() as (requests, answers):
        await server.run(requests, answers, server.create_initialization_options())

anyio.run(main)
"""
PROGRAMS: Final = {
    PLAIN: ["-c", "pass"],
    SDK: ["-c", _ALONE],
    SERVER: ["-m", "agent_pool", "serve"],
}
_HELLO: Final = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "agent-pool bench", "version": "1"},
}
STEPS: Final[dict[str, list[dict[str, Any]]]] = {
    "initialize answered": [{"id": 1, "method": "initialize", "params": _HELLO}],
    "tools listed": [
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
    ],
}
"""What is sent, and what its answer is called."""


async def starts(world: World, rounds: int) -> dict[str, Start]:
    """Start each program so many times, in turns."""
    found: dict[str, list[tuple[float, int]]] = {}
    for _ in range(rounds):
        for name, arguments in PROGRAMS.items():
            for what, step in await _start(world, arguments):
                found.setdefault(f"{name}, {what}", []).append(step)
    return {
        name: Start(spread([took for took, _ in times]), max(memory for _, memory in times))
        for name, times in found.items()
    }


async def _start(world: World, arguments: Sequence[str]) -> list[tuple[str, tuple[float, int]]]:
    """After each step, or when it ended without one: the seconds so far and its memory."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=dict(world.environ),
        cwd=world.settings.project_dir,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    found: list[tuple[str, tuple[float, int]]] = []
    try:
        for what, messages in STEPS.items():
            is_alive = await _asked(process, messages)
            took = time.perf_counter() - began
            if not is_alive:
                return found or [("ended", (took, 0))]
            found.append((what, (took, psutil.Process(process.pid).memory_info().rss)))
        return found
    finally:
        await _end(process)


async def _asked(process: asyncio.subprocess.Process, messages: Sequence[dict[str, Any]]) -> bool:
    """Whether it answers."""
    assert process.stdin is not None
    assert process.stdout is not None
    for message in messages:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    return bool(await asyncio.wait_for(process.stdout.readline(), BOUND))


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), BOUND)
    except TimeoutError:
        process.kill()
