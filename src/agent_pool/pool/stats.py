"""The figures of a pool, counted from its events.

Tokens and cost are counted when a turn ends. So an interrupted task counts too, a moment after its
caller got the error. A process that is killed during a turn reports no figures for that turn, and
the pool does not estimate them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent_pool.events import (
    Ended,
    Event,
    StrayResult,
    TurnEnded,
    WorkerReady,
    WorkerReset,
    WorkerRetired,
    WorkerStateChanged,
)
from agent_pool.models import (
    NO_REUSE,
    NO_USAGE,
    AgentStats,
    PoolStats,
    RateLimits,
    ReuseStats,
    Usage,
)


@dataclass(slots=True)
class _AgentTotals:
    tasks: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    running: float = 0.0
    waited: float = 0.0
    usage: Usage = NO_USAGE
    cost_usd: float = 0.0


class StatsCounter:
    """Counts events; the counts only grow."""

    def __init__(self) -> None:
        self._spawned = 0
        self._resets: Counter[str] = Counter()
        self._strays = 0
        self._retired: Counter[str] = Counter()
        self._reuse = NO_REUSE
        self._agents: defaultdict[tuple[str, str], _AgentTotals] = defaultdict(_AgentTotals)

    def record(self, event: Event) -> None:
        """Count one event."""
        match event:
            case Ended() if event.worker:  # a task that got no worker is not counted
                self._record_task(event)
            case TurnEnded():
                totals = self._totals(event)
                totals.usage += event.usage
                totals.cost_usd += event.cost_usd
            case WorkerStateChanged(previous=""):
                self._spawned += 1
            case WorkerReady(seconds=float(seconds)):
                # A spare has no such time: a part of its start comes before it has an agent.
                self._reuse += ReuseStats(starts=1, starting=seconds)
            case WorkerReset(way=way):
                self._resets[way] += 1
            case StrayResult():
                self._strays += 1
            case WorkerRetired(reason=reason):
                self._retired[reason] += 1
            case _:
                pass

    def _record_task(self, event: Ended) -> None:
        self._reuse += ReuseStats(tasks=int(event.reused))
        totals = self._totals(event)
        totals.tasks += 1
        totals.waited += event.waited
        totals.running += event.running
        if event.failure:
            totals.failed[event.failure] += 1

    def _totals(self, event: Ended | TurnEnded) -> _AgentTotals:
        return self._agents[event.agent, event.project]

    def snapshot(
        self,
        *,
        uptime: float,
        waiting: int,
        paused: float,
        workers: Mapping[str, int],
        pause_reason: str = "",
        rate_limits: RateLimits | None = None,
    ) -> PoolStats:
        """Return the figures so far, with these that only the pool knows; see `PoolStats`."""
        return PoolStats(
            uptime=uptime,
            waiting=waiting,
            paused=paused,
            workers=workers,
            spawned=self._spawned,
            resets=self._resets.total(),
            rewinds=self._resets["rewind"],
            strays=self._strays,
            retired=dict(self._retired),
            agents=tuple(
                AgentStats(
                    agent=agent,
                    project=project,
                    tasks=totals.tasks,
                    failed=dict(totals.failed),
                    running=totals.running,
                    waited=totals.waited,
                    usage=totals.usage,
                    cost_usd=totals.cost_usd,
                )
                for (agent, project), totals in sorted(self._agents.items())
            ),
            reuse=self._reuse,
            pause_reason=pause_reason,
            rate_limits=rate_limits,
        )
