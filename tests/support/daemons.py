"""Daemons of tests: each with its own folders, in processes that must all be gone at the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psutil
from starlette.types import ASGIApp

from agent_pool import runtime
from agent_pool.api import TaskAPI
from agent_pool.client import start as client
from agent_pool.daemon.guard import Guard
from agent_pool.daemon.http_server import DaemonHttpServer, Listener
from agent_pool.runtime import DaemonAddress
from agent_pool.settings import Settings
from support.environment import UNREACHABLE_URL
from support.pools import PLAIN
from support.process_checks import is_alive
from support.project import TempProject
from support.waiting import WAIT_TIMEOUT, blocking_wait

TOKEN = "a-token-of-the-tests"


class DaemonProject(TempProject):
    """A project whose clients use a daemon of their own.

    Attributes:
        runtime: the runtime folder; short, because a socket's path is bounded.
        state: the state folder.
    """

    def __init__(self, folder: Path, short: Path) -> None:
        super().__init__(folder)
        self.agent("tester", description="Tests.")
        self.runtime, self.state = short / "run", short / "state"
        self.settings_file = self.home / ".claude" / "agent-pool.toml"
        self.settings_file.parent.mkdir()
        self.configure()

    def configure(self, **settings: Any) -> None:
        """Write the settings file: those of `PLAIN`, and these."""
        given = {**PLAIN, "stop_grace": 0.3, "kill_grace": 0.3, **settings}
        lines = [f"{name} = {json.dumps(value)}" for name, value in given.items()]
        self.settings_file.write_text("\n".join(lines))

    def daemon_environment(self, url: str = UNREACHABLE_URL, **more: str) -> dict[str, str]:
        """Build the environment of a client and its daemon."""
        given = {
            "AGENT_POOL_DAEMON": "on",
            runtime.RUNTIME_DIR: str(self.runtime),
            runtime.STATE_DIR: str(self.state),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            **more,
        }
        return self.environment(url, **given)

    def command(
        self, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `agent-pool daemon` with these arguments; it is killed after a minute."""
        return subprocess.run(
            [sys.executable, "-m", "agent_pool", "daemon", *arguments],
            env=environ or self.daemon_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def stop(self, *, now: bool = False) -> None:
        """Stop the daemon as `agent-pool daemon stop` does, without a process for the command."""
        if address := self.address():
            os.kill(address.pid, signal.SIGQUIT if now else signal.SIGTERM)
            wait_gone(address.pid)

    def begin(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Any:
        """Begin a command as `command` does, and return its process."""
        return subprocess.Popen(
            [sys.executable, "-m", "agent_pool", "daemon", *arguments],
            env=environ or self.daemon_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start(self, url: str = UNREACHABLE_URL, **more: str) -> DaemonAddress:
        """Start the daemon as a client does, or find it."""
        return client.ensure_daemon(self.daemon_environment(url, **more))

    def address(self) -> DaemonAddress | None:
        """Return the address of the running daemon."""
        return runtime.find_daemon(self.daemon_environment())

    def status(self) -> dict[str, Any]:
        """Return what the running daemon reports about itself."""
        address = self.address()
        assert address is not None
        return cast(dict[str, Any], json.loads(client.ask(address, "GET", "/v1/daemon").body))

    def log(self) -> str:
        """Return the daemon's log."""
        path = self.state / client.LOG_NAME
        return path.read_text() if path.exists() else ""

    def files(self) -> list[str]:
        """Return the names of the files in the runtime folder, without the lock's."""
        return sorted(p.name for p in self.runtime.iterdir() if p.name != runtime.LOCK_FILE)

    def daemons(self) -> list[psutil.Process]:
        """Return the living daemons of this project."""
        return [one for one in self.processes() if "daemon" in one.cmdline()]

    def end(self) -> None:
        """Kill the daemons that still live."""
        for process in self.daemons():
            with suppress(psutil.Error):
                process.kill()
        blocking_wait(lambda: not self.processes())


def wait_gone(pid: int, within: float = WAIT_TIMEOUT) -> None:
    """Wait until a process has ended."""
    blocking_wait(lambda: not is_alive(pid), within)


@dataclass
class GuardedServer:
    """A server in this process.

    Attributes:
        http: the server.
        path: of its Unix socket.
        port: of TCP.
        writers: the clients' ends of all connections.
    """

    http: DaemonHttpServer
    path: Path
    port: int
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def private(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the Unix socket."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        self.writers.append(writer)
        return reader, writer

    async def tcp(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect by TCP."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        """End all connections of clients."""
        for writer in self.writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def guarded_server(
    folder: Path,
    app: ASGIApp,
    pool: Any,
    *,
    most_tcp: int = 128,
    most_private: int = 400,
    **settings: Any,
) -> AsyncIterator[GuardedServer]:
    """Serve an application behind the guard of the daemon."""
    path = folder / "s"
    private = socket.socket(socket.AF_UNIX)
    private.bind(str(path))
    public = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    public.bind(("127.0.0.1", 0))
    port = public.getsockname()[1]
    guard = Guard(
        app,
        pool=cast(TaskAPI, pool),
        settings=Settings(**settings),
        token=TOKEN,
        port=port,
    )
    listeners = (Listener(private, True, most_private), Listener(public, False, most_tcp))
    http = DaemonHttpServer(guard, listeners, lambda: None)
    await http.start()
    server = GuardedServer(http, path, port)
    try:
        yield server
    finally:
        await http.finish(0)
        await server.close()
        path.unlink()


async def exchange(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    target: str = "/v1/anything",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> tuple[int, dict[str, str], bytes]:
    """Send one request, and return status, headers and body of the answer."""
    reader, writer = connection
    given = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in {**given, **(headers or {})}.items() if value]
    writer.write("\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""]).encode() + body)
    data = await reader.read()
    writer.close()
    return parse_answer(data)


def parse_answer(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an answer."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body


def bearer(port: int, token: str = TOKEN, **more: str) -> dict[str, str]:
    """Return the headers of a client that knows the token."""
    return {"Host": f"127.0.0.1:{port}", "Authorization": f"Bearer {token}", **more}
