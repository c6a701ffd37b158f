"""`agent-pool cancel`: end tasks before they have an answer."""

from __future__ import annotations

from typing import Any

import click

from agent_pool import TaskAPI
from agent_pool.cli.command import FAILED, Command, json_option
from agent_pool.cli.output import echo, print_json
from agent_pool.cli.task_ids import find_ids, ids_argument, run_on_tasks


@click.command(cls=Command)
@ids_argument
@json_option
@click.pass_context
def cancel(ctx: click.Context, ids: tuple[str, ...], as_json: bool) -> None:
    """Cancel tasks, and the tasks that belong to them.

    A task that waits is not begun; one that runs is stopped, with every process that it started.
    What the agent had said is kept: `agent-pool task ID` shows it. If one of the ids is unknown,
    no task is cancelled.

    The exit code is 1 if a task had ended before.

    \b
    Example:
      agent-pool cancel code-reviewer-1f2e3d
      agent-pool tasks --state queued --json | jq -r '.[].id' | xargs agent-pool cancel
    """

    async def cancel_all(pool: TaskAPI) -> list[dict[str, Any]]:
        done = []
        for task_id in await find_ids(pool, ids):
            is_cancelled = await pool.cancel(task_id)
            state = (await pool.task(task_id)).state
            done.append({"id": task_id, "cancelled": is_cancelled, "state": state})
        return done

    done = run_on_tasks(cancel_all)
    if as_json:
        print_json(done)
    else:
        for one in done:
            how = "cancelled" if one["cancelled"] else f"had ended before: {one['state']}"
            echo(f"{one['id']}: {how}")
    if not all(one["cancelled"] for one in done):
        ctx.exit(FAILED)
