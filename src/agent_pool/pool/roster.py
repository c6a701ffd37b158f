"""The workers of a pool and what can be asked of them; `core` decides, this remembers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from agent_pool.pool.actions import (
    Adopt,
    AgentRef,
    Reason,
    Spawn,
    Stop,
    WorkerState,
)
from agent_pool.pool.policy import Limits, Record, shortened


class Roster:
    """All workers that are not gone, by name; a stopping one still counts, as it holds memory.

    Attributes:
        limits: the numbers to obey.
        refs: the current definition of each agent that was ever asked for.
        warm: how many workers of an agent are to be kept at least.
        no_reset: the flags whose workers serve one task each.
        retired: how many workers went, by reason.
    """

    def __init__(self, limits: Limits, chance: Callable[[], float]) -> None:
        self.limits = limits
        self.workers: dict[str, Record] = {}
        self.refs: dict[str, AgentRef] = {}
        self.warm: dict[str, int] = {}
        self.no_reset: set[str] = set()
        self.retired: Counter[Reason] = Counter()
        self._chance = chance
        self._spawned = 0

    # Questions

    def living(self) -> list[Record]:
        """All that are not stopping."""
        return [r for r in self.workers.values() if r.state is not WorkerState.STOPPING]

    def in_state(self, state: WorkerState) -> list[Record]:
        """All in this state, spares included."""
        return [r for r in self.workers.values() if r.state is state]

    def count(self, agent: str) -> int:
        """Living workers of an agent."""
        return sum(r.agent == agent for r in self.living())

    def starting(self) -> int:
        """Workers that are being started now."""
        return len(self.in_state(WorkerState.STARTING))

    def coming(self, agent: str) -> int:
        """Workers of an agent that will be idle soon; a start counts until it is known to fail, so
        that the next one waits as it should."""
        starting = self.in_state(WorkerState.STARTING)
        resetting = (r for r in self.in_state(WorkerState.RESETTING) if not r.unfit)
        return sum(r.agent == agent for r in (*starting, *resetting))

    def has_room(self) -> bool:
        """Whether another worker may be started."""
        return len(self.workers) < self.limits.max_workers and self._has_memory(0)

    def has_ample_memory(self) -> bool:
        """Whether there is memory for one more as large as the largest: what nobody waits for is
        not to drive others out."""
        return self._has_memory(max((r.rss for r in self.workers.values()), default=0))

    def _has_memory(self, reserve: int) -> bool:
        most = self.limits.max_total_rss
        total = sum(r.rss for r in self.workers.values())
        return most is None or not self.workers or total + reserve < most

    def idle_worker(self, agent: str) -> Record | None:
        """The idle worker that was used last, so that those of a burst idle out.

        None also while `max_size` of the agent's workers are leased: a replacement may stand
        ready beside them, but is no reason to work on more tasks at once.
        """
        leased = sum(r.agent == agent for r in self.in_state(WorkerState.LEASED))
        if leased >= self.limits.max_size:
            return None
        ref = self.refs.get(agent)
        idle = [r for r in self.in_state(WorkerState.IDLE) if r.ref == ref and not r.unfit]
        idle = [r for r in idle if r.ref is not None]
        return max(idle, key=lambda r: (r.retiring is None, r.since, r.number), default=None)

    def parked_spare(self, flags: str) -> Record | None:
        """A spare that can become an agent with these flags."""
        spares = (r for r in self.living() if r.is_parked and r.flags == flags and not r.unfit)
        return next(spares, None)

    def has_relief(self, record: Record) -> bool:
        """Whether its replacement is ready, or another one is idle that is not to go itself."""
        return any(
            r is not record
            and r.ref == record.ref
            and not r.unfit
            and (r.replaces == record.name or (r.state is WorkerState.IDLE and not r.retiring))
            for r in self.living()
            if r.state is not WorkerState.STARTING
        )

    def is_served(self, agent: str) -> bool:
        """Whether a worker that has been started will take the agent's next task."""
        started = (WorkerState.IDLE, WorkerState.LEASED, WorkerState.RESETTING)
        return any(
            r.agent == agent
            and r.state in started
            and self.is_current(r)
            and not r.unfit
            and r.retiring is not Reason.NO_RESET
            and r.flags not in self.no_reset
            for r in self.workers.values()
        )

    def is_kept_warm(self, record: Record) -> bool:
        """Whether without it fewer workers of its agent would be ready than are to be kept."""
        starting = self.in_state(WorkerState.STARTING)
        ready = self.count(record.agent) - sum(r.agent == record.agent for r in starting)
        return ready <= self.warm.get(record.agent, 0)

    def is_current(self, record: Record) -> bool:
        """Whether it is what the agent's definition says now."""
        return self.refs.get(record.agent) == record.ref

    def is_replaced(self, record: Record) -> bool:
        """Whether another worker was started to take its place."""
        return any(other.replaces == record.name for other in self.workers.values())

    def victim(self, agent: str) -> Record | None:
        """Whose idle worker makes room for `agent`: a spare, else the least recently used.

        Those that are kept warm come last: who waits needs a worker more than who might.
        """
        idle = [r for r in self.in_state(WorkerState.IDLE) if r.agent != agent]
        return min(
            idle,
            key=lambda r: (r.ref is not None, self.is_kept_warm(r), r.since, r.number),
            default=None,
        )

    # Changes

    def spawn(self, ref: AgentRef | None, flags: str, now: float) -> tuple[Record, Spawn]:
        """A new worker, blank if `ref` is None."""
        self._spawned += 1
        limits = self.limits
        lifetime = shortened(limits.max_lifetime, limits.max_lifetime_jitter, self._chance())
        record = Record(
            name=f"worker-{self._spawned}",
            number=self._spawned,
            ref=ref,
            flags=flags,
            state=WorkerState.STARTING,
            born=now,
            task_limit=shortened(limits.max_tasks, limits.max_tasks_jitter, self._chance()),
            expires=now + lifetime,
            since=now,
        )
        self.workers[record.name] = record
        return record, Spawn(record.name, ref, flags)

    def adopt(self, spare: Record, ref: AgentRef, now: float) -> Adopt:
        """Make a spare an agent."""
        spare.ref = ref
        spare.is_parked = False
        self.move(spare, WorkerState.STARTING, now)
        return Adopt(spare.name, ref)

    def stop(self, record: Record, reason: Reason) -> Stop:
        """Let a worker serve no more."""
        record.state = WorkerState.STOPPING
        record.is_parked = False
        self.retired[reason] += 1
        return Stop(record.name, reason)

    def shed(self, most: int) -> list[Stop]:
        """Stop idle workers, spares and the least recently used first, until the rest has `most`
        bytes."""
        out = []
        total = sum(r.rss for r in self.living())
        idle = self.in_state(WorkerState.IDLE)
        for record in sorted(idle, key=lambda r: (r.ref is not None, r.since)):
            if total > most:
                total -= record.rss
                out.append(self.stop(record, Reason.MAX_TOTAL_RSS))
        return out

    @staticmethod
    def move(record: Record, state: WorkerState, now: float) -> None:
        """Another state from now on."""
        record.state, record.since = state, now
