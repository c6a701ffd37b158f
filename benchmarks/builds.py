"""Compares the pool of this checkout with the pool of another one.

    git worktree add ../other COMMIT
    python -m benchmarks builds ../other [--rounds 10]

Both builds take turns, block by block, so that the noise of the machine affects both alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from agent_pool import find_cli
from agent_pool.cli.command import Command, load_command_settings, run_async
from benchmarks.method_process import MethodProcess, start_method

BLOCK: Final = 20
"""Tasks of one block."""
AT_ONCE: Final = (1, 4)
HERE: Final = Path(__file__).parents[1]


@dataclass(slots=True)
class Build:
    """One build with some settings, and what was measured of it.

    Attributes:
        label: its name in the table.
        root: its checkout.
        settings: its settings as environment variables.
        method: its running pool.
        rates: tasks a second of each block, by the tasks at once.
        cpu: seconds of processor time of everything for one task, of each block with one at once.
    """

    label: str
    root: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    method: MethodProcess | None = None
    rates: dict[int, list[float]] = field(default_factory=lambda: {one: [] for one in AT_ONCE})
    cpu: list[float] = field(default_factory=list)

    async def run_block(self, at_once: int) -> None:
        """Run one block of tasks and note its figures."""
        assert self.method is not None
        before = self.method.snapshot().cpu
        _, seconds = await self.method.run_tasks(BLOCK, at_once)
        self.rates[at_once].append(BLOCK / seconds)
        if at_once == 1:
            self.cpu.append((self.method.snapshot().cpu - before) / BLOCK)


@click.command(cls=Command)
@click.argument("other", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rounds", type=click.IntRange(1), default=10, help="Blocks of each. Default: 10.")
@click.pass_context
def builds(ctx: click.Context, other: Path, rounds: int) -> None:
    """Compare tasks a second and processor time with the build in the checkout OTHER.

    A block has 20 tasks, one or four at a time. This build runs with lean and with fast workers.

    \b
    Example:
      git worktree add ../other v0.1.0
      python -m benchmarks builds ../other
    """
    run_async(_compare(find_cli(load_command_settings(ctx, None)), other.resolve(), rounds))


async def _compare(cli: Path, other: Path, rounds: int) -> None:
    compared = [
        Build("the other build", other),
        *(Build(f"this build, {kind}", HERE, _memory(kind)) for kind in ("lean", "fast")),
    ]
    async with AsyncExitStack() as stack:
        for build in compared:
            running = start_method("pool", cli, root=build.root, variables=build.settings)
            build.method = await stack.enter_async_context(running)
            for at_once in AT_ONCE:  # starts the workers; not counted
                await build.method.run_tasks(BLOCK, at_once)
        for number in range(rounds):
            for at_once in AT_ONCE:
                for build in (*compared[number % 3 :], *compared[: number % 3]):
                    await build.run_block(at_once)
    _show(compared)


def _memory(kind: str) -> dict[str, str]:
    return {"AGENT_POOL_WORKER_MEMORY": kind}


def _show(compared: list[Build]) -> None:
    heads = ("tasks a second, one at once", "four at once", "processor time of a task")
    click.echo(f"{'':20}" + "".join(f"{head:>32}" for head in heads))
    base = [*compared[0].rates.values(), compared[0].cpu]
    for build in compared:
        cells = []
        for values, of_base in zip([*build.rates.values(), build.cpu], base, strict=True):
            value = statistics.median(values)
            unit = f"{value * 1000:.0f} ms" if values is build.cpu else f"{value:.1f}"
            cells.append(f"{unit:>20} {value / statistics.median(of_base):>10.2f}x")
        click.echo(f"{build.label:20}" + "".join(cells))
    click.echo(f"Medians of {len(base[0])} blocks of {BLOCK} tasks; x: divided by the other build.")
