"""The command `demo` and its table of results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from agent_pool import cli_version, find_cli
from agent_pool.cli.command import Command, json_option, load_command_settings, run_async
from agent_pool.cli.connect import make_pool
from agent_pool.cli.demo.measurement import (
    ROUNDS,
    RunnerMeasurement,
    measure_runner,
)
from agent_pool.cli.demo.progress import DemoProgress
from agent_pool.cli.demo.runners import PoolRunner, ProcessRunner
from agent_pool.cli.demo.scenario import AT_ONCE, CountingModel, project_files
from agent_pool.cli.listing import Column, Listing, Paragraph
from agent_pool.cli.offline import offline_sandbox
from agent_pool.cli.output import console, echo, print_json
from agent_pool.text import count, mebibytes, seconds_text

ROWS: Final[list[tuple[str, Callable[[RunnerMeasurement], str]]]] = [
    ("Ready for the tasks", lambda m: seconds_text(m.warm_up) if m.warm_up else "-"),
    ("All tasks", lambda m: seconds_text(m.seconds)),
    ("One task, median", lambda m: seconds_text(m.task)),
    ("Processes started", lambda m: f"{m.processes:,}"),
    ("Memory of all processes, peak", lambda m: mebibytes(m.memory)),
    ("Tokens written to the cache", lambda m: f"{m.written:,}"),
    ("Tokens read from the cache", lambda m: f"{m.read:,}"),
]


SETTINGS: Final = {"max_workers": AT_ONCE}
"""The pool has at most one process for each task that runs at once, as `claude -p` has."""
LEGEND: Final = (
    "Every answer was checked and is right. The model answers at once, so the times are those that "
    "Claude Code and the pool add; a real model adds its seconds in both columns. The prompt cache "
    "belongs to the service, so both read from it."
)


@click.command(cls=Command)
@json_option
@click.pass_context
def demo(ctx: click.Context, as_json: bool) -> None:
    """Compare a pool with `claude -p`: offline, at no cost, in less than a minute.

    Runs the real Claude Code CLI in a temporary home and project. The model is a small program
    on this machine: the demo needs no key and no network, and it does not touch your files. A
    pool runs many tasks of several agents, some at the same time; then `claude -p` runs the same
    tasks. Every number in the table is measured in this run. Tokens are counted as the real
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
    out.print()
    out.print(Paragraph(LEGEND, "dim"))
    out.print()
    out.print(Paragraph(closing_sentence(*measurements), "bold"))


async def _measure_runners(cli: Path) -> list[RunnerMeasurement]:
    progress = DemoProgress(console(err=True))
    echo(f"Claude Code {await cli_version(cli)} at {cli}\n", err=True)
    model, files = CountingModel(), project_files(ROUNDS)
    async with offline_sandbox(cli, files, model) as sandbox:
        pool = make_pool(sandbox.settings.with_overrides(SETTINGS), sandbox.environ)
        try:
            async with pool:
                with_pool = await measure_runner(PoolRunner(sandbox, pool), progress)
        finally:
            # A second Ctrl-C can interrupt the close above; this ends every process at once.
            pool.kill()
    # A new sandbox, because the prompt cache of the first one is no longer empty.
    async with offline_sandbox(cli, files, model) as sandbox:
        with_processes = await measure_runner(ProcessRunner(sandbox, cli), progress)
    return [with_pool, with_processes]


def _table(measurements: list[RunnerMeasurement]) -> Listing:
    listing = Listing(Column("Measured"), *(Column(one.name, right=True) for one in measurements))
    for heading, cell in ROWS:
        listing.add(heading, *map(cell, measurements), style="")
    return listing


def closing_sentence(pool: RunnerMeasurement, single: RunnerMeasurement) -> str:
    """Compare the two runners in words, by their figures alone."""
    ratio = single.seconds / pool.seconds
    faster = f" Once ready, the pool was {ratio:.1f} times as fast." if ratio >= 1.05 else ""
    return (
        f"{count(pool.tasks, 'task')} of {count(pool.agents, 'agent')}: the pool answered them in "
        f"{seconds_text(pool.seconds)}, after {seconds_text(pool.warm_up)} of preparation, with "
        f"{_processes(pool)}; claude -p in {seconds_text(single.seconds)}, with "
        f"{_processes(single)}.{faster}"
    )


def _processes(measured: RunnerMeasurement) -> str:
    started = count(measured.processes, "process", "processes")
    return f"{started} and at most {mebibytes(measured.memory)}"
