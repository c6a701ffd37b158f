"""A proxy for HTTP clients that cannot send headers of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

END_OF_HEAD = b"\r\n\r\n"


class HeaderProxy:
    """Passes each request on to a server on 127.0.0.1, with more headers.

    The bytes of bodies are passed on as they come, so that streams work. A connection has one
    request. Hosts and origins with the proxy's port get the server's port; all others are passed
    on as they are, so that the server's own checks of them are tested.

    Args:
        port: of the server.
        headers: those to add.
    """

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        self._target = port
        self._headers = headers
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[HeaderProxy]:
        """Listen until the block ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in [*self._connections]:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._exchange(reader, writer)
        writer.transport.abort() if writer.transport.is_closing() else writer.close()
        self._connections.discard(task)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(END_OF_HEAD)
        answer, request = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            request.write(self._with_headers(head))
            # The first end of the two ends both: the client leaves, or the server has answered.
            flows = [
                asyncio.create_task(_pass_on(reader, request)),
                asyncio.create_task(_pass_on(answer, writer)),
            ]
            try:
                await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for flow in flows:
                    flow.cancel()
        finally:
            request.close()

    def _with_headers(self, head: bytes) -> bytes:
        first, *lines = head[: -len(END_OF_HEAD)].decode("latin-1").split("\r\n")
        kept = [self._readdressed(line) for line in lines if not _is(line, "connection")]
        added = [f"{name}: {value}" for name, value in self._headers.items()]
        lines = [first, *kept, *added, "Connection: close"]
        return "\r\n".join(lines).encode("latin-1") + END_OF_HEAD

    def _readdressed(self, line: str) -> str:
        if _is(line, "host") or _is(line, "origin"):
            return line.replace(f":{self.port}", f":{self._target}")
        return line


def _is(line: str, name: str) -> bool:
    return line.partition(":")[0].strip().lower() == name


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
