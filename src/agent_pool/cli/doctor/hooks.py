"""The check how long SessionStart hooks hold up workers: those of running pools, or a new one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from agent_pool import AgentPoolError, PoolAPI, PoolStatus, running_pools
from agent_pool.cli.doctor.findings import Finding
from agent_pool.text import seconds_text

SUBJECT: Final = "SessionStart hooks"
NOTICED_SECONDS: Final = 1.0
"""Hooks that take less time are not mentioned."""
ADVICE: Final = "make them faster, or let them run in the background (`&`)"


async def check_hooks(pool: PoolAPI | None) -> AsyncIterator[Finding]:
    """Report how long the hooks take, as workers have measured it.

    Args:
        pool: a pool that is not open, to start a worker where no running pool has measured a hook;
            None to start none.
    """
    found = await running_pools()
    pools = [one for one in found if isinstance(one, PoolStatus)]
    for one in pools:
        if (finding := hook_finding(one)) is not None:
            yield finding
    is_measured = any(worker.hook_seconds for one in pools for worker in one.workers)
    if not is_measured and pool is not None and (measured := await _measure(pool)) is not None:
        yield measured


async def _measure(pool: PoolAPI) -> Finding | None:
    """Start a worker, which runs the hooks and sends no request; None without hooks."""
    agents = (await pool.agents()).usable
    if not agents:
        return None
    try:
        async with pool:
            worker = await pool.warmup(agents[0].name)
    except AgentPoolError as error:
        # Other problems of a start are the subject of other checks.
        is_slow = "SessionStart" in error.message
        return Finding(SUBJECT, "wrong", error.message, ADVICE) if is_slow else None
    if not worker.hook_seconds:
        return None
    is_long = worker.hook_seconds >= NOTICED_SECONDS
    message = (
        f"they take {seconds_text(worker.hook_seconds)} at each start and each reset of a worker "
        f"(measured with a new worker of {worker.agent})"
    )
    return Finding(SUBJECT, "warning" if is_long else "ok", message, ADVICE if is_long else "")


def hook_finding(pool: PoolStatus) -> Finding | None:
    """Return what the hooks of a pool cost; None if they are quick."""
    seconds = max((worker.hook_seconds for worker in pool.workers), default=0.0)
    if seconds < NOTICED_SECONDS:
        return None
    message = (
        f"they take {seconds_text(seconds)} at each start and each reset of a worker "
        f"(measured by the pool of process {pool.pid}, in {pool.project})"
    )
    return Finding(SUBJECT, "warning", message, ADVICE)
