"""When a worker must go, and how long a failing agent waits. Time and chance are arguments."""

from __future__ import annotations

from dataclasses import dataclass

from agent_pool.pool.actions import AgentRef, Reason, WorkerState

START_ATTEMPTS = 3
"""Starts of an agent that may fail in a row before its waiting callers are told."""
BACKOFF = (0.5, 30.0)
"""Seconds before the next start after the first failure, doubled each time, and at the most."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers that the core obeys; None means no limit. See `Settings` for their meaning."""

    max_size: int = 4
    max_workers: int = 8
    max_waiting: int = 100
    spares: int = 0
    spawn_concurrency: int = 4
    max_tasks: int | None = None
    max_tasks_jitter: float = 0.0
    max_lifetime: float | None = None
    max_lifetime_jitter: float = 0.0
    max_idle: float | None = None
    max_rss: int | None = None
    max_rss_hard: int | None = None
    max_total_rss: int | None = None


@dataclass(slots=True)
class Record:
    """A worker as the core knows it.

    Attributes:
        task_limit, expires: its own share of the limits, jitter applied.
        retiring: why it is to go as soon as a replacement is there or nobody needs it.
        replaces: the worker whose place it takes.
        unfit: why it must not be granted again.
    """

    name: str
    number: int
    ref: AgentRef | None
    flags: str
    state: WorkerState
    born: float
    task_limit: float
    expires: float
    since: float
    tasks: int = 0
    rss: int = 0
    retiring: Reason | None = None
    replaces: str = ""
    unfit: Reason | None = None
    is_parked: bool = False

    @property
    def agent(self) -> str:
        """The agent's name, empty for a spare."""
        return self.ref.name if self.ref else ""


def retire_reason(record: Record, limits: Limits, now: float) -> Reason | None:
    """Why a worker should be replaced when that costs nobody anything, if it should."""
    if record.tasks >= record.task_limit:
        return Reason.MAX_TASKS
    if now >= record.expires:
        return Reason.MAX_LIFETIME
    if limits.max_rss is not None and record.rss > limits.max_rss:
        return Reason.MAX_RSS
    return None


def has_idled_out(record: Record, limits: Limits, now: float) -> bool:
    """Whether an idle worker has been so for longer than `max_idle`."""
    return limits.max_idle is not None and now - record.since >= limits.max_idle


def shortened(limit: float | None, jitter: float, chance: float) -> float:
    """A limit less up to `jitter` of it, so that workers do not all go at once."""
    return float("inf") if limit is None else limit * (1 - jitter * chance)


def backoff(failures: int) -> float:
    """Seconds to wait after this many failed starts in a row."""
    first, most = BACKOFF
    doublings = min(max(0, failures - 1), 64)  # enough for any bound; a float ends at 1024
    return float(min(most, first * 2.0**doublings))
