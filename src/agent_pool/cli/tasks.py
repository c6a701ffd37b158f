"""`agent-pool tasks`: the tasks that the daemon keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, get_args

import click
from rich.console import Console

from agent_pool import TaskAPI, TaskFilter, TaskRecord, TaskState
from agent_pool.cli.command import Command, json_option, project_option
from agent_pool.cli.completion import complete_agent
from agent_pool.cli.listing import Column, Listing, Paragraph
from agent_pool.cli.moments import age_text, moment_text, read_past_option
from agent_pool.cli.output import console, echo, print_json
from agent_pool.cli.task_ids import MAX_LISTED, run_on_tasks
from agent_pool.text import count, one_line, seconds_text
from agent_pool.views.rows import step_text

STATES: Final[tuple[TaskState, ...]] = get_args(TaskState)
GROUPS: Final[tuple[tuple[TaskState, ...], ...]] = (
    ("input_required",),
    ("running",),
    ("queued",),
    ("succeeded", "failed", "cancelled", "interrupted"),
)
"""The order of the list: what waits for a person first, what has ended last."""
STYLES: Final = {
    "input_required": "yellow",
    "succeeded": "green",
    "failed": "red",
    "interrupted": "red",
    "cancelled": "dim",
}
_DEFAULT_LIMIT: Final = 50
_MAX_TEXT: Final = 200
"""Characters of a task's text in a list; `agent-pool task` shows all of it."""
_MIN_TEXT: Final = 16


@click.command(cls=Command)
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    help="Only tasks in this state; can be repeated.",
)
@click.option(
    "--agent", metavar="AGENT", shell_complete=complete_agent, help="Only tasks of this agent."
)
@click.option(
    "--since",
    callback=read_past_option,
    metavar="WHEN",
    help="Only tasks submitted since then: 2h, 1d, 08:00, 2030-12-31.",
)
@click.option("--text", metavar="TEXT", help="Only tasks with this text in request or answer.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LISTED),
    default=_DEFAULT_LIMIT,
    show_default=True,
    help="The most tasks.",
)
@json_option
@project_option
@click.pass_context
def tasks(
    ctx: click.Context,
    states: tuple[TaskState, ...],
    agent: str | None,
    since: float | None,
    text: str | None,
    limit: int,
    as_json: bool,
    project: Path | None,
) -> None:
    """List the tasks that the daemon keeps, of all projects unless --project names one.

    Tasks that wait for your permission come first, then those that run, that wait, and that have
    ended; each group has the newest first.

    \b
    Example:
      agent-pool tasks
      agent-pool tasks --state failed --state interrupted --since 1d
      agent-pool tasks --json | jq -r '.[] | select(.cost_usd > 1) | .id'
    """
    folder = project or ctx.find_root().obj
    wanted = TaskFilter(
        states, agent or "", str(folder or ""), since=since, text=text or "", limit=limit
    )
    found = run_on_tasks(lambda pool: find_in_order(pool, wanted))
    if as_json:
        print_json([task.as_json() for task in found])
    else:
        print_tasks(found, console(), limit=limit)


async def find_in_order(pool: TaskAPI, wanted: TaskFilter) -> list[TaskRecord]:
    """Return the tasks that are wanted, in the order of `GROUPS`."""
    found: dict[str, TaskRecord] = {}
    # Group by group, so that many ended tasks hide no older one that waits for a person.
    for group in GROUPS:
        states = tuple(one for one in group if one in (wanted.states or STATES))
        room = wanted.limit - len(found)
        if states and room > 0:
            for task in await pool.tasks(replace(wanted, states=states, limit=room)):
                found.setdefault(task.id, task)  # its state can change between two groups
    return list(found.values())


def print_tasks(found: Sequence[TaskRecord], out: Console, *, limit: int) -> None:
    """Print a list of tasks on a console, and how many there are on stderr."""
    now = time.time()
    if found:
        out.print(_terminal_list(found, now) if out.is_terminal else _whole_list(found, now))
    # In a pipe a reader gets only rows on stdout.
    hints = out if out.is_terminal else console(err=True)
    for task in found:
        for hint in question_lines(task):
            hints.print(Paragraph(hint, "yellow"))
    more = "; older ones: --limit, --since, --state" if len(found) == limit else ""
    echo(f"{count(len(found), 'task')}{more}", err=True)


def question_lines(task: TaskRecord) -> Iterator[str]:
    """Yield a line for each permission that a task waits for, with the command that answers."""
    task_id = one_line(task.id)  # its width counts where the line is wrapped
    for question in task.questions:
        tool = one_line(question.request.tool, _MAX_TEXT)
        yield f"{task_id} asks for permission to use {tool}: agent-pool answer {task_id}"


def _terminal_list(found: Sequence[TaskRecord], now: float) -> Listing:
    has_projects = len({task.project for task in found}) > 1
    has_nodes = any(task.node for task in found)
    listing = Listing(
        Column("Task"),
        Column("State"),
        Column("Age", right=True),
        Column("Time", right=True),
        Column("Cost", right=True),
        *([Column("Project")] if has_projects else []),
        *([Column("Node")] if has_nodes else []),
        Column("Request", is_prose=True, least=_MIN_TEXT),
    )
    for task in found:
        listing.add(
            task.id,
            task.state,
            age_text(now - task.created),
            running_time(task, now),
            f"${task.cost_usd:,.2f}" if task.cost_usd else "",
            *([task.project] if has_projects else []),
            *([task.node] if has_nodes else []),
            one_line(task.request.task, _MAX_TEXT),
            style=STYLES.get(task.state, "cyan"),
        )
    return listing


def _whole_list(found: Sequence[TaskRecord], now: float) -> Listing:
    """Return the rows for a pipe, whose columns are always the same; with nodes one more, last."""
    has_nodes = any(task.node for task in found)
    headings = ("State", "Agent", "Project", "Submitted", "Time", "Cost", "Step", "Request")
    names = ("Task", *headings, *(["Node"] if has_nodes else []))
    listing = Listing(*map(Column, names))
    for task in found:
        listing.add(
            task.id,
            task.state,
            task.agent,
            task.project,
            moment_text(task.created),
            running_time(task, now),
            f"${task.cost_usd:.4f}",
            one_line(step_text(task), _MAX_TEXT),
            one_line(task.request.task, _MAX_TEXT),
            *([task.node] if has_nodes else []),
        )
    return listing


def running_time(task: TaskRecord, now: float) -> str:
    """Return how long a task has run, or ran; empty if it has not begun."""
    if task.started is None:
        return ""
    return seconds_text(max((task.ended or now) - task.started, 0))
