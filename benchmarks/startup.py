"""Measures the start of the MCP server, beside programs that show the least it could take."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import psutil

from agent_pool.cli.offline import OfflineSandbox
from benchmarks.method_process import python_environ
from benchmarks.results import ProgramStart, time_spread

ANSWER_TIMEOUT_SECONDS: Final = 60.0
_EMPTY_SERVER: Final = """\
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
    "python -c pass": ["-c", "pass"],
    "a server of the SDK alone": ["-c", _EMPTY_SERVER],
    "agent-pool serve": ["-m", "agent_pool", "serve"],
}
_INITIALIZE: Final = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "agent-pool benchmarks", "version": "1"},
}
STEPS: Final[dict[str, list[dict[str, Any]]]] = {
    "initialize answered": [{"id": 1, "method": "initialize", "params": _INITIALIZE}],
    "tools listed": [
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
    ],
}
"""The messages of each step, by the label of the step."""


async def measure_starts(sandbox: OfflineSandbox, rounds: int) -> dict[str, ProgramStart]:
    """Start each program `rounds` times, in turns; return the figures by program and step."""
    found: dict[str, list[tuple[float, int]]] = {}
    for _ in range(rounds):
        for name, arguments in PROGRAMS.items():
            for step, figures in await _start(sandbox, arguments):
                found.setdefault(f"{name}, {step}", []).append(figures)
    return {
        name: ProgramStart(
            time_spread([seconds for seconds, _ in starts]), max(memory for _, memory in starts)
        )
        for name, starts in found.items()
    }


async def _start(
    sandbox: OfflineSandbox, arguments: Sequence[str]
) -> list[tuple[str, tuple[float, int]]]:
    """Return the seconds so far and the memory after each step, or at the end of the program."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        env=python_environ(sandbox),
        cwd=sandbox.settings.project_dir,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    found: list[tuple[str, tuple[float, int]]] = []
    try:
        for step, messages in STEPS.items():
            is_alive = await send_messages(process, messages)
            seconds = time.perf_counter() - started
            if not is_alive:
                return found or [("ended", (seconds, 0))]
            found.append((step, (seconds, psutil.Process(process.pid).memory_info().rss)))
        return found
    finally:
        await end_server(process)


async def send_messages(
    process: asyncio.subprocess.Process, messages: Sequence[dict[str, Any]]
) -> bool:
    """Send messages and wait for an answer; return False if the program ends instead."""
    assert process.stdin is not None
    assert process.stdout is not None
    for message in messages:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    return bool(await asyncio.wait_for(process.stdout.readline(), ANSWER_TIMEOUT_SECONDS))


async def end_server(process: asyncio.subprocess.Process) -> None:
    """Close the stdin of a server and wait for its end."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), ANSWER_TIMEOUT_SECONDS)
    except TimeoutError:
        process.kill()
