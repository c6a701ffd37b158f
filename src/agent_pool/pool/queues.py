"""The tickets that wait, first come first served for each agent."""

from __future__ import annotations

from collections import deque
from typing import Final

from agent_pool.pool.actions import Ticket

NOBODY: Final = float("inf")


class Queues:
    """One queue an agent; an agent for which nobody waits has none."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Ticket]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def agents(self) -> list[str]:
        """The agents for which somebody waits."""
        return list(self._queues)

    def length(self, agent: str) -> int:
        """How many wait for an agent."""
        return len(self._queues.get(agent, ()))

    def head(self, agent: str) -> float:
        """The number of the agent's next ticket; infinite if there is none."""
        queue = self._queues.get(agent)
        return queue[0].number if queue else NOBODY

    def position(self, ticket: Ticket) -> int:
        """How many wait for the ticket's agent up to and with it."""
        queue = self._queues.get(ticket.ref.name, ())
        return sum(other.number <= ticket.number for other in queue)

    def append(self, ticket: Ticket) -> None:
        """Somebody waits."""
        self._queues.setdefault(ticket.ref.name, deque()).append(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Somebody in the queue waits no longer."""
        self._queues[ticket.ref.name].remove(ticket)
        self._forget_if_empty(ticket.ref.name)

    def pop(self, agent: str) -> Ticket | None:
        """The next one, None if nobody waits."""
        queue = self._queues.get(agent)
        ticket = queue.popleft() if queue else None
        self._forget_if_empty(agent)
        return ticket

    def _forget_if_empty(self, agent: str) -> None:
        if not self._queues.get(agent, True):
            del self._queues[agent]
