"""The daemon's Unix socket for MCP relays: one MCP server for each connection."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

import anyio

from agent_pool.api import TaskAPI
from agent_pool.client.environment import changed_variables
from agent_pool.client.exchange import OpenMessages
from agent_pool.client.hello import MAX_HELLO, RelayHello, acceptance
from agent_pool.daemon.caller_pool import CallerDefaults, CallerPool
from agent_pool.daemon.callers import Peer, identify_peer, refuse_nested
from agent_pool.daemon.mcp_loading import MakeShared, load_mcp
from agent_pool.errors import AgentPoolError, ConfigError, PoolClosed
from agent_pool.runtime import fits_scope
from agent_pool.settings import Settings

HELLO_SECONDS: Final = 10.0
"""Seconds for the first line of a relay."""
MAX_LINE: Final = 32 << 20
"""Bytes of one message of a client."""
MAX_UNREAD: Final = 4 << 20
"""Bytes that wait for a client; with more, its next messages wait until it has read some."""
UNREAD_SECONDS: Final = 30.0
"""Seconds for which a client with so much unread is waited for; then it is dropped."""
CLOSE_SECONDS: Final = 2.0
"""Seconds for a client that has left to read its last answers."""
MAX_CLIENTS: Final = 1000
"""Connections at the same time."""
_CHUNK: Final = 65536

logger = logging.getLogger(__name__)


class RelayServer:
    """Serves the pool to MCP relays.

    Args:
        pool: the pool, which is open.
        settings: the daemon's settings.
        scope: see `runtime.config_scope`; relays that it does not fit are refused.
        shared: returns what all connections share of tasks that outlive their callers.
        environ: the daemon's environment, by default that of this process.
    """

    def __init__(
        self,
        pool: TaskAPI,
        settings: Settings,
        *,
        scope: str,
        shared: MakeShared,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._scope = scope
        self._shared = shared
        self._environ = os.environ if environ is None else environ
        self._clients: dict[asyncio.Task[None], _RelayConnection] = {}
        self._server: asyncio.Server | None = None
        self._is_draining = False

    @property
    def client_count(self) -> int:
        """Return how many relays are connected."""
        return len(self._clients)

    async def start(self, path: Path) -> None:
        """Listen on a Unix socket of this path; one that is there already is replaced.

        Raises:
            OSError: the socket cannot be made.
        """
        self._server = await asyncio.start_unix_server(
            self._accept, sock=_listening_socket(path), backlog=128
        )

    async def drain(self) -> None:
        """Accept no client any more, and return when each one has no call that runs.

        A relay whose connection ends goes on with the next daemon, and its client sees nothing.
        """
        self._is_draining = True
        if self._server is not None:
            self._server.close()
        for connection in self._clients.values():
            connection.close_when_idle()
        while self._clients:
            await asyncio.wait(self._clients)

    async def close(self) -> None:
        """End all connections. The calls of their clients are cancelled, stored tasks are not."""
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _RelayConnection(reader, writer)
        task = asyncio.create_task(self._serve(connection))
        self._clients[task] = connection
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        connection = self._clients.pop(task)
        connection.abort()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("bug: a relay's connection failed", exc_info=error)

    async def _serve(self, connection: _RelayConnection) -> None:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                hello = RelayHello.read(await connection.first_line())
                peer = await identify_peer(connection.peer, self._pool)
            self._check(hello, peer)
            pool = CallerPool(self._pool, self._defaults(hello, peer))
        except (AgentPoolError, PermissionError) as error:
            await connection.finish(acceptance(str(error) or type(error).__name__))
            return
        except (TimeoutError, ConnectionError):
            return  # it is no relay, or it has left
        try:
            await connection.write(acceptance().decode())
            await load_mcp()
            await connection.converse(pool, self._shared, is_resumed=hello.is_resumed)
            await connection.finish()
        except* (ConnectionError, anyio.BrokenResourceError):
            logger.debug("a client has left while it was written to")

    def _check(self, hello: RelayHello, peer: Peer) -> None:
        """Refuse a client that this daemon cannot serve.

        Raises:
            AgentPoolError: the message says why, and what to do.
        """
        refuse_nested(peer, self._settings)
        if not fits_scope(hello.scope, self._scope):
            raise ConfigError(
                f"the daemon (pid {os.getpid()}) has other settings: it was started with another "
                "HOME, CLAUDE_CONFIG_DIR or AGENT_POOL_* variable"
            )
        if self._is_draining:
            raise PoolClosed("the daemon is being replaced; connect again")
        if len(self._clients) > MAX_CLIENTS:
            raise PoolClosed(f"the daemon has {MAX_CLIENTS} clients already; end some sessions")

    def _defaults(self, hello: RelayHello, peer: Peer) -> CallerDefaults:
        # A folder that is only the working directory does not win over the settings file.
        is_set = "project_dir" in self._settings.model_fields_set and not hello.is_named
        folder = str(self._settings.project_dir) if is_set else hello.folder
        blocked, sent = self._settings.env_block, self._settings.sent_variables
        env = changed_variables(hello.environment, self._environ, blocked, sent)
        return CallerDefaults(folder, env, peer.task_id or None)


def _listening_socket(path: Path) -> socket.socket:
    """Return a socket bound to a path, which only this user can connect to."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    # No other process can connect before the mode is set: it does not listen yet.
    path.chmod(0o600)
    return bound


class _RelayConnection:
    """The lines from and to one relay, both bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._exchange = OpenMessages()  # knows whether a call runs
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_closing = False
        self._is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writer.transport.set_write_buffer_limits(high=MAX_UNREAD)

    @property
    def peer(self) -> Any:
        """Return the socket, for questions about the other end."""
        return self._writer.get_extra_info("socket")

    async def first_line(self) -> bytes:
        """Return the first line.

        Raises:
            ConfigError: it is too long.
            ConnectionError: the relay has closed the connection.
        """
        line = await self._next_line(MAX_HELLO)
        if not line:
            raise ConnectionResetError
        return line

    async def _next_line(self, most: int) -> bytes:
        """Return the next line with its end; the rest without an end, or nothing, at the end.

        Raises:
            ConfigError: the line has more than `most` bytes.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > most:
                raise ConfigError(f"a line of the client has more than {most} bytes")
            data = await self._read()
            if not data:
                end = -1 if self._is_over.done() else searched - 1
                break
            self._buffer += data
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line

    async def _read(self) -> bytes:
        """Return bytes of the client; none if it has left, or the conversation is over."""
        reading = asyncio.create_task(self._reader.read(_CHUNK))
        try:
            await asyncio.wait((reading, self._is_over), return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else b""
        finally:
            reading.cancel()

    async def _lines(self) -> AsyncIterator[str]:
        """Yield the lines of the client until it leaves."""
        while True:
            # A client that reads nothing must not make the daemon answer more and more.
            await self._has_room.wait()
            try:
                line = await self._next_line(MAX_LINE)
            except (ConfigError, ConnectionError) as error:
                logger.warning("the connection of a client ends: %s", error)
                return
            if not line:
                return
            self._exchange.from_client(line)
            yield line.decode("utf-8", "replace")

    async def write(self, text: str) -> None:
        """Write a line; wait as long as the client has too much unread.

        Raises:
            ConnectionError: the client has left, or does not read.
        """
        data = text.encode()
        self._exchange.from_daemon(data)
        self._writer.write(data)
        if self._is_closing:
            self.close_when_idle()
        self._has_room.clear()
        try:
            async with asyncio.timeout(UNREAD_SECONDS):
                await self._writer.drain()
        except TimeoutError:
            logger.warning("a client is dropped: it read nothing for %g s", UNREAD_SECONDS)
            self.abort()
            raise ConnectionAbortedError("the client does not read") from None
        finally:
            self._has_room.set()

    async def flush(self) -> None:
        """Do nothing: `write` waits already."""

    async def converse(self, pool: CallerPool, shared: MakeShared, *, is_resumed: bool) -> None:
        """Serve MCP until the client leaves."""
        from mcp.server.stdio import stdio_server

        from agent_pool.mcp.lines import CheckedLines
        from agent_pool.mcp.server import build_server, initialization_options

        server = build_server(pool, stored=shared().of(pool), is_resumed=is_resumed)
        lines = CheckedLines(self._lines(), self.write)
        as_files = (cast("anyio.AsyncFile[str]", one) for one in (lines, self))
        async with stdio_server(*as_files) as (incoming, outgoing):
            await server.run(incoming, outgoing, initialization_options(server))

    def close_when_idle(self) -> None:
        """End the conversation as soon as no call of the client runs."""
        self._is_closing = True
        if not self._exchange.is_waiting and not self._is_over.done():
            self._is_over.set_result(None)

    async def finish(self, last: bytes = b"") -> None:
        """Let the client read what was written, and close the connection."""
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                if last:
                    self._writer.write(last)
                self._writer.close()
                await self._writer.wait_closed()

    def abort(self) -> None:
        """Close the connection at once; what was not sent is lost."""
        self._writer.transport.abort()
