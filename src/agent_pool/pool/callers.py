"""Those who wait for a worker: a future each, and somebody to tell how the queue moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from agent_pool.errors import AgentPoolError, PoolClosed, PoolTimeout, SpawnError
from agent_pool.pool.actions import AgentRef, Reason, Ticket
from agent_pool.pool.core import PoolCore
from agent_pool.pool.result import Queued


class Callers:
    """The waiting callers, by their tickets."""

    def __init__(self) -> None:
        self._futures: dict[Ticket, asyncio.Future[str]] = {}
        self._listeners: dict[Ticket, Callable[[Queued], None]] = {}

    def add(self, ticket: Ticket, on_queued: Callable[[Queued], None]) -> asyncio.Future[str]:
        """What the caller waits for: a worker's name."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._futures[ticket] = future
        self._listeners[ticket] = on_queued
        return future

    def remove(self, ticket: Ticket) -> None:
        """The caller waits no longer, for whatever reason."""
        del self._futures[ticket], self._listeners[ticket]

    def grant(self, ticket: Ticket, worker: str) -> None:
        """Give a caller its worker; one that has left meanwhile abandons it itself."""
        future = self._futures.get(ticket)
        if future is not None and not future.done():
            future.set_result(worker)

    def refuse(self, ticket: Ticket, error: AgentPoolError) -> None:
        """Tell a caller that it gets none."""
        future = self._futures.get(ticket)
        if future is not None and not future.done():
            future.set_exception(error)

    def tell(self, describe: Callable[[Ticket], Queued]) -> None:
        """Tell everybody who still waits where they stand."""
        for ticket, future in self._futures.items():
            if not future.done():
                self._listeners[ticket](describe(ticket))


def describe(ticket: Ticket, agent: str, core: PoolCore, now: float) -> Queued:
    """Where a caller that waits for this agent stands."""
    return Queued(
        agent=agent,
        position=core.position(ticket),
        waited=now - ticket.since,
        paused=max(0.0, core.paused_until - now),
    )


def no_worker(
    ref: AgentRef,
    core: PoolCore,
    bound: float,
    now: float,
    start_errors: Mapping[str, AgentPoolError],
) -> PoolTimeout:
    """What a caller is told that has waited long enough."""
    if core.paused_until > now:
        return PoolTimeout(
            f"no task of agent {ref.name!r} began within {bound:g} s (setting acquire_timeout): "
            f"the API refuses work and is left alone for another {core.paused_until - now:.0f} s; "
            "try again then"
        )
    failed = start_errors.get(ref.name)
    why = f"; another one could not be started: {failed}" if failed else ""
    own = sum(record.agent == ref.name for record in core.workers.values())
    return PoolTimeout(
        f"no worker of agent {ref.name!r} within {bound:g} s (setting acquire_timeout): it has "
        f"{own} of at most {core.limits.max_size}, the pool {len(core.workers)} of at most "
        f"{core.limits.max_workers}, {core.waiting} callers wait; try later or raise the "
        f"limits{why}"
    )


def refusal(
    ticket: Ticket, reason: Reason, core: PoolCore, start_errors: Mapping[str, AgentPoolError]
) -> AgentPoolError:
    """What a caller is told that is not served."""
    agent = ticket.ref.name
    if reason is Reason.START_FAILED and agent in start_errors:
        return start_errors[agent]
    if reason is Reason.MAX_RSS:
        return too_large(agent, core)
    return PoolClosed(f"the pool was closed while a task of {agent!r} waited")


def too_large(agent: str, core: PoolCore) -> SpawnError:
    """What those are told who wait for an agent that cannot be started within its memory."""
    used = max((r.rss for r in core.workers.values() if r.agent == agent), default=0)
    return SpawnError(
        f"a new worker of agent {agent!r} used {mib(used)} before its first task, "
        f"over max_rss_hard ({mib(core.limits.max_rss_hard or 0)}); raise the limit"
    )


def mib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**20:,.0f} MiB"
