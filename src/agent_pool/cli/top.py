"""`agent-pool top`: the tasks and workers as they are now, in the terminal."""

from __future__ import annotations

import os
from pathlib import Path

import click

from agent_pool import RemotePool, Settings, TaskRecord, WorkerInfo
from agent_pool.cli.command import (
    Command,
    json_option,
    load_command_settings,
    project_option,
    run_async,
)
from agent_pool.cli.connect import connect_tasks
from agent_pool.cli.output import console, print_json
from agent_pool.cli.pools import find_pools, format_others, pools_as_json
from agent_pool.cli.top_rows import look, tasks_listing, workers_listing
from agent_pool.runtime import is_daemon_wanted


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="Print it once and end, as in a pipe.")
@json_option
@project_option
@click.pass_context
def top(ctx: click.Context, /, once: bool, as_json: bool, project: Path | None) -> None:
    """Show what the agents do now: tasks and workers, refreshed as they change.

    Below them are the pools of other programs: MCP servers that do not use the daemon, and programs
    that use the library.

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
        run_async(_print_json(settings))
    elif once or not console().is_terminal:
        run_async(_print_once(settings))
    else:
        from agent_pool.cli.top_app import run_top  # Textual takes long to import

        run_async(run_top(_find_tasks(settings)))


def _find_tasks(settings: Settings) -> RemotePool | None:
    """Return the pool of the daemon; None if the daemon is switched off."""
    return connect_tasks(settings.project_dir) if is_daemon_wanted(os.environ) else None


async def _look_once(settings: Settings) -> tuple[list[TaskRecord], list[WorkerInfo]]:
    daemon = _find_tasks(settings)
    if daemon is None:
        return [], []
    async with daemon as pool:
        return await look(pool), await pool.workers()


async def _print_json(settings: Settings) -> None:
    records, workers = await _look_once(settings)
    tasks = [record.as_json() for record in records]
    found, _ = await find_pools()
    shown = {"tasks": tasks, "workers": [worker.as_json() for worker in workers]}
    print_json({**shown, **pools_as_json(found)})


async def _print_once(settings: Settings) -> None:
    records, workers = await _look_once(settings)
    console().print(tasks_listing(records))
    console().print()
    console().print(workers_listing(workers))
    if (others := format_others(*await find_pools())) is not None:
        console().print()
        console().print(others)
