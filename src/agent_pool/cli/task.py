"""`agent-pool task`: everything about one task."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import Final

import click
from rich.text import Text as RichText

from agent_pool import (
    Ended,
    PermissionAsked,
    Queued,
    Spent,
    TaskAPI,
    TaskEvent,
    TaskRecord,
    TaskRequest,
    Text,
    ToolOutput,
    ToolUse,
)
from agent_pool.cli.command import Command, json_option
from agent_pool.cli.listing import Paragraph
from agent_pool.cli.logs import kept_events
from agent_pool.cli.moments import clock_time, moment_text
from agent_pool.cli.output import console, echo, print_json
from agent_pool.cli.progress import describe_step, result_text, usage_text
from agent_pool.cli.task_ids import find_task, id_argument, run_on_tasks
from agent_pool.cli.tasks import question_lines, running_time
from agent_pool.text import bytes_text, printable_json

_INDENT: Final = "    "
_CLIENTS_KEY: Final = "client-"
"""The beginning of a key that a client of the daemon made for itself, to send a task only once."""


@click.command(cls=Command)
@id_argument
@json_option
def task(task_id: str, as_json: bool) -> None:
    """Show everything about one task: its request, times, cost, each step, and its answer.

    With --json, the record of the task is printed, with its events as `events`.

    \b
    Example:
      agent-pool task code-reviewer-1f2e3d
      agent-pool task code-reviewer-1f2e3d --json | jq .result.text
    """
    record, events = run_on_tasks(lambda pool: _read(pool, task_id))
    if as_json:
        print_json({**record.as_json(), "events": [event.as_json() for event in events]})
    else:
        _print_task(record, events)


async def _read(pool: TaskAPI, task_id: str) -> tuple[TaskRecord, list[TaskEvent]]:
    record = await find_task(pool, task_id)
    async with aclosing(pool.task_events(record.id)) as live:
        events = [event async for event in (live if record.has_ended else kept_events(live))]
    return await pool.task(record.id), events


def _print_task(record: TaskRecord, events: Sequence[TaskEvent]) -> None:
    out = console()
    out.print(RichText(record.id, style="bold"))
    for name, value in _facts(record, time.time()):
        echo(f"  {name}: {value}")
    for hint in question_lines(record):
        out.print(Paragraph(hint, "yellow"))
    _print_part("Request", record.request.task)
    steps = "\n".join(line for event in events for line in _step_lines(event))
    _print_part("Steps", steps)
    _print_end(record)


def _print_part(heading: str, text: str) -> None:
    if text:
        echo()
        console().print(RichText(heading, style="bold"))
        echo(text)


def _print_end(record: TaskRecord) -> None:
    result = record.result
    if result is not None and not result.is_error:
        structured = result.structured
        _print_part("Answer", result.text if structured is None else printable_json(structured))
        echo()
        console().print(result_text(result), style="dim")
        return
    if record.error is not None:
        _print_part(f"Failure ({record.failure})", str(record.error))
    elif result is not None:
        _print_part(f"Failure ({record.failure})", f"{result.text}\n{result.advice}".rstrip())
    partial = result.partial if result is not None else ""
    _print_part("What the agent had said, not a complete answer", partial)


def _facts(record: TaskRecord, now: float) -> Iterator[tuple[str, str]]:
    """Yield the facts of a task that are there, each with its name."""
    result = record.result
    for name, value in (
        ("state", record.state),
        ("step", record.line if not record.has_ended else ""),
        ("agent", record.agent),
        ("project", record.project),
        ("submitted", moment_text(record.created)),
        ("started", moment_text(record.started)),
        ("ended", moment_text(record.ended)),
        ("time", running_time(record, now)),
        ("worker", f"{record.worker} (process {record.pid})" if record.worker else ""),
        ("node", record.node),
        ("attempts", str(record.attempts) if record.attempts > 1 else ""),
        ("tokens", usage_text(record.usage, record.cost_usd) if record.started else ""),
        ("worktree", f"{result.worktree} ({result.branch})" if result and result.worktree else ""),
        *_options(record.request),
    ):
        if value:
            yield name, value


def _options(request: TaskRequest) -> Iterator[tuple[str, str]]:
    """Yield what the request asks for, besides its task; values of `env` are masked in it."""
    for name, value in request.as_json().items():
        if name in ("agent", "task", "project", "attachments") or value in (None, False, 0, ""):
            continue
        if name == "idempotency_key" and value.startswith(_CLIENTS_KEY):
            continue
        if name in ("not_before", "deadline"):
            value = moment_text(value)
        yield name, value if isinstance(value, str) else printable_json(value)
    for one in request.attachments:
        yield "attachment", f"{one.name} ({one.media_type}, {bytes_text(len(one.data))})"


def _step_lines(event: TaskEvent) -> Iterator[str]:
    """Yield a step of the transcript as lines, with its whole text."""
    head = f"  {clock_time(event.time)}  "
    match event:
        case Queued() | Spent():
            return  # `logs` has them; here they are counted in the facts
        case Text():
            yield f"{head}said:"
            yield _indented(event.text)
        case ToolUse():
            yield f"{head}→ {event.name}"
            yield _indented(printable_json(dict(event.input), indent=2))
        case ToolOutput():
            yield f"{head}← {'failed:' if event.is_error else 'output:'}"
            yield _indented(event.text)
        case PermissionAsked():
            yield f"{head}{describe_step(event)}"
            yield _indented(printable_json(dict(event.request.input), indent=2))
        case Ended():
            how = "succeeded" if not event.failure else f"ended: {event.failure}"
            yield f"{head}{how}"
        case _:
            yield f"{head}{describe_step(event)}"


def _indented(text: str) -> str:
    return "\n".join(f"{_INDENT}{line}" for line in text.rstrip("\n").split("\n"))
