"""`agent-pool warmup`: a worker that waits for the first task."""

from __future__ import annotations

from pathlib import Path

import click

from agent_pool.cli.command import (
    Command,
    json_option,
    load_command_settings,
    project_option,
)
from agent_pool.cli.completion import complete_agent
from agent_pool.cli.output import echo, print_json
from agent_pool.cli.task_ids import run_on_tasks
from agent_pool.text import mebibytes, seconds_text


@click.command(cls=Command)
@click.argument("agent", shell_complete=complete_agent)
@json_option
@project_option
@click.pass_context
def warmup(ctx: click.Context, agent: str, as_json: bool, project: Path | None) -> None:
    """Start a worker of an agent in the daemon, so that its first task begins at once.

    Returns when the worker is ready. The daemon is started if it does not run: a worker of this
    command alone would end with it.

    \b
    Example:
      agent-pool warmup code-reviewer
    """
    folder = load_command_settings(ctx, project).project_dir

    worker = run_on_tasks(lambda pool: pool.warmup(agent), folder)
    if as_json:
        print_json(worker.as_json())
        return
    place = f" on {worker.node}" if worker.node else ""
    since = f"up {seconds_text(worker.uptime)}, {mebibytes(worker.rss)}"
    echo(f"{agent}: {worker.worker}{place} (process {worker.pid}) is ready, {since}")
