"""Where waiting callers meet workers: the one place that decides what happens next.

1. Stop idle workers that must not or need not stay.
2. Serve waiting callers with idle workers, first come first served within an agent.
3. Start workers for those still waiting, fairly between agents, making room if need be.
4. Start replacements for workers that are to retire, before they go.
5. Keep what was asked to be warm, and spares.
"""

from __future__ import annotations

from collections import Counter

from agent_pool.pool.actions import (
    Action,
    AgentRef,
    Grant,
    Reason,
    TicketState,
    WorkerState,
)
from agent_pool.pool.policy import Record, has_idled_out, retire_reason
from agent_pool.pool.queues import Queues
from agent_pool.pool.roster import Roster


class Balance:
    """Brings the waiting and the workers together; sans IO, like everything that it is given.

    Attributes:
        paused_until: no worker is given out before; the API refuses work.
        retry_at: when an agent whose starts failed may be started again.
        spare_flags: the flags of the spares to keep; empty for none.
    """

    def __init__(self, roster: Roster, queues: Queues) -> None:
        self.paused_until = float("-inf")
        self.retry_at: dict[str, float] = {}
        self.spare_flags = ""
        self._roster = roster
        self._queues = queues

    def run(self, now: float) -> list[Action]:
        """All that should happen now; empty if nothing."""
        out: list[Action] = []
        self._stop_unwanted(now, out)
        if now >= self.paused_until:
            self._serve(now, out)
            self._start_for_waiting(now, out)
        self._start_replacement(now, out)
        self._keep_warm(now, out)
        self._keep_spares(now, out)
        return out

    def _stop_unwanted(self, now: float, out: list[Action]) -> None:
        for record in self._roster.in_state(WorkerState.IDLE):
            record.retiring = record.retiring or self._reason_to_retire(record, now)
            reason = self._reason_to_stop(record, now)
            if reason is not None:
                out.append(self._roster.stop(record, reason))

    def _reason_to_retire(self, record: Record, now: float) -> Reason | None:
        reason = retire_reason(record, self._roster.limits, now)
        if reason is Reason.MAX_RSS and not record.tasks:
            return None  # another new process would be as large
        return reason

    def _reason_to_stop(self, record: Record, now: float) -> Reason | None:
        if record.unfit:
            if record.ref is None:
                self.spare_flags = ""  # the next one may end in the same way
            return record.unfit
        if record.ref is not None and not self._roster.is_current(record):
            return Reason.EDITED
        if record.retiring and (record.ref is None or self._roster.has_relief(record)):
            return record.retiring
        is_needed = self._roster.is_kept_warm(record) or self._queues.length(record.agent)
        if has_idled_out(record, self._roster.limits, now) and not is_needed:
            if record.ref is None:
                self.spare_flags = ""  # nobody has needed it: no other is to take its place
            return Reason.MAX_IDLE
        return None

    def _serve(self, now: float, out: list[Action]) -> None:
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

    def _start_for_waiting(self, now: float, out: list[Action]) -> None:
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
        if self._roster.starting() >= self._roster.limits.spawn_concurrency:
            return None
        needy = []
        for agent in self._queues.agents():
            count = self._roster.count(agent) + rooms[agent]
            coming = self._roster.coming(agent) + rooms[agent]
            lacks = self._queues.length(agent) > coming and count < self._roster.limits.max_size
            if lacks and self._may_start(agent, now):
                needy.append((count, self._queues.head(agent), agent))
        return min(needy)[2] if needy else None

    def _may_start(self, agent: str, now: float) -> bool:
        return now >= self.retry_at.get(agent, now)

    def _start(self, ref: AgentRef, now: float, out: list[Action]) -> bool:
        """Start a worker, from a spare if there is one; False if there is no room."""
        spare = self._roster.parked_spare(ref.flags)
        if spare is not None:
            out.append(self._roster.adopt(spare, ref, now))
        elif self._roster.has_room():
            out.append(self._roster.spawn(ref, ref.flags, now)[1])
        else:
            return False
        return True

    def _start_replacement(self, now: float, out: list[Action]) -> None:
        """One at a time, and even one above the limits: the old one goes when it is ready."""
        starting = self._roster.in_state(WorkerState.STARTING)
        if any(record.replaces for record in starting):
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
            and self._may_be_replaced(record, now)
        )

    def _may_be_replaced(self, record: Record, now: float) -> bool:
        """Whether there is a place for a replacement: one above the limits, none that others
        wait for."""
        limits = self._roster.limits
        return (
            len(self._roster.workers) <= limits.max_workers
            and self._roster.count(record.agent) <= limits.max_size
            and (self._roster.has_room() or self._neediest(Counter(), now) is None)
        )

    def _keep_warm(self, now: float, out: list[Action]) -> None:
        for agent, wanted in self._roster.warm.items():
            while (
                self._roster.count(agent) < min(wanted, self._roster.limits.max_size)
                and self._roster.has_ample_memory()
                and self._may_start(agent, now)
                and self._roster.starting() < self._roster.limits.spawn_concurrency
                and self._start(self._roster.refs[agent], now, out)
            ):
                pass

    def _keep_spares(self, now: float, out: list[Action]) -> None:
        have = sum(r.ref is None for r in self._roster.living())
        while (
            self.spare_flags
            and have < self._roster.limits.spares
            and self._roster.has_room()
            and self._roster.has_ample_memory()
            and self._roster.starting() < self._roster.limits.spawn_concurrency
        ):
            out.append(self._roster.spawn(None, self.spare_flags, now)[1])
            have += 1

    def can_serve(self, agent: str, now: float) -> bool:
        """Whether a caller of this agent would not have to wait."""
        return now >= self.paused_until and self._roster.idle_worker(agent) is not None

    def reason_not_to_reset(self, record: Record, now: float) -> Reason | None:
        """Why a worker that was given back should go instead of being reset, if it should."""
        if record.unfit:
            return record.unfit
        if record.flags in self._roster.no_reset:
            return Reason.NO_RESET
        if not self._roster.is_current(record):
            return Reason.EDITED
        if record.retiring and (
            self._roster.has_relief(record)
            or not (self._roster.is_replaced(record) or self._may_be_replaced(record, now))
        ):
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
