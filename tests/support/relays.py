"""MCP relays and their daemon as processes, with the real CLI and an offline model behind them."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from agent_pool import TaskAPI, TaskFilter, TaskRecord, runtime
from agent_pool.loopback import LoopbackAPI
from agent_pool.runtime import DaemonAddress
from support.daemons import DaemonProject
from support.mcp_server import IMPORTABLE, ServerProcess, ServerRunner
from support.process_checks import kill_all
from support.waiting import wait_until


class RelayProject(DaemonProject, ServerRunner):
    """A project with the agent `reviewer`, whose sessions share a daemon."""

    def __init__(self, folder: Path, short: Path) -> None:
        super().__init__(folder, short)
        self.agent("reviewer", "You are the reviewer.", description="Reviews code.")
        self.env = self.daemon_environment()

    def use(self, api: LoopbackAPI, **more: str) -> None:
        """Let sessions and agents use this model."""
        self.env = self.daemon_environment(api.url, **{"PYTHONPATH": IMPORTABLE, **more})

    @property
    def server_command(self) -> list[str]:
        """Return the arguments that start a relay."""
        return [sys.executable, "-m", "agent_pool", "serve"]

    def end_processes(self, process: asyncio.subprocess.Process) -> None:
        """End a program and what it started; the daemon and its workers stay."""
        with suppress(psutil.Error, ProcessLookupError):
            kill_all(psutil.Process(process.pid).children(recursive=True))
            process.kill()

    async def kill_daemon(self) -> DaemonAddress:
        """Kill the daemon with SIGKILL, and wait until it has ended; return its address."""
        address = runtime.find_daemon(self.env)
        assert address is not None
        psutil.Process(address.pid).kill()
        await wait_until(lambda: not runtime.is_locked(self.runtime))
        return address

    async def wait_for_daemon(self, other_than: int = 0) -> DaemonAddress:
        """Wait until a daemon runs that has another pid."""
        found: list[DaemonAddress] = []

        def is_there() -> bool:
            address = runtime.find_daemon(self.env)
            if address is not None and address.pid != other_than:
                found.append(address)
            return bool(found)

        await wait_until(is_there)
        return found[0]


def resident_bytes(pid: int) -> int:
    """Return the resident memory of one process."""
    return int(psutil.Process(pid).memory_info().rss)


async def wait_for_task(pool: TaskAPI, *states: str) -> TaskRecord:
    """Wait until the newest task of a pool has one of these states."""
    while True:
        found = await pool.tasks(TaskFilter(limit=1))
        if found and found[0].state in states:
            return found[0]
        await asyncio.sleep(0.01)


async def initialize(server: ServerProcess, name: str = "test") -> None:
    """Open a connection of the older protocol."""
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": name, "version": "0"},
    }
    server.send({"id": 0, "method": "initialize", "params": hello})
    answer = await server.answer(0)
    assert answer["result"]["serverInfo"]["name"] == "agent-pool"
    server.send({"method": "notifications/initialized"})


def call(number: int, name: str, **arguments: object) -> dict[str, object]:
    """Build a call of a tool."""
    params = {"name": name, "arguments": arguments}
    return {"id": number, "method": "tools/call", "params": params}


def text_in(answer: dict[str, object]) -> str:
    """Return the text of a tool's answer."""
    result = answer["result"]
    assert isinstance(result, dict)
    return "".join(block["text"] for block in result["content"])
