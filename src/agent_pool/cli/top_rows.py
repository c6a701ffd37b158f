"""The tasks of `agent-pool top`, as rows and as plain listings."""

from __future__ import annotations

import time

from agent_pool import (
    ENDED_STATES,
    OPEN_STATES,
    TaskAPI,
    TaskFilter,
    TaskRecord,
    WorkerInfo,
)
from agent_pool.cli.listing import Column, Listing
from agent_pool.text import clock_text, mebibytes
from agent_pool.views.rows import TaskRow, ordered, task_row

SHOWN_OPEN = 500
SHOWN_ENDED = 20
"""The most open and ended tasks that are shown."""


async def look(pool: TaskAPI, text: str = "") -> list[TaskRecord]:
    """Return the open tasks and the last ended ones; with a text only those that have it."""
    wanted = TaskFilter(states=OPEN_STATES, limit=SHOWN_OPEN, text=text)
    ended = TaskFilter(states=ENDED_STATES, limit=SHOWN_ENDED, text=text)
    found = [*await pool.tasks(wanted), *await pool.tasks(ended)]
    # A task that ends between the two is in both, and the later record is the right one.
    return list({one.id: one for one in found}.values())


def cells(row: TaskRow, now: float) -> tuple[str, ...]:
    """Return a task's cells: state, agent, project, time, tokens, context, cost, step."""
    seconds = row.seconds if row.ended is not None else now - row.began
    return (
        row.state,
        row.agent,
        row.project,
        clock_text(max(0.0, seconds)),
        f"{row.tokens:,}",
        f"{row.context:.0%}" if row.context else "",
        f"${row.cost:.4f}",
        row.step or row.text,
    )


def tasks_listing(records: list[TaskRecord]) -> Listing:
    """Return the tasks as rows, first what a person must do something about."""
    number = {"right": True}
    rows = ordered(map(task_row, records))
    has_nodes = any(row.node for row in rows)
    listing = Listing(
        *(Column("task"), *([Column("node")] if has_nodes else [])),
        *(Column("state"), Column("agent"), Column("project")),
        *(Column("time", **number), Column("tokens", **number)),
        *(Column("context", **number), Column("cost", **number)),
        Column("step", is_prose=True),
    )
    now = time.time()
    for row in rows:
        listing.add(row.id, *([row.node] if has_nodes else []), *cells(row, now))
    return listing


def workers_listing(workers: list[WorkerInfo]) -> Listing:
    """Return the workers as rows."""
    number = {"right": True}
    has_nodes = any(one.node for one in workers)
    listing = Listing(
        *(Column("worker"), *([Column("node")] if has_nodes else [])),
        *(Column("state"), Column("agent")),
        *(Column("memory", **number), Column("tasks", **number), Column("age", **number)),
    )
    for one in workers:
        age = clock_text(one.uptime)
        agent = one.agent or "spare"
        rest = (one.state, agent, mebibytes(one.rss), str(one.tasks), age)
        listing.add(one.worker, *([one.node] if has_nodes else []), *rest)
    return listing
