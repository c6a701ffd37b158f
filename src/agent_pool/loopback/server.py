"""An HTTP server in the running event loop: it takes no signals, writes no log, stops at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from agent_pool.errors import ConfigError

HOST: Final = "127.0.0.1"
SHUTDOWN_TIMEOUT: Final = 5.0
"""Seconds for the running requests to end after their connections were aborted."""
KEEP_ALIVE_SECONDS: Final = 3600
"""Seconds that an idle connection stays open.

uvicorn's default is 5 s. A client that sends its next request at the moment of the close would get
a reset connection.
"""


class HttpServer(uvicorn.Server):
    """A server of `app` on 127.0.0.1, from `start()` to `stop()`.

    Args:
        app: the ASGI application.
        port: 0 takes any free one.

    Attributes:
        port: the port; known before `start()`, because the socket is bound at once.

    Raises:
        ConfigError: the port is in use, or not a port.
    """

    def __init__(self, app: ASGIApp, port: int = 0) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )
        self._socket = _bind_socket(port)
        self.port: int = self._socket.getsockname()[1]
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Start to serve, and return when connections are accepted."""
        self._ready = asyncio.Event()
        self._serving = asyncio.create_task(self.serve([self._socket]), name="loopback server")
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({ready, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop()
            raise
        finally:
            ready.cancel()
        # It ends this early only if it failed; `result()` raises its error.
        if self._serving.done():
            self._serving.result()

    async def stop(self) -> None:
        """Abort every connection and stop, within `SHUTDOWN_TIMEOUT`; also when cancelled."""
        self._stopping.set()
        try:
            # Without the shield a cancelled caller would cancel the shutdown and leave the socket.
            await asyncio.shield(self._serving)
        except asyncio.CancelledError:
            await asyncio.wait([self._serving], timeout=SHUTDOWN_TIMEOUT)
            raise

    def abort(self, client: tuple[str, int]) -> None:
        """Drop the connection of one client, given as host and port.

        Bytes that the kernel has already taken still reach the client.
        """
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) == client:
                connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the program; uvicorn would handle SIGINT and SIGTERM itself."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections, and report it to `start`."""
        await super().startup(sockets)
        self._ready.set()

    async def main_loop(self) -> None:
        """Wait for `stop()`; uvicorn's own loop would check for its end ten times a second."""
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Abort the connections; uvicorn would wait until the clients have left."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if tasks := set(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=SHUTDOWN_TIMEOUT)
        for server in self.servers:
            await asyncio.wait_for(server.wait_closed(), SHUTDOWN_TIMEOUT)


def _bind_socket(port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only for a socket that names its protocol (IPPROTO_TCP).
    # With the algorithm on, a reply can wait for 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Without it, a port of a server that has just stopped stays in use (TIME_WAIT).
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
    # bind raises OverflowError for a number that is no port.
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {HOST}:{port}: {error}; choose another port, or 0 for any free one"
        ) from error
    return listener
