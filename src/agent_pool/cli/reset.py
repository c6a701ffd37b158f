"""`agent-pool reset`: new processes for an agent."""

from __future__ import annotations

from pathlib import Path

import click

from agent_pool import PoolAPI
from agent_pool.cli.command import (
    Command,
    json_option,
    load_command_settings,
    project_option,
    run_async,
)
from agent_pool.cli.completion import complete_agent
from agent_pool.cli.connect import find_tasks, make_pool
from agent_pool.cli.output import echo, print_json
from agent_pool.text import count


@click.command(cls=Command)
@click.argument("agent", shell_complete=complete_agent)
@json_option
@project_option
@click.pass_context
def reset(ctx: click.Context, agent: str, as_json: bool, project: Path | None) -> None:
    """Stop the daemon's workers of an agent; its next task gets a new process.

    A task that runs on one of them fails. Workers of sessions that do not use the daemon are not
    reached. The daemon is not started for this.

    \b
    Example:
      agent-pool reset code-reviewer
    """
    settings = load_command_settings(ctx, project, spares=0, prewarm=())
    daemon = find_tasks(settings.project_dir)

    async def stop(pool: PoolAPI) -> int:
        async with pool:
            return await pool.reset(agent)

    # Without a daemon there is no worker to stop, but a wrong name is an error all the same.
    stopped = run_async(stop(daemon or make_pool(settings)))
    if as_json:
        print_json({"agent": agent, "stopped": stopped, "daemon": daemon is not None})
        return
    echo(f"{agent}: {count(stopped, 'worker')} stopped{'' if daemon else '; no daemon runs'}")
