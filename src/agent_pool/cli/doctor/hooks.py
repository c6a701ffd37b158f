"""The check how long SessionStart hooks hold up the workers of running pools."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from agent_pool import PoolStatus, running_pools
from agent_pool.cli.doctor.findings import Finding
from agent_pool.text import seconds_text

SUBJECT: Final = "SessionStart hooks"
NOTICED_SECONDS: Final = 1.0
"""Hooks that take less time are not mentioned."""


async def check_hooks() -> AsyncIterator[Finding]:
    """Report the pools in which hooks take long, as their workers have measured it."""
    for pool in await running_pools():
        if isinstance(pool, PoolStatus) and (finding := hook_finding(pool)) is not None:
            yield finding


def hook_finding(pool: PoolStatus) -> Finding | None:
    """Return what the hooks of a pool cost; None if they are quick."""
    seconds = max((worker.hook_seconds for worker in pool.workers), default=0.0)
    if seconds < NOTICED_SECONDS:
        return None
    message = (
        f"they take {seconds_text(seconds)} at each start and each reset of a worker "
        f"(measured by the pool of process {pool.pid}, in {pool.project})"
    )
    advice = "make them faster, or let them run in the background (`&`)"
    return Finding(SUBJECT, "warning", message, advice)
