"""A program with a durable pool, made to be killed.

    python durable_host.py FOLDER submit ROUND     store tasks without end; print each accepted one
    python durable_host.py FOLDER finish           wait until every stored task has ended

Every task that begins adds a line to FOLDER/begun.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from agent_pool import TaskFilter, TaskRequest, TaskResult
from agent_pool.api import OnEvent
from agent_pool.models import OPEN_STATES
from agent_pool.settings import Settings
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.fake_pool import FakePool, make_result


def journaling(folder: Path) -> FakePool:
    """Build a pool that notes each task that begins before it answers."""
    journal = os.open(folder / "begun", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def run_task(agent: str, task: str, emit: OnEvent) -> TaskResult:
        os.write(journal, f"{task}\n".encode())
        await asyncio.sleep(0.05)
        return make_result(f"{task} done", agent=agent)

    return FakePool(run_task)


async def submit(pool: DurablePool, client: str) -> None:
    """Store one task after the other; every second one can run again."""
    number = 0
    while True:
        number += 1
        task = f"{client}-{number}"
        handle = await pool.submit(TaskRequest("reviewer", task, idempotent=number % 2 == 0))
        sys.stdout.write(f"{handle.id} {task}\n")
        sys.stdout.flush()


async def main(folder: Path, what: str, number: str) -> None:
    """Open the pool and submit, or wait for the ends."""
    # With much room a task begins at once; with little it waits in the store first.
    room = 64 if number[-1:] in "13579" else 4
    settings = Settings(project_dir=folder, max_workers=room, max_size=room, max_queued=100_000)
    async with DurablePool(journaling(folder), Store(folder / "tasks.db"), settings) as pool:
        if what == "submit":
            await asyncio.gather(*(submit(pool, f"r{number}c{client}") for client in range(4)))
        while open_tasks := await pool.tasks(TaskFilter(states=OPEN_STATES, limit=1)):
            await asyncio.wait(
                [asyncio.ensure_future((await pool.attach(open_tasks[0].id)).result())]
            )
    sys.stdout.write("finished\n")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], (sys.argv[3:] or [""])[0]))
