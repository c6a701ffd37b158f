"""A program with a durable pool that is killed in the middle of its tasks, again and again."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_pool.models import TaskFilter, TaskRecord
from agent_pool.tasks.store import Store
from support.waiting import WAIT_TIMEOUT, run

PROGRAM = Path(__file__).parents[1] / "support" / "programs" / "durable_host.py"
ROUNDS = 8


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


async def start(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    """Start the program, which imports the helpers of these tests."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), str(folder), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


async def submit_and_kill(folder: Path, number: int, accepted: int) -> dict[str, str]:
    """Kill the program after so many accepted tasks; return those that it had printed, by id."""
    process = await start(folder, "submit", str(number))
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_TIMEOUT):
        lines = [await process.stdout.readline() for _ in range(accepted)]
    process.kill()
    # Accepted and printed, but not read before the kill.
    lines += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    whole = [line.decode().split() for line in lines if line.endswith(b"\n")]
    return {words[0]: words[1] for words in whole}


async def all_records(folder: Path) -> dict[str, TaskRecord]:
    store = Store(folder / "tasks.db")
    await store.open()
    records: list[TaskRecord] = []
    before: int | None = None
    while page := await store.find(TaskFilter(limit=1000, before=before)):
        records += page
        before = page[-1].number
    await store.close()
    return {record.id: record for record in records}


def test_no_accepted_task_is_lost_or_run_twice_unseen(folder: Path) -> None:
    async def main() -> None:
        chance = random.Random(7)
        accepted: dict[str, str] = {}
        for number in range(ROUNDS):
            accepted |= await submit_and_kill(folder, number, chance.randint(1, 60))
        process = await start(folder, "finish")
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_TIMEOUT):
            assert await process.stdout.read() == b"finished\n"
        await process.wait()
        records = await all_records(folder)
        assert [one for one in accepted if one not in records] == []
        assert {record.state for record in records.values()} <= {"succeeded", "interrupted"}
        begun = Counter((folder / "begun").read_text().split())
        for record in records.values():
            times = begun[record.request.task]
            assert times <= record.attempts
            assert times <= 1 or record.request.idempotent
            assert times >= 1 or record.state == "interrupted"

    run(main())


def test_a_second_program_cannot_open_the_same_store(folder: Path) -> None:
    async def main() -> None:
        process = await start(folder, "submit", "1")
        assert process.stdout is not None
        await process.stdout.readline()
        other = await start(folder, "finish")
        _, stderr = await other.communicate()
        assert b"another agent-pool uses this store of tasks" in stderr
        process.kill()
        await process.wait()

    run(main())
