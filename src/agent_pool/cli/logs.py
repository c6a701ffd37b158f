"""`agent-pool logs`: the steps of a task, a line each."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

import click

from agent_pool import TaskAPI, TaskEvent
from agent_pool.cli.command import Command, Terminated
from agent_pool.cli.moments import clock_time, moment_text
from agent_pool.cli.output import echo
from agent_pool.cli.progress import describe_step
from agent_pool.cli.task_ids import find_task, id_argument, run_on_tasks
from agent_pool.text import printable_json

_QUIET_SECONDS: Final = 0.5
"""Kept events follow each other at once; a longer pause means that the next one is a live one."""


@click.command(cls=Command)
@id_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended, or Ctrl-C.")
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    metavar="NUMBER",
    help="Only steps after the one with this number, which each line begins with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
def logs(task_id: str, follow: bool, after: int, as_json: bool) -> None:
    """Print the steps of a task, a line each: number, time, step.

    Steps are kept when the task has ended, and over a restart of the daemon; of a long task the
    middle is not kept. `agent-pool task ID` shows each step whole. Ctrl-C ends --follow; the task
    goes on.

    \b
    Example:
      agent-pool logs code-reviewer-1f2e3d --follow
      agent-pool logs code-reviewer-1f2e3d --json --after 120 >> steps.jsonl
    """

    async def print_events(pool: TaskAPI) -> None:
        record = await find_task(pool, task_id)
        async with aclosing(pool.task_events(record.id, after=after)) as live:
            async for event in live if follow or record.has_ended else kept_events(live):
                echo(printable_json(event.as_json()) if as_json else _line(event))

    try:
        run_on_tasks(print_events)
    except (KeyboardInterrupt, Terminated):
        if follow:
            echo("the task goes on", err=True)
        raise


async def kept_events(events: AsyncIterator[TaskEvent]) -> AsyncIterator[TaskEvent]:
    """Yield the events of a task that is not over, up to now."""
    while True:
        try:
            async with asyncio.timeout(_QUIET_SECONDS):
                event = await anext(events)
        except (TimeoutError, StopAsyncIteration):
            return
        yield event


def _line(event: TaskEvent) -> str:
    if sys.stdout.isatty():
        return f"{event.number:>5}  {clock_time(event.time)}  {describe_step(event)}"
    return f"{event.number}\t{moment_text(event.time)}\t{describe_step(event)}"
