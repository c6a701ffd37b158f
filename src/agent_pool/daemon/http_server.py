"""The daemon's HTTP server: uvicorn's protocol on a Unix socket and on TCP, with bounds.

Connections on TCP have a bound of their own: every user of the machine can connect there, and must
not keep this user's clients from the Unix socket.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from agent_pool.daemon.callers import Peer, PeerSocket

log = logging.getLogger("agent_pool")

HEAD_SECONDS: Final = 10.0
"""Seconds that the head of a request can take, from the connection or its first byte on."""
KEEP_ALIVE_SECONDS: Final = 75.0
"""Seconds that an idle connection stays open."""
FLUSH_SECONDS: Final = 30.0
"""Seconds in which a client must take the end of an answer after which its connection closes."""
BACKLOG: Final = 256


@dataclass(frozen=True)
class Listener:
    """A listening socket.

    Attributes:
        socket: bound, not listening yet.
        is_private: only processes of this user can connect.
        most: the most connections at once; one more is closed.
    """

    socket: socket.socket
    is_private: bool
    most: int


class Connection:
    """One open connection, for the guard of the application.

    Attributes:
        is_private: it came by the Unix socket.
        socket: the connection's socket, to be asked and not to be read.
        peer: the process at the other end, once it was identified.
    """

    def __init__(self, transport: asyncio.Transport, *, is_private: bool) -> None:
        self._transport = transport
        self.is_private = is_private
        self.socket = cast(PeerSocket, transport.get_extra_info("socket"))
        self.peer: Peer | None = None

    def abort(self) -> None:
        """Close it at once; what was not sent is dropped."""
        self._transport.abort()


class DaemonHttpServer:
    """A server of `app`.

    Args:
        app: the application; it finds its `Connection` in ``scope["state"]["connection"]``.
        listeners: where it listens.
        on_change: called when a connection is opened or has ended.
    """

    def __init__(
        self, app: ASGIApp, listeners: tuple[Listener, ...], on_change: Callable[[], None]
    ) -> None:
        self._config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=int(KEEP_ALIVE_SECONDS),
        )
        self._config.load()
        self._state = ServerState()
        self._listeners = listeners
        self._on_change = on_change
        self._servers: list[asyncio.Server] = []
        self._open: dict[Listener, set[_Protocol]] = {one: set() for one in listeners}
        self._full: set[Listener] = set()
        self._emptied = asyncio.Event()

    @property
    def connections(self) -> int:
        """Return the number of open connections."""
        return sum(map(len, self._open.values()))

    async def start(self) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:

            def make(listener: Listener = listener) -> _Protocol:
                return _Protocol(self._config, self._state, self, listener)

            make_server = loop.create_unix_server if listener.is_private else loop.create_server
            self._servers.append(
                await cast(Any, make_server)(make, sock=listener.socket, backlog=BACKLOG)
            )

    def stop_listening(self) -> None:
        """Accept no connection any more, and close those without a request."""
        for server in self._servers:
            server.close()
        for listener in self._listeners:  # those that were never started
            listener.socket.close()
        for protocol in self._protocols():
            if not protocol.transport.is_closing():
                protocol.shutdown()

    async def finish(self, timeout: float) -> None:
        """Wait until every connection has ended, and abort those that are left after `timeout`."""
        self.stop_listening()
        try:
            async with asyncio.timeout(timeout):
                while self.connections:
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            log.info("%d connections are closed before their answers ended", self.connections)
        finally:
            for protocol in self._protocols():
                protocol.transport.abort()
            for task in set(self._state.tasks):
                task.cancel()
        if tasks := set(self._state.tasks):
            await asyncio.wait(tasks, timeout=1.0)

    def _protocols(self) -> list[_Protocol]:
        return [protocol for found in self._open.values() for protocol in found]

    def add(self, protocol: _Protocol, listener: Listener) -> bool:
        """Note a new connection; return False if there are too many."""
        if len(self._open[listener]) >= listener.most:
            if listener not in self._full:  # once, or another user could fill the log
                log.warning("%d connections are open, and more are refused", listener.most)
                self._full.add(listener)
            return False
        self._open[listener].add(protocol)
        self._on_change()
        return True

    def remove(self, protocol: _Protocol, listener: Listener) -> None:
        """Note the end of a connection."""
        if protocol not in self._open[listener]:  # it was refused
            return
        self._open[listener].discard(protocol)
        if len(self._open[listener]) < listener.most // 2:
            self._full.discard(listener)
        self._on_change()
        if not self.connections:
            self._emptied.set()


class _Protocol(H11Protocol):
    """uvicorn's protocol with a bound for the head of a request and for clients that never read."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        server: DaemonHttpServer,
        listener: Listener,
    ) -> None:
        super().__init__(config, state, {})
        self._server, self._listener = server, listener
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._server.add(self, self._listener):
            transport.abort()
            return
        connection = Connection(transport, is_private=self._listener.is_private)
        self.app_state = {"connection": connection}
        self._abort_after(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering:
            self._cancel_timer()
        elif self._timer is None:
            self._abort_after(HEAD_SECONDS)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            # A close waits for a client that does not read, and for ever.
            self._abort_after(FLUSH_SECONDS)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, also one whose client has not read the last answer."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn keeps the timer after an error
        self._cancel_timer()
        self._server.remove(self, self._listener)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _abort_after(self, seconds: float) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
