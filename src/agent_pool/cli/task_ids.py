"""Ids of tasks on the command line: whole ones, and unique beginnings of recent ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import click

from agent_pool import ConfigError, TaskAPI, TaskFilter, TaskNotFound, TaskRecord
from agent_pool.cli.command import run_async
from agent_pool.cli.completion import complete_task
from agent_pool.cli.connect import connect_tasks
from agent_pool.text import count

T = TypeVar("T")

MAX_LISTED: Final = 1000
"""The most tasks that a store lists at once; a beginning of an id is searched among the newest."""
_SHOWN: Final = 5

id_argument = click.argument("task_id", metavar="ID", shell_complete=complete_task)
ids_argument = click.argument(
    "ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_task
)


def run_on_tasks(work: Callable[[TaskAPI], Awaitable[T]], project: Path | None = None) -> T:
    """Run a coroutine with the daemon's pool; start the daemon if it does not run.

    Args:
        work: gets the pool, which is open.
        project: the project of tasks and agents that name none; None for this process's.

    Raises:
        AgentPoolError: as `connect_tasks`, and what `work` raises.
    """
    # Before the event loop: a signal ends a wait for the daemon's start at once.
    pool = connect_tasks(project)

    async def main() -> T:
        async with pool:
            return await work(pool)

    return run_async(main())


async def find_task(pool: TaskAPI, given: str) -> TaskRecord:
    """Return the task with this id; or the only one, of the newest, whose id begins so.

    Raises:
        TaskNotFound: there is none.
        ConfigError: several tasks have an id that begins so.
    """
    try:
        return await pool.task(given)
    except TaskNotFound:
        newest = await pool.tasks(TaskFilter(limit=MAX_LISTED))
        found = [task for task in newest if given and task.id.startswith(given)]
        if len(found) > 1:
            raise ConfigError(_ambiguous(given, [task.id for task in found])) from None
        if not found:
            raise
    return found[0]


def _ambiguous(given: str, ids: list[str]) -> str:
    more = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
    names = ", ".join(ids[:_SHOWN])
    return f"{given!r} is the beginning of {count(len(ids), 'id')}: {names}{more}; write more of it"


async def find_ids(pool: TaskAPI, given: Iterable[str]) -> list[str]:
    """Return the ids of the tasks that are named, as `find_task` finds them."""
    return [(await find_task(pool, one)).id for one in given]
