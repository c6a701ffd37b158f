"""Who gets which worker, and when one must go: the pool's brain, without any IO.

Stimuli are methods; each takes the time as `now`, changes the state in one go and returns the
actions that its shell must perform. Waiting callers meet workers in one place, `Balance`.

Promises, checked by a rule machine in the tests: never more workers than `max_workers`, plus one
while a replacement comes; a worker has one lease at the most; none is granted unless it is known to
be clean; nobody waits while a fitting worker is idle; every caller is served or refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from agent_pool.errors import PoolClosed, TooManyRequests
from agent_pool.pool.actions import (
    Action,
    AgentRef,
    Reason,
    Refuse,
    Reset,
    Ticket,
    TicketState,
    WorkerState,
)
from agent_pool.pool.balance import Balance
from agent_pool.pool.policy import (
    START_ATTEMPTS,
    Limits,
    Record,
    backoff,
    retire_reason,
)
from agent_pool.pool.queues import Queues
from agent_pool.pool.roster import Roster

Actions = list[Action]


class PoolCore:
    """The state of a pool.

    Args:
        limits: the numbers to obey.
        chance: a number from 0 to 1, asked for once or twice a worker; spreads their retirement.
    """

    def __init__(self, limits: Limits, chance: Callable[[], float] = lambda: 0.0) -> None:
        self.is_closed = False
        self._roster = Roster(limits, chance)
        self._queues = Queues()
        self._failures: Counter[str] = Counter()
        self._balancing = Balance(self._roster, self._queues)
        self._tickets = 0

    @property
    def limits(self) -> Limits:
        """The numbers that it obeys now."""
        return self._roster.limits

    @property
    def paused_until(self) -> float:
        """No worker is given out before this time."""
        return self._balancing.paused_until

    @property
    def workers(self) -> Mapping[str, Record]:
        """All workers that are not gone, by name; to be read, not changed."""
        return self._roster.workers

    @property
    def retired(self) -> Mapping[Reason, int]:
        """How many workers went, by reason."""
        return self._roster.retired

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._queues)

    def position(self, ticket: Ticket) -> int:
        """How many callers, this one included, wait for the agent up to this one."""
        return self._queues.position(ticket)

    # Stimuli from callers

    def request(self, ref: AgentRef, now: float) -> tuple[Ticket, Actions]:
        """Somebody wants a worker.

        Raises:
            PoolClosed: the pool is closed.
            TooManyRequests: it would have to wait, and `max_waiting` callers do.
        """
        self._refuse_if_closed()
        self._know(ref)
        if self.waiting >= self.limits.max_waiting and not self._balancing.can_serve(ref.name, now):
            raise TooManyRequests(
                f"{self.waiting} callers are waiting already (setting max_waiting), so this task "
                f"for {ref.name!r} was not queued; try again later"
            )
        self._tickets += 1
        ticket = Ticket(self._tickets, ref, now)
        self._queues.append(ticket)
        return ticket, self._balance(now)

    def abandon(self, ticket: Ticket, now: float) -> Actions:
        """The caller waits no longer; its ticket may have been granted meanwhile."""
        if ticket.state is TicketState.WAITING:
            self._queues.remove(ticket)
        elif ticket.state is TicketState.GRANTED:
            self._unused(ticket.worker, now)
        ticket.state = TicketState.GONE
        return self._balance(now)

    def unused(self, worker: str, now: float) -> Actions:
        """A caller gives its worker back without having said anything to it."""
        self._unused(worker, now)
        return self._balance(now)

    def release(self, worker: str, now: float, tasks: int = 1) -> Actions:
        """A caller has used its worker, for so many tasks, and gives it back."""
        record = self.workers.get(worker)
        if record is None or record.state is not WorkerState.LEASED:
            return self._balance(now)
        record.tasks += tasks
        record.retiring = record.retiring or retire_reason(record, self.limits, now)
        reason = (
            Reason.CLOSED if self.is_closed else self._balancing.reason_not_to_reset(record, now)
        )
        if reason is not None:
            return [self._roster.stop(record, reason), *self._balance(now)]
        self._roster.move(record, WorkerState.RESETTING, now)
        return [Reset(worker), *self._balance(now)]

    def warm(self, ref: AgentRef, count: int, now: float) -> Actions:
        """Keep at least `count` workers of an agent."""
        self._refuse_if_closed()
        self._know(ref)
        self._roster.warm[ref.name] = max(count, self._roster.warm.get(ref.name, 0))
        return self._balance(now)

    def retire(self, agent: str, now: float) -> Actions:
        """Stop all workers of an agent, and forget that it was to be kept warm."""
        self._roster.warm.pop(agent, None)
        self._balancing.retry_at.pop(agent, None)
        self._failures.pop(agent, None)
        stops = [
            self._roster.stop(r, Reason.ASKED) for r in self._roster.living() if r.agent == agent
        ]
        return [*stops, *self._balance(now)]

    # Stimuli from workers

    def started(self, worker: str, now: float) -> Actions:
        """A worker is ready; a spare is parked."""
        record = self.workers.get(worker)
        if record is not None and record.state is WorkerState.STARTING:
            record.is_parked = record.ref is None
            self._roster.move(record, WorkerState.IDLE, self._idle_since(record, now))
            self._failures.pop(record.agent, None)
            self._balancing.retry_at.pop(record.agent, None)
        return self._balance(now)

    def start_failed(self, worker: str, fatal: bool, now: float) -> Actions:
        """A worker did not get ready; `fatal` if the next one would not either."""
        record = self.workers.get(worker)
        if record is None or record.state is WorkerState.STOPPING:
            return self._balance(now)
        out: Actions = [self._roster.stop(record, Reason.START_FAILED)]
        if record.ref is None:
            self._balancing.spare_flags = ""
            return [*out, *self._balance(now)]
        agent = record.agent
        self._put_off(agent, now)
        if fatal or self._failures[agent] >= START_ATTEMPTS:
            self._roster.warm.pop(agent, None)
            out += self._refuse_unless_served(agent, Reason.START_FAILED)
        return [*out, *self._balance(now)]

    def was_reset(self, worker: str, clean: bool, now: float) -> Actions:
        """A reset has ended; only a clean worker is granted again."""
        record = self.workers.get(worker)
        if record is None or record.state is not WorkerState.RESETTING:
            return self._balance(now)
        if clean and not record.unfit:
            self._roster.move(record, WorkerState.IDLE, now)
            return self._balance(now)
        cannot = Reason.NO_RESET if record.flags in self._roster.no_reset else Reason.TAINTED
        return [self._roster.stop(record, record.unfit or cannot), *self._balance(now)]

    def unfit(self, worker: str, reason: Reason, now: float) -> Actions:
        """A worker must not serve again: it died, or did what a reset does not undo."""
        record = self.workers.get(worker)
        if record is not None:
            record.unfit = record.unfit or reason
        return self._balance(now)

    def stop(self, worker: str, reason: Reason, now: float) -> Actions:
        """End a worker now, leased or not."""
        record = self.workers.get(worker)
        if record is None or record.state is WorkerState.STOPPING:
            return self._balance(now)
        return [self._roster.stop(record, reason), *self._balance(now)]

    def gone(self, worker: str, now: float) -> Actions:
        """A stopped worker is no more."""
        self._roster.workers.pop(worker, None)
        return self._balance(now)

    def no_reset(self, flags: str, now: float) -> Actions:
        """Workers with these flags cannot be reset: from now on each serves one task."""
        self._roster.no_reset.add(flags)
        for record in self._roster.in_state(WorkerState.LEASED):
            if record.flags == flags:
                record.retiring = record.retiring or Reason.NO_RESET
        return self._balance(now)

    def sampled(self, rss: Mapping[str, int], now: float) -> Actions:
        """The memory of the workers, in bytes of their whole process trees."""
        for worker, size in rss.items():
            if worker in self.workers:
                self.workers[worker].rss = size
        out: Actions = []
        if self.limits.max_rss_hard is not None:
            for record in self._roster.living():
                if record.rss > self.limits.max_rss_hard:
                    out += self._stop_too_large(record, now)
        if self.limits.max_total_rss is not None:
            out += self._roster.shed(self.limits.max_total_rss)
        return [*out, *self._balance(now)]

    # Stimuli from outside

    def tick(self, now: float) -> Actions:
        """Time has passed."""
        return self._balance(now)

    def pause(self, until: float, now: float) -> Actions:
        """Give out no worker before `until`: the API refuses work for now."""
        self._balancing.paused_until = max(self.paused_until, until)
        return self._balance(now)

    def resize(self, limits: Limits, now: float) -> Actions:
        """Other numbers from now on."""
        self._roster.limits = limits
        return self._balance(now)

    def drain(self, now: float) -> Actions:
        """Replace every worker, each when it costs nobody anything."""
        for record in self._roster.living():
            record.retiring = record.retiring or Reason.DRAINED
        return self._balance(now)

    def close(self, now: float) -> Actions:
        """Refuse who waits, stop who is idle; leased workers stop when they are given back."""
        self.is_closed = True
        self._roster.warm.clear()
        living = self._roster.living()
        unleased = [record for record in living if record.state is not WorkerState.LEASED]
        stops = [self._roster.stop(record, Reason.CLOSED) for record in unleased]
        return [*stops, *self._balance(now)]

    def halt(self) -> None:
        """Nothing is started or given out any more; the next stimulus refuses who waits."""
        self.is_closed = True

    # Inside

    def _balance(self, now: float) -> Actions:
        if not self.is_closed:
            return self._balancing.run(now)
        out: Actions = []
        for agent in self._queues.agents():
            out += self._refuse_all(agent, Reason.CLOSED)
        idle = self._roster.in_state(WorkerState.IDLE)
        return [*out, *(self._roster.stop(record, Reason.CLOSED) for record in idle)]

    def _idle_since(self, record: Record, now: float) -> float:
        """Since when a started worker is: one in the place of an idle one has its elder's idle
        time, or an agent that nobody asks for would be replaced for ever."""
        elder = self.workers.get(record.replaces)
        return elder.since if elder and elder.state is WorkerState.IDLE else now

    def _know(self, ref: AgentRef) -> None:
        self._roster.refs[ref.name] = ref
        self._balancing.spare_flags = ref.flags

    def _unused(self, worker: str, now: float) -> None:
        record = self.workers.get(worker)
        if record is not None and record.state is WorkerState.LEASED:
            self._roster.move(record, WorkerState.IDLE, now)

    def _put_off(self, agent: str, now: float) -> None:
        """The agent's next start waits for a while."""
        self._failures[agent] += 1
        self._balancing.retry_at[agent] = now + backoff(self._failures[agent])

    def _stop_too_large(self, record: Record, now: float) -> Actions:
        is_new = not record.tasks and record.state is not WorkerState.LEASED
        out: Actions = [self._roster.stop(record, Reason.MAX_RSS)]
        if is_new and record.ref is None:
            self._balancing.spare_flags = ""
        elif is_new:  # the next one would be as large
            self._put_off(record.agent, now)
            self._roster.warm.pop(record.agent, None)
            out += self._refuse_unless_served(record.agent, Reason.MAX_RSS)
        return out

    def _refuse_unless_served(self, agent: str, reason: Reason) -> list[Refuse]:
        """No further worker can be had; those that there are may serve all the same."""
        return [] if self._roster.is_served(agent) else self._refuse_all(agent, reason)

    def _refuse_all(self, agent: str, reason: Reason) -> list[Refuse]:
        refused = []
        while (ticket := self._queues.pop(agent)) is not None:
            ticket.state = TicketState.REFUSED
            refused.append(Refuse(ticket, reason))
        return refused

    def _refuse_if_closed(self) -> None:
        if self.is_closed:
            raise PoolClosed("the pool is closed; open a new one")
