"""The MCP server as a process, with the real CLI and an offline model behind it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

import agent_pool
from agent_pool.loopback import LoopbackAPI
from support.mcp_client import legacy_call
from support.process_checks import kill_all, reapers, watchdogs
from support.project import TempProject

IMPORTABLE = str(Path(agent_pool.__file__).parents[1])


class ServerRunner(TempProject):
    """A project in which MCP servers run.

    Attributes:
        env: the environment of their processes.
    """

    env: dict[str, str]

    @property
    def server_command(self) -> list[str]:
        """Return the arguments that start the server."""
        return [sys.executable, "-m", "agent_pool.mcp"]

    @property
    def stderr(self) -> str:
        """Return what the project's servers have written to stderr."""
        return (self.home / "stderr").read_text(encoding="utf-8")

    @asynccontextmanager
    async def client(self, era: str, **options: Any) -> AsyncIterator[Client]:
        """Start a server, and connect the official client to it."""
        program, *arguments = self.server_command
        parameters = StdioServerParameters(
            command=program, args=arguments, env=self.env, cwd=self.root
        )
        with (self.home / "stderr").open("a") as stderr:
            pipes = stdio_client(parameters, errlog=stderr)
            async with Client(pipes, mode=era, **options) as client:
                yield client

    @asynccontextmanager
    async def run_program(
        self, *command: str, stdout: int = asyncio.subprocess.PIPE
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start a program in the project; at the end kill all processes of the project."""
        with (self.home / "stderr").open("a") as stderr:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                env=self.env,
                cwd=self.root,
            )
        try:
            yield process
        finally:
            self.end_processes(process)
            await process.wait()

    def end_processes(self, process: asyncio.subprocess.Process) -> None:
        """End what is left of a program that was started: by default the whole project's."""
        kill_all(self.processes())

    @asynccontextmanager
    async def server(self, stdout: int = asyncio.subprocess.PIPE) -> AsyncIterator[ServerProcess]:
        """Start a server for a test that writes the messages itself."""
        async with self.run_program(*self.server_command, stdout=stdout) as process:
            if stdout >= 0:
                os.close(stdout)  # the server has its own
            yield ServerProcess(process)


class ServerProject(ServerRunner):
    """A project with the agent `reviewer`, in which the server and its agents run."""

    def __init__(self, folder: Path, api: LoopbackAPI) -> None:
        super().__init__(folder)
        # Not auto: that would first probe whether the binary can reset, which takes a second.
        # No spare: it would be one more process for each server, which no task of these tests uses.
        # PYTHONPATH: the server runs the code under test, also where another copy is installed.
        self.env = self.environment(
            api.url, AGENT_POOL_RESET="clear", AGENT_POOL_SPARES="0", PYTHONPATH=IMPORTABLE
        )
        self.agent("reviewer", "You are the reviewer.", description="Reviews code.")


class ServerProcess:
    """A server process and its two pipes, for clients of the older protocol."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    def send(self, *messages: dict[str, Any]) -> None:
        """Write messages to stdin, a line each."""
        assert self.process.stdin is not None
        for message in messages:
            self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def call(self, name: str, **arguments: str) -> None:
        """Initialize the connection and call a tool; the call has the id 2."""
        self.send(*legacy_call(name, **arguments))

    @contextmanager
    def without_watchdog(self) -> Iterator[None]:
        """Stop the server's watchdog, which would clean up after the server; kill it at the end."""
        parts = [*watchdogs(self.process.pid), *reapers(self.process.pid)]
        assert len(parts) == 2
        for part in parts:
            part.suspend()
        try:
            yield
        finally:
            kill_all(parts)

    async def answer(self, number: int) -> dict[str, Any]:
        """Wait for the response with this id; everything else on stdout must be JSON-RPC too."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            message: dict[str, Any] = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == number:
                return message
        raise AssertionError(f"stdout ended before the answer to {number}")


class LivenessSocket:
    """A socket that processes hold open as long as one of them lives."""

    def __init__(self) -> None:
        self._taken: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LivenessSocket]:
        """Listen until the block ends."""
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
        """Return a bash command that holds the socket and never ends, nor does its daemon."""
        sleep = "sleep 1000"
        return f"exec 3<>/dev/tcp/127.0.0.1/{self.port}; setsid {sleep} & {sleep}"

    async def taken(self) -> asyncio.StreamReader:
        """Wait until a process holds it; the returned stream ends when no holder lives."""
        return await self._taken.get()
