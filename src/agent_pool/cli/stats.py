"""`agent-pool stats`: every running pool of this user, asked now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent_pool import AgentStats, PoolStats, PoolStatus, SilentPool, running_pools
from agent_pool.cli.command import Command, json_option, run_async
from agent_pool.cli.output import console, count, megabytes, print_json, printable, seconds

INTERVAL: Final = 1.0
"""Seconds between two looks of --watch."""

Found = Sequence[PoolStatus | SilentPool]


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
@json_option
def stats(as_json: bool, watch: bool) -> None:
    """Show every running pool of this user: workers, tasks, tokens, cost and memory.

    A pool is one MCP server of a Claude Code session, or one program that uses the library. Each
    is asked now; one that does not answer within two seconds is named as such.

    \b
    Example:
      agent-pool stats
      agent-pool stats --watch
      agent-pool stats --json | jq '.total.cost_usd'
    """
    if watch:
        _watch(console(), as_json=as_json)
        return
    found = run_async(running_pools())
    if as_json:
        print_json(as_object(found))
    else:
        console().print(report(found))


def _watch(screen: Console, *, as_json: bool) -> None:
    if as_json:
        raise click.UsageError("--watch is for people and --json for programs; choose one")
    if not screen.is_terminal:
        raise click.UsageError("--watch needs a terminal; without it, stats shows one look")
    try:
        run_async(_show_again_and_again(screen))
    except KeyboardInterrupt:
        return  # how it is meant to end


async def _show_again_and_again(screen: Console) -> None:
    with Live(console=screen, auto_refresh=False) as live:
        while True:
            live.update(report(await running_pools()), refresh=True)
            await asyncio.sleep(INTERVAL)


def as_object(found: Found) -> dict[str, Any]:
    """What was found, for programs."""
    pools, silent = _sorted(found)
    return {
        "pools": [pool.as_json() for pool in pools],
        "silent": [{**asdict(pool), "folder": str(pool.folder)} for pool in silent],
        "total": _total(pools).as_json(),
    }


def _sorted(found: Found) -> tuple[list[PoolStatus], list[SilentPool]]:
    pools = [pool for pool in found if isinstance(pool, PoolStatus)]
    silent = [pool for pool in found if isinstance(pool, SilentPool)]
    return sorted(pools, key=lambda pool: (pool.project, pool.pid)), silent


def _total(pools: Sequence[PoolStatus]) -> AgentStats:
    return sum((pool.stats.total for pool in pools), AgentStats(agent=""))


# For people


def report(found: Found) -> RenderableType:
    """What was found, for people."""
    pools, silent = _sorted(found)
    parts: list[RenderableType] = [part for pool in pools for part in _pool(pool)]
    parts += [Text(f"{pool.folder}: {pool.why}", style="yellow") for pool in silent]
    if not parts:
        return Text("No pool of yours is running here.")
    return Group(*parts, _sum(pools))


def _pool(pool: PoolStatus) -> list[RenderableType]:
    stats = pool.stats
    title = Text.assemble(
        (printable(pool.program), "bold"), f", pid {pool.pid}, in {printable(pool.project)}, "
    )
    title.append(f"up {seconds(stats.uptime)}; processes started: {stats.spawned:,}")
    parts: list[RenderableType] = [title, *_troubles(stats)]
    if pool.workers:
        parts.append(_workers(pool))
    if stats.agents:
        parts.append(_agents(stats))
    return [*parts, Text(spared(stats)), Text()]


def _troubles(stats: PoolStats) -> list[Text]:
    said = []
    if stats.waiting:
        said.append(f"{count(stats.waiting, 'task')} waiting for a worker")
    if stats.paused:
        said.append(f"the API refused work and is left alone for {seconds(stats.paused)}")
    return [Text(f"  {'; '.join(said)}", style="yellow")] if said else []


def _workers(pool: PoolStatus) -> Table:
    table = _table("Worker", "Agent", "State", "Up", right=("Pid", "Tasks", "Memory", "Cost"))
    for worker in pool.workers:
        table.add_row(
            printable(worker.worker),
            Text(printable(worker.agent) or "(spare)", style="cyan"),
            printable(f"{worker.state}, {worker.note}" if worker.note else worker.state),
            seconds(worker.uptime),
            str(worker.pid or ""),
            f"{worker.tasks:,}",
            megabytes(worker.rss),
            _dollars(worker.cost_usd),
        )
    return table


def _agents(stats: PoolStats) -> Table:
    figures = ("Tasks", "Failed", "Tokens in", "Written", "Read", "Out", "Hit rate", "Cost")
    table = _table("Agent", right=figures)
    for agent in stats.agents:
        table.add_row(Text(printable(agent.agent), style="cyan"), *_figures(agent))
    if len(stats.agents) > 1:
        table.add_row("all", *_figures(stats.total), style="bold")
    return table


def _figures(agent: AgentStats) -> list[str]:
    usage = agent.usage
    tokens = (
        usage.input_tokens,
        usage.cache_write_tokens,
        usage.cache_read_tokens,
        usage.output_tokens,
    )
    return [
        f"{agent.tasks:,}",
        f"{sum(agent.failed.values()):,}",
        *(f"{number:,}" for number in tokens),
        f"{agent.cache_hit_rate:.0%}",
        _dollars(agent.cost_usd),
    ]


def spared(stats: PoolStats) -> str:
    """What using processes again saved, in words."""
    reuse = stats.reuse
    said = f"  {reuse.tasks:,} of {count(stats.total.tasks, 'task')} ran on a used process"
    if reuse.mean_start is None or reuse.seconds_saved is None:
        return f"{said}; no start of a process was measured"
    return (
        f"{said}; {count(reuse.starts, 'measured start')} took {seconds(reuse.mean_start)} "
        f"on average: {seconds(reuse.seconds_saved)} of starting saved"
    )


def _sum(pools: Sequence[PoolStatus]) -> Text:
    total = _total(pools)
    workers = [worker for pool in pools for worker in pool.workers]
    parts = (
        count(len(pools), "pool"),
        count(len(workers), "worker"),
        megabytes(sum(worker.rss for worker in workers)),
        count(total.tasks, "task"),
        f"{sum(total.failed.values()):,} failed",
        f"hit rate {total.cache_hit_rate:.0%}",
        _dollars(total.cost_usd),
    )
    return Text(", ".join(parts), style="bold")


def _table(*left: str, right: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for heading in left:
        table.add_column(heading, overflow="fold")
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _dollars(value: float) -> str:
    return f"${value:,.4f}"
