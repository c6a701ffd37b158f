"""MCP over HTTP at ``/mcp``: one MCP server for each caller, both eras of the protocol.

A caller is a project and a process: the protocol of 2026-07-28 has no sessions, so subscriptions,
questions and long answers would otherwise belong to everyone. `agent-pool mcp-headers` sends both.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import psutil
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from agent_pool.api import TaskAPI
from agent_pool.client.environment import changed_variables
from agent_pool.client.hello import CLIENT_PID_HEADER, PROJECT_HEADER
from agent_pool.daemon.caller_pool import CallerDefaults, CallerPool
from agent_pool.daemon.callers import Peer
from agent_pool.daemon.mcp_loading import MakeShared, load_mcp
from agent_pool.errors import AgentPoolError, ConfigError, PoolClosed
from agent_pool.settings import Settings

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

    from agent_pool.mcp.stored_tasks import SharedTasks

PATH: Final = "/mcp"
MAX_CALLERS: Final = 1000
"""Callers that are remembered; the one that was idle for longest makes room."""
IDLE_SECONDS: Final = 30 * 60.0
"""Seconds without a request after which a caller is forgotten."""

MakeServer = Callable[[TaskAPI, "SharedTasks"], "Server[Any]"]
"""Makes the MCP server for a caller."""

logger = logging.getLogger(__name__)


def make_server(pool: TaskAPI, shared: SharedTasks) -> Server[Any]:
    """Return the server for a caller whose pool is `pool`."""
    from agent_pool.mcp.server import build_server

    server = build_server(pool, stored=shared.of(pool))
    # Otherwise the SDK lists the tools before each call, to check headers that we do not have.
    server.get_tool_input_schema = lambda _: None
    return server


@dataclass(frozen=True, slots=True)
class HttpCallerKey:
    """What tells one caller from all others.

    Attributes:
        project: the folder of its project.
        client_pid: its process, as it says; 0 if it does not.
        parent: the task whose worker it is; empty for a caller outside.
        client_start: when its process started; 0 if that is not known.
    """

    project: str
    client_pid: int = 0
    parent: str = ""
    client_start: float = 0.0


def read_caller(headers: Mapping[bytes, bytes], peer: Peer | None = None) -> HttpCallerKey:
    """Read the caller of a request from its headers.

    Raises:
        ConfigError: the project is missing, or no folder; or the pid is no number.
    """
    given = headers.get(PROJECT_HEADER.encode(), b"")
    try:
        # A folder can have characters that a header cannot carry, so they are percent-encoded.
        project = unquote(given.decode("ascii"), errors="strict")
    except ValueError:
        raise ConfigError(f"{PROJECT_HEADER}: expected UTF-8, percent-encoded") from None
    if not project.startswith("/") or "\0" in project or not Path(project).is_dir():
        raise ConfigError(
            f"{PROJECT_HEADER}: expected the absolute folder of a project, found {project!r:.200}. "
            "For Claude Code, `agent-pool install --http` sets it up"
        )
    pid = headers.get(CLIENT_PID_HEADER.encode(), b"0")
    if not pid.isdigit() or len(pid) > 10:
        raise ConfigError(f"{CLIENT_PID_HEADER}: expected a process id, found {pid[:20]!r}")
    # Another process can get the same pid, and must not get the other one's variables.
    return HttpCallerKey(project, int(pid), peer.task_id if peer else "", _start_of(int(pid)))


class McpHttp:
    """The route ``/mcp``.

    Args:
        pool: the pool, which is open.
        settings: the daemon's settings.
        shared: returns what all connections share of tasks that outlive their callers.
        environ: the daemon's environment.
        make_server: makes the MCP server of a caller, whose pool it gets.
    """

    def __init__(
        self,
        pool: TaskAPI,
        settings: Settings,
        shared: MakeShared,
        environ: Mapping[str, str],
        *,
        make_server: MakeServer = make_server,
    ) -> None:
        self._make_server = make_server
        self._pool = pool
        self._settings = settings
        self._shared = shared
        self._environ = environ
        self._callers: dict[HttpCallerKey, _HttpCaller] = {}

    def routes(self) -> list[BaseRoute]:
        """Return the routes for the daemon's application."""
        return [Route(PATH, endpoint=self)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            key = read_caller(dict(scope["headers"]), scope["state"].get("peer"))
            await load_mcp()
            caller = await self._caller(key)
        except AgentPoolError as error:
            await _refuse(error, send)
            return
        await caller.serve(scope, receive, send)

    async def _caller(self, key: HttpCallerKey) -> _HttpCaller:
        caller = self._callers.get(key)
        if caller is None:
            self._make_room()
            server = self._make_server(self._caller_pool(key), self._shared())
            caller = self._callers[key] = _HttpCaller(server)
            caller.running.add_done_callback(lambda _: self._forget(key, caller))
        await caller.started.wait()
        return caller

    def _forget(self, key: HttpCallerKey, caller: _HttpCaller) -> None:
        if self._callers.get(key) is caller:
            del self._callers[key]

    def _make_room(self) -> None:
        if len(self._callers) < MAX_CALLERS:
            return
        idle = [caller for caller in self._callers.values() if not caller.requests]
        if not idle:
            raise PoolClosed(f"the daemon has {MAX_CALLERS} clients already; end some of them")
        min(idle, key=lambda caller: caller.last_used).stop()

    def _caller_pool(self, key: HttpCallerKey) -> CallerPool:
        client = _environment_of(key.client_pid)
        env = None if client is None else self._changed(client)
        return CallerPool(self._pool, CallerDefaults(key.project, env, key.parent or None))

    def _changed(self, client: Mapping[str, str]) -> dict[str, str] | None:
        blocked, sent = self._settings.env_block, self._settings.sent_variables
        return changed_variables(client, self._environ, blocked, sent)

    async def close(self) -> None:
        """End all connections; the calls of their clients are cancelled, stored tasks are not."""
        running = [caller.running for caller in self._callers.values()]
        for caller in list(self._callers.values()):
            caller.running.cancel()
        if running:
            await asyncio.wait(running)


class _HttpCaller:
    """The MCP server of one caller, until it is idle for long.

    Attributes:
        requests: requests that are being answered.
        last_used: when the last one began or ended, on the loop's clock.
        started: is set when requests can be served.
        running: ends with the caller.
    """

    def __init__(self, server: Server[Any]) -> None:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        self._manager = StreamableHTTPSessionManager(server, session_idle_timeout=IDLE_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.requests = 0
        self.last_used = self._loop.time()
        self.started = asyncio.Event()
        self.running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with self._manager.run():
                self.started.set()
                await self._stopped.wait()
        finally:
            self.started.set()
            if self._timer is not None:
                self._timer.cancel()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        self.requests += 1
        self._touch()
        try:
            await self._manager.handle_request(scope, receive, send)
        finally:
            self.requests -= 1
            self._touch()

    def stop(self) -> None:
        """End the caller."""
        self._stopped.set()

    def _touch(self) -> None:
        self.last_used = self._loop.time()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self.requests else self._loop.call_later(IDLE_SECONDS, self.stop)


def _start_of(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time()) if pid > 1 else 0.0
    except (psutil.Error, OverflowError):
        return 0.0


def _environment_of(pid: int) -> dict[str, str] | None:
    """Return the environment of a process of this user; None if it cannot be read.

    By it, tasks of two sessions with different credentials are never mixed up.
    """
    if pid <= 1:
        return None
    try:
        process = psutil.Process(pid)
        return dict(process.environ()) if process.uids().real == os.getuid() else None
    except (psutil.Error, OSError):
        return None


async def _refuse(error: AgentPoolError, send: Send) -> None:
    body = {"code": -32600, "message": error.message}
    data = json.dumps({"jsonrpc": "2.0", "id": None, "error": body}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    status = 503 if isinstance(error, PoolClosed) else 400
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})
