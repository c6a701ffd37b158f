"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from agent_pool import find_cli
from agent_pool.cli.command import WIDTH, Command, load_command_settings, run_async
from agent_pool.cli.output import console, print_json
from benchmarks.agents import agents
from benchmarks.builds import builds
from benchmarks.cluster import cluster
from benchmarks.comparison import METHOD_LABELS, PAIR, QUICK_PLAN, BenchmarkPlan, compare_methods
from benchmarks.daemon import daemon
from benchmarks.dashboard import dashboard
from benchmarks.machine import describe_machine
from benchmarks.memory import memory
from benchmarks.processes import processes
from benchmarks.report import ACCEPTANCE, TARGETS, legend, tables
from benchmarks.results import BenchmarkResult
from benchmarks.tasks import tasks


class BenchmarkGroup(Command, click.Group):
    """A group whose errors are one message, like those of the commands of agent-pool."""


def _parse_methods(ctx: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    """Return the named methods in the order of METHOD_LABELS."""
    asked = METHOD_LABELS if value is None else [name.strip() for name in value.split(",")]
    for name in asked:
        if name not in METHOD_LABELS:
            known = ", ".join(METHOD_LABELS)
            raise click.BadParameter(f"no method is called {name!r}; choose from {known}")
    return [name for name in METHOD_LABELS if name in asked]


def _check_plot(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Refuse --plot without matplotlib now, and not after minutes of measuring."""
    if value is not None and find_spec("matplotlib") is None:
        raise click.BadParameter("matplotlib is not installed: pip install -e '.[bench]'")
    return value


@click.group(
    cls=BenchmarkGroup,
    invoke_without_command=True,
    subcommand_metavar="[agents | builds OTHER | cluster | daemon | dashboard | memory | "
    "processes | tasks] [OPTIONS]",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
)
@click.option(
    "--methods",
    callback=_parse_methods,
    metavar="NAME,…",
    help=f"The methods to measure: {', '.join(METHOD_LABELS)}. Default: all.",
)
@click.option("--rounds", type=click.IntRange(min=1), help="Timed tasks per method. Default: 30.")
@click.option(
    "--pairs",
    type=click.IntRange(min=0),
    help="Timed pairs of a pooled task and a bare warm turn. Default: 200.",
)
@click.option("--quick", is_flag=True, help="Measure less: two minutes instead of seven.")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    help="Write the figures as JSON into a file; - writes them to stdout instead of the tables.",
)
@click.option(
    "--plot",
    "plot_file",
    metavar="FILE",
    callback=_check_plot,
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Draw time and memory into an SVG file (needs matplotlib).",
)
@click.pass_context
def benchmarks(
    ctx: click.Context,
    methods: list[str],
    rounds: int | None,
    pairs: int | None,
    quick: bool,
    json_file: str | None,
    plot_file: Path | None,
) -> None:
    """Compare agent-pool with other ways to run an agent's tasks.

    It is offline and costs nothing. The real Claude Code CLI runs in a temporary home and project
    with a model that is a small program on this machine. It needs about seven minutes on two idle
    cores. On a busy machine, trust only the ratios.

    \b
    Methods:
      bare        turns of one warm Claude Code process, without a pool: the lower bound
      pool        agent-pool as a Python library
      mcp         agent-pool as an MCP server
      claude-p    a new `claude -p` for each task
      sdk         a new query() of the Agent SDK for each task
      agent-tool  the native Agent tool inside one session

    The acceptance figure is the time of a pooled task divided by the time of a bare warm turn.
    Both are measured in alternation in this run.

    \b
    Example:
      python -m benchmarks --quick
      python -m benchmarks --json bench.json --plot bench.svg
      python -m benchmarks --methods bare,pool --pairs 500
      python -m benchmarks memory --tasks 100
      python -m benchmarks agents
      python -m benchmarks cluster
      python -m benchmarks daemon
      python -m benchmarks processes
      python -m benchmarks tasks
    """
    if ctx.invoked_subcommand is not None:
        _refuse_options(ctx)
        return
    plan = replace(QUICK_PLAN if quick else BenchmarkPlan(), methods=methods)
    plan = plan if rounds is None else replace(plan, rounds=rounds)
    plan = plan if pairs is None else replace(plan, pairs=pairs)
    cli = find_cli(load_command_settings(ctx, None))
    result = run_async(_measure(plan, cli, lambda line: click.echo(line, err=True)))
    if json_file == "-":
        print_json(as_json(result))
    else:
        _print(result)
    if json_file and json_file != "-":
        Path(json_file).write_text(json.dumps(as_json(result), indent=2) + "\n", encoding="utf-8")
    if plot_file:
        # Imported late, because matplotlib is optional and slow to import.
        from benchmarks.plot import write_plot

        write_plot(result, plot_file)


benchmarks.add_command(agents)
benchmarks.add_command(builds)
benchmarks.add_command(cluster)
benchmarks.add_command(daemon)
benchmarks.add_command(dashboard)
benchmarks.add_command(memory)
benchmarks.add_command(processes)
benchmarks.add_command(tasks)


def _refuse_options(ctx: click.Context) -> None:
    """Refuse options before the name of a subcommand, where they would have no effect."""
    for name in ctx.params:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name.partition('_')[0]} has no effect on {ctx.invoked_subcommand}; "
                f"see {ctx.command_path} {ctx.invoked_subcommand} --help"
            )


async def _measure(plan: BenchmarkPlan, cli: Path, show: Callable[[str], None]) -> BenchmarkResult:
    machine = await describe_machine(cli)  # before the run, which changes the load
    result = await compare_methods(plan, cli, show)
    result.machine = machine
    return result


def _print(result: BenchmarkResult) -> None:
    out = console()
    for table in tables(result):
        out.print(table)
    out.print(legend(result))


def as_json(result: BenchmarkResult) -> dict[str, Any]:
    """Return the figures for programs: seconds, bytes and tokens, and the ratios with targets."""
    shown = asdict(result)
    for name, method in result.methods.items():
        if spread := method.spread:
            shown["methods"][name] |= asdict(spread)
    shown["ratios"] = [
        {**asdict(target), **asdict(found)}
        for target in TARGETS
        if (found := result.ratio(target.one, target.other))
    ]
    if paired := result.paired(*PAIR):
        shown["acceptance"] = {
            **asdict(paired),
            "bound": ACCEPTANCE.bound,
            "met": ACCEPTANCE.is_met(paired.ratio.median),
        }
    return shown
