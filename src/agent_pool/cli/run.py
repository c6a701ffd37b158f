"""`agent-pool run`: one task."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from agent_pool import AgentPool, Settings, TaskResult
from agent_pool.cli.command import (
    FAILED,
    Command,
    json_option,
    project_option,
    run_async,
    settings_of,
)
from agent_pool.cli.narrate import Narrator, summary
from agent_pool.cli.output import console, print_json, printable


def _duration(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Seconds from what the settings take as a duration."""
    if value is None:
        return None
    try:
        return Settings.model_validate({"task_timeout": value}).task_timeout
    except ValueError:
        problem = f"{value!r}: expected a time above 0: 90, 250ms, 30s, 5m, 2h"
        raise click.BadParameter(problem) from None


@click.command(cls=Command)
@click.argument("agent")
@click.argument("task")
@click.option(
    "--timeout",
    callback=_duration,
    metavar="TIME",
    help="Stop the task after this long: 90, 30s, 5m. Default: the setting task_timeout.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the answer only.")
@json_option
@project_option
@click.pass_context
def run(
    ctx: click.Context,
    agent: str,
    task: str,
    timeout: float | None,
    quiet: bool,
    as_json: bool,
    project: Path | None,
) -> None:
    """Give an agent one task and print its answer.

    TASK is the text of the task, or - to read it from stdin. The answer goes to stdout, what the
    agent does meanwhile to stderr. Ctrl-C stops the task and every process that it started.

    With --json, the whole result is printed as one object; when the task could not be carried
    out, the object is {"error": {"code": …, "message": …, "retryable": …}}.

    \b
    Example:
      agent-pool run code-reviewer 'Review the last commit.'
      git diff | agent-pool run code-reviewer - --timeout 10m
    """
    # For a single task nothing need be kept ready, nor be proven to forget.
    settings = settings_of(ctx, project, spares=0, prewarm=(), reset="clear")
    pool = AgentPool(settings)
    try:
        text = read_task(task)
        result = run_async(_run(pool, agent, text, timeout, quiet=quiet, as_json=as_json))
    finally:
        pool.kill()  # nothing is left to kill, unless this was interrupted
    if result.is_error:
        ctx.exit(FAILED)


def read_task(task: str) -> str:
    """The text of the task; ``-`` is all of stdin.

    Raises UsageError when it is empty or not UTF-8.
    """
    try:
        text = _read_stdin() if task == "-" else task
        text.encode()
    except UnicodeError as error:
        raise click.UsageError(f"the task is not UTF-8: {error}") from None
    if not text.strip():
        raise click.UsageError("the task is empty")
    return text


def _read_stdin() -> str:
    if sys.stdin.isatty():
        click.echo("Type the task, then Ctrl-D on a line of its own.", err=True)
    return sys.stdin.buffer.read().decode("utf-8-sig")


async def _run(
    pool: AgentPool, agent: str, task: str, timeout: float | None, *, quiet: bool, as_json: bool
) -> TaskResult:
    async with pool:
        if quiet:
            result = await pool.invoke(agent, task, timeout=timeout)
        else:
            with Narrator(agent, console(err=True)) as narrator:
                result = await pool.invoke(agent, task, timeout=timeout, on_event=narrator.tell)
        _print(result, quiet=quiet, as_json=as_json)
    return result


def _print(result: TaskResult, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        print_json(asdict(result))
    elif result.is_error:
        how = "" if result.subtype == "success" else f" ({result.subtype})"
        click.echo(f"{result.agent} reported an error{how}: {result.text}", err=True)
    else:
        # A terminal must not obey what an agent writes; a file gets every byte of it.
        click.echo(printable(result.text) if sys.stdout.isatty() else result.text, color=True)
    if not quiet:
        console(err=True).print(summary(result), style="dim")
