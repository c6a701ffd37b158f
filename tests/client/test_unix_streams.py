"""HTTP over a Unix socket: errors, timeouts, cancellation and connections at their end."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpcore2
import httpx2
import pytest

from agent_pool.client.unix_streams import UnixBackend, UnixStream, UnixTransport
from support.waiting import run, wait_until


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[UnixStream, socket.socket]]:
    """Connect to a socket; yield both ends."""
    path = str(folder / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(1)
        stream = await UnixBackend().connect_unix_socket(path, 5)
        peer, _ = listening.accept()
        with peer:
            peer.setblocking(False)
            yield stream, peer
            await stream.aclose()


def test_a_read_cancelled_as_its_data_comes_logs_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with connected(tmp_path) as (stream, peer):
            reading = asyncio.create_task(stream.read(100))
            await asyncio.sleep(0.01)
            peer.send(b"x")
            # In the turn of the loop that finds the data, but before it is read.
            asyncio.get_running_loop().call_soon(reading.cancel)
            with pytest.raises(asyncio.CancelledError):
                await reading

    run(main())
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


def test_a_request_cancelled_as_its_answer_comes_logs_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "s"
    asked: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asked.put(writer)

    async def main() -> None:
        transport = UnixTransport(str(path), httpx2.Limits())
        async with (
            await asyncio.start_unix_server(serve, path),
            httpx2.AsyncClient(base_url="http://localhost", transport=transport) as client,
        ):
            asking = asyncio.create_task(client.get("/"))
            writer = await asked.get()
            await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            asyncio.get_running_loop().call_soon(asking.cancel)
            with pytest.raises(asyncio.CancelledError):
                await asking
            writer.close()

    run(main())
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


def test_bytes_arrive_whole_in_both_directions_and_then_the_end(tmp_path: Path) -> None:
    sent = bytes(range(256)) * 10_000

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with connected(tmp_path) as (stream, peer):
            writing = asyncio.create_task(stream.write(sent, 5))
            got = b""
            while len(got) < len(sent):
                got += await loop.sock_recv(peer, 100_000)
            await writing
            assert got == sent
            answering = asyncio.create_task(loop.sock_sendall(peer, sent))
            got = b""
            while len(got) < len(sent):
                got += await stream.read(100_000, 5)
            await answering
            assert got == sent
            assert stream.get_extra_info("is_readable") is False
            peer.close()
            assert stream.get_extra_info("is_readable") is True
            assert await stream.read(100, 5) == b""
            assert stream.get_extra_info("is_readable") is True

    run(main())


def test_each_failure_is_the_error_that_the_client_expects(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(httpcore2.ConnectError):
            await UnixBackend().connect_unix_socket(str(tmp_path / "none"), 5)
        async with connected(tmp_path) as (stream, peer):
            with pytest.raises(httpcore2.ReadTimeout):
                await stream.read(1, 0.01)
            with pytest.raises(httpcore2.WriteTimeout):
                await stream.write(bytes(10_000_000), 0.01)
            peer.close()
            await wait_until(lambda: stream.get_extra_info("is_readable") is True)
            with pytest.raises((httpcore2.WriteError, httpcore2.WriteTimeout)):
                await stream.write(bytes(10_000_000), 1)

    run(main())


def test_a_request_is_sent_again_on_a_new_connection_after_the_end_of_the_last(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    served: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def main() -> None:
        transport = UnixTransport(str(path), httpx2.Limits(max_keepalive_connections=2))
        async with (
            await asyncio.start_unix_server(serve, path),
            httpx2.AsyncClient(base_url="http://localhost", transport=transport) as client,
        ):
            for connections in (1, 1, 2):
                if connections == 2:
                    served[0].close()
                    await served[0].wait_closed()
                assert (await client.post("/", content=b"")).text == "ok"
                assert len(served) == connections
            served[1].close()

    run(main())
