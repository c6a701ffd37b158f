"""`agent-pool retry`: queue a task again that did not succeed."""

from __future__ import annotations

import click

from agent_pool import TaskAPI, TaskRecord
from agent_pool.cli.command import Command, json_option
from agent_pool.cli.output import echo, print_json
from agent_pool.cli.task_ids import find_task, id_argument, run_on_tasks


@click.command(cls=Command)
@id_argument
@json_option
def retry(task_id: str, as_json: bool) -> None:
    """Queue a task again that failed, was cancelled or was interrupted, and print its id.

    The id stays, and so does the record of what happened before. The task begins anew, so look
    first at what an interrupted one has done: `agent-pool task ID`. A task that was submitted with
    --env cannot be queued again, because the values are not kept.

    \b
    Example:
      agent-pool retry code-reviewer-1f2e3d
      agent-pool tasks --state interrupted --json | jq -r '.[].id' | xargs -n1 agent-pool retry
    """

    async def queue_again(pool: TaskAPI) -> TaskRecord:
        found = await find_task(pool, task_id)
        return await pool.task((await pool.retry(found.id)).id)

    record = run_on_tasks(queue_again)
    if as_json:
        print_json(record.as_json())
    else:
        echo(record.id)
