"""Measures the store of tasks: how fast tasks are stored, and how fast the newest are listed.

    python -m benchmarks tasks [--clients 16] [--submits 4000] [--records 100000]

The tasks are checked as real ones are, stored and synced to the disk, and not run: the pool drains.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from agent_pool import AgentPool, TaskFilter, TaskRecord, TaskRequest, TaskResult, Usage
from agent_pool.cli.command import Command, run_async
from agent_pool.models import TaskState
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store, TaskEnd

LISTINGS: Final = 100
"""Timed calls for each filter."""
CHUNK: Final = 1000
STATES: Final[tuple[TaskState, ...]] = ("succeeded", "succeeded", "succeeded", "failed")
FILTERS: Final[Mapping[str, TaskFilter]] = {
    "newest 50": TaskFilter(),
    "of one state": TaskFilter(states=("failed",)),
    "of one agent": TaskFilter(agent="agent-1"),
    "of one project and state": TaskFilter(project="/srv/1", states=("queued", "failed")),
    "none in this state": TaskFilter(states=("interrupted",)),
    "with a text that none has": TaskFilter(text="nowhere"),
}
_DEFINITION: Final = "---\nname: tester\ndescription: Tests.\n---\nYou test.\n"


@click.command("tasks", cls=Command)
@click.option("--clients", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--submits", type=click.IntRange(min=1), default=4000, show_default=True)
@click.option("--records", type=click.IntRange(min=1), default=100_000, show_default=True)
def tasks(clients: int, submits: int, records: int) -> None:
    """Measure how fast tasks are stored, and listed among many. Offline; costs nothing."""
    with tempfile.TemporaryDirectory() as folder:
        run_async(_measure(Path(folder), clients, submits, records))


async def _measure(folder: Path, clients: int, submits: int, records: int) -> None:
    agents = folder / ".claude" / "agents"
    agents.mkdir(parents=True)
    (agents / "tester.md").write_text(_DEFINITION, encoding="utf-8")
    environ = {"HOME": str(folder), "PATH": os.environ.get("PATH", "")}
    inner = AgentPool(
        environ=environ, project_dir=folder, reset="clear", max_queued=records + submits
    )
    store = Store(folder / "tasks.db")
    async with DurablePool(inner, store, inner.settings) as pool:
        await pool.drain()
        click.echo(
            f"stored, {clients} clients: {await _submit(pool, clients, submits):,.0f} a second"
        )
        await _fill(store, records)
        for name, wanted in FILTERS.items():
            median, slowest = await _list(pool, wanted)
            click.echo(
                f"{name}, {records + submits:,} tasks: "
                f"median {median * 1000:.2f} ms, slowest {slowest * 1000:.2f} ms"
            )


async def _submit(pool: DurablePool, clients: int, submits: int) -> float:
    """Let the clients store tasks, each one after the other; return tasks a second."""
    left = iter(range(submits))

    async def client() -> None:
        for number in left:
            await pool.submit(TaskRequest("tester", f"task {number}"))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return submits / (time.perf_counter() - began)


async def _fill(store: Store, records: int) -> None:
    """Store ended tasks of some agents and projects, with their answers."""
    first = store.last_number + 1
    for start in range(first, first + records, CHUNK):
        numbers = range(start, min(start + CHUNK, first + records))
        await asyncio.gather(*(_add_ended(store, number) for number in numbers))
    store.last_number = first + records - 1


async def _add_ended(store: Store, number: int) -> None:
    agent, project = f"agent-{number % 7}", f"/srv/{number % 3}"
    request = TaskRequest(agent, f"Review the change number {number}.", project)
    now = time.time()
    record = TaskRecord(f"{agent}-{number}", number, "running", request, agent, project, now)
    written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    added = store.begin_add(record, request)
    result = replace(_RESULT, agent=agent, task_id=record.id)
    end = TaskEnd(
        state=STATES[number % len(STATES)],
        ended=now,
        started=now,
        line="",
        usage=result.usage,
        cost_usd=result.cost_usd,
        worker=result.worker,
        pid=result.pid,
        node="",
        result=result,
        error=None,
    )
    store.post_end(number, end, lambda: written.set_result(None))
    await added
    await written


async def _list(pool: DurablePool, wanted: TaskFilter) -> tuple[float, float]:
    """Return the median and the longest time of a listing, in seconds."""
    times: list[float] = []
    for _ in range(LISTINGS):
        began = time.perf_counter()
        await pool.tasks(wanted)
        times.append(time.perf_counter() - began)
    return statistics.median(times), max(times)


_RESULT: Final = TaskResult(
    text="The change is good. " * 20,
    is_error=False,
    subtype="success",
    agent="",
    duration=12.0,
    waited=0.1,
    turns=3,
    usage=Usage(10, 200, 3000, 40_000),
    cost_usd=0.02,
    session_id="00000000-0000-4000-8000-000000000000",
    worker="worker-1",
    pid=4711,
)
