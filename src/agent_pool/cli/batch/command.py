"""`agent-pool batch`: many tasks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from agent_pool import AgentPool, AgentPoolError, TaskEvent, TaskResult, find_cli
from agent_pool.cli.batch.board import Board
from agent_pool.cli.batch.calls import Call, read_calls
from agent_pool.cli.batch.results import Results, open_results
from agent_pool.cli.command import (
    FAILED,
    Command,
    duration_option,
    project_option,
    run_async,
    settings_of,
)
from agent_pool.cli.narrate import spent
from agent_pool.cli.output import console, count, seconds


@click.command(cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the results to this file; what has succeeded there is not run again.",
)
@click.option(
    "--timeout",
    callback=duration_option,
    metavar="TIME",
    help="Stop a task that has no timeout of its own after this long: 90, 30s, 5m.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the results only.")
@project_option
@click.pass_context
def batch(
    ctx: click.Context,
    file: str,
    output: Path | None,
    timeout: float | None,
    quiet: bool,
    project: Path | None,
) -> None:
    """Give agents many tasks, side by side within the pool's limits.

    FILE holds one JSON object a line: {"agent": …, "task": …}, and where wanted "id", "timeout",
    "schema" and "conversation"; - is stdin. Each call that ends is one line of JSON on stdout, or
    appended to the file of --output: {"line": …, "id": …, "agent": …, "call": …} with the
    "result", as run --json prints it, or the "error". Lines that cannot be run are told before
    anything is.

    With --output, a batch that was stopped goes on where it was: run the same command again.
    What failed is run again, too. Tasks of one agent and conversation run in their order.

    Exits with 0 if all tasks succeeded, with 1 if any failed.

    \b
    Example:
      agent-pool batch tasks.jsonl --output results.jsonl
      jq -Rc '{agent: "reviewer", task: "Review \\(.)."}' files.txt | agent-pool batch -
    """
    # Each conversation ends with its last task, so there are never more than running tasks.
    settings = settings_of(ctx, project, prewarm=())
    pool = AgentPool(settings.with_overrides({"max_conversations": settings.max_workers}))
    find_cli(settings)  # without it no call can be run: to be told once, and before anything is
    calls = read_calls(_input(file), pool)
    with open_results(output, calls) as results:
        left = [call for call in calls if call.line not in results.kept]
        told = console(err=True)
        told.quiet = quiet
        board = Board(len(left), told, live=_is_live(output, quiet))
        try:
            if left:
                run_async(_run(pool, left, timeout, results, board))
        finally:
            pool.kill()  # nothing is left to kill, unless this was interrupted
            if not quiet:
                click.echo(_summary(pool, board, len(calls), len(left)), err=True)
    if board.failed:
        ctx.exit(FAILED)


def _input(file: str) -> bytes:
    return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()


def _is_live(output: Path | None, quiet: bool) -> bool:
    """Nothing may move where the results are printed."""
    return not quiet and sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())


async def _run(
    pool: AgentPool, calls: Sequence[Call], timeout: float | None, results: Results, board: Board
) -> None:
    last = {call.conversation: place for place, call in enumerate(calls)}

    def tell(place: int, event: TaskEvent) -> None:
        board.tell(calls[place], event)

    def end(place: int, outcome: TaskResult | AgentPoolError) -> None:
        call = calls[place]
        results.add(call, outcome)
        board.end(call, outcome)
        if call.conversation is not None and last[call.conversation] == place:
            with suppress(AgentPoolError):  # its agent may have gone meanwhile
                pool.end_conversation(*call.conversation)

    async with pool:
        with board:
            arguments = [call.arguments for call in calls]
            await pool.map(arguments, timeout=timeout, on_event=tell, on_end=end)


def _summary(pool: AgentPool, board: Board, all_calls: int, left: int) -> str:
    before = f"{all_calls - left} done before, " if left < all_calls else ""
    open_still = left - board.done - board.failed
    told = f"{count(all_calls, 'task')}: {before}{board.done} done, {board.failed} failed"
    if open_still:
        told += f", {open_still} not finished"
    total = pool.stats().total
    return f"{told}; {seconds(board.took)}, {spent(total.usage, total.cost_usd)}"
