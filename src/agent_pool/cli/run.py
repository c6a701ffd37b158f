"""`agent-pool run`: one task."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from agent_pool import AgentPool, TaskResult
from agent_pool.cli.ask import Terminal
from agent_pool.cli.command import (
    FAILED,
    Command,
    duration_option,
    json_option,
    project_option,
    run_async,
    settings_of,
)
from agent_pool.cli.narrate import Narrator, summary
from agent_pool.cli.output import console, print_json, printable


def _schema(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> dict[str, Any] | None:
    """A JSON schema, given as text or by the file that holds it."""
    if value is None:
        return None
    try:
        text = value if value.lstrip().startswith("{") else Path(value).read_text("utf-8-sig")
        schema = json.loads(text)
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"neither JSON nor a file with JSON: {error}") from None
    if not isinstance(schema, dict):
        raise click.BadParameter(f"{value}: expected a JSON object")
    return schema


@click.command(cls=Command)
@click.argument("agent")
@click.argument("task")
@click.option(
    "--timeout",
    callback=duration_option,
    metavar="TIME",
    help="Stop the task after this long: 90, 30s, 5m. Default: the setting task_timeout.",
)
@click.option(
    "--schema",
    callback=_schema,
    metavar="FILE|JSON",
    help="A JSON schema: the answer is JSON that fits it.",
)
@click.option("--ask", is_flag=True, help="Ask here for what the agent needs permission for.")
@click.option("-q", "--quiet", is_flag=True, help="Print the answer only.")
@json_option
@project_option
@click.pass_context
def run(
    ctx: click.Context,
    agent: str,
    task: str,
    timeout: float | None,
    schema: dict[str, Any] | None,
    ask: bool,
    quiet: bool,
    as_json: bool,
    project: Path | None,
) -> None:
    """Give an agent one task and print its answer.

    TASK is the text of the task, or - to read it from stdin. The answer goes to stdout, what the
    agent does meanwhile to stderr. Ctrl-C stops the task and every process that it started.

    With --json, the whole result is printed as one object; when the task could not be carried
    out, the object is {"error": {"code": …, "message": …, "retryable": …}}.

    With --ask, what an agent may not do without being asked (its permissionMode, or the setting
    permission_ceiling) is put to you, if stdin is a terminal; otherwise it is denied.

    \b
    Example:
      agent-pool run code-reviewer 'Review the last commit.'
      agent-pool run judge 'Rate this.' --schema score.schema.json | jq .score
      git diff | agent-pool run code-reviewer - --timeout 10m
    """
    # For a single task nothing need be kept ready, nor be proven to forget.
    settings = settings_of(ctx, project, spares=0, prewarm=(), reset="clear")
    pool = AgentPool(settings)
    try:
        text = read_task(task)
        call: dict[str, Any] = {"agent": agent, "task": text, "timeout": timeout, "schema": schema}
        narrator = None if quiet else Narrator(agent, console(err=True))
        if ask and sys.stdin.isatty():
            call["on_permission"] = Terminal(narrator.silence if narrator else nullcontext).permit
        result = run_async(_run(pool, call, narrator, as_json=as_json))
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
    pool: AgentPool, call: dict[str, Any], narrator: Narrator | None, *, as_json: bool
) -> TaskResult:
    async with pool:
        if narrator is None:
            result = await pool.invoke(**call)
        else:
            with narrator:
                result = await pool.invoke(**call, on_event=narrator.tell)
        _print(result, quiet=narrator is None, as_json=as_json)
    return result


def _print(result: TaskResult, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        print_json(result.as_json())
    elif result.is_error:
        how = "" if result.subtype == "success" else f" ({result.subtype})"
        click.echo(f"{result.agent} reported an error{how}: {result.text}", err=True)
    else:
        text = result.text
        if result.structured is not None:
            text = json.dumps(result.structured, ensure_ascii=False)
        # A terminal must not obey what an agent writes; a file gets every byte of it.
        click.echo(printable(text) if sys.stdout.isatty() else text, color=True)
    if not quiet:
        console(err=True).print(summary(result), style="dim")
