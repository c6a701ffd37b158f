"""HTTP over a Unix socket by asyncio's own streams.

The HTTP client speaks through anyio. Its Unix sockets let asyncio log an error, "Exception in
callback Future.set_result", when a read is cancelled in the moment in which its data comes (4.16).
asyncio's own streams do not.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore2
import httpx2


class UnixTransport(httpx2.AsyncHTTPTransport):
    """A transport whose connections all lead to one Unix socket.

    Args:
        path: the path of the socket.
        limits: how many connections there can be.
    """

    def __init__(self, path: str, limits: httpx2.Limits) -> None:
        super().__init__(uds=path, limits=limits, verify=False, trust_env=False)
        # The base class takes no backend. Where it names its pool otherwise, its own one serves, by
        # anyio and at the same path.
        self._pool = httpcore2.AsyncConnectionPool(
            uds=path,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=UnixBackend(),
        )


class UnixBackend(httpcore2.AsyncNetworkBackend):
    """Connects to Unix sockets."""

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> UnixStream:
        """Connect to a socket within `timeout` seconds.

        Raises:
            httpcore2.ConnectError: nobody listens at the path.
            httpcore2.ConnectTimeout: it took longer.
        """
        assert not socket_options
        with _as_errors(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            async with asyncio.timeout(timeout):
                return UnixStream(*await asyncio.open_unix_connection(path))


class UnixStream(httpcore2.AsyncNetworkStream):
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read some bytes within `timeout` seconds; none at the end.

        Raises:
            httpcore2.ReadError: the connection is lost.
            httpcore2.ReadTimeout: nothing came.
        """
        with _as_errors(httpcore2.ReadTimeout, httpcore2.ReadError):
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all bytes within `timeout` seconds.

        Raises:
            httpcore2.WriteError: the connection is lost.
            httpcore2.WriteTimeout: the other end does not read.
        """
        with _as_errors(httpcore2.WriteTimeout, httpcore2.WriteError):
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()

    async def aclose(self) -> None:
        """Close the connection at once, whatever is not written yet."""
        self._writer.transport.abort()
        await asyncio.sleep(0)  # the transport closes its socket in the next turn of the loop

    def get_extra_info(self, info: str) -> Any:
        """Return whether a connection at rest `is_readable`, and so at its end; else None."""
        return self._is_readable() if info == "is_readable" else None

    def _is_readable(self) -> bool:
        if self._writer.is_closing():
            return True
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))


@contextmanager
def _as_errors(late: type[Exception], lost: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:  # before OSError, whose subclass it is
        raise late(str(error)) from error
    except OSError as error:
        raise lost(str(error)) from error
