"""`agent-pool wait`: the answers of tasks that were submitted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import click

from agent_pool import (
    AgentPoolError,
    Outcome,
    PermissionAsked,
    PoolTimeout,
    TaskAPI,
    TaskError,
    TaskEvent,
    TaskRecord,
    TaskResult,
)
from agent_pool.cli.command import (
    FAILED,
    Command,
    Terminated,
    error_object,
    exit_code,
    json_option,
    read_duration_option,
)
from agent_pool.cli.output import console, echo, print_json
from agent_pool.cli.progress import TaskProgress
from agent_pool.cli.result_output import print_partial, print_result
from agent_pool.cli.task_ids import find_task, ids_argument, run_on_tasks
from agent_pool.text import one_line, seconds_text


@click.command(cls=Command)
@ids_argument
@click.option(
    "--timeout",
    callback=read_duration_option,
    metavar="TIME",
    help="Wait this long for all of them together: 90, 30s, 5m. Default: for ever.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print only the answers.")
@json_option
@click.pass_context
def wait(
    ctx: click.Context, ids: tuple[str, ...], timeout: float | None, quiet: bool, as_json: bool
) -> None:
    """Wait for tasks, and print their answers as `run` does, in the order of the ids.

    The exit code is that of `run`; with several ids it is that of the first task that failed. If
    --timeout passes, it is 124. Ctrl-C and the timeout end only the wait: the tasks go on.

    With --json, one id gives the object that `run --json` prints, and several ids give an array.

    \b
    Example:
      agent-pool wait code-reviewer-1f2e3d
      agent-pool wait $id1 $id2 --timeout 10m --json | jq -r '.[].text'
    """
    waiting = _Waiting(timeout, quiet=quiet, as_json=as_json, many=len(ids) > 1)
    try:
        run_on_tasks(lambda pool: waiting.wait_for(pool, ids))
    except (KeyboardInterrupt, Terminated):
        echo(f"the wait has ended; tasks go on: agent-pool wait {' '.join(ids)}", err=True)
        raise
    if as_json:
        shown = [_as_json(outcome) for outcome in waiting.outcomes]
        print_json(shown if len(ids) > 1 else shown[0])
    ctx.exit(next(filter(None, map(_status, waiting.outcomes)), 0))


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return outcome.as_json() if isinstance(outcome, TaskResult) else error_object(outcome)


def _status(outcome: Outcome) -> int:
    if isinstance(outcome, TaskResult):
        return FAILED if outcome.is_error else 0
    return exit_code(outcome)


class _Waiting:
    """The wait for some tasks.

    Attributes:
        outcomes: how the tasks ended, in the order of their ids; `PoolTimeout` if the time passed.
    """

    def __init__(self, timeout: float | None, *, quiet: bool, as_json: bool, many: bool) -> None:
        self.outcomes: list[Outcome] = []
        self._timeout = timeout
        self._quiet = quiet
        self._as_json = as_json
        self._many = many

    async def wait_for(self, pool: TaskAPI, given: Sequence[str]) -> None:
        """Wait for the tasks and print each outcome, unless all are to be one JSON document."""
        found = [await find_task(pool, one) for one in given]
        ends_at = (
            None if self._timeout is None else asyncio.get_running_loop().time() + self._timeout
        )
        # One after the other: a task that ended earlier is answered at once when it is its turn.
        for record in found:
            if self._many and not self._quiet:
                echo(f"{record.id}:", err=True)
            outcome = await self._outcome(pool, record, ends_at)
            self.outcomes.append(outcome)
            if not self._as_json:
                self._print(outcome)

    async def _outcome(self, pool: TaskAPI, record: TaskRecord, ends_at: float | None) -> Outcome:
        try:
            async with asyncio.timeout_at(ends_at):
                handle = await pool.attach(record.id)
                if not self._quiet and not record.has_ended:
                    await _show_progress(pool, record)
                return await handle.result()
        except TimeoutError as error:
            # An error of the task can be a TimeoutError too: a task_timeout.
            if isinstance(error, AgentPoolError):
                return error
            return self._timed_out(await pool.task(record.id))
        except AgentPoolError as error:
            return error

    def _timed_out(self, record: TaskRecord) -> PoolTimeout:
        return PoolTimeout(
            f"{record.id} has not ended within {seconds_text(self._timeout or 0)} (--timeout); it "
            f"is {record.state} and goes on: agent-pool wait {record.id}"
        )

    def _print(self, outcome: Outcome) -> None:
        if isinstance(outcome, TaskResult):
            print_result(outcome, quiet=self._quiet, as_json=False)
            return
        if isinstance(outcome, TaskError) and outcome.result is not None:
            print_partial(outcome.result)
        echo(f"Error: {outcome}", err=True)


async def _show_progress(pool: TaskAPI, record: TaskRecord) -> None:
    """Show the events of a task on stderr until it has ended."""
    out = console(err=True)
    progress = TaskProgress(record.agent, out)

    def update(event: TaskEvent) -> None:
        progress.update(event)
        if isinstance(event, PermissionAsked):
            tool = one_line(event.request.tool, 80)
            out.print(
                f"  asks for permission to use {tool}: agent-pool answer {record.id}",
                style="yellow",
            )

    with progress:
        async for event in pool.task_events(record.id):
            update(event)
