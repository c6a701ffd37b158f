"""`agent-pool submit`: a task that outlives this command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from agent_pool import TaskAPI, TaskRecord, TaskRequest
from agent_pool.cli.call_options import request_fields, task_options
from agent_pool.cli.command import (
    json_option,
    load_command_settings,
    project_option,
    read_duration_option,
)
from agent_pool.cli.completion import complete_agent, complete_task
from agent_pool.cli.moments import read_future_option
from agent_pool.cli.output import echo, print_json
from agent_pool.cli.run import TaskTextCommand, read_schema_option, read_task
from agent_pool.cli.task_ids import find_task, run_on_tasks

_FIELDS: Final = ("timeout", "schema", "priority", "not_before", "deadline", "parent")


@click.command(cls=TaskTextCommand)
@click.argument("agent", shell_complete=complete_agent)
@click.argument("task")
@click.option(
    "--timeout",
    callback=read_duration_option,
    metavar="TIME",
    help="Stop the task after it has run this long: 90, 30s, 5m. Default: the setting "
    "task_timeout.",
)
@click.option(
    "--schema",
    callback=read_schema_option,
    metavar="FILE|JSON",
    help="A JSON schema: the answer is JSON that fits it.",
)
@task_options
@click.option("--priority", type=int, metavar="N", help="Higher numbers begin first. Default: 0.")
@click.option("--key", metavar="TEXT", help="A second submit with the same key is the same task.")
@click.option(
    "--not-before",
    callback=read_future_option,
    metavar="WHEN",
    help="Begin at this time or later: 2h, 18:30, 2030-12-31T18:30.",
)
@click.option(
    "--deadline",
    callback=read_future_option,
    metavar="WHEN",
    help="Fail if it has not begun at this time.",
)
@click.option(
    "--idempotent", is_flag=True, help="Run it again if the daemon ends while it is running."
)
@click.option(
    "--parent",
    metavar="ID",
    shell_complete=complete_task,
    help="The task that this one belongs to: cancelling that one cancels this one.",
)
@click.option("--ask", is_flag=True, help="Let permission requests wait for `agent-pool answer`.")
@json_option
@project_option
@click.pass_context
def submit(
    ctx: click.Context,
    /,
    agent: str,
    task: str,
    key: str | None,
    idempotent: bool,
    ask: bool,
    as_json: bool,
    project: Path | None,
    **options: Any,
) -> None:
    """Give an agent a task, print the task's id, and do not wait for the answer.

    TASK is the text of the task, or - to read it from stdin. The task is stored before the id is
    printed: it survives this command, the terminal, and the end of the daemon that runs it. `wait`
    waits for its answer, `tasks` lists it, `logs --follow` shows what it does.

    The daemon is started if it does not run. A task that was running when the daemon was killed
    is `interrupted`, and is not run again by itself, unless it is --idempotent.

    With --json, the whole record of the task is printed, as `task --json` has it.

    \b
    Example:
      agent-pool submit code-reviewer 'Review src.' --priority 5
      id=$(agent-pool submit code-reviewer - < task.txt) && agent-pool wait $id
      agent-pool submit nightly 'Check all links.' --not-before 02:00 --key links-2030-12-31
    """
    given = {name: options[name] for name in _FIELDS if options[name] is not None}
    given |= request_fields(options)
    text = read_task(task)
    _check_times(given)
    request = TaskRequest(
        agent, text, idempotency_key=key, idempotent=idempotent, asks=ask, **given
    )
    settings = load_command_settings(ctx, project)
    record = run_on_tasks(lambda pool: _submit(pool, request), settings.project_dir)
    if as_json:
        print_json(record.as_json())
    else:
        echo(record.id)


def _check_times(given: dict[str, Any]) -> None:
    if "not_before" in given and "deadline" in given and given["deadline"] <= given["not_before"]:
        raise click.UsageError("--deadline is not after --not-before, so the task could not begin")


async def _submit(pool: TaskAPI, request: TaskRequest) -> TaskRecord:
    if request.parent is not None:
        request = replace(request, parent=(await find_task(pool, request.parent)).id)
    handle = await pool.submit(request)
    return await pool.task(handle.id)
