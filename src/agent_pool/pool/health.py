"""What is wrong with a running turn, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from agent_pool.claude.events import Retrying
from agent_pool.claude.worker import Worker
from agent_pool.errors import TaskFailed, TaskTimeout
from agent_pool.pool.actions import Reason
from agent_pool.pool.callers import mib
from agent_pool.pool.policy import Limits, Record

log = logging.getLogger("agent_pool")

OVERLOADED: Final = (429, 529)
SIGNED_OUT: Final = (401, 403)
RETRY_GRACE: Final = 1.0
"""Seconds after a retry in which its outcome gets known; new work is not to fall in between."""


def tell_stop(worker: Worker, reason: Reason) -> None:
    """Log why a worker goes; loudly only if it did something that a reset does not undo."""
    log.info("%s is stopped: %s", worker.who, reason)
    if worker.taints:
        log.warning("%s is replaced: %s", worker.who, "; ".join(worker.taints))


def in_vain(event: Retrying) -> str:
    """What `list` shows of a worker whose requests are refused, or reach nobody, for now."""
    answers = f"answers {event.status}" if event.status else "cannot be reached"
    return f"the API {answers} ({event.error}); try {event.attempt + 1} in {event.delay:.0f} s"


def signed_out(worker: Worker, event: Retrying) -> TaskFailed:
    """The error of a task whose requests will never be accepted."""
    return TaskFailed(
        f"{worker.who}: the API refuses the sign-in with {event.status} ({event.error}); "
        "sign in again with `claude`, or correct ANTHROPIC_API_KEY"
    )


def why_stopped(record: Record, reason: Reason, limits: Limits) -> str:
    """What the task of a worker is told that the pool stops."""
    if reason is not Reason.MAX_RSS:
        return f"the pool retired it ({reason})"
    return (
        f"its processes used {mib(record.rss)}, over max_rss_hard "
        f"({mib(limits.max_rss_hard or 0)}); give it a smaller task or raise the limit"
    )


def end_stalled_turns(
    workers: Iterable[Worker], trees: Mapping[str, Collection[Any]], bound: float | None
) -> None:
    """Fail the turns of workers that have said nothing for `bound` seconds.

    Waiting for a tool whose process lives, or for somebody's permission, is no stall.
    """
    for worker in list(workers):
        in_tool = worker.open_tools and len(trees.get(worker.name, ())) > 1
        waits = in_tool or worker.is_asking
        if bound and worker.is_in_turn and not waits and worker.silence > bound:
            worker.fail_turn(
                TaskTimeout(
                    f"{worker.who} said nothing for {bound:g} s (setting stall_timeout), so its "
                    "task was stopped; try again"
                )
            )
