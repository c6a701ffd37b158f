"""Who gets which worker, and when one must go: the pool's brain, without any IO.

Stimuli are methods; each takes the time as `now`, changes the state in one go and returns the
actions that its shell must perform. Waiting callers meet workers in one place, `_balance`:

1. stop idle workers that must not or need not stay;
2. serve waiting callers with idle workers, first come first served within an agent;
3. start workers for those still waiting, fairly between agents, making room if need be;
4. start replacements for workers that are to retire, before they go;
5. keep what was asked to be warm, and spares.

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
    Grant,
    Reason,
    Refuse,
    Reset,
    Ticket,
    TicketState,
    WorkerState,
)
from agent_pool.pool.policy import (
    START_ATTEMPTS,
    Limits,
    Record,
    backoff,
    has_idled_out,
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
        self._retry_at: dict[str, float] = {}
        self._spare_flags = ""
        self._tickets = 0
        self.paused_until = float("-inf")

    @property
    def limits(self) -> Limits:
        """The numbers that it obeys now."""
        return self._roster.limits

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
        if self.waiting >= self.limits.max_waiting and self._roster.idle_worker(ref.name) is None:
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

    def release(self, worker: str, now: float) -> Actions:
        """A caller has used its worker and gives it back."""
        record = self.workers.get(worker)
        if record is None or record.state is not WorkerState.LEASED:
            return self._balance(now)
        record.tasks += 1
        record.retiring = record.retiring or retire_reason(record, self.limits, now)
        reason = self._reason_not_to_reset(record)
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
        self._retry_at.pop(agent, None)
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
            self._roster.move(record, WorkerState.IDLE, now)
            self._failures.pop(record.agent, None)
            self._retry_at.pop(record.agent, None)
        return self._balance(now)

    def start_failed(self, worker: str, fatal: bool, now: float) -> Actions:
        """A worker did not get ready; `fatal` if the next one would not either."""
        record = self.workers.get(worker)
        if record is None or record.state is WorkerState.STOPPING:
            return self._balance(now)
        out: Actions = [self._roster.stop(record, Reason.START_FAILED)]
        if record.ref is None:
            self._spare_flags = ""
            return [*out, *self._balance(now)]
        agent = record.agent
        self._failures[agent] += 1
        self._retry_at[agent] = now + backoff(self._failures[agent])
        if fatal or self._failures[agent] >= START_ATTEMPTS:
            self._roster.warm.pop(agent, None)
            out += self._refuse_all(agent, Reason.START_FAILED)
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
            over = [r for r in self._roster.living() if r.rss > self.limits.max_rss_hard]
            out += [self._roster.stop(record, Reason.MAX_RSS) for record in over]
        if self.limits.max_total_rss is not None:
            out += self._roster.shed(self.limits.max_total_rss)
        return [*out, *self._balance(now)]

    # Stimuli from outside

    def tick(self, now: float) -> Actions:
        """Time has passed."""
        return self._balance(now)

    def pause(self, until: float, now: float) -> Actions:
        """Give out no worker before `until`: the API refuses work for now."""
        self.paused_until = max(self.paused_until, until)
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
        out: Actions = []
        for agent in self._queues.agents():
            out += self._refuse_all(agent, Reason.CLOSED)
        leased = (WorkerState.LEASED,)
        out += [
            self._roster.stop(r, Reason.CLOSED)
            for r in self._roster.living()
            if r.state not in leased
        ]
        return out

    # Where waiting callers meet workers

    def _balance(self, now: float) -> Actions:
        out: Actions = []
        if not self.is_closed:
            self._stop_unwanted(now, out)
            self._serve(now, out)
            self._start_for_waiting(now, out)
            self._start_replacement(now, out)
            self._keep_warm(now, out)
            self._keep_spares(now, out)
        return out

    def _stop_unwanted(self, now: float, out: Actions) -> None:
        for record in self._roster.in_state(WorkerState.IDLE):
            record.retiring = record.retiring or retire_reason(record, self.limits, now)
            reason = self._reason_to_stop(record, now)
            if reason is not None:
                out.append(self._roster.stop(record, reason))

    def _reason_to_stop(self, record: Record, now: float) -> Reason | None:
        if record.unfit:
            return record.unfit
        if record.ref is not None and not self._roster.is_current(record):
            return Reason.EDITED
        if record.retiring and (record.ref is None or self._roster.has_relief(record)):
            return record.retiring
        if has_idled_out(record, self.limits, now) and not self._roster.is_kept_warm(record):
            if record.ref is None:
                self._spare_flags = ""  # nobody has needed it: no other is to take its place
            return Reason.MAX_IDLE
        return None

    def _serve(self, now: float, out: Actions) -> None:
        if now < self.paused_until:
            return
        for agent in self._queues.agents():
            while (record := self._roster.idle_worker(agent)) is not None:
                ticket = self._queues.pop(agent)
                if ticket is None:
                    break
                ticket.state, ticket.worker = TicketState.GRANTED, record.name
                self._roster.move(record, WorkerState.LEASED, now)
                if record.flags in self._roster.no_reset:
                    record.retiring = Reason.NO_RESET
                out.append(Grant(ticket, record.name))

    def _start_for_waiting(self, now: float, out: Actions) -> None:
        promised = len(self._roster.in_state(WorkerState.STOPPING))
        rooms: Counter[str] = Counter()  # workers that will start once there is room for them
        while (agent := self._neediest(rooms, now)) is not None:
            if self._start(self._roster.refs[agent], now, out):
                continue
            rooms[agent] += 1
            if promised > 0:
                promised -= 1
            elif (victim := self._roster.victim(agent)) is not None:
                out.append(self._roster.stop(victim, Reason.ROOM))

    def _neediest(self, rooms: Counter[str], now: float) -> str | None:
        """The agent whose callers lack workers most: fewest workers, then longest waiting."""
        if self._roster.starting() >= self.limits.spawn_concurrency:
            return None
        needy = []
        for agent in self._queues.agents():
            count = self._roster.count(agent) + rooms[agent]
            coming = self._roster.coming(agent) + rooms[agent]
            lacks = self._queues.length(agent) > coming and count < self.limits.max_size
            if lacks and self._may_start(agent, now):
                needy.append((count, self._queues.head(agent), agent))
        return min(needy)[2] if needy else None

    def _may_start(self, agent: str, now: float) -> bool:
        return now >= self._retry_at.get(agent, now)

    def _start(self, ref: AgentRef, now: float, out: Actions) -> bool:
        """Start a worker, from a spare if there is one; False if there is no room."""
        spare = self._roster.parked_spare(ref.flags)
        if spare is not None:
            out.append(self._roster.adopt(spare, ref, now))
        elif self._roster.has_room():
            out.append(self._roster.spawn(ref, ref.flags, now)[1])
        else:
            return False
        return True

    def _start_replacement(self, now: float, out: Actions) -> None:
        """One at a time, and even one above the limits: the old one goes when it is ready."""
        starting = self._roster.in_state(WorkerState.STARTING)
        full = len(self._roster.workers) > self.limits.max_workers
        if full or any(record.replaces for record in starting):
            return
        for record in self._roster.living():
            ref = record.ref
            if ref is not None and self._wants_replacement(record, now):
                spare = self._roster.parked_spare(ref.flags)
                if spare is not None:
                    spare.replaces = record.name
                    out.append(self._roster.adopt(spare, ref, now))
                else:
                    successor, action = self._roster.spawn(ref, ref.flags, now)
                    successor.replaces = record.name
                    out.append(action)
                return

    def _wants_replacement(self, record: Record, now: float) -> bool:
        return (
            record.retiring is not None
            and self._roster.is_current(record)
            and self._may_start(record.agent, now)
            and not self._roster.has_relief(record)
            and not self._roster.is_replaced(record)
        )

    def _keep_warm(self, now: float, out: Actions) -> None:
        for agent, wanted in self._roster.warm.items():
            while (
                self._roster.count(agent) < min(wanted, self.limits.max_size)
                and self._may_start(agent, now)
                and self._roster.starting() < self.limits.spawn_concurrency
                and self._start(self._roster.refs[agent], now, out)
            ):
                pass

    def _keep_spares(self, now: float, out: Actions) -> None:
        have = sum(r.ref is None for r in self._roster.living())
        while (
            self._spare_flags
            and have < self.limits.spares
            and self._roster.has_room()
            and self._roster.starting() < self.limits.spawn_concurrency
        ):
            out.append(self._roster.spawn(None, self._spare_flags, now)[1])
            have += 1

    def _reason_not_to_reset(self, record: Record) -> Reason | None:
        if self.is_closed:
            return Reason.CLOSED
        if record.unfit:
            return record.unfit
        if record.flags in self._roster.no_reset:
            return Reason.NO_RESET
        if not self._roster.is_current(record):
            return Reason.EDITED
        if record.retiring and self._roster.has_relief(record):
            return record.retiring
        return Reason.ROOM if self._must_yield(record) else None

    def _must_yield(self, record: Record) -> bool:
        """Whether an agent without any worker has waited longer than this one's next caller."""
        if self._roster.has_room() or self._roster.in_state(WorkerState.STOPPING):
            return False
        return any(
            self._queues.head(agent) < self._queues.head(record.agent)
            and not self._roster.count(agent)
            and self._roster.victim(agent) is None
            for agent in self._queues.agents()
        )

    # Changes

    def _know(self, ref: AgentRef) -> None:
        self._roster.refs[ref.name] = ref
        self._spare_flags = ref.flags

    def _unused(self, worker: str, now: float) -> None:
        record = self.workers.get(worker)
        if record is not None and record.state is WorkerState.LEASED:
            self._roster.move(record, WorkerState.IDLE, now)

    def _refuse_all(self, agent: str, reason: Reason) -> list[Refuse]:
        refused = []
        while (ticket := self._queues.pop(agent)) is not None:
            ticket.state = TicketState.REFUSED
            refused.append(Refuse(ticket, reason))
        return refused

    def _refuse_if_closed(self) -> None:
        if self.is_closed:
            raise PoolClosed("the pool is closed; open a new one")
