"""Who gets in to the daemon, how much they can send, and how long they can take."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from agent_pool.daemon import guard, http_server
from support.daemons import TOKEN, GuardedServer, bearer, exchange, guarded_server, parse_answer
from support.fake_pool import FakePool
from support.waiting import run, wait_until

CLIENTS = 100
LARGE = 8 << 20


async def answer_size(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the number of bytes of the body; `/large` with many bytes."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client has left")
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"x" * 65536 if scope["path"] == "/large" else str(size).encode()
    times = LARGE // 65536 if scope["path"] == "/large" else 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(times):
        await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def check(folder: Path, test: Callable[[GuardedServer], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with guarded_server(folder, answer_size, FakePool(), **options) as server:
            await test(server)

    run(main())


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer wrong", f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"],
)
def test_tcp_without_the_right_token_is_refused(short_folder: Path, authorization: str) -> None:
    async def test(server: GuardedServer) -> None:
        headers = {**bearer(server.port), "Authorization": authorization}
        status, answered, body = await exchange(await server.tcp(), headers=headers)
        assert status == 401
        assert answered["www-authenticate"] == "Bearer"
        assert answered["cache-control"] == "no-store"
        assert json.loads(body)["error"]["code"] == "unauthorized"
        assert TOKEN not in body.decode()

    check(short_folder, test)


AS_NOBODY = """
import http.client, os, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
"127.0.0.1".encode("idna")
os.setuid(65534)
connection.request("GET", sys.argv[2], headers={"Authorization": "Bearer " + sys.argv[3]})
print(connection.getresponse().status)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0, reason="only root can start a process of another"
)
def test_pages_are_refused_to_another_user_of_the_machine(short_folder: Path) -> None:
    async def test(server: GuardedServer) -> None:
        async def ask(path: str) -> str:
            arguments = (sys.executable, "-c", AS_NOBODY, str(server.port), path, TOKEN)
            process = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE)
            return (await process.communicate())[0].decode().strip()

        # The token is a secret of the daemon's user; a cookie can be sent to a wrong listener.
        assert (await ask("/ui/"), await ask("/v1/tasks")) == ("403", "200")
        status, *_ = await exchange(await server.tcp(), "/ui/", headers=bearer(server.port))
        assert status == 200

    check(short_folder, test)


def test_the_right_token_opens_tcp_and_nothing_is_cached(short_folder: Path) -> None:
    async def test(server: GuardedServer) -> None:
        for host in ("127.0.0.1", "localhost", "[::1]"):
            headers = {**bearer(server.port), "Host": f"{host}:{server.port}"}
            status, answered, body = await exchange(await server.tcp(), headers=headers)
            assert (status, body.strip()) == (200, chunked(b"0"))
            assert answered["cache-control"] == "no-store"
            assert not any(name.startswith("access-control") for name in answered)

    check(short_folder, test)


def chunked(text: bytes) -> bytes:
    return b"%x\r\n%s\r\n0" % (len(text), text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": "localhost:1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
    ],
)
def test_a_foreign_host_or_origin_is_refused_with_the_token(
    short_folder: Path, wrong: dict[str, str]
) -> None:
    async def test(server: GuardedServer) -> None:
        headers = {**bearer(server.port), **wrong}
        status, _, body = await exchange(await server.tcp(), headers=headers)
        assert status == 403
        assert json.loads(body)["error"]["code"] in ("foreign_host", "foreign_origin")

    check(short_folder, test)


def test_a_page_of_the_daemon_itself_is_served(short_folder: Path) -> None:
    async def test(server: GuardedServer) -> None:
        headers = bearer(server.port, Origin=f"http://localhost:{server.port}")
        status, _, _ = await exchange(await server.tcp(), headers=headers)
        assert status == 200

    check(short_folder, test)


def test_a_too_large_body_is_refused_stated_or_not(short_folder: Path) -> None:
    async def test(server: GuardedServer) -> None:
        body = b"x" * (guard.MAX_BODY + 1)
        stated = await exchange(await server.private(), method="POST", body=body)
        chunks = b"".join(b"10000\r\n%s\r\n" % (b"x" * 65536) for _ in range(65)) + b"0\r\n\r\n"
        headers = {"Content-Length": "", "Transfer-Encoding": "chunked"}
        hidden = await exchange(await server.private(), method="POST", headers=headers, body=chunks)
        assert [stated[0], hidden[0]] == [413, 413]
        fitting = await exchange(await server.private(), method="POST", body=body[1:])
        task = await exchange(await server.private(), "/v1/tasks", method="POST", body=body)
        assert [fitting[0], task[0]] == [200, 200]

    check(short_folder, test)


def test_a_client_that_sends_slowly_is_dropped_at_its_bound(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)

    async def test(server: GuardedServer) -> None:
        silent, _ = await server.tcp()
        half, writer = await server.tcp()
        writer.write(b"GET / HTTP/1.1\r\nHo")
        assert [await silent.read(), await half.read()] == [b"", b""]
        body, writer = await server.private()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        assert parse_answer(await body.read())[0] == 408

    check(short_folder, test)


def test_a_second_request_that_never_ends_is_dropped(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)

    async def test(server: GuardedServer) -> None:
        reader, writer = await server.private()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"GET / HT")
        assert await reader.read() == b""

    check(short_folder, test)


def test_connections_by_tcp_are_bounded_apart_from_the_socket(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise the bound of a silent client would close the connection too.
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 1000.0)

    async def test(server: GuardedServer) -> None:
        # Every user of the machine can open these.
        for _ in range(3):
            await server.tcp()
        refused, _ = await server.tcp()
        assert await asyncio.wait_for(refused.read(), 20) == b""
        status, _, _ = await exchange(await server.private())
        assert status == 200

    check(short_folder, test, most_tcp=3)


def test_a_hundred_clients_are_served_beside_one_that_never_reads(short_folder: Path) -> None:
    async def test(server: GuardedServer) -> None:
        stuck = [await server.private() for _ in range(5)]
        for _, writer in stuck:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        tracemalloc.start()
        answers = await asyncio.gather(*(one_client(server, number) for number in range(CLIENTS)))
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert answers == [200] * CLIENTS
        # The answers to those that do not read are not made ahead.
        assert held < LARGE

    async def one_client(server: GuardedServer, number: int) -> int:
        is_private = number % 2 == 0
        connection = await (server.private() if is_private else server.tcp())
        headers = {} if is_private else bearer(server.port)
        status, _, _ = await exchange(connection, headers=headers)
        return status

    check(short_folder, test)


def test_a_client_that_never_reads_is_dropped_at_last(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "SEND_SECONDS", 0.2)

    async def test(server: GuardedServer) -> None:
        _, writer = await server.private()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await wait_until(lambda: server.http.connections == 1)
        await wait_until(lambda: server.http.connections == 0)

    check(short_folder, test)


CONNECT_AS = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.sendall(b"GET /v1/health HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
sys.stdout.buffer.write(s.makefile("rb").read())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_although_the_socket_is_open(short_folder: Path) -> None:
    async def test(server: GuardedServer) -> None:
        # The modes of folder and socket would stop it before.
        for path, mode in ((short_folder, 0o755), (server.path, 0o777)):
            os.chmod(path, mode)  # noqa: PTH101
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", CONNECT_AS, str(server.path)],
            capture_output=True,
            timeout=20,
        )
        status, _, body = parse_answer(done.stdout)
        assert status == 403
        assert "user 65534" in json.loads(body)["error"]["message"]

    check(short_folder, test)
