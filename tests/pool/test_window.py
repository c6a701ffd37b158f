"""A pool's window: what it shows, to whom, and that neither side can hold up the other."""

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
from agent_pool.pool import window as module
from agent_pool.pool.window import FOLDERS, MAX_VISITORS, NAME, Window
from pool_world import PoolWorld, until, until_idle
from reliability.seen import watchers
from reliability.test_no_orphans import fake_environment, host
from support import run


@pytest.fixture
def place(world: PoolWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files whose path is short enough for sockets; left empty."""
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)
        assert list(Path(folder).iterdir()) == []


@pytest.fixture
def folder(place: Path) -> Iterator[Path]:
    """A pool's private folder."""
    with tempfile.TemporaryDirectory(prefix=f"{FOLDERS}-0123-") as folder:
        yield Path(folder)


def of(status: PoolStatus | SilentPool) -> PoolStatus:
    assert isinstance(status, PoolStatus)
    return status


async def opened(place: Path) -> Path:
    """The only pool's folder, with its window open."""
    await until(lambda: windows(place))
    return windows(place)[0].parent


def windows(place: Path) -> list[Path]:
    return list(place.glob(f"{FOLDERS}*/{NAME}"))


async def look_at(folder: Path) -> bytes:
    """What the window of a folder shows to whoever connects."""
    reader, writer = await asyncio.open_unix_connection(str(folder / NAME))
    try:
        return await reader.read()
    finally:
        writer.transport.abort()


# What is seen


def test_an_open_pool_is_seen_as_it_is(
    world: PoolWorld, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", ["/some/where/reviewing", "--of=this"])

    async def main() -> None:
        async with world.faulty() as pool:
            await pool.invoke("tester", "one")
            await pool.invoke("tester", "two")
            await until_idle(pool)
            (found,) = map(of, await running_pools())
            (worker,) = await pool.list()
            assert found.pid == os.getpid()
            assert found.project == str(world.root)
            assert found.program == "reviewing"
            (seen,) = found.workers
            assert replace(seen, rss=0, uptime=0) == replace(worker, rss=0, uptime=0)
            assert seen.rss > 0
            stats = replace(pool.stats(), uptime=found.stats.uptime)
            assert found.stats.as_json() == stats.as_json()
            assert found.stats.total.tasks == 2
        assert await running_pools() == []

    run(main())


def test_every_pool_of_a_program_is_seen(world: PoolWorld, place: Path) -> None:
    async def main() -> None:
        assert await running_pools() == []
        async with world.faulty() as one, world.faulty() as two:
            await one.warmup("tester")
            await two.warmup("tester")
            await two.invoke("tester", "task")
            tasks = sorted(of(found).stats.total.tasks for found in await running_pools())
            assert tasks == [0, 1]

    run(main())


def test_tasks_answers_and_the_environment_are_not_shown(world: PoolWorld, place: Path) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            answer = await pool.invoke("tester", "the colour of the shed", conversation="bicycle")
            assert answer.text == "echo: the colour of the shed"
            folder = await opened(place)
            shown = (await look_at(folder)).decode()
            assert '"tester"' in shown
            for secret in ("colour", "bicycle", "dummy", world.mark, str(world.home)):
                assert secret not in shown
            pool.end_conversation("tester", "bicycle")

    run(main())


def test_a_killed_program_leaves_no_window(world: PoolWorld, place: Path) -> None:
    async def main() -> None:
        world.faulty()
        async with host(world, fake_environment(world)) as program:
            await program.do("warm")
            (found,) = map(of, await running_pools())
            assert (found.pid, found.program) == (program.process.pid, "host.py")
            assert watchers(program.process.pid) != []
            program.process.kill()
            await program.process.wait()
            assert await running_pools() == []
            await until(lambda: list(place.iterdir()) == [])

    run(main())


# Who is believed


def test_what_is_not_this_users_alone_is_not_believed(
    world: PoolWorld, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with world.faulty():
            folder = await opened(place)
            assert len(await running_pools()) == 1
            folder.chmod(0o750)
            assert await running_pools() == []
            folder.chmod(0o700)
            link = place / f"{FOLDERS}-link"
            link.symlink_to(folder)
            assert len(await running_pools()) == 1
            link.unlink()
            somebody = os.geteuid() + 1
            with monkeypatch.context() as patch:
                patch.setattr(os, "geteuid", lambda: somebody)
                assert await running_pools() == []

    run(main())


def test_what_nobody_serves_any_more_is_left_out(folder: Path) -> None:
    async def main() -> None:
        assert await running_pools() == []
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(folder / NAME))
        assert await running_pools() == []
        (folder / NAME).unlink()
        (folder / NAME).write_text("{}")
        assert await running_pools() == []

    run(main())


def test_a_pool_that_does_not_answer_holds_nobody_up(folder: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(folder / NAME))
            deaf.listen()
            silent = SilentPool(folder, "it did not answer within 0.05 s")
            assert await running_pools(timeout=0.05) == [silent]

    run(main())


@pytest.mark.parametrize("answer", [b"", b"{", b'{"pid": 1}', b"[" * 100_000])
def test_an_answer_that_is_none_is_told_as_such(
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

        async with await asyncio.start_unix_server(say, str(folder / NAME)):
            (found,) = await running_pools()
            heard.set()
            assert isinstance(found, SilentPool)
            assert found.folder == folder
            assert "another version of agent-pool?" in found.why

    run(main())


def test_without_a_place_for_temporary_files_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/place")
    with pytest.raises(ConfigError, match=r"/no/such/place.*correct TMPDIR"):
        run(running_pools())


# Visitors


@asynccontextmanager
async def slow_window(folder: Path) -> AsyncIterator[Window]:
    """A window whose pool never says how it is."""

    async def never() -> PoolStatus:
        await asyncio.Event().wait()
        raise AssertionError

    window = Window(never)
    await window.open(folder)
    try:
        yield window
    finally:
        window.close()


async def visitors(folder: Path, number: int) -> list[asyncio.Task[bytes]]:
    """So many of them, all connected."""
    tasks = [asyncio.create_task(look_at(folder)) for _ in range(number)]
    await until(lambda: len([task for task in asyncio.all_tasks() if is_visit(task)]) == number)
    return tasks


def is_visit(task: asyncio.Task[object]) -> bool:
    return "Window._serve" in repr(task)


def test_more_visitors_than_are_served_at_once_are_turned_away(folder: Path) -> None:
    async def main() -> None:
        async with slow_window(folder):
            waiting = await visitors(folder, MAX_VISITORS)
            with pytest.raises(ConnectionError):
                await turned_away(folder)
            assert not any(task.done() for task in waiting)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting)

    run(main())


async def turned_away(folder: Path) -> None:
    if await look_at(folder) == b"":
        raise ConnectionResetError


def test_who_looks_for_too_long_is_sent_away(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VISIT", 0.05)

    async def main() -> None:
        async with slow_window(folder):
            with pytest.raises(ConnectionError):
                await turned_away(folder)

    run(main())


def test_who_is_there_when_a_pool_closes_is_sent_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VISIT", 600)

    async def main() -> None:
        async with slow_window(folder) as window:
            (waiting,) = await visitors(folder, 1)
            window.close()
            await asyncio.wait([waiting])
            assert waiting.exception() is not None or waiting.result() == b""
            with pytest.raises(ConnectionRefusedError):
                await look_at(folder)

    run(main())


def test_what_a_visitor_says_is_not_read(world: PoolWorld, place: Path) -> None:
    async def main() -> None:
        async with world.faulty():
            path = str(await opened(place) / NAME)
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"x" * 10_000_000)
            assert (await reader.readexactly(8)) == b'{"pid":' + str(os.getpid()).encode()[:1]
            writer.transport.abort()

    run(main())


# Where there can be none


def test_a_pool_without_a_window_works_and_says_so(
    world: PoolWorld, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="agent_pool")
    long = Path(tempfile.gettempdir()) / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    async def main() -> None:
        async with world.faulty() as pool:
            assert (await pool.invoke("tester", "task")).text == "echo: task"
            assert await running_pools() == []

    run(main())
    long.rmdir()
    (said,) = [r for r in caplog.records if "agent-pool stats" in r.getMessage()]
    assert said.levelno == logging.INFO


def test_a_window_that_is_closed_while_it_opens_stays_closed(folder: Path) -> None:
    async def main() -> None:
        async def never() -> PoolStatus:
            raise AssertionError

        window = Window(never)
        opening = asyncio.create_task(window.open(folder))
        await asyncio.sleep(0)  # one step, in which it begins to serve
        assert (folder / NAME).exists()
        opening.cancel()
        window.close()
        await asyncio.wait([opening])
        with pytest.raises(ConnectionRefusedError):
            await look_at(folder)

    run(main())
