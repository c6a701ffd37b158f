"""The callers that wait for a worker: a future for each, and the errors that they can get."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from agent_pool.errors import AgentPoolError, PoolClosed, PoolTimeout, SpawnError
from agent_pool.events import Queued
from agent_pool.models import AgentKey
from agent_pool.pool.scheduler import RetireReason, Scheduler, Ticket, WorkerState
from agent_pool.text import mebibytes

QueueListener = Callable[[Queued], None]


class QueuePlace:
    """A caller's place in the queue, which it keeps while it asks for a worker again.

    Args:
        seconds: that it can wait in all.

    Attributes:
        ticket: of its last request; None before the first.
        seconds: that it can still wait.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.ticket: Ticket | None = None


class Waiters:
    """The waiting callers, by their tickets."""

    def __init__(self) -> None:
        self._futures: dict[Ticket, asyncio.Future[str]] = {}
        self._listeners: dict[Ticket, QueueListener] = {}

    def add(self, ticket: Ticket, on_queued: QueueListener) -> asyncio.Future[str]:
        """Return the future of a caller; its result will be the name of a worker."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._futures[ticket] = future
        self._listeners[ticket] = on_queued
        return future

    def remove(self, ticket: Ticket) -> None:
        """Forget a caller that waits no longer."""
        del self._futures[ticket], self._listeners[ticket]

    def grant(self, ticket: Ticket, worker: str) -> None:
        """Give a caller its worker; a caller that has left abandons its ticket itself."""
        future = self._futures.get(ticket)
        # A cancelled future stays in the table until its caller runs again.
        if future is not None and not future.done():
            future.set_result(worker)

    def refuse(self, ticket: Ticket, error: AgentPoolError) -> None:
        """Raise an error in a caller."""
        future = self._futures.get(ticket)
        if future is not None and not future.done():
            future.set_exception(error)

    def report(self, make: Callable[[Ticket], Queued]) -> None:
        """Report its place and its time to each caller that still waits."""
        for ticket, future in self._futures.items():
            if not future.done():
                self._listeners[ticket](make(ticket))


def queue_event(ticket: Ticket, scheduler: Scheduler, now: float, reason: str) -> Queued:
    """Return the event that reports a waiting caller's place and time.

    Args:
        ticket: the caller's.
        scheduler: knows its place, and until when the pool is paused.
        now: by the monotonic clock.
        reason: why the pool is paused, if it is.
    """
    paused = max(0.0, scheduler.paused_until - now)
    position = scheduler.position(ticket)
    starting = sum(
        record.key == ticket.spec.key and record.state is WorkerState.STARTING
        for record in scheduler.workers.values()
    )
    return Queued(
        position=position,
        waited=now - ticket.since,
        paused=paused,
        reason=reason if paused else "",
        starting=starting >= position,
    )


def wait_timed_out(
    key: AgentKey,
    scheduler: Scheduler,
    bound: float,
    now: float,
    start_errors: Mapping[AgentKey, AgentPoolError],
    pause_reason: str = "",
) -> PoolTimeout:
    """Build the error for a caller whose `acquire_timeout` passed."""
    # Named first: during a pause a free worker would not help.
    if scheduler.paused_until > now:
        return PoolTimeout(
            f"no task of agent {key.name!r} started within {bound:g} s (setting acquire_timeout): "
            f"{pause_reason}, so the pool sends it none for another "
            f"{scheduler.paused_until - now:.0f} s; try again then"
        )
    failed = start_errors.get(key)
    why = f"; another worker could not be started: {failed}" if failed else ""
    own = sum(record.key == key for record in scheduler.workers.values())
    return PoolTimeout(
        f"no worker of agent {key.name!r} was free within {bound:g} s (setting acquire_timeout): "
        f"it has {own} of at most {scheduler.limits.max_size}, the pool "
        f"{len(scheduler.workers)} of at most {scheduler.limits.max_workers}, and "
        f"{scheduler.waiting} callers wait; try later or raise the limits{why}"
    )


def refusal(
    ticket: Ticket,
    reason: RetireReason,
    scheduler: Scheduler,
    start_errors: Mapping[AgentKey, AgentPoolError],
) -> AgentPoolError:
    """Build the error for a caller that the scheduler refused."""
    key = ticket.spec.key
    if reason is RetireReason.START_FAILED and key in start_errors:
        return start_errors[key]
    if reason is RetireReason.MAX_RSS:
        return _too_large(key, scheduler)
    return PoolClosed(f"the pool was closed while a task of agent {key.name!r} waited")


def _too_large(key: AgentKey, scheduler: Scheduler) -> SpawnError:
    used = max((r.rss for r in scheduler.workers.values() if r.key == key), default=0)
    return SpawnError(
        f"a new worker of agent {key.name!r} used {mebibytes(used)} before its first task, more "
        f"than max_rss_hard ({mebibytes(scheduler.limits.max_rss_hard or 0)}); raise the limit"
    )
