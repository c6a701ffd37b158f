"""The command, and its table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from rich.table import Table

from agent_pool import AgentPool, cli_version, find_cli
from agent_pool.cli.command import Command, json_option, run_async, settings_of
from agent_pool.cli.demo.board import Board
from agent_pool.cli.demo.measure import AT_ONCE, IN_A_ROW, THINKING, Figures, measure
from agent_pool.cli.demo.scene import Model, project_files
from agent_pool.cli.demo.ways import PoolWay, ProcessWay
from agent_pool.cli.offline import offline_world
from agent_pool.cli.output import console, megabytes, print_json, seconds

ROWS: list[tuple[str, Callable[[Figures], str]]] = [
    ("Ready for a first task", lambda f: "-" if f.warm_up is None else seconds(f.warm_up)),
    ("One task, median", lambda f: seconds(f.task)),
    (f"{AT_ONCE} tasks at once", lambda f: seconds(f.at_once)),
    ("Memory, task 1", lambda f: megabytes(f.memory_first)),
    (f"Memory, task {IN_A_ROW}", lambda f: megabytes(f.memory_last)),
    (f"Memory, {AT_ONCE} at once", lambda f: megabytes(f.memory_at_once)),
    (f"Tokens written to the cache, {IN_A_ROW} tasks", lambda f: f"{f.written:,}"),
    (f"Tokens read from the cache, {IN_A_ROW} tasks", lambda f: f"{f.read:,}"),
]


@click.command(cls=Command)
@json_option
@click.pass_context
def demo(ctx: click.Context, as_json: bool) -> None:
    """Show what the pool does: offline, at no cost, in well under a minute.

    The real Claude Code CLI works in a temporary home and project, with a model that is a small
    program on this machine: no key, no network, nothing of yours. A pool gets tasks one after
    another and at once, then `claude -p` gets the same. The table is measured in this run; the
    tokens are counted as the real service counts them.

    \b
    Example:
      agent-pool demo
      agent-pool demo --json | jq '.[0].task'
    """
    cli = find_cli(settings_of(ctx, None))
    figures = run_async(_play(cli))
    if as_json:
        print_json([asdict(one) for one in figures])
        return
    out = console()
    out.print(_table(figures))
    out.print(_legend(), style="dim")


async def _play(cli: Path) -> list[Figures]:
    board = Board(console(err=True))
    click.echo(f"Claude Code {await cli_version(cli)} at {cli}\n", err=True)
    model, files = Model(), project_files(max(IN_A_ROW, AT_ONCE))
    async with offline_world(cli, files, model) as world:
        pool = AgentPool(world.settings, environ=world.environ)
        try:
            async with pool:
                first = await measure(PoolWay(world, pool), model, board)
        finally:
            pool.kill()
    async with offline_world(cli, files, model) as world:
        second = await measure(ProcessWay(world, cli), model, board)
    return [first, second]


def _table(figures: list[Figures]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("Measured")
    for one in figures:
        table.add_column(one.name, justify="right", no_wrap=True)
    for heading, cell in ROWS:
        table.add_row(heading, *map(cell, figures))
    return table


def _legend() -> str:
    thinking = seconds(THINKING)
    return f"""
Every answer was the one to its task. The model answers at once; in the {AT_ONCE} at once it takes
{thinking} for each of its two replies. Memory is that of the processes: of the pool after the
task, of `claude -p` the most that it had. The prompt cache is the service's own, so both ways
read from it."""
