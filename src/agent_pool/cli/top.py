"""`agent-pool top`: the tasks and workers as they are now, in the terminal."""

from __future__ import annotations

import time
from pathlib import Path

import click

from agent_pool import TaskAPI, TaskFilter, WorkerInfo
from agent_pool.cli.command import (
    Command,
    json_option,
    load_command_settings,
    project_option,
    run_async,
)
from agent_pool.cli.connect import connect_tasks
from agent_pool.cli.listing import Column, Listing
from agent_pool.cli.output import console, print_json
from agent_pool.models import ENDED_STATES, OPEN_STATES, TaskRecord
from agent_pool.settings import Settings
from agent_pool.text import clock_text, mebibytes
from agent_pool.views.rows import TaskRow, ordered, task_row

SHOWN_OPEN = 500
SHOWN_ENDED = 20
"""The most open and ended tasks that are shown."""


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="Print it once and end, as in a pipe.")
@json_option
@project_option
@click.pass_context
def top(ctx: click.Context, /, once: bool, as_json: bool, project: Path | None) -> None:
    """Show what the agents do now: tasks and workers, refreshed as they change.

    \b
    Keys:
      up, down  choose a task        enter  show its steps    c  cancel it
      /         show tasks with a text   p  stop and go on    q  end

    \b
    Example:
      agent-pool top
      agent-pool top --once
    """
    settings = load_command_settings(ctx, project)
    if as_json:
        records, workers = run_async(_look_once(settings))
        tasks = [record.as_json() for record in records]
        print_json({"tasks": tasks, "workers": [worker.as_json() for worker in workers]})
    elif once or not console().is_terminal:
        _print_once(*run_async(_look_once(settings)))
    else:
        from agent_pool.cli.top_app import run_top  # Textual takes long to import

        run_async(run_top(settings))


async def _look_once(settings: Settings) -> tuple[list[TaskRecord], list[WorkerInfo]]:
    async with connect_tasks(settings.project_dir) as pool:
        return await look(pool), await pool.workers()


async def look(pool: TaskAPI, text: str = "") -> list[TaskRecord]:
    """Return the open tasks and the last ended ones; with a text only those that have it."""
    wanted = TaskFilter(states=OPEN_STATES, limit=SHOWN_OPEN, text=text)
    ended = TaskFilter(states=ENDED_STATES, limit=SHOWN_ENDED, text=text)
    return [*await pool.tasks(wanted), *await pool.tasks(ended)]


def cells(row: TaskRow, now: float) -> tuple[str, ...]:
    """Return a task's cells: state, agent, project, time, tokens, cost, step."""
    seconds = row.seconds if row.ended is not None else now - row.began
    return (
        row.state,
        row.agent,
        row.project,
        clock_text(max(0.0, seconds)),
        f"{row.tokens:,}",
        f"${row.cost:.4f}",
        row.step or row.text,
    )


def _print_once(records: list[TaskRecord], workers: list[WorkerInfo]) -> None:
    console().print(tasks_listing(records))
    console().print()
    console().print(workers_listing(workers))


def tasks_listing(records: list[TaskRecord]) -> Listing:
    """Return the tasks as rows, first what a person must do something about."""
    number = {"right": True}
    listing = Listing(
        *(Column("task"), Column("state"), Column("agent"), Column("project")),
        *(Column("time", **number), Column("tokens", **number), Column("cost", **number)),
        Column("step", is_prose=True),
    )
    now = time.time()
    for row in ordered(map(task_row, records)):
        listing.add(row.id, *cells(row, now))
    return listing


def workers_listing(workers: list[WorkerInfo]) -> Listing:
    """Return the workers as rows."""
    number = {"right": True}
    listing = Listing(
        *(Column("worker"), Column("state"), Column("agent")),
        *(Column("memory", **number), Column("tasks", **number), Column("age", **number)),
    )
    for one in workers:
        age = clock_text(one.uptime)
        agent = one.agent or "spare"
        listing.add(one.worker, one.state, agent, mebibytes(one.rss), str(one.tasks), age)
    return listing
