"""The scheduler of a pool: it decides everything and does no IO.

# Theory

Stimuli are plain methods. Each takes the time as `now` (seconds of a clock that never goes back),
changes the state in one go, and returns the actions that the shell must perform. Some actions end
in another stimulus: `Spawn` and `Assign` in `started` or `start_failed`, `Reset` in
`reset_finished`, `Stop` in `removed`.

A worker is STARTING, IDLE, LEASED, RESETTING or STOPPING:

    Spawn -> STARTING -> IDLE -> LEASED -> RESETTING -> IDLE
             any state -> STOPPING -> removed

A worker belongs to one agent of one project (`AgentKey`) at a time. Where agents are roles
(`AgentSpec.is_role`), an idle worker can be assigned to another agent with its profile, once
`allow_switching` has told that its CLI then sends nothing of the earlier one; the project is a part
of the profile. Otherwise it belongs to its agent for life. A spare belongs to no agent: it is
started, blank and parked, and can be assigned to any agent with its profile. A spare of a base
profile (`AgentSpec.base`) belongs to no project either: it is claimed for the project of its agent
when it is assigned. Some projects cannot be claimed for; they get spares of their own profile.

A caller has a ticket in the queue of its agent. Tickets of an agent are served in their order.

After every stimulus the scheduler balances, in this order:

1. Stop idle workers that must not, or need not, stay: unfit ones, those of an edited definition
   that cannot take its new version, retiring ones that another worker relieves, those idle for
   `max_idle`.
2. Serve waiting callers with idle workers. First, an agent that has no worker and gets no new one
   takes one over from an agent whose callers have waited less long.
3. Get workers for callers that still wait. The agent with the fewest workers comes first, then the
   one that has waited longest. It takes over an idle worker of another agent, or gets a spare, or a
   new process. Where there is no room, an idle worker with another profile is stopped: spares
   first, then the longest unused, workers that are kept warm last.
4. Start a replacement for a worker that retires, one at a time, before the old one goes.
5. Start the workers that `keep_warm` asks for, then spares, if there is enough room and memory.

Promises, which the state machine test checks:

* At most `max_workers` workers, plus one while a replacement starts. A stopping worker counts: it
  still holds memory.
* A worker has at most one lease, and is granted only if it is clean.
* A worker is granted only to callers of its own agent, of its own project, in its present version.
* No caller waits while a fitting worker is idle, but for a paused pool and `max_size` leases.
* Every caller is served or refused in the end.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final

from agent_pool.errors import PoolClosed, TooManyRequests
from agent_pool.models import AgentKey
from agent_pool.pool.scheduler.model import (
    Action,
    AgentSpec,
    Assign,
    Grant,
    Limits,
    Refuse,
    Reset,
    RetireReason,
    Spawn,
    StateChange,
    Stop,
    Ticket,
    TicketState,
    WorkerRecord,
    WorkerState,
)

Actions = list[Action]

START_ATTEMPTS: Final = 3
"""Starts of an agent that can fail in a row before its waiting callers are refused."""
MAX_ZOMBIES: Final = 100
"""Ended processes of a worker's tasks that it has not reaped, above which it is replaced. They hold
no memory, but count against the limit of processes, which is some 500 in a small container."""
BACKOFF: Final = (0.5, 30.0)
"""Seconds before the next start after the first failure, doubled with each; and the maximum."""
_NO_TICKET: Final = float("inf")


class Scheduler:
    """The state of a pool.

    Args:
        limits: the numbers to obey.
        chance: returns a number from 0 to 1; called twice for each worker, to spread retirements.

    Attributes:
        limits: the numbers that it obeys now.
        is_closed: nothing is started or granted any more.
        paused_until: no worker is granted before this time, because the API refuses work.
        workers: all workers that are not removed, by name; to be read, not changed.
        retired: workers that were retired, by reason.
        changes: state changes of workers since the shell last emptied this list.
    """

    def __init__(self, limits: Limits, chance: Callable[[], float] = lambda: 0.0) -> None:
        self.limits = limits
        self.is_closed = False
        self.paused_until = float("-inf")
        self.workers: dict[str, WorkerRecord] = {}
        self.retired: Counter[RetireReason] = Counter()
        self.changes: list[StateChange] = []
        self._chance = chance
        self._specs: dict[AgentKey, AgentSpec] = {}  # the present version of each agent
        self._queues: dict[AgentKey, deque[Ticket]] = {}
        self._tickets = 0
        self._spawned = 0
        self._warm: dict[AgentKey, int] = {}  # workers to keep at least
        self._no_reset: set[str] = set()  # profiles whose workers serve one task each
        self._switchable: set[str] = set()  # profiles whose workers can become other agents
        self._spare_profile = ""  # of the spares to keep; empty for none
        self._unclaimable: set[str] = set()  # profiles that get no spare of no project
        self._failures: Counter[AgentKey] = Counter()  # starts that failed in a row
        self._retry_at: dict[AgentKey, float] = {}

    @property
    def waiting(self) -> int:
        """Return how many callers wait."""
        return sum(map(len, self._queues.values()))

    @property
    def agents(self) -> set[AgentKey]:
        """Return the agents that have a worker or a waiting caller, or are kept warm."""
        return set(self._specs)

    def position(self, ticket: Ticket) -> int:
        """Return a ticket's place in its queue, 1 for the next; 0 if it does not wait."""
        queue = self._queues.get(ticket.spec.key, ())
        return sum(other.number <= ticket.number for other in queue)

    # Stimuli from callers

    def request(
        self, spec: AgentSpec, now: float, earlier: Ticket | None = None
    ) -> tuple[Ticket, Actions]:
        """Queue a caller that wants a worker of this agent.

        Args:
            spec: the agent.
            now: the time.
            earlier: the ticket of a request that the caller repeats. It gets its old place, also in
                a full queue; None for a new caller.

        Raises:
            PoolClosed: the pool is closed.
            TooManyRequests: it would have to wait, and `max_waiting` callers wait already.
        """
        self._refuse_if_closed()
        self._define(spec)
        is_full = self.waiting >= self.limits.max_waiting and earlier is None
        if is_full and not self._can_serve(spec.key, now):
            self._forget_if_unused(spec.key)
            raise TooManyRequests(
                f"{self.waiting} callers are waiting already (setting max_waiting), so this task "
                f"for agent {spec.key.name!r} was not queued; try again later"
            )
        if earlier is None:
            self._tickets += 1
            ticket = Ticket(self._tickets, spec, now)
        else:
            ticket = Ticket(earlier.number, spec, earlier.since)
        self._enqueue(ticket)
        return ticket, self._balance(now)

    def _enqueue(self, ticket: Ticket) -> None:
        queue = self._queues.setdefault(ticket.spec.key, deque())
        place = sum(other.number < ticket.number for other in queue)
        queue.insert(place, ticket)

    def abandon(self, ticket: Ticket, now: float) -> Actions:
        """Forget a caller that left; it can have been granted a worker in the meantime."""
        if ticket.state is TicketState.WAITING:
            self._queues[ticket.spec.key].remove(ticket)
            self._drop_empty_queue(ticket.spec.key)
        elif ticket.state is TicketState.GRANTED:
            self._return_unused(ticket.worker, now)
        ticket.state = TicketState.ABANDONED
        self._forget_if_unused(ticket.spec.key)
        return self._balance(now)

    def return_unused(self, worker: str, now: float) -> Actions:
        """Take a worker back to which its caller sent no prompt."""
        self._return_unused(worker, now)
        return self._balance(now)

    def release(self, worker: str, now: float, tasks: int = 1) -> Actions:
        """Take a worker back that has done so many tasks for its caller."""
        record = self.workers.get(worker)
        # It can have been stopped during its task, for example at max_rss_hard.
        if record is None or record.state is not WorkerState.LEASED:
            return self._balance(now)
        record.tasks += tasks
        record.retiring = record.retiring or self._limit_reached(record, now)
        reason = RetireReason.CLOSED if self.is_closed else self._reason_not_to_reset(record, now)
        if reason is not None:
            return [self._stop(record, reason), *self._balance(now)]
        self._move(record, WorkerState.RESETTING, now)
        return [Reset(worker), *self._balance(now)]

    def keep_warm(self, spec: AgentSpec, count: int, now: float) -> Actions:
        """Keep at least `count` workers of an agent."""
        self._refuse_if_closed()
        self._define(spec)
        self._warm[spec.key] = max(count, self._warm.get(spec.key, 0))
        return self._balance(now)

    def retire(self, key: AgentKey, now: float) -> Actions:
        """Stop all workers of an agent, and forget its failures and that it is kept warm."""
        self._warm.pop(key, None)
        self._forget_if_unused(key)
        # A reset is the user's way to say that the cause of the failures is gone.
        self._retry_at.pop(key, None)
        self._failures.pop(key, None)
        own = [record for record in self._living() if record.key == key]
        return [*(self._stop(one, RetireReason.ASKED) for one in own), *self._balance(now)]

    # Stimuli from workers

    def started(self, worker: str, now: float) -> Actions:
        """Note that a worker is ready, or that a spare is parked."""
        record = self.workers.get(worker)
        if record is not None and record.state is WorkerState.STARTING:
            record.is_parked = record.spec is None
            record.is_switching = False
            self._move(record, WorkerState.IDLE, self._idle_since(record, now))
            if record.key is not None:
                self._failures.pop(record.key, None)
                self._retry_at.pop(record.key, None)
        return self._balance(now)

    def claim_refused(self, worker: str, now: float) -> Actions:
        """Note that a spare cannot be claimed for the project that it was assigned to."""
        record = self.workers.get(worker)
        if record is None or record.spec is None or record.state is not WorkerState.STARTING:
            return self._balance(now)
        self._unclaimable.add(record.spec.profile)
        self._spare_profile = record.spec.profile
        # It is as it was, and serves other projects.
        refused = record.spec.key
        record.profile, record.spec, record.replaces = record.spec.base, None, ""
        self._forget_if_unused(refused)
        record.is_parked = True
        self._move(record, WorkerState.IDLE, now)
        return self._balance(now)

    def forbid_claims(self, base: str, now: float) -> Actions:
        """Use no spares of no project any more: their CLI does not become what it should."""
        self._unclaimable.add(base)
        if self._spare_profile == base:
            self._spare_profile = ""
        for record in self._living():
            if record.spec is None and record.profile == base:
                record.unfit = record.unfit or RetireReason.DRAINED
        return self._balance(now)

    def start_failed(self, worker: str, fatal: bool, now: float) -> Actions:
        """Note that a worker did not get ready; `fatal` if the next one would fail as well."""
        record = self.workers.get(worker)
        if record is None or record.state is WorkerState.STOPPING:
            return self._balance(now)
        out: Actions = [self._stop(record, RetireReason.START_FAILED)]
        if record.key is None:
            self._spare_profile = ""  # the next spare would fail in the same way
            return [*out, *self._balance(now)]
        # Before the balance, which would start the next worker at once.
        self._delay_next_start(record.key, now)
        if fatal or self._failures[record.key] >= START_ATTEMPTS:
            # Otherwise `keep_warm` would start it again for ever.
            self._warm.pop(record.key, None)
            out += self._refuse_unless_served(record.key, RetireReason.START_FAILED)
        return [*out, *self._balance(now)]

    def reset_finished(self, worker: str, clean: bool, now: float) -> Actions:
        """Note the end of a reset; only a clean worker is granted again."""
        record = self.workers.get(worker)
        if record is None or record.state is not WorkerState.RESETTING:
            return self._balance(now)
        # It can have died after its reset was confirmed.
        if clean and not record.unfit:
            self._move(record, WorkerState.IDLE, now)
            return self._balance(now)
        cannot = record.profile in self._no_reset
        reason = RetireReason.NO_RESET if cannot else RetireReason.TAINTED
        return [self._stop(record, record.unfit or reason), *self._balance(now)]

    def mark_unfit(self, worker: str, reason: RetireReason, now: float) -> Actions:
        """Note that a worker must not serve again: it died, or a reset does not undo its task."""
        record = self.workers.get(worker)
        # A leased worker is stopped when it is released: its caller still holds it.
        if record is not None:
            record.unfit = record.unfit or reason
        return self._balance(now)

    def stop(self, worker: str, reason: RetireReason, now: float) -> Actions:
        """Stop a worker now, leased or not."""
        record = self.workers.get(worker)
        if record is None or record.state is WorkerState.STOPPING:
            return self._balance(now)
        return [self._stop(record, reason), *self._balance(now)]

    def removed(self, worker: str, now: float) -> Actions:
        """Note that all processes of a stopped worker have ended."""
        record = self.workers.pop(worker, None)
        if record is not None:
            self.changes.append(StateChange(worker, record.key, record.state, None))
            if record.key is not None:
                self._forget_if_unused(record.key)
        return self._balance(now)

    def forbid_reset(self, profile: str, now: float) -> Actions:
        """Give each worker with this profile one task only: its CLI does not forget."""
        self._no_reset.add(profile)
        # Marked now, so that the next process starts while this task runs.
        for record in self._in_state(WorkerState.LEASED):
            if record.profile == profile:
                record.retiring = record.retiring or RetireReason.NO_RESET
        return self._balance(now)

    def allow_switching(self, profile: str, now: float) -> Actions:
        """Let workers with this profile become other agents: their CLI leaves no trace."""
        self._switchable.add(profile)
        return self._balance(now)

    def memory_measured(self, rss: Mapping[str, int], now: float) -> Actions:
        """Note the memory of the workers: resident bytes of their process trees, by name."""
        for worker, size in rss.items():
            if worker in self.workers:
                self.workers[worker].rss = size
        out: Actions = []
        if self.limits.max_rss_hard is not None:
            for record in self._living():
                if record.rss > self.limits.max_rss_hard:
                    out += self._stop_too_large(record, now)
        if self.limits.max_total_rss is not None:
            out += self._stop_idle_above(self.limits.max_total_rss)
        return [*out, *self._balance(now)]

    def zombies_counted(self, zombies: Mapping[str, int], now: float) -> Actions:
        """Note how many ended processes stay until these workers end, by name."""
        for worker, count in zombies.items():
            if worker in self.workers:
                self.workers[worker].zombies = count
        return self._balance(now)

    # Stimuli from outside

    def tick(self, now: float) -> Actions:
        """Note that time has passed."""
        return self._balance(now)

    def pause(self, until: float, now: float) -> Actions:
        """Grant no worker before `until`: the API refuses work."""
        # A retry with a short delay must not end a longer pause.
        self.paused_until = max(self.paused_until, until)
        return self._balance(now)

    def resume(self, now: float) -> Actions:
        """Grant workers again before the end of a pause: the API accepts work."""
        self.paused_until = min(self.paused_until, now)
        return self._balance(now)

    def resize(self, limits: Limits, now: float) -> Actions:
        """Obey other numbers from now on."""
        self.limits = limits
        return self._balance(now)

    def drain(self, now: float) -> Actions:
        """Replace every worker, each when that costs no caller anything."""
        for record in self._living():
            record.retiring = record.retiring or RetireReason.DRAINED
        return self._balance(now)

    def close(self, now: float) -> Actions:
        """Refuse waiting callers and stop workers; leased ones stop when they are released."""
        self.is_closed = True
        warm = list(self._warm)
        self._warm.clear()
        for key in warm:
            self._forget_if_unused(key)
        unleased = [one for one in self._living() if one.state is not WorkerState.LEASED]
        stops = [self._stop(record, RetireReason.CLOSED) for record in unleased]
        return [*stops, *self._balance(now)]

    def halt(self) -> None:
        """Start and grant nothing any more; the next stimulus refuses the waiting callers."""
        self.is_closed = True

    # Balancing

    def _balance(self, now: float) -> Actions:
        """Return all actions that are due now; see the theory on top."""
        if self.is_closed:
            return self._wind_up()
        out: Actions = []
        self._stop_unwanted(now, out)
        # A start or a stop for callers would gain nothing: they are not served before the end.
        if now >= self.paused_until:
            self._yield_workers(now, out)
            self._serve(now, out)
            self._start_for_waiting(now, out)
        self._start_replacement(now, out)
        self._start_warm(now, out)
        self._start_spares(now, out)
        return out

    def _wind_up(self) -> Actions:
        out: Actions = []
        for key in list(self._queues):
            out += self._refuse_all(key, RetireReason.CLOSED)
        # A worker that was given back unused after `close` is idle again.
        idle = self._in_state(WorkerState.IDLE)
        return [*out, *(self._stop(record, RetireReason.CLOSED) for record in idle)]

    def _stop_unwanted(self, now: float, out: Actions) -> None:
        for record in self._in_state(WorkerState.IDLE):
            limit = self._limit_reached(record, now)
            # A worker that is too large before its first task stays: a new one would be as large.
            if limit is not RetireReason.MAX_RSS or record.tasks:
                record.retiring = record.retiring or limit
            reason = self._reason_to_stop(record, now)
            if reason is not None:
                out.append(self._stop(record, reason))

    def _reason_to_stop(self, record: WorkerRecord, now: float) -> RetireReason | None:
        """Return why an idle worker must, or can, be stopped now; `None` if it stays."""
        if record.unfit:
            if record.spec is None:
                self._spare_profile = ""  # the next spare can end in the same way
            return record.unfit
        if record.spec is not None and not self._is_usable(record):
            return RetireReason.EDITED
        # Until it is relieved it serves on, so that no caller waits for a start.
        if record.retiring and (record.spec is None or self._is_relieved(record)):
            return record.retiring
        # A caller that waits now gets it in the next step.
        is_needed = self._is_kept_warm(record) or self._queue_length(record.key)
        max_idle = self.limits.max_idle
        if max_idle is not None and now - record.since >= max_idle and not is_needed:
            if record.spec is None:
                self._spare_profile = ""  # it was not used: start no other one in its place
            return RetireReason.MAX_IDLE
        return None

    def _yield_workers(self, now: float, out: Actions) -> None:
        """Assign idle workers to agents that have none, before their own callers get them."""
        if self._has_room() or self._in_state(WorkerState.STOPPING):
            return
        for key in sorted(self._queues, key=self._head):
            spec = self._specs[key]
            if not self._count(key) and self._may_start(key, now):
                record = self._idle_to_switch(spec)
                # A spare costs the other agent nothing.
                if record is not None and self._parked_spare(spec) is None:
                    out.append(self._assign(record, spec, now))

    def _serve(self, now: float, out: Actions) -> None:
        for key in list(self._queues):
            while (record := self._idle_worker(key)) is not None:
                ticket = self._pop(key)
                if ticket is None:
                    break
                ticket.state, ticket.worker = TicketState.GRANTED, record.name
                self._move(record, WorkerState.LEASED, now)
                # At the grant, so that the next process starts while this task runs.
                if record.profile in self._no_reset:
                    record.retiring = RetireReason.NO_RESET
                out.append(Grant(ticket, record.name))

    def _start_for_waiting(self, now: float, out: Actions) -> None:
        room_coming = len(self._in_state(WorkerState.STOPPING))
        promised: Counter[AgentKey] = Counter()  # workers that start once there is room for them
        while (key := self._neediest(promised, now)) is not None:
            if self._start(self._specs[key], now, out):
                continue
            promised[key] += 1
            # A worker that is stopping already leaves room for one of them.
            if room_coming > 0:
                room_coming -= 1
            elif (victim := self._room_victim(key)) is not None:
                out.append(self._stop(victim, RetireReason.ROOM))

    def _neediest(self, promised: Counter[AgentKey], now: float) -> AgentKey | None:
        """Return the agent whose callers lack workers most; `None` if none can get a worker."""
        # A start takes half a second of one core: more at once make each one slower.
        can_start = self._starting() < self.limits.spawn_concurrency
        needy = []
        for key in self._queues:
            count = self._count(key) - self._outdated(key) + promised[key]
            coming = self._coming(key) + promised[key]
            lacks = self._queue_length(key) > coming and count < self.limits.max_size
            can_get = can_start or self._idle_to_switch(self._specs[key]) is not None
            if lacks and can_get and self._may_start(key, now):
                needy.append((count, self._head(key), key))
        return min(needy, key=lambda one: one[:2])[2] if needy else None

    def _start(self, spec: AgentSpec, now: float, out: Actions) -> bool:
        """Get a worker for callers that wait; return False if there is no room."""
        idle = self._idle_to_switch(spec)
        if idle is not None:
            out.append(self._assign(idle, spec, now))
            return True
        return self._start_new(spec, now, out)

    def _start_new(self, spec: AgentSpec, now: float, out: Actions) -> bool:
        """Start a worker, from a spare if there is one; return False if there is no room."""
        spare = self._parked_spare(spec)
        # A spare counts against max_workers already, so it needs no more room.
        if spare is not None:
            out.append(self._assign(spare, spec, now))
        elif self._has_room():
            out.append(self._spawn(spec, spec.profile, now)[1])
        else:
            return False
        return True

    def _start_replacement(self, now: float, out: Actions) -> None:
        """Start one replacement, even one above the limits: the old worker goes once it is ready.

        One at a time, so that many workers that expire together do not double the memory.
        """
        if any(record.replaces for record in self._in_state(WorkerState.STARTING)):
            return
        for record in self._living():
            spec = record.spec
            if spec is not None and self._wants_replacement(record, now):
                spare = self._parked_spare(spec)
                if spare is not None:
                    spare.replaces = record.name
                    out.append(self._assign(spare, spec, now))
                else:
                    successor, action = self._spawn(spec, spec.profile, now)
                    successor.replaces = record.name
                    out.append(action)
                return

    def _wants_replacement(self, record: WorkerRecord, now: float) -> bool:
        return (
            record.retiring is not None
            and record.key is not None
            and self._is_current(record)
            and self._may_start(record.key, now)
            and not self._is_relieved(record)
            and not self._is_replaced(record)
            and self._has_room_for_replacement(record, now)
        )

    def _has_room_for_replacement(self, record: WorkerRecord, now: float) -> bool:
        """Check whether a replacement fits: at most one above the limits, in unneeded room."""
        return (
            len(self.workers) <= self.limits.max_workers
            and self._count(record.key) <= self.limits.max_size
            and (self._has_room() or self._neediest(Counter(), now) is None)
        )

    def _start_warm(self, now: float, out: Actions) -> None:
        for key in self._warm:
            while (
                self._lacks_warm(key)
                and self._has_ample_memory()
                and self._may_start(key, now)
                and self._starting() < self.limits.spawn_concurrency
                and self._start_new(self._specs[key], now, out)
            ):
                pass

    def _start_spares(self, now: float, out: Actions) -> None:
        spares = sum(record.spec is None for record in self._living())
        while (
            self._spare_profile
            and spares < self.limits.spares
            and self._has_room()
            and self._has_ample_memory()
            and self._starting() < self.limits.spawn_concurrency
        ):
            out.append(self._spawn(None, self._spare_profile, now)[1])
            spares += 1

    # Decisions on one worker

    def _reason_not_to_reset(self, record: WorkerRecord, now: float) -> RetireReason | None:
        """Return why a released worker is stopped instead of being reset; `None` to reset it."""
        if record.unfit:
            return record.unfit
        if record.profile in self._no_reset:
            return RetireReason.NO_RESET
        if not self._is_usable(record):
            return RetireReason.EDITED
        if record.retiring and (
            self._is_relieved(record)
            or not (self._is_replaced(record) or self._has_room_for_replacement(record, now))
        ):
            return record.retiring
        return RetireReason.ROOM if self._must_yield(record) else None

    def _must_yield(self, record: WorkerRecord) -> bool:
        """Check whether an agent without any worker has waited longer than this one's callers."""
        if self._has_room() or self._in_state(WorkerState.STOPPING):
            return False
        own_head = self._head(record.key)
        return any(
            self._head(key) < own_head
            and not self._count(key)
            and self._room_victim(key) is None
            # That agent takes this worker over once it is reset.
            and not self._can_become(record, self._specs[key])
            for key in self._queues
        )

    def _limit_reached(self, record: WorkerRecord, now: float) -> RetireReason | None:
        """Return the limit that a worker has reached; `None` if it is below all."""
        if record.tasks >= record.task_limit:
            return RetireReason.MAX_TASKS
        if now >= record.expires:
            return RetireReason.MAX_LIFETIME
        if self.limits.max_rss is not None and record.rss > self.limits.max_rss:
            return RetireReason.MAX_RSS
        return RetireReason.ZOMBIES if record.zombies >= MAX_ZOMBIES else None

    def _stop_too_large(self, record: WorkerRecord, now: float) -> Actions:
        """Stop a worker above `max_rss_hard`; refuse its callers if every new one is as large."""
        # During its first task the memory can be the task's.
        is_new = not record.tasks and record.state is not WorkerState.LEASED
        out: Actions = [self._stop(record, RetireReason.MAX_RSS)]
        if is_new and record.key is None:
            self._spare_profile = ""
        elif is_new and record.key is not None:
            self._delay_next_start(record.key, now)
            self._warm.pop(record.key, None)
            out += self._refuse_unless_served(record.key, RetireReason.MAX_RSS)
        return out

    def _stop_idle_above(self, most: int) -> list[Stop]:
        """Stop idle workers, spares and the longest unused first, until all have `most` bytes."""
        out = []
        # A stopping worker gives its memory back anyway.
        total = sum(record.rss for record in self._living())
        idle = self._in_state(WorkerState.IDLE)
        # A spare that still starts too: it must not drive out the worker of an agent.
        spares = [one for one in self._in_state(WorkerState.STARTING) if one.spec is None]
        for record in sorted([*spares, *idle], key=lambda one: (one.spec is not None, one.since)):
            if total > most:
                total -= record.rss
                out.append(self._stop(record, RetireReason.MAX_TOTAL_RSS))
        return out

    def _idle_since(self, record: WorkerRecord, now: float) -> float:
        """Return since when a started worker counts as idle.

        A replacement takes over the idle time of its predecessor: otherwise an agent that gets no
        tasks would be replaced at every `max_lifetime` for ever.
        """
        predecessor = self.workers.get(record.replaces)
        is_idle = predecessor is not None and predecessor.state is WorkerState.IDLE
        return predecessor.since if predecessor is not None and is_idle else now

    # Questions about workers

    def _living(self) -> list[WorkerRecord]:
        """Return all workers that are not stopping."""
        return [r for r in self.workers.values() if r.state is not WorkerState.STOPPING]

    def _in_state(self, state: WorkerState) -> list[WorkerRecord]:
        """Return all workers in this state, spares included."""
        return [record for record in self.workers.values() if record.state is state]

    def _count(self, key: AgentKey | None) -> int:
        """Return the number of living workers of an agent."""
        return sum(record.key == key for record in self._living())

    def _outdated(self, key: AgentKey) -> int:
        """Return the number of idle workers of an agent that will get its present version."""
        spec = self._specs[key]
        idle = self._in_state(WorkerState.IDLE)
        return sum(record.key == key and self._can_become(record, spec) for record in idle)

    def _starting(self) -> int:
        """Return the number of processes that start."""
        starting = self._in_state(WorkerState.STARTING)
        return sum(not record.is_switching for record in starting)

    def _coming(self, key: AgentKey) -> int:
        """Return the number of workers of an agent that will be idle soon.

        A start counts until it is known to fail, so that the next start waits as it should. A
        worker of another agent counts that is being reset and can be taken over: a reset takes a
        few milliseconds, a start hundreds.
        """
        spec = self._specs[key]
        starting = self._in_state(WorkerState.STARTING)
        resetting = [r for r in self._in_state(WorkerState.RESETTING) if not r.unfit]
        own = sum(record.key == key for record in (*starting, *resetting))
        others = (r for r in resetting if r.key != key and not self._queue_length(r.key))
        return own + sum(self._can_become(record, spec) for record in others)

    def _has_room(self) -> bool:
        """Check whether another worker can be started."""
        return len(self.workers) < self.limits.max_workers and self._has_memory(0)

    def _has_ample_memory(self) -> bool:
        """Check whether there is memory for one more worker as large as the largest.

        A worker that no caller waits for must not drive others out.
        """
        return self._has_memory(max((r.rss for r in self.workers.values()), default=0))

    def _has_memory(self, reserve: int) -> bool:
        most = self.limits.max_total_rss
        # Stopping workers too: they still hold their memory. Without any worker one can always
        # start, or a small limit would block the pool for ever.
        total = sum(record.rss for record in self.workers.values())
        return most is None or not self.workers or total + reserve < most

    def _can_serve(self, key: AgentKey, now: float) -> bool:
        """Check whether a caller of this agent would not have to wait."""
        # Callers that wait although a worker is idle are served first: a pause has just ended.
        is_next = now >= self.paused_until and not self._queue_length(key)
        return is_next and self._idle_worker(key) is not None

    def _idle_worker(self, key: AgentKey) -> WorkerRecord | None:
        """Return the idle worker that was used last, so that the others of a burst idle out.

        Return `None` while `max_size` workers of the agent are leased. A replacement can be ready
        beside them, but it is no reason to run more tasks at once.
        """
        leased = sum(record.key == key for record in self._in_state(WorkerState.LEASED))
        if leased >= self.limits.max_size:
            return None
        spec = self._specs.get(key)
        idle = [
            record
            for record in self._in_state(WorkerState.IDLE)
            if record.spec is not None and record.spec == spec and not record.unfit
        ]
        return max(idle, key=lambda r: (r.retiring is None, r.since, r.number), default=None)

    def _idle_to_switch(self, spec: AgentSpec) -> WorkerRecord | None:
        """Return the longest unused idle worker that this agent can take over.

        Its own callers, if there are any, must have waited less long than those of the agent.
        """
        head = self._head(spec.key)
        idle = [
            record
            for record in self._in_state(WorkerState.IDLE)
            if self._can_become(record, spec)
            and (record.key == spec.key or self._head(record.key) > head)
        ]
        # First an earlier version of the agent itself, which can serve no caller any more.
        return min(idle, key=lambda r: (r.key != spec.key, r.since, r.number), default=None)

    def _can_become(self, record: WorkerRecord, spec: AgentSpec) -> bool:
        """Check whether a worker can become another agent, or another version of its own."""
        return (
            record.spec is not None
            and record.spec != spec
            and self._is_switchable(spec)
            # The profile holds the project; it is compared all the same, because no worker may
            # ever take anything from one project into another.
            and record.spec.key.project == spec.key.project
            and record.profile == spec.profile
            and not record.unfit
            and not record.retiring
        )

    def _is_switchable(self, spec: AgentSpec) -> bool:
        return (
            spec.is_role and spec.profile in self._switchable and spec.profile not in self._no_reset
        )

    def _parked_spare(self, spec: AgentSpec) -> WorkerRecord | None:
        """Return a spare that can become this agent, best one of its own project."""
        parked = [r for r in self._living() if r.is_parked and not r.unfit]
        own = (r for r in parked if r.profile == spec.profile)
        base = self._base(spec)
        return next(own, None) or next((r for r in parked if base and r.profile == base), None)

    def _base(self, spec: AgentSpec) -> str:
        """Return the profile of spares that can be claimed for this agent; empty for none."""
        return "" if self._unclaimable & {spec.profile, spec.base} else spec.base

    def _is_relieved(self, record: WorkerRecord) -> bool:
        """Check whether its replacement is ready, or another idle worker stays that can serve."""
        spec = record.spec
        return any(
            other is not record
            and spec is not None
            and (other.spec == spec or self._can_become(other, spec))
            and not other.unfit
            and (
                other.replaces == record.name
                or (other.state is WorkerState.IDLE and not other.retiring)
            )
            for other in self._living()
            # A start can still fail.
            if other.state is not WorkerState.STARTING
        )

    def _is_served(self, key: AgentKey) -> bool:
        """Check whether a worker that is started already will take the agent's next task."""
        started = (WorkerState.IDLE, WorkerState.LEASED, WorkerState.RESETTING)
        return any(
            record.key == key
            and record.state in started
            and self._is_current(record)
            and not record.unfit
            and record.retiring is not RetireReason.NO_RESET
            and record.profile not in self._no_reset
            for record in self.workers.values()
        )

    def _is_kept_warm(self, record: WorkerRecord) -> bool:
        """Check whether without it fewer workers would be ready than `keep_warm` asks for."""
        if record.key is None:
            return False
        ready, wanted = self._warm_workers(record.key, self._can_fail)
        return ready <= wanted

    def _lacks_warm(self, key: AgentKey) -> bool:
        """Check whether an agent, and all that share workers with it, have too few of them."""
        living, wanted = self._warm_workers(key, lambda record: False)
        return living < wanted and self._count(key) < min(self._warm[key], self.limits.max_size)

    def _warm_workers(
        self, key: AgentKey, is_left_out: Callable[[WorkerRecord], bool]
    ) -> tuple[int, int]:
        """Return how many workers an agent has, and how many are to be kept warm.

        Agents that can take over each other's workers are counted together.
        """
        spec = self._specs[key]
        keys = {key}
        if self._is_switchable(spec):
            keys = {one for one, other in self._specs.items() if other.profile == spec.profile}
        have = sum(r.key in keys and not is_left_out(r) for r in self._living())
        wanted = sum(min(self._warm.get(one, 0), self.limits.max_size) for one in keys)
        return have, wanted

    @staticmethod
    def _can_fail(record: WorkerRecord) -> bool:
        """Check whether a worker is not ready, so that its start can still fail."""
        return record.state is WorkerState.STARTING

    def _is_current(self, record: WorkerRecord) -> bool:
        """Check whether it has the present version of its agent; a spare has no version."""
        return record.key is None or self._specs.get(record.key) == record.spec

    def _is_usable(self, record: WorkerRecord) -> bool:
        """Check whether it has, or can take, the present version of its agent."""
        if record.key is None or self._is_current(record):
            return True
        spec = self._specs.get(record.key)
        return spec is not None and self._can_become(record, spec)

    def _is_replaced(self, record: WorkerRecord) -> bool:
        """Check whether another worker was started to replace it."""
        return any(other.replaces == record.name for other in self.workers.values())

    def _room_victim(self, key: AgentKey) -> WorkerRecord | None:
        """Return the idle worker of another agent that makes room for this one.

        Spares go first, then the longest unused; workers that are kept warm go last, because a
        caller that waits needs a worker more than one that may come.
        """
        idle = [record for record in self._in_state(WorkerState.IDLE) if record.key != key]
        return min(
            idle,
            key=lambda r: (r.spec is not None, self._is_kept_warm(r), r.since, r.number),
            default=None,
        )

    def _may_start(self, key: AgentKey, now: float) -> bool:
        return now >= self._retry_at.get(key, now)

    # Queues

    def _queue_length(self, key: AgentKey | None) -> int:
        return len(self._queues.get(key, ())) if key is not None else 0

    def _head(self, key: AgentKey | None) -> float:
        """Return the number of the agent's next ticket; infinity if no caller waits."""
        queue = self._queues.get(key) if key is not None else None
        return queue[0].number if queue else _NO_TICKET

    def _pop(self, key: AgentKey) -> Ticket | None:
        queue = self._queues.get(key)
        ticket = queue.popleft() if queue else None
        self._drop_empty_queue(key)
        return ticket

    def _drop_empty_queue(self, key: AgentKey) -> None:
        if key in self._queues and not self._queues[key]:
            del self._queues[key]

    def _refuse_all(self, key: AgentKey, reason: RetireReason) -> list[Refuse]:
        refused = []
        while (ticket := self._pop(key)) is not None:
            ticket.state = TicketState.REFUSED
            refused.append(Refuse(ticket, reason))
        self._forget_if_unused(key)
        return refused

    def _refuse_unless_served(self, key: AgentKey, reason: RetireReason) -> list[Refuse]:
        """Refuse the callers of an agent that gets no further worker, unless one serves them."""
        return [] if self._is_served(key) else self._refuse_all(key, reason)

    def _refuse_if_closed(self) -> None:
        if self.is_closed:
            raise PoolClosed("the pool is closed; open a new one")

    # Changes

    def _define(self, spec: AgentSpec) -> None:
        self._specs[spec.key] = spec
        # Spares have the options of the latest request.
        self._spare_profile = self._base(spec) or spec.profile

    def _forget_if_unused(self, key: AgentKey) -> None:
        """Forget the version of an agent that has no worker and no caller, and is not kept warm.

        Options of calls and worktrees make keys of their own, so the keys would grow for ever.
        """
        is_used = key in self._queues or key in self._warm
        if not is_used and all(record.key != key for record in self.workers.values()):
            self._specs.pop(key, None)

    def _spawn(
        self, spec: AgentSpec | None, profile: str, now: float
    ) -> tuple[WorkerRecord, Spawn]:
        """Add a worker, or a spare if `spec` is `None`."""
        self._spawned += 1
        limits = self.limits
        lifetime = shortened(limits.max_lifetime, limits.max_lifetime_jitter, self._chance())
        record = WorkerRecord(
            name=f"worker-{self._spawned}",
            number=self._spawned,
            spec=spec,
            profile=profile,
            state=WorkerState.STARTING,
            since=now,
            task_limit=shortened(limits.max_tasks, limits.max_tasks_jitter, self._chance()),
            expires=now + lifetime,
        )
        self.workers[record.name] = record
        self.changes.append(StateChange(record.name, record.key, None, WorkerState.STARTING))
        return record, Spawn(record.name, spec, profile)

    def _assign(self, record: WorkerRecord, spec: AgentSpec, now: float) -> Assign:
        """Make a spare, or an idle worker of another agent, a worker of this agent."""
        previous = record.key
        record.is_switching = record.spec is not None
        record.spec, record.profile = spec, spec.profile
        record.is_parked = False
        if previous is not None:
            self._forget_if_unused(previous)
        self._move(record, WorkerState.STARTING, now)
        return Assign(record.name, spec, previous)

    def _return_unused(self, worker: str, now: float) -> None:
        record = self.workers.get(worker)
        # No prompt was sent, so there is nothing to reset.
        if record is not None and record.state is WorkerState.LEASED:
            self._move(record, WorkerState.IDLE, now)

    def _stop(self, record: WorkerRecord, reason: RetireReason) -> Stop:
        self._move(record, WorkerState.STOPPING, record.since)
        record.is_parked = False
        self.retired[reason] += 1
        return Stop(record.name, reason)

    def _move(self, record: WorkerRecord, state: WorkerState, since: float) -> None:
        self.changes.append(StateChange(record.name, record.key, record.state, state))
        record.state, record.since = state, since

    def _delay_next_start(self, key: AgentKey, now: float) -> None:
        self._failures[key] += 1
        self._retry_at[key] = now + backoff(self._failures[key])


def shortened(limit: float | None, jitter: float, chance: float) -> float:
    """Return a limit less up to the share `jitter` of it, so that workers do not go together."""
    return float("inf") if limit is None else limit * (1 - jitter * chance)


def backoff(failures: int) -> float:
    """Return the seconds to wait after this many failed starts in a row."""
    first, most = BACKOFF
    doublings = min(max(0, failures - 1), 64)  # a float overflows at 1024 doublings
    return float(min(most, first * 2.0**doublings))
