"""An HTTP server inside the running event loop: takes no signals, keeps no log, ends at once."""

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
SHUTDOWN_TIMEOUT: Final = 5.0  # seconds for requests under way to notice that they were aborted


class Server(uvicorn.Server):
    """Serves `app` from `start()` to `stop()`; `port` is known from the beginning.

    Raises ConfigError when the port is taken.
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
                timeout_keep_alive=3600,
            )
        )
        self._socket = _listen(port)
        self.port: int = self._socket.getsockname()[1]
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Accept connections; returns once they are accepted."""
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
        if self._serving.done():
            self._serving.result()

    async def stop(self) -> None:
        """Abort every connection and end, within `SHUTDOWN_TIMEOUT`; cancelled or not."""
        self._stopping.set()
        try:
            await asyncio.shield(self._serving)
        except asyncio.CancelledError:
            await asyncio.wait([self._serving], timeout=SHUTDOWN_TIMEOUT)
            raise

    def abort(self, client: tuple[str, int]) -> None:
        """Drop one client's connection; what the system has taken before still reaches it."""
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) == client:
                connection.transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the program that this server is a guest of."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    async def main_loop(self) -> None:
        """Wait for `stop()`; uvicorn's own loop looks ten times a second."""
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Abort instead of uvicorn's waiting for clients to leave."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if tasks := set(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=SHUTDOWN_TIMEOUT)
        for server in self.servers:
            await asyncio.wait_for(server.wait_closed(), SHUTDOWN_TIMEOUT)


def _listen(port: int) -> socket.socket:
    # With the protocol named, asyncio turns Nagle's algorithm off; else a reply may wait 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {HOST}:{port}: {error}; choose another port, or 0 for any free one"
        ) from error
    return listener
