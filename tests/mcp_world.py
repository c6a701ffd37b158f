"""A project with agents, the real Claude Code CLI, and an offline model, for whole-way tests."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from agent_pool.claude import tree
from agent_pool.loopback import LoopbackAPI
from support import Project

MARK = "TEST_MARK"  # in the environment of every process of one test


class World(Project):
    """A project whose server and agents run for real; its processes are told apart by a mark."""

    def __init__(self, root: Path, api: LoopbackAPI) -> None:
        super().__init__(root)
        self.mark = uuid.uuid4().hex
        self.env = self.environment(api.url, **{MARK: self.mark})
        self.env["AGENT_POOL_RESET"] = (
            "clear"  # without a probe of the binary, which takes a second
        )
        self.agent("reviewer", "You are the reviewer.", description="Reviews code.")

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "agent_pool.mcp"]

    @asynccontextmanager
    async def client(self, era: str, **options: Any) -> AsyncIterator[Client]:
        """The official client, connected to a server of this world."""
        program, *arguments = self.command
        parameters = StdioServerParameters(
            command=program, args=arguments, env=self.env, cwd=self.root
        )
        with (self.home / "stderr").open("a") as stderr:
            pipes = stdio_client(parameters, errlog=stderr)
            async with Client(pipes, mode=era, **options) as client:
                yield client

    @asynccontextmanager
    async def start(
        self, *command: str, stdout: int = asyncio.subprocess.PIPE
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """A program in the project; at the end whatever is left of this world is killed."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=asyncio.subprocess.DEVNULL,
            env=self.env,
            cwd=self.root,
        )
        try:
            yield process
        finally:
            tree.kill(self.processes())
            await process.wait()

    @asynccontextmanager
    async def server(self, stdout: int = asyncio.subprocess.PIPE) -> AsyncIterator[RawServer]:
        """A server that is spoken to without a client library."""
        async with self.start(*self.command, stdout=stdout) as process:
            if stdout >= 0:
                os.close(stdout)  # the server has its own
            yield RawServer(process)

    def processes(self) -> list[psutil.Process]:
        """The living processes of this world."""
        return [process for process in psutil.process_iter() if self._is_mine(process)]

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark
        except psutil.Error:
            return False

    async def until_gone(self, processes: list[psutil.Process]) -> None:
        """Wait until none of these lives, nor any other of this world, for ten seconds."""
        for _ in range(500):
            if not any(map(_lives, processes)) and not self.processes():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"still alive: {self.processes()}")


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class RawServer:
    """A server process and its two pipes, spoken to in the older protocol."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def send(self, *messages: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        for message in messages:
            self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def call(self, name: str, **arguments: str) -> None:
        """Say hello and call a tool; the call has the id 2."""
        self.send(*opening(name, **arguments))

    def kill_watcher(self) -> None:
        """Leave the server to itself: its watcher would clean up after it."""
        (watcher,) = [
            child
            for child in psutil.Process(self.process.pid).children()
            if any(part.endswith("watcher.py") for part in child.cmdline())
        ]
        watcher.kill()

    async def answer(self, number: int) -> dict[str, Any]:
        """The response with this id; whatever else is on stdout must be JSON-RPC too."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            message: dict[str, Any] = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == number:
                return message
        raise AssertionError(f"stdout ended before the answer to {number}")


def opening(name: str, **arguments: str) -> list[dict[str, Any]]:
    """The messages that a client of the older protocol opens with, and the call of a tool."""
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "0"},
    }
    return [
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": name, "arguments": arguments}},
    ]


def modern(number: int, method: str, capabilities: dict[str, Any], **params: Any) -> dict[str, Any]:
    """A request of the newest protocol, which needs no opening."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    }
    return {"id": number, "method": method, "params": {**params, "_meta": meta}}


class Meeting:
    """Where tasks wait for each other: nobody leaves before all are there, however often asked."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._there: set[str] = set()
        self._complete = asyncio.Event()

    async def join(self, task: str) -> None:
        self._there.add(task)
        if len(self._there) == self._size:
            self._complete.set()
        await self._complete.wait()


class Lifeline:
    """A socket that processes hold open as long as one of them lives."""

    def __init__(self) -> None:
        self._taken: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Lifeline]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._writers: list[asyncio.StreamWriter] = []
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._taken.put_nowait(reader)

    @property
    def hold(self) -> str:
        """A bash command that takes the lifeline and never ends, nor does its daemon."""
        sleep = "sleep 1000"
        return f"exec 3<>/dev/tcp/127.0.0.1/{self.port}; setsid {sleep} & {sleep}"

    async def taken(self) -> asyncio.StreamReader:
        """Wait until it is held; reading what is returned ends when no holder lives."""
        return await self._taken.get()
