"""The running pools of this user, asked now, and their figures for people and as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from rich.console import Group, RenderableType
from rich.text import Text

from agent_pool import (
    AgentPoolError,
    AgentStats,
    PoolStats,
    PoolStatus,
    RateLimits,
    SilentPool,
    TaskFilter,
    running_pools,
)
from agent_pool.cli.connect import find_tasks, usable_daemon
from agent_pool.cli.listing import Column, Listing, Paragraph
from agent_pool.text import count, mebibytes, printable, seconds_text
from agent_pool.views.rows import node_text

ANSWER_SECONDS: Final = 2.0
"""The time that the daemon has for its figures, as other pools have."""
MAX_COUNTED: Final = 1000

FoundPools: TypeAlias = Sequence[PoolStatus | SilentPool]


@dataclass(frozen=True, slots=True)
class DaemonFigures:
    """The daemon among the pools.

    Attributes:
        pid: its process id, which is that of its pool too.
        input_required: how many tasks wait for a person's permission.
    """

    pid: int
    input_required: int

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


async def find_pools() -> tuple[FoundPools, DaemonFigures | None]:
    """Return all running pools, and the daemon among them; None if none can be used."""
    found = await running_pools()
    daemon, address = find_tasks(), usable_daemon()
    if daemon is None or address is None:
        return found, None
    try:
        async with asyncio.timeout(ANSWER_SECONDS), daemon:
            workers, stats = await daemon.workers(), await daemon.stats()
            asking = await daemon.tasks(TaskFilter(states=("input_required",), limit=MAX_COUNTED))
    except (AgentPoolError, TimeoutError) as error:
        reason = str(error) or f"it did not answer within {ANSWER_SECONDS:.0f} s"
        return [*found, SilentPool(f"the daemon, pid {address.pid}", reason)], None
    # Its own figures: its socket for programs is that of the pool below its store, where no task
    # waits; and it is not found there if it has another TMPDIR.
    pools, silent = _split(found)
    others = [one for one in pools if one.pid != address.pid]
    project = next((one.project for one in pools if one.pid == address.pid), "")
    status = PoolStatus(
        address.pid, "agent-pool daemon", project, address.version, tuple(workers), stats
    )
    return [status, *others, *silent], DaemonFigures(address.pid, len(asking))


def pools_as_json(found: FoundPools) -> dict[str, Any]:
    """Return the pools, the pools that could not be asked, and the sum, as JSON values."""
    pools, silent = _split(found)
    return {
        "pools": [pool.as_json() for pool in pools],
        "silent": [pool.as_json() for pool in silent],
        "total": _total(pools).as_json(),
    }


def _split(found: FoundPools) -> tuple[list[PoolStatus], list[SilentPool]]:
    pools = [pool for pool in found if isinstance(pool, PoolStatus)]
    silent = [pool for pool in found if isinstance(pool, SilentPool)]
    return sorted(pools, key=lambda pool: (pool.project, pool.pid)), silent


def _total(pools: Sequence[PoolStatus]) -> AgentStats:
    return sum((pool.stats.total for pool in pools), AgentStats(agent=""))


# For people


def format_pools(found: FoundPools, daemon: DaemonFigures | None = None) -> RenderableType:
    """Return the pools as tables, with a sum of all pools at the end."""
    pools, silent = _split(found)
    parts: list[RenderableType] = []
    if daemon is not None and daemon.input_required:
        waiting = count(daemon.input_required, "task")
        parts.append(
            Paragraph(f"{waiting} waiting for your permission: agent-pool tasks", "yellow")
        )
    parts += _format_each(pools, silent)
    if not parts:
        return Text("No pool of yours is running here.")
    return Group(*parts, format_sum(found))


def format_others(found: FoundPools, daemon: DaemonFigures | None) -> RenderableType | None:
    """Return the pools beside the daemon as tables; None if there are none."""
    pools, silent = _split(found)
    others = [one for one in pools if daemon is None or one.pid != daemon.pid]
    parts = _format_each(others, silent)
    return Group(*parts) if parts else None


def _format_each(pools: Sequence[PoolStatus], silent: Sequence[SilentPool]) -> list[RenderableType]:
    parts = [part for pool in pools for part in _format_pool(pool)]
    return [*parts, *(Paragraph(f"{pool.folder}: {pool.reason}", "yellow") for pool in silent)]


def _format_pool(pool: PoolStatus) -> list[RenderableType]:
    stats = pool.stats
    program = printable(pool.program)
    title = (
        f"{program}, pid {pool.pid}{_place(pool)}, up {seconds_text(stats.uptime)}; "
        f"processes started: {stats.spawned:,}"
    )
    parts: list[RenderableType] = [
        Paragraph(title, bold=len(program)),
        *_format_delays(stats),
    ]
    parts += [
        Paragraph(node_text(node), "" if node.state == "ready" else "yellow")
        for node in stats.nodes
    ]
    if pool.workers:
        parts.append(_worker_table(pool))
    if stats.agents:
        parts.append(_agent_table(pool))
    return [*parts, Paragraph(reuse_text(stats)), Text()]


def _place(pool: PoolStatus) -> str:
    return f", in {pool.project}" if pool.project else ""


def _format_delays(stats: PoolStats) -> list[Paragraph]:
    """Return a line on waiting tasks, a pause and the account's limits, as far as there are any."""
    delays = [printable(stats.cluster_problem)] if stats.cluster_problem else []
    if stats.waiting:
        delays.append(f"{count(stats.waiting, 'task')} waiting for a worker")
    if stats.paused:
        why = printable(stats.pause_reason) or "the API refused work"
        delays.append(f"{why}, so no task is started for the next {seconds_text(stats.paused)}")
    if stats.rate_limits is not None:
        delays.append(limits_text(stats.rate_limits))
    return [Paragraph("; ".join(delays), "yellow")] if delays else []


def limits_text(limits: RateLimits) -> str:
    """Return how much of the account's limits is used."""
    windows = {"five hours": limits.five_hour, "seven days": limits.seven_day}
    used = [f"{one.utilization:.0%} of {name}" for name, one in windows.items() if one]
    return f"used of the account's limits: {', '.join(used) or printable(limits.status)}"


def _worker_table(pool: PoolStatus) -> Listing:
    has_nodes = any(worker.node for worker in pool.workers)
    headings = ("Worker", *(["Node"] if has_nodes else []), "Agent", "State", "Up")
    table = _table(*headings, right=("Pid", "Tasks", "Memory", "Cost"))
    for worker in pool.workers:
        table.add(
            worker.worker,
            *([worker.node] if has_nodes else []),
            _agent_cell(worker.agent or "(spare)", worker.project, pool),
            f"{worker.state}, {worker.note}" if worker.note else worker.state,
            seconds_text(worker.uptime),
            str(worker.pid or ""),
            f"{worker.tasks:,}",
            f"{mebibytes(worker.rss)} {worker.memory}".strip(),
            _dollars(worker.cost_usd),
        )
    return table


def _agent_table(pool: PoolStatus) -> Listing:
    stats = pool.stats
    headings = ("Tasks", "Failed", "Tokens sent", "Written", "Read", "Received", "Hit rate", "Cost")
    table = _table("Agent", right=headings)
    for agent in stats.agents:
        name = _agent_cell(agent.agent, agent.project, pool)
        table.add(name, *_figure_cells(agent))
    if len(stats.agents) > 1:
        table.add("all", *_figure_cells(stats.total), style="bold")
    return table


def _agent_cell(name: str, project: str, pool: PoolStatus) -> str:
    """Return an agent's name, with its project if that is not the pool's own."""
    # Two projects of one pool can each define an agent of this name.
    return f"{name} in {project}" if project not in ("", pool.project) else name


def _figure_cells(agent: AgentStats) -> list[str]:
    usage = agent.usage
    tokens = (
        usage.prompt_tokens,
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


def reuse_text(stats: PoolStats) -> str:
    """Return in words how many tasks used a process again, and how much time that saved."""
    reuse = stats.reuse
    used = f"{reuse.tasks:,} of {count(stats.total.tasks, 'task')} ran on a used process"
    if reuse.mean_start is None or reuse.seconds_saved is None:
        return f"{used}; no start of a process was measured"
    return (
        f"{used}; {count(reuse.starts, 'measured start')} took {seconds_text(reuse.mean_start)} "
        f"on average: {seconds_text(reuse.seconds_saved)} of starting saved"
    )


def format_sum(found: FoundPools) -> Paragraph:
    """Return the sum of all pools on one line."""
    pools, _ = _split(found)
    total = _total(pools)
    workers = [worker for pool in pools for worker in pool.workers]
    parts = (
        count(len(pools), "pool"),
        count(len(workers), "worker"),
        mebibytes(sum(worker.rss for worker in workers)),
        count(total.tasks, "task"),
        f"{sum(total.failed.values()):,} failed",
        f"hit rate {total.cache_hit_rate:.0%}",
        _dollars(total.cost_usd),
    )
    return Paragraph(", ".join(parts), "bold")


def _table(*left: str, right: Sequence[str]) -> Listing:
    return Listing(*map(Column, left), *(Column(heading, right=True) for heading in right))


def _dollars(value: float) -> str:
    return f"${value:,.4f}"
