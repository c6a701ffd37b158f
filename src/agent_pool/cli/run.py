"""`agent-pool run`: one task."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from agent_pool import PoolAPI, TaskError, TaskResult
from agent_pool.cli.call_options import request_fields, task_options
from agent_pool.cli.command import (
    FAILED,
    Command,
    json_option,
    load_command_settings,
    project_option,
    read_duration_option,
    run_async,
)
from agent_pool.cli.completion import complete_agent
from agent_pool.cli.connect import find_pool
from agent_pool.cli.output import console, echo
from agent_pool.cli.permissions import RefuseAll, TerminalPrompt
from agent_pool.cli.progress import TaskProgress
from agent_pool.cli.result_output import print_partial, print_result


def read_schema_option(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> dict[str, Any] | None:
    """Read a JSON schema, given as text or as the name of a file; None if it was not given."""
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


class TaskTextCommand(Command):
    """A command whose task can begin with a dash, as items of a list do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, self._with_task_last(args))
        except click.NoSuchOption as error:
            problem = f"{error.format_message()} A task that begins with a dash comes after --."
            raise click.UsageError(problem, ctx) from None

    def _with_task_last(self, args: list[str]) -> list[str]:
        """Return the arguments with a task that begins with a dash after ``--``.

        Such a task has white space, so that a mistyped option is not taken for one.
        """
        options = [one for one in self.params if isinstance(one, click.Option)]
        names = {name for one in options for name in (*one.opts, *one.secondary_opts)}
        with_value = {name for one in options if not one.is_flag for name in one.opts}
        for place, text in enumerate(args):
            if text == "--":
                break
            is_value = place > 0 and args[place - 1] in with_value
            is_option = text.partition("=")[0] in names or len(text.split()) < 2
            if text.startswith("-") and not is_value and not is_option:
                return [*args[:place], *args[place + 1 :], "--", text]
        return args


@click.command(cls=TaskTextCommand)
@click.argument("agent", shell_complete=complete_agent)
@click.argument("task")
@click.option(
    "--timeout",
    callback=read_duration_option,
    metavar="TIME",
    help="Stop the task after this long: 90, 30s, 5m. Default: the setting task_timeout.",
)
@click.option(
    "--schema",
    callback=read_schema_option,
    metavar="FILE|JSON",
    help="A JSON schema: the answer is JSON that fits it.",
)
@task_options
@click.option("--ask", is_flag=True, help="Ask you here when the agent needs permission.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the answer.")
@json_option
@project_option
@click.pass_context
def run(
    ctx: click.Context,
    /,
    agent: str,
    task: str,
    timeout: float | None,
    schema: dict[str, Any] | None,
    ask: bool,
    quiet: bool,
    as_json: bool,
    project: Path | None,
    **options: Any,
) -> None:
    """Give an agent one task and print its answer.

    TASK is the text of the task, or - to read it from stdin. A task of one word that begins with a
    dash comes after --. The answer goes to stdout. The
    progress of the agent goes to stderr. Ctrl-C stops the task and every process that it started.

    With --json, the whole result is printed as one object; if the task could not be carried out,
    the object is {"error": {"code": …, "message": …, "retryable": …, …}}.

    With --ask, an agent that needs permission (by its permissionMode, or by the setting
    permission_ceiling) asks you, if stdin is a terminal. Otherwise the request is denied.

    --model, --effort, --permission-mode and --env apply to this task only, and --cwd runs it in
    another folder, with the agents that are defined there. At its --budget or --max-tokens the
    task is interrupted, and what the agent has said is shown. --attach gives the agent a file: a
    picture (PNG, JPEG, GIF, WebP), a PDF or a text in UTF-8, at most 20 of them and 20 MiB.

    \b
    Example:
      agent-pool run code-reviewer 'Review the last commit.'
      agent-pool run judge 'Rate this.' --schema score.schema.json | jq .score
      git diff | agent-pool run code-reviewer - --timeout 10m
      agent-pool run code-reviewer 'Review src.' --model haiku --effort low
      agent-pool run designer 'What is wrong here?' --attach screen.png --budget 0.50
    """
    # A single task needs no process in reserve, and no proof that a worker forgets after it.
    settings = load_command_settings(ctx, project, spares=0, prewarm=(), reset="clear")
    pool = find_pool(settings)
    try:
        text = read_task(task)
        call: dict[str, Any] = {"agent": agent, "task": text, "timeout": timeout, "schema": schema}
        call |= request_fields(options)
        progress = None if quiet else TaskProgress(agent, console(err=True))
        if ask and sys.stdin.isatty():
            prompt = TerminalPrompt(progress.paused if progress else nullcontext)
            call["on_permission"] = prompt.decide
        else:
            call["on_permission"] = RefuseAll(is_asked_for=ask, quiet=quiet).decide
        result = run_async(_run_task(pool, call, progress, as_json=as_json))
    except TaskError as error:
        if error.result is not None and not as_json:
            print_partial(error.result)
        raise
    finally:
        # A second Ctrl-C can interrupt the close of the pool; this ends every process at once.
        pool.kill()
    if result.is_error:
        ctx.exit(FAILED)


def read_task(task: str) -> str:
    """Return the text of the task; ``-`` stands for all of stdin.

    Raises:
        UsageError: the task is empty or not UTF-8.
    """
    try:
        text = _read_stdin() if task == "-" else task
        # Python passes bytes of an argument that are not UTF-8 on as surrogates.
        text.encode()
    except UnicodeError as error:
        raise click.UsageError(f"the task is not UTF-8: {error}") from None
    if not text.strip():
        raise click.UsageError("the task is empty")
    return text


def _read_stdin() -> str:
    if sys.stdin.isatty():
        echo("Type the task, then press Ctrl-D at the start of a line.", err=True)
    return sys.stdin.buffer.read().decode("utf-8-sig")


async def _run_task(
    pool: PoolAPI, call: dict[str, Any], progress: TaskProgress | None, *, as_json: bool
) -> TaskResult:
    async with pool:
        if progress is None:
            result = await pool.invoke(**call)
        else:
            with progress:
                result = await pool.invoke(**call, on_event=progress.update)
        # Before the close of the pool, which takes a moment: the reader has the answer at once.
        print_result(result, quiet=progress is None, as_json=as_json)
    return result
