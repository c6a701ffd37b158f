"""Which queued task is next: the decisions alone, without IO and without a clock.

A lane holds the tasks of one agent. A full lane does not hold up the others. Of the tasks that can
begin, the one with the highest priority is first, then the oldest one. Tasks of one conversation
begin in their order, and one at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Final

NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """A task that waits.

    Attributes:
        id: the task's id.
        number: its place in the order of submission.
        lane: its agent.
        priority: the highest number begins first.
        not_before: the time before which it does not begin; None for at once.
        deadline: the time at which it fails if it has not begun; None for never.
        conversation: its conversation; None for a task without one.
    """

    id: str
    number: int
    lane: Hashable
    priority: int = 0
    not_before: float | None = None
    deadline: float | None = None
    conversation: Hashable | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """Return the place in the order of its lane; the smallest begins first."""
        return (-self.priority, self.number)


@dataclass(slots=True)
class _Lane:
    running: int = 0
    ready: list[tuple[tuple[int, int], str]] = field(default_factory=list)


class Dispatcher:
    """Queued and running tasks; every call is synchronous, and time is an argument.

    Args:
        max_running: the most tasks that run at once.
        max_per_lane: the most tasks of one lane that run at once.
    """

    def __init__(self, max_running: int, max_per_lane: int) -> None:
        self._max_running = max_running
        self._max_per_lane = max_per_lane
        self._queued: dict[str, QueuedTask] = {}
        self._running: dict[str, QueuedTask] = {}
        self._lanes: dict[Hashable, _Lane] = {}
        # Heaps can hold tasks that were removed; `_queued` and `_is_ready` say what is true.
        self._delayed: list[tuple[float, str]] = []
        self._deadlines: list[tuple[float, str]] = []
        self._conversations: dict[Hashable, list[tuple[int, str]]] = {}
        self._busy: set[Hashable] = set()
        self._is_ready: set[str] = set()

    @property
    def queued(self) -> int:
        """Return how many tasks wait."""
        return len(self._queued)

    @property
    def running(self) -> int:
        """Return how many tasks run."""
        return len(self._running)

    def running_ids(self) -> list[str]:
        """Return the tasks that run."""
        return list(self._running)

    def add(self, ticket: QueuedTask, now: float) -> None:
        """Queue a task; `take` returns it when it can begin."""
        self._queued[ticket.id] = ticket
        if ticket.deadline is not None:
            heapq.heappush(self._deadlines, (ticket.deadline, ticket.id))
        if ticket.conversation is None:
            self._offer(ticket, now)
        else:
            waiting = self._conversations.setdefault(ticket.conversation, [])
            heapq.heappush(waiting, (ticket.number, ticket.id))
            self._offer_conversation(ticket.conversation, now)

    def remove(self, task_id: str, now: float) -> bool:
        """Remove a task that waits; return False if it does not wait."""
        ticket = self._queued.pop(task_id, None)
        if ticket is None:
            return False
        self._is_ready.discard(task_id)
        if ticket.conversation is not None:
            self._offer_conversation(ticket.conversation, now)
        self._drop_lane(ticket.lane)
        return True

    def take(self, now: float) -> list[QueuedTask]:
        """Return the tasks that begin now, in their order; from now on they run."""
        self._release_delayed(now)
        taken: list[QueuedTask] = []
        while len(self._running) < self._max_running:
            ticket = self._next(now)
            if ticket is None:
                break
            self._begin(ticket)
            taken.append(ticket)
        return taken

    def _begin(self, ticket: QueuedTask) -> None:
        del self._queued[ticket.id]
        self._is_ready.discard(ticket.id)
        self._running[ticket.id] = ticket
        lane = self._lanes[ticket.lane]
        heapq.heappop(lane.ready)
        lane.running += 1
        if ticket.conversation is not None:
            self._busy.add(ticket.conversation)

    def ended(self, task_id: str, now: float) -> None:
        """Note that a task runs no longer; no effect if it did not run."""
        ticket = self._running.pop(task_id, None)
        if ticket is None:
            return
        self._lanes[ticket.lane].running -= 1
        if ticket.conversation is not None:
            self._busy.discard(ticket.conversation)
            self._offer_conversation(ticket.conversation, now)
        self._drop_lane(ticket.lane)

    def expired(self, now: float) -> list[str]:
        """Return the queued tasks whose deadline has come; the caller removes them."""
        found: list[str] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, task_id = heapq.heappop(self._deadlines)
            ticket = self._queued.get(task_id)
            if ticket is not None and ticket.deadline is not None and ticket.deadline <= now:
                found.append(task_id)
        return found

    def next_time(self) -> float | None:
        """Return when `expired` or `take` can have something new by time alone; None for never."""
        times = (self._first(self._delayed), self._first(self._deadlines))
        soonest = min(times)
        return None if soonest == NEVER else soonest

    def _first(self, heap: list[tuple[float, str]]) -> float:
        while heap and heap[0][1] not in self._queued:
            heapq.heappop(heap)
        return heap[0][0] if heap else NEVER

    def positions(self) -> dict[str, int]:
        """Return the place of each queued task among those of its lane, 1 for the next."""
        places: dict[str, int] = {}
        counts: dict[Hashable, int] = {}
        for ticket in sorted(self._queued.values(), key=lambda one: one.rank):
            places[ticket.id] = counts[ticket.lane] = counts.get(ticket.lane, 0) + 1
        return places

    def lane_length(self, lane: Hashable) -> int:
        """Return how many tasks of a lane can begin as soon as it has room."""
        return len(self._lanes[lane].ready) if lane in self._lanes else 0

    # Which tasks can begin

    def _next(self, now: float) -> QueuedTask | None:
        """Return the first of all lanes that have room; it is the head of its lane."""
        heads = (self._head(lane, now) for lane in self._lanes.values())
        return min(
            (one for one in heads if one is not None), key=lambda one: one.rank, default=None
        )

    def _head(self, lane: _Lane, now: float) -> QueuedTask | None:
        if lane.running >= self._max_per_lane:
            return None
        while lane.ready:
            rank, task_id = lane.ready[0]
            ticket = self._queued.get(task_id)
            if ticket is None or task_id not in self._is_ready or ticket.rank != rank:
                heapq.heappop(lane.ready)
            elif self._must_wait(ticket, now):
                self._is_ready.discard(task_id)
                heapq.heappop(lane.ready)
            else:
                return ticket
        return None

    def _must_wait(self, ticket: QueuedTask, now: float) -> bool:
        # A retry can make two tasks of a conversation ready. The other one is offered again when
        # the older one has ended or is removed.
        if ticket.conversation is not None and not self._is_oldest(ticket):
            return True
        # `expired` reports it; it must not begin after its deadline.
        return ticket.deadline is not None and ticket.deadline <= now

    def _is_oldest(self, ticket: QueuedTask) -> bool:
        """Check whether a task is the next of its conversation, and none of it runs."""
        if ticket.conversation in self._busy:
            return False
        return self._oldest(ticket.conversation) == ticket.id

    def _oldest(self, conversation: Hashable) -> str:
        """Return the oldest waiting task of a conversation; empty without one."""
        waiting = self._conversations.get(conversation, [])
        while waiting and waiting[0][1] not in self._queued:
            heapq.heappop(waiting)
        return waiting[0][1] if waiting else ""

    def _offer(self, ticket: QueuedTask, now: float) -> None:
        """Let a task begin, now or at its time."""
        if ticket.id in self._is_ready:
            return
        if ticket.not_before is not None and ticket.not_before > now:
            heapq.heappush(self._delayed, (ticket.not_before, ticket.id))
            return
        self._is_ready.add(ticket.id)
        lane = self._lanes.setdefault(ticket.lane, _Lane())
        heapq.heappush(lane.ready, (ticket.rank, ticket.id))

    def _offer_conversation(self, conversation: Hashable, now: float) -> None:
        """Let the oldest task of a conversation begin if none of them runs."""
        if conversation in self._busy:
            return
        if oldest := self._oldest(conversation):
            self._offer(self._queued[oldest], now)
        else:
            self._conversations.pop(conversation, None)

    def _release_delayed(self, now: float) -> None:
        for task_id in self._due(now):
            ticket = self._queued[task_id]
            if ticket.conversation is None:
                self._offer(ticket, now)
            else:
                self._offer_conversation(ticket.conversation, now)

    def _due(self, now: float) -> Iterator[str]:
        while self._delayed and self._delayed[0][0] <= now:
            _, task_id = heapq.heappop(self._delayed)
            if task_id in self._queued:
                yield task_id

    def _drop_lane(self, key: Hashable) -> None:
        lane = self._lanes.get(key)
        if lane is not None and not lane.running:
            while lane.ready and lane.ready[0][1] not in self._queued:
                heapq.heappop(lane.ready)
            if not lane.ready:
                del self._lanes[key]
