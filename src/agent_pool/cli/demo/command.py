"""The command `demo` and its table of results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click
from rich.table import Table

from agent_pool import cli_version, find_cli
from agent_pool.cli.command import Command, json_option, load_command_settings, run_async
from agent_pool.cli.connect import make_pool
from agent_pool.cli.demo.measurement import (
    PARALLEL_TASKS,
    REPLY_DELAY_SECONDS,
    SEQUENTIAL_TASKS,
    RunnerMeasurement,
    measure_runner,
)
from agent_pool.cli.demo.progress import DemoProgress
from agent_pool.cli.demo.runners import PoolRunner, ProcessRunner
from agent_pool.cli.demo.scenario import CountingModel, project_files
from agent_pool.cli.offline import offline_sandbox
from agent_pool.cli.output import console, echo, print_json
from agent_pool.text import mebibytes, seconds_text

ROWS: Final[list[tuple[str, Callable[[RunnerMeasurement], str]]]] = [
    ("Ready for a first task", lambda m: "-" if m.warm_up is None else seconds_text(m.warm_up)),
    ("One task, median", lambda m: seconds_text(m.task)),
    (f"{PARALLEL_TASKS} tasks at once", lambda m: seconds_text(m.at_once)),
    ("Memory, task 1", lambda m: mebibytes(m.memory_first)),
    (f"Memory, task {SEQUENTIAL_TASKS}", lambda m: mebibytes(m.memory_last)),
    (f"Memory, {PARALLEL_TASKS} at once", lambda m: mebibytes(m.memory_at_once)),
    (f"Tokens written to the cache, {SEQUENTIAL_TASKS} tasks", lambda m: f"{m.written:,}"),
    (f"Tokens read from the cache, {SEQUENTIAL_TASKS} tasks", lambda m: f"{m.read:,}"),
]


@click.command(cls=Command)
@json_option
@click.pass_context
def demo(ctx: click.Context, as_json: bool) -> None:
    """Compare a pool with `claude -p`: offline, at no cost, in less than a minute.

    Runs the real Claude Code CLI in a temporary home and project. The model is a small program
    on this machine: the demo needs no key and no network, and it does not touch your files. A
    pool runs tasks one after another and then at the same time; after that, `claude -p` runs the
    same tasks. Every number in the table is measured in this run. Tokens are counted as the real
    service counts them.

    \b
    Example:
      agent-pool demo
      agent-pool demo --json | jq '.[0].task'
    """
    cli = find_cli(load_command_settings(ctx, None))
    measurements = run_async(_measure_runners(cli))
    if as_json:
        print_json([asdict(measurement) for measurement in measurements])
        return
    out = console()
    out.print(_table(measurements))
    out.print(_legend(), style="dim")


async def _measure_runners(cli: Path) -> list[RunnerMeasurement]:
    progress = DemoProgress(console(err=True))
    echo(f"Claude Code {await cli_version(cli)} at {cli}\n", err=True)
    model, files = CountingModel(), project_files(max(SEQUENTIAL_TASKS, PARALLEL_TASKS))
    async with offline_sandbox(cli, files, model) as sandbox:
        pool = make_pool(sandbox.settings, sandbox.environ)
        try:
            async with pool:
                with_pool = await measure_runner(PoolRunner(sandbox, pool), model, progress)
        finally:
            # A second Ctrl-C can interrupt the close above; this ends every process at once.
            pool.kill()
    # A new sandbox, because the prompt cache of the first one is no longer empty.
    async with offline_sandbox(cli, files, model) as sandbox:
        with_processes = await measure_runner(ProcessRunner(sandbox, cli), model, progress)
    return [with_pool, with_processes]


def _table(measurements: list[RunnerMeasurement]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("Measured")
    for measurement in measurements:
        table.add_column(measurement.name, justify="right", no_wrap=True)
    for heading, cell in ROWS:
        table.add_row(heading, *map(cell, measurements))
    return table


def _legend() -> str:
    return f"""
Every answer was checked and is right. The model answers at once; while {PARALLEL_TASKS} tasks run
at once, it takes {seconds_text(REPLY_DELAY_SECONDS)} for each of its two replies. The memory of the
pool is that of its processes after the task; that of `claude -p` is the peak of its process. The
prompt cache belongs to the service, so both read from it."""
