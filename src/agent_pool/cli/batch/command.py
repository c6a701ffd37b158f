"""`agent-pool batch`: many tasks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from agent_pool import (
    AgentStats,
    Outcome,
    PoolAPI,
    Settings,
    TaskAPI,
    TaskError,
    TaskEvent,
    TaskResult,
    find_cli,
)
from agent_pool.cli.batch.lines import BatchLine, read_lines
from agent_pool.cli.batch.progress import BatchProgress
from agent_pool.cli.batch.results import BatchResults, open_results
from agent_pool.cli.call_options import request_fields, task_options
from agent_pool.cli.command import (
    FAILED,
    Command,
    load_command_settings,
    project_option,
    read_duration_option,
    run_async,
)
from agent_pool.cli.connect import connect_tasks, find_tasks, make_pool
from agent_pool.cli.output import console, echo
from agent_pool.cli.progress import usage_text
from agent_pool.text import count, seconds_text


def _find_daemon(settings: Settings, has_conversations: bool) -> TaskAPI | None:
    """Return the pool of the daemon; None if the batch needs a pool of its own."""
    if settings.ray is not None:  # only the daemon has the nodes
        return connect_tasks(settings.project_dir)
    # A conversation of the daemon belongs to all its clients: another one can use the same name,
    # and there is room for `max_conversations` of all of them together.
    return None if has_conversations else find_tasks(settings.project_dir)


@click.command(cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the results to this file; tasks that have succeeded there are not run again.",
)
@click.option(
    "--timeout",
    callback=read_duration_option,
    metavar="TIME",
    help="Stop a task that has no timeout of its own after this long: 90, 30s, 5m.",
)
@task_options
@click.option("-q", "--quiet", is_flag=True, help="Print only the results.")
@project_option
@click.pass_context
def batch(
    ctx: click.Context,
    /,
    file: str,
    output: Path | None,
    timeout: float | None,
    quiet: bool,
    project: Path | None,
    **options: Any,
) -> None:
    """Give agents many tasks, side by side within the pool's limits.

    FILE holds one JSON object per line: {"agent": …, "task": …}, and optionally "id", "timeout",
    "schema", "conversation", "cwd", "model", "effort", "permission_mode", "env", "isolation",
    "max_budget_usd", "max_tokens" and "attach" (a list of files); - is stdin.
    Each task that ends gives one line of JSON, on stdout or appended to the file of --output:
    {"line": …, "id": …, "agent": …, "call": …} with the "result", as run --json prints it, or the
    "error". Lines that cannot be run are reported before any task is run.

    --cwd, --model, --effort, --permission-mode, --worktree, --budget, --max-tokens, --attach and
    --env are for each line that has no such field of its own. Values of "env" are never written
    into a result.

    Where the daemon runs, it runs the tasks, unless a line has a conversation.

    With --output, a batch that was stopped can continue: run the same command again. Tasks that
    failed are run again too. Tasks of one agent and conversation run in their order.

    The exit code is 0 if all tasks succeeded, and 1 if any failed.

    \b
    Example:
      agent-pool batch tasks.jsonl --output results.jsonl
      jq -Rc '{agent: "reviewer", task: "Review \\(.)."}' files.txt | agent-pool batch -
    """
    # Each conversation ends with its last task, so there are at most as many as running tasks.
    settings = load_command_settings(ctx, project, prewarm=())
    pool = make_pool(settings.with_overrides({"max_conversations": settings.max_workers}))
    if settings.ray is None:
        find_cli(settings)  # without a CLI no task can run; this reports it once for all tasks
    lines = run_async(read_lines(_read_input(file), pool, request_fields(options)))
    daemon = _find_daemon(settings, any(line.conversation for line in lines))
    with open_results(output, lines) as results:
        left = [line for line in lines if line.number not in results.finished]
        messages = console(err=True)
        messages.quiet = quiet
        progress = BatchProgress(len(left), messages, live=_is_live(output, quiet))
        batch_run = _BatchRun(daemon or pool, left, results, progress, is_shared=bool(daemon))
        try:
            if left:
                run_async(batch_run.run(timeout))
        finally:
            # A second Ctrl-C can interrupt the close of the pool; this ends every process at once.
            (daemon or pool).kill()
            if not quiet:
                echo(batch_run.summary(len(lines)), err=True)
    if progress.failed:
        ctx.exit(FAILED)


def _read_input(file: str) -> bytes:
    return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()


def _is_live(output: Path | None, quiet: bool) -> bool:
    """Check whether a display that changes can be shown on stderr."""
    # It would mix with the results if both were on the same terminal.
    return not quiet and sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())


class _BatchRun:
    """The run of the tasks that have no result yet."""

    def __init__(
        self,
        pool: PoolAPI,
        lines: Sequence[BatchLine],
        results: BatchResults,
        progress: BatchProgress,
        *,
        is_shared: bool,
    ) -> None:
        self._pool = pool
        self._lines = lines
        self._results = results
        self._progress = progress
        self._is_shared = is_shared
        self._total = AgentStats(agent="")

    async def run(self, timeout: float | None) -> None:
        """Run the tasks and close the pool.

        Raises:
            OSError: a result could not be written.
        """
        requests = [line.request for line in self._lines]
        try:
            async with self._pool:
                with self._progress:
                    await self._pool.map(
                        requests, timeout=timeout, on_event=self._on_event, on_end=self._on_end
                    )
        finally:
            # After the close: the tokens of an interrupted turn are known only when it has ended.
            if not self._is_shared:
                self._total = (await self._pool.stats()).total

    def _on_event(self, index: int, event: TaskEvent) -> None:
        self._progress.update(self._lines[index], event)

    def _on_end(self, index: int, outcome: Outcome) -> None:
        self._results.add(self._lines[index], outcome)
        self._progress.end(self._lines[index], outcome)
        if self._is_shared:  # the daemon's own figures are those of all its clients
            self._total += _figures(outcome)

    def summary(self, all_lines: int) -> str:
        """Return a line with the number of tasks, tokens and cost."""
        progress, left = self._progress, len(self._lines)
        before = f"{all_lines - left} done before, " if left < all_lines else ""
        unfinished = left - progress.done - progress.failed
        text = f"{count(all_lines, 'task')}: {before}{progress.done} done, {progress.failed} failed"
        if unfinished:
            text += f", {unfinished} not finished"
        usage = usage_text(self._total.usage, self._total.cost_usd)
        return f"{text}; {seconds_text(progress.seconds)}, {usage}"


def _figures(outcome: Outcome) -> AgentStats:
    """Return the tokens and the cost of one task."""
    result = outcome.result if isinstance(outcome, TaskError) else outcome
    if not isinstance(result, TaskResult):
        return AgentStats(agent="")
    return AgentStats(agent="", usage=result.usage, cost_usd=result.cost_usd)
