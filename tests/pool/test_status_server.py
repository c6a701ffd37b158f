"""A pool's status socket: its content, its readers, and that neither side can block the other."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent_pool import ConfigError, PoolStatus, SilentPool, running_pools
from agent_pool.pool import status_server as module
from agent_pool.pool.status_server import (
    FOLDER_PREFIX,
    MAX_CONNECTIONS,
    SOCKET_NAME,
    StatusServer,
)
from support.pool_program import pool_program
from support.pools import PoolProject, wait_until_idle
from support.process_checks import watchdogs
from support.waiting import run, wait_until


@pytest.fixture
def place(pool_project: PoolProject, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield an empty temporary folder with a path short enough for sockets; it must end empty."""
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


@pytest.fixture
def folder(place: Path) -> Iterator[Path]:
    """Yield a private folder of a pool."""
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}-0123-") as folder:
        yield Path(folder)


def of(status: PoolStatus | SilentPool) -> PoolStatus:
    assert isinstance(status, PoolStatus)
    return status


async def opened(place: Path) -> Path:
    """Return the only pool's folder, with its socket open."""
    await wait_until(lambda: sockets(place))
    return sockets(place)[0].parent


def sockets(place: Path) -> list[Path]:
    return list(place.glob(f"{FOLDER_PREFIX}*/{SOCKET_NAME}"))


async def read_status(folder: Path) -> bytes:
    """Return what a client of a folder's socket reads."""
    reader, writer = await asyncio.open_unix_connection(str(folder / SOCKET_NAME))
    try:
        return await reader.read()
    finally:
        writer.transport.abort()


# What is seen


def test_running_pools_shows_the_state_of_an_open_pool(
    pool_project: PoolProject, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", ["/some/where/reviewing", "--of=this"])

    async def main() -> None:
        async with pool_project.faulty() as pool:
            await pool.invoke("tester", "one")
            await pool.invoke("tester", "two")
            await wait_until_idle(pool)
            (found,) = map(of, await running_pools())
            (worker,) = await pool.workers()
            assert found.pid == os.getpid()
            assert found.project == str(pool_project.root)
            assert found.program == "reviewing"
            (seen,) = found.workers
            assert replace(seen, rss=0, uptime=0) == replace(worker, rss=0, uptime=0)
            assert seen.rss > 0
            stats = replace(await pool.stats(), uptime=found.stats.uptime)
            assert found.stats.as_json() == stats.as_json()
            assert found.stats.total.tasks == 2
        assert await running_pools() == []

    run(main())


def test_running_pools_finds_every_pool_of_a_program(
    pool_project: PoolProject, place: Path
) -> None:
    async def main() -> None:
        assert await running_pools() == []
        async with pool_project.faulty() as one, pool_project.faulty() as two:
            await one.warmup("tester")
            await two.warmup("tester")
            await two.invoke("tester", "task")
            tasks = sorted(of(found).stats.total.tasks for found in await running_pools())
            assert tasks == [0, 1]

    run(main())


def test_the_status_shows_no_tasks_answers_or_environment(
    pool_project: PoolProject, place: Path
) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            answer = await pool.invoke("tester", "the colour of the shed", conversation="bicycle")
            assert answer.text == "echo: the colour of the shed"
            folder = await opened(place)
            shown = (await read_status(folder)).decode()
            assert '"tester"' in shown
            for secret in ("colour", "bicycle", "dummy", pool_project.mark, str(pool_project.home)):
                assert secret not in shown
            await pool.end_conversation("tester", "bicycle")

    run(main())


def test_a_killed_program_leaves_no_status_server_behind(
    pool_project: PoolProject, place: Path
) -> None:
    async def main() -> None:
        pool_project.faulty()
        async with pool_program(pool_project, pool_project.fake_environment()) as program:
            await program.do("warm")
            (found,) = map(of, await running_pools())
            assert (found.pid, found.program) == (program.process.pid, "pool_host.py")
            assert watchdogs(program.process.pid) != []
            program.process.kill()
            await program.process.wait()
            assert await running_pools() == []
            await wait_until(lambda: list(place.iterdir()) == [])

    run(main())


# Who is believed


def test_a_folder_not_private_to_this_user_is_ignored(
    pool_project: PoolProject, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with pool_project.faulty():
            folder = await opened(place)
            assert len(await running_pools()) == 1
            folder.chmod(0o750)
            assert await running_pools() == []
            folder.chmod(0o700)
            link = place / f"{FOLDER_PREFIX}-link"
            link.symlink_to(folder)
            assert len(await running_pools()) == 1
            link.unlink()
            somebody = os.geteuid() + 1
            with monkeypatch.context() as patch:
                patch.setattr(os, "geteuid", lambda: somebody)
                assert await running_pools() == []

    run(main())


def test_a_socket_without_a_server_is_ignored(folder: Path) -> None:
    async def main() -> None:
        assert await running_pools() == []
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(folder / SOCKET_NAME))
        assert await running_pools() == []
        (folder / SOCKET_NAME).unlink()
        (folder / SOCKET_NAME).write_text("{}")
        assert await running_pools() == []

    run(main())


def test_a_pool_that_does_not_answer_is_listed_as_silent(folder: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(folder / SOCKET_NAME))
            deaf.listen()
            silent = SilentPool(str(folder), "it did not answer within 0.05 s")
            assert await running_pools(timeout=0.05) == [silent]

    run(main())


@pytest.mark.parametrize("answer", [b"", b"{", b'{"pid": 1}', b"[" * 100_000])
def test_an_invalid_answer_is_reported_as_a_silent_pool(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(module, "MAX_DOCUMENT", 1000)

    async def main() -> None:
        heard = asyncio.Event()

        async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            if len(answer) >= 1000:  # who says more than that is not heard to the end
                await heard.wait()
            writer.close()

        async with await asyncio.start_unix_server(say, str(folder / SOCKET_NAME)):
            (found,) = await running_pools()
            heard.set()
            assert isinstance(found, SilentPool)
            assert found.folder == str(folder)
            assert "another version of agent-pool?" in found.reason

    run(main())


def test_the_error_names_a_missing_temporary_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/place")
    with pytest.raises(ConfigError, match=r"/no/such/place.*correct TMPDIR"):
        run(running_pools())


# Visitors


@asynccontextmanager
async def slow_server(folder: Path) -> AsyncIterator[StatusServer]:
    """Open a server whose pool never returns its status."""

    async def never() -> PoolStatus:
        await asyncio.Event().wait()
        raise AssertionError

    server = StatusServer(never)
    await server.open(folder)
    try:
        yield server
    finally:
        server.close()


async def clients(folder: Path, number: int) -> list[asyncio.Task[bytes]]:
    """So many of them, all connected."""
    tasks = [asyncio.create_task(read_status(folder)) for _ in range(number)]
    await wait_until(
        lambda: len([task for task in asyncio.all_tasks() if is_connection_task(task)]) == number
    )
    return tasks


def is_connection_task(task: asyncio.Task[object]) -> bool:
    return "StatusServer._serve" in repr(task)


def test_clients_beyond_the_maximum_are_disconnected(folder: Path) -> None:
    async def main() -> None:
        async with slow_server(folder):
            waiting = await clients(folder, MAX_CONNECTIONS)
            with pytest.raises(ConnectionError):
                await read_or_disconnected(folder)
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    run(main())


async def read_or_disconnected(folder: Path) -> None:
    if await read_status(folder) == b"":
        raise ConnectionResetError


def test_a_client_that_stays_too_long_is_disconnected(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECTION_SECONDS", 0.05)

    async def main() -> None:
        async with slow_server(folder):
            with pytest.raises(ConnectionError):
                await read_or_disconnected(folder)

    run(main())


def test_closing_the_status_server_disconnects_its_clients(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECTION_SECONDS", 600)

    async def main() -> None:
        async with slow_server(folder) as server:
            (waiting,) = await clients(folder, 1)
            server.close()
            await asyncio.wait([waiting])
            assert waiting.exception() is not None or waiting.result() == b""
            with pytest.raises(ConnectionRefusedError):
                await read_status(folder)

    run(main())


def test_the_status_server_does_not_read_client_input(
    pool_project: PoolProject, place: Path
) -> None:
    async def main() -> None:
        async with pool_project.faulty():
            path = str(await opened(place) / SOCKET_NAME)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x" * 10_000_000)
            assert (await reader.readexactly(9)) == b'{"pid": ' + str(os.getpid()).encode()[:1]
            writer.transport.abort()

    run(main())


# Where there can be none


def test_a_pool_without_a_status_server_works_and_logs_it(
    pool_project: PoolProject, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="agent_pool")
    long = Path(tempfile.gettempdir()) / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    async def main() -> None:
        async with pool_project.faulty() as pool:
            assert (await pool.invoke("tester", "task")).text == "echo: task"
            assert await running_pools() == []

    run(main())
    long.rmdir()
    (said,) = [r for r in caplog.records if "agent-pool stats" in r.getMessage()]
    assert said.levelno == logging.INFO


def test_a_status_server_closed_while_it_opens_stays_closed(folder: Path) -> None:
    async def main() -> None:
        async def never() -> PoolStatus:
            raise AssertionError

        server = StatusServer(never)
        opening = asyncio.create_task(server.open(folder))
        await asyncio.sleep(0)  # one step, in which it begins to serve
        assert (folder / SOCKET_NAME).exists()
        opening.cancel()
        server.close()
        await asyncio.wait([opening])
        with pytest.raises(ConnectionRefusedError):
            await read_status(folder)

    run(main())
