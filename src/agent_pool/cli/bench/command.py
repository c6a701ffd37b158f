"""The command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from agent_pool import find_cli
from agent_pool.cli.bench.figures import Result
from agent_pool.cli.bench.machine import machine
from agent_pool.cli.bench.measure import NAMES, QUICK, Plan, measure
from agent_pool.cli.bench.plot import plot
from agent_pool.cli.bench.report import TARGETS, legend, tables
from agent_pool.cli.command import Command, run_async, settings_of
from agent_pool.cli.output import console, print_json


def _names(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    """The ways in their own order, whatever the user's."""
    asked = NAMES if value is None else [name.strip() for name in value.split(",")]
    for name in asked:
        if name not in NAMES:
            raise click.BadParameter(f"no way is called {name!r}; there are {', '.join(NAMES)}")
    return [name for name in NAMES if name in asked]


@click.command(cls=Command)
@click.option(
    "--ways",
    callback=_names,
    metavar="NAME,…",
    help=f"Which ways: {', '.join(NAMES)}. Default: all.",
)
@click.option("--rounds", type=click.IntRange(min=1), help="Timed tasks of each way. Default: 30.")
@click.option("--quick", is_flag=True, help="Less of everything: a minute instead of some.")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    help="Write the figures as JSON; - for stdout, instead of the tables.",
)
@click.option(
    "--plot",
    "plot_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Draw time and memory into an SVG file.",
)
@click.pass_context
def bench(
    ctx: click.Context,
    ways: list[str],
    rounds: int | None,
    quick: bool,
    json_file: str | None,
    plot_file: Path | None,
) -> None:
    """Measure the pool beside every other way to give an agent tasks.

    Offline and at no cost: the real Claude Code CLI works in a temporary home and project with a
    model that is a small program on this machine. The ways: one warm process with nothing around
    it, which is the floor; the pool as a library and through MCP; a new `claude -p` and a new
    query() of the Agent SDK for each task; the native Agent tool in one session. Some minutes on
    two idle cores; on a busy machine trust the ratios only.

    \b
    Example:
      agent-pool bench --quick
      agent-pool bench --json bench.json --plot bench.svg
      agent-pool bench --ways bare,pool --rounds 100
    """
    plan = replace(QUICK if quick else Plan(), ways=ways)
    plan = plan if rounds is None else replace(plan, rounds=rounds)
    cli = find_cli(settings_of(ctx, None))
    result = run_async(_measure(plan, cli, lambda line: click.echo(line, err=True)))
    if json_file == "-":
        print_json(as_json(result))
    else:
        _print(result)
    if json_file and json_file != "-":
        Path(json_file).write_text(json.dumps(as_json(result), indent=2) + "\n", encoding="utf-8")
    if plot_file:
        plot_file.write_text(plot(result), encoding="utf-8")


async def _measure(plan: Plan, cli: Path, tell: Callable[[str], None]) -> Result:
    found = await machine(cli)
    result = await measure(plan, cli, tell)
    result.machine = found
    return result


def _print(result: Result) -> None:
    out = console()
    for table in tables(result):
        out.print(table)
    out.print(legend(result))


def as_json(result: Result) -> dict[str, Any]:
    """The figures for programs: seconds, bytes and tokens, with the ratios and their targets."""
    shown = asdict(result)
    for name, figures in result.ways.items():
        shown["ways"][name] |= {
            "median": figures.median,
            "p90": figures.p90,
            "least": figures.least,
        }
    shown["ratios"] = [
        {**asdict(target), "median": found[0], "least": found[1], "cpu": found[2]}
        for target in TARGETS
        if (found := result.ratio(target.one, target.other))
    ]
    return shown
