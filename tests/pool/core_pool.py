"""A core with a clock, driven by hand."""

from __future__ import annotations

from typing import Any

from agent_pool.pool.actions import (
    Action,
    AgentRef,
    Reset,
    Spawn,
    Ticket,
    TicketState,
    WorkerState,
)
from agent_pool.pool.core import PoolCore
from agent_pool.pool.policy import BACKOFF, Limits

A = AgentRef("a", "1", "f")
A2 = AgentRef("a", "2", "f")
B = AgentRef("b", "1", "f")
C = AgentRef("c", "1", "g")
"""An agent whose processes start with other flags than those of A and B."""

LONG = BACKOFF[1] + 1


class Pool:
    """A core, a clock, and the actions of the last stimulus."""

    def __init__(self, **limits: Any) -> None:
        self.core = PoolCore(Limits(**limits))
        self.now = 0.0
        self.actions: list[Action] = []

    def request(self, ref: AgentRef = A) -> Ticket:
        ticket, self.actions = self.core.request(ref, self.now)
        return ticket

    def tell(self, stimulus: str, *args: Any) -> list[Action]:
        self.actions = getattr(self.core, stimulus)(*args, self.now)
        return self.actions

    def tick(self, seconds: float = 0.0) -> list[Action]:
        self.now += seconds
        return self.tell("tick")

    def spawned(self) -> str:
        """The one worker of an agent that was just started."""
        [name] = [a.worker for a in self.actions if isinstance(a, Spawn) and a.ref is not None]
        return name

    def idle(self, ref: AgentRef = A) -> str:
        """A worker of this agent that is ready and unused."""
        ticket = self.leased_ticket(ref)
        self.tell("abandon", ticket)
        return ticket.worker

    def leased(self, ref: AgentRef = A) -> str:
        """A worker of this agent that is leased."""
        return self.leased_ticket(ref).worker

    def leased_ticket(self, ref: AgentRef = A) -> Ticket:
        ticket = self.request(ref)
        if ticket.state is not TicketState.GRANTED:
            self.tell("started", self.spawned())
        assert ticket.state is TicketState.GRANTED
        return ticket

    def use(self, name: str, *, clean: bool = True) -> list[Action]:
        """Give a leased worker back and reset it."""
        assert Reset(name) in self.tell("release", name)
        return self.tell("was_reset", name, clean)

    def end(self, name: str) -> list[Action]:
        """Give a worker back that is to go, and let it go."""
        self.tell("release", name)
        assert self.state(name) is WorkerState.STOPPING
        return self.tell("gone", name)

    def settle(self) -> None:
        """Let starts, resets and stops come to their ends; leases go on."""
        for _ in range(50):
            busy = {name: record.state for name, record in self.core.workers.items()}
            for name, state in busy.items():
                if state is WorkerState.STARTING:
                    self.tell("started", name)
                elif state is WorkerState.RESETTING:
                    self.tell("was_reset", name, True)
                elif state is WorkerState.STOPPING:
                    self.tell("gone", name)
            if set(busy.values()) <= {WorkerState.IDLE, WorkerState.LEASED}:
                return
        raise AssertionError("workers are started and stopped without end")

    def all_leased(self) -> list[str]:
        """The workers that are leased."""
        return [name for name in self.core.workers if self.state(name) is WorkerState.LEASED]

    def agents(self) -> list[str]:
        """The agents of all workers, in order."""
        return sorted(record.agent for record in self.core.workers.values())

    def state(self, name: str) -> WorkerState:
        return self.core.workers[name].state
