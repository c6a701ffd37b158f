"""`agent-pool top`: the tasks and workers as they are now, in the terminal."""

from __future__ import annotations

from pathlib import Path

import click

from agent_pool import (
    Settings,
    TaskRecord,
    WorkerInfo,
)
from agent_pool.cli.command import (
    Command,
    json_option,
    load_command_settings,
    project_option,
    run_async,
)
from agent_pool.cli.connect import connect_tasks
from agent_pool.cli.output import console, print_json
from agent_pool.cli.top_rows import look, tasks_listing, workers_listing


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


def _print_once(records: list[TaskRecord], workers: list[WorkerInfo]) -> None:
    console().print(tasks_listing(records))
    console().print()
    console().print(workers_listing(workers))
