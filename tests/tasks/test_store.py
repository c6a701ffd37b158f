"""The file of the store: its mode, its versions, full disks, broken files, its bounds."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from agent_pool import Started, StoreFailed, TaskFilter, TaskRequest, TaskResult, Text
from agent_pool.api import OnEvent
from agent_pool.models import TaskRecord
from agent_pool.tasks.queries import find_numbers
from agent_pool.tasks.store import Store
from agent_pool.tasks.transcript import TranscriptBound, shorten_texts
from support.durable_pools import OpenPool, TaskGate, fill_store
from support.fake_pool import make_result
from support.waiting import run, wait_until


def test_the_file_can_be_read_only_by_its_user(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path / "tasks.db")
        await store.open()
        await store.day_sums("2026-01-01")
        assert modes_in(tmp_path) == {0o600}
        await store.close()

    run(main())


def modes_in(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_a_store_of_a_newer_version_is_refused_clearly(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    run(open_and_close(path))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreFailed, match="has version 99, and this agent-pool knows versions up"):
        run(open_and_close(path))


async def open_and_close(path: Path) -> None:
    store = Store(path)
    await store.open()
    await store.close()


def test_a_broken_file_is_refused_with_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreFailed, match=r"tasks\.db: .*move it away"):
        run(open_and_close(path))


def test_a_full_disk_refuses_tasks_and_loses_none(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        pool = durable(gate)
        async with pool:
            running = await pool.submit(TaskRequest("reviewer", "running"))
            await wait_until(lambda: gate.begun)
            await pool._store.flush()
            limit_pages(pool._store, 0)
            with pytest.raises(StoreFailed, match=r"tasks\.db: .*full.*free some space"):
                await pool.submit(TaskRequest("reviewer", "x" * 1_000_000))
            # Reads go on, and so do tasks that run; their caller gets the answer.
            assert [one.id for one in await pool.tasks()] == [running.id]
            gate.open()
            assert (await running.result()).text == "running done"
            assert (await pool.task(running.id)).state == "succeeded"
            limit_pages(pool._store, 2**30)
            await pool._store.flush()
        async with durable() as again:
            assert (await again.task(running.id)).state == "succeeded"
            assert len(await again.tasks()) == 1

    run(main())


def limit_pages(store: Store, more: int) -> None:
    """Let the file grow by so many pages at most, as a disk does that is full then."""
    writer = store._database._writer
    assert writer is not None
    pages = writer.execute("PRAGMA page_count").fetchone()[0]
    writer.execute(f"PRAGMA max_page_count = {pages + more}")


def test_an_update_is_kept_until_it_can_be_written(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path / "tasks.db")
        await store.open()
        limit_pages(store, 0)
        written = asyncio.Event()

        def fill(connection: sqlite3.Connection) -> None:
            rows = [(f"day {number}", "p" * 4000) for number in range(100)]
            connection.executemany("INSERT INTO days VALUES (?, ?, 1, 1)", rows)

        store._database.post(fill, written.set)
        with pytest.raises(StoreFailed):
            await store.flush()
        assert not written.is_set()
        limit_pages(store, 2**30)
        await written.wait()
        await store.close()

    run(main())


def test_a_full_disk_keeps_no_owner_from_opening_the_store(tmp_path: Path) -> None:
    async def main() -> None:
        store = Store(tmp_path / "tasks.db")
        await store.open()
        limit_pages(store, 0)
        large = {"KEY": "x" * 9000}
        await store.take_environment(large)  # no task is open, so it can be written later
        with pytest.raises(StoreFailed):
            await store.flush()
        limit_pages(store, 2**30)
        await store.flush()

        def add(connection: sqlite3.Connection) -> None:
            names, values = "number, id, state, agent, project, created", "1, 't', 'queued', 'a'"
            connection.execute(f"INSERT INTO tasks ({names}) VALUES ({values}, 'p', 0)")
            request = '{"agent":"a"}'
            connection.execute(
                f"INSERT INTO contents VALUES (1, 'x', '{request}', NULL, NULL, NULL)"
            )

        await store._database.write(add)
        limit_pages(store, 0)
        await store.take_environment(large)
        with pytest.raises(StoreFailed):  # the task would run with another key
            await store.take_environment({"KEY": "y" * 90_000})
        limit_pages(store, 2**30)
        await store.close()

    run(main())


def test_old_records_are_removed_and_their_space_is_freed(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "tasks.db"
        store = Store(path)
        await store.open()
        await fill_store(store, 300, text="x" * 10_000)
        await store.flush()
        large = await used_bytes(store)
        while await store.prune(None, large // 2):
            pass
        left = await store.find(TaskFilter(limit=1000))
        assert 0 < len(left) < 300
        # The newest ones are kept.
        assert [one.number for one in left] == list(range(300, 300 - len(left), -1))
        while await store.vacuum():
            pass
        assert await used_bytes(store) <= large // 2
        while await store.prune(3600, None):
            pass
        assert len(await store.find(TaskFilter(limit=1000))) == len(left)
        await store.close()

    run(main())


async def used_bytes(store: Store) -> int:
    return await pragma(store, "page_count") * await pragma(store, "page_size")


async def pragma(store: Store, name: str) -> int:
    found: int = await store._database.read(
        lambda connection: connection.execute(f"PRAGMA {name}").fetchone()[0]
    )
    return found


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"states": ("failed",)},
        {"states": ("queued", "running")},
        {"agent": "agent-1"},
        {"agent": "agent-1", "states": ("running",)},
        {"project": "/srv/project-1"},
        {"project": "/srv/project-1", "agent": "agent-2", "states": ("cancelled", "queued")},
        {"project": "/nowhere", "agent": "agent-2"},
        {"parent": "none"},
    ],
)
def test_every_filter_reads_an_index_and_never_all_tasks(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    async def main() -> int:
        store = Store(tmp_path / "tasks.db")
        await store.open()
        await fill_store(store, 20_000)
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        def search(connection: sqlite3.Connection) -> None:
            connection.set_progress_handler(count, 1000)
            find_numbers(connection, TaskFilter(**fields))
            connection.set_progress_handler(None, 0)

        await store._database.read(search)
        await store.close()
        return steps

    # A search through all of them takes about a hundred thousand steps of SQLite's machine.
    assert run(main()) <= 10


def test_a_long_transcript_keeps_its_beginning_and_end(durable: OpenPool) -> None:
    size = 20_000

    async def talk(agent: str, task: str, emit: OnEvent) -> TaskResult:
        emit(Started("worker-1", 1, 0.0))
        for number in range(1000):
            emit(Text(f"word {number} " + "x" * 80))
        emit(Text("y" * 100_000))
        return make_result("done")

    async def main() -> None:
        async with durable(talk, transcript_size=size) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "talk"))
            await handle.result()
            events = [event async for event in pool.task_events(handle.id)]
            numbers = [event.number for event in events]
            texts = [event.text for event in events if isinstance(event, Text)]
            kept = await pool._store._database.read(
                lambda c: c.execute("SELECT sum(length(json)) FROM events").fetchone()[0]
            )
        assert kept <= size
        assert texts[0].startswith("word 0 ")
        assert "characters left out)" in texts[-1]
        assert texts[-2].startswith("word 999 ")
        assert numbers == sorted(numbers)
        assert numbers[-1] == 1004

    run(main())


def test_a_bound_keeps_the_first_and_the_last_events() -> None:
    bound = TranscriptBound(1000)
    kept: dict[int, int] = {}
    for number in range(1, 101):
        kept[number] = 90
        if removed := bound.add(number, 90):
            for old in range(removed[0], removed[1] + 1):
                kept.pop(old, None)
    assert sum(kept.values()) <= 1000
    assert set(kept) >= {1, 2, 3, 4, 5, 100, 99, 98}
    assert 50 not in kept


def test_only_long_texts_of_an_event_are_cut() -> None:
    assert shorten_texts({"a": ["x" * 9, 1], "b": "short"}, 8) == {
        "a": ["xxxxxxxx… (1 characters left out)", 1],
        "b": "short",
    }


def test_sums_of_a_day_are_kept_by_project(tmp_path: Path) -> None:
    async def main() -> dict[str, tuple[int, float]]:
        store = Store(tmp_path / "tasks.db")
        await store.open()
        store.post_spending("2026-01-01", "/a", 10, 0.5)
        store.post_spending("2026-01-01", "/a", 5, 0.25)
        store.post_spending("2026-01-01", "/b", 1, 0.0)
        store.post_spending("2026-01-02", "/a", 7, 0.0)
        await store.close()
        await (again := Store(tmp_path / "tasks.db")).open()
        sums = await again.day_sums("2026-01-01")
        await again.close()
        return sums

    assert run(main()) == {"/a": (15, 0.75), "/b": (1, 0.0)}


def test_text_that_is_no_utf8_can_be_stored(durable: OpenPool) -> None:
    async def odd(agent: str, task: str, emit: OnEvent) -> TaskResult:
        emit(Text("half \ud83d"))
        deep: Any = []
        for _ in range(2000):
            deep = [deep]
        return make_result("half \ud83d", structured=deep)

    async def main() -> TaskRecord:
        async with durable(odd) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "odd"))
            await handle.result()
        async with durable() as pool:
            return await pool.task(handle.id)

    record = run(main())
    assert record.result is not None
    assert record.result.text == "half ?"
