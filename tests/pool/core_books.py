"""What a core must have done, kept by watching its actions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agent_pool.pool.actions import (
    Action,
    Adopt,
    AgentRef,
    Grant,
    Reason,
    Refuse,
    Reset,
    Spawn,
    Stop,
    Ticket,
)
from agent_pool.pool.core import PoolCore
from agent_pool.pool.policy import Limits


@dataclass
class Process:
    """A worker as the machine knows it."""

    ref: AgentRef | None
    flags: str
    doing: str = "starting"
    """Or parked, ready, leased, given_back, resetting; what it did last if it is stopping."""
    is_stopping: bool = False
    is_clean: bool = True
    is_unfit: bool = False
    ticket: Ticket | None = field(default=None, repr=False)

    @property
    def agent(self) -> str:
        return self.ref.name if self.ref else ""


class Books:
    """Who waits, who has which worker, which worker may be trusted; by the actions alone.

    Attributes:
        now, last_look: the time, and when the core was told of it last.
        known: each agent as it was asked for last.
        failing: the agents that cannot be started, by what is being told just now.
    """

    def __init__(self) -> None:
        self.core = PoolCore(Limits())
        self.now = self.last_look = 0.0
        self.known: dict[str, AgentRef] = {}
        self.waiting: list[Ticket] = []
        self.processes: dict[str, Process] = {}
        self.names_used: set[str] = set()
        self.no_reset: set[str] = set()
        self.failing: set[str] = set()

    # What every action must be

    def perform(self, actions: Iterable[Action]) -> None:
        self.last_look = self.now
        for action in actions:
            match action:
                case Spawn(name, ref, flags):
                    self.on_spawn(name, ref, flags)
                case Adopt(name, ref):
                    self.on_adopt(name, ref)
                case Reset(name):
                    process = self.processes[name]
                    assert (process.doing, process.is_stopping) == ("given_back", False)
                    process.doing = "resetting"
                case Stop(name):
                    assert not self.processes[name].is_stopping
                    self.processes[name].is_stopping = True
                case Grant(ticket, name):
                    self.on_grant(ticket, name)
                case Refuse(ticket, reason):
                    self.on_refuse(ticket, reason)

    def on_spawn(self, name: str, ref: AgentRef | None, flags: str) -> None:
        assert name not in self.names_used
        assert not self.core.is_closed
        assert ref is None or flags == ref.flags
        self.names_used.add(name)
        self.processes[name] = Process(ref, flags)
        one_above = bool(self.core.workers[name].replaces)
        assert len(self.processes) <= self.core.limits.max_workers + one_above
        self.check_start(ref, one_above)

    def on_adopt(self, name: str, ref: AgentRef) -> None:
        process = self.processes[name]
        assert (process.ref, process.doing, process.is_stopping) == (None, "parked", False)
        assert (process.flags, process.is_unfit) == (ref.flags, False)
        process.ref, process.doing = ref, "starting"
        self.check_start(ref, bool(self.core.workers[name].replaces))

    def check_start(self, ref: AgentRef | None, one_above: bool) -> None:
        limits, starting = self.core.limits, self.those("starting")
        if one_above:
            assert sum(bool(self.core.workers[name].replaces) for name in starting) == 1
        else:
            assert len(starting) <= limits.spawn_concurrency
        if ref is not None:
            assert ref == self.known[ref.name]
            of_agent = [name for name in self.living() if self.processes[name].agent == ref.name]
            assert len(of_agent) <= limits.max_size + one_above

    def on_grant(self, ticket: Ticket, name: str) -> None:
        process, agent = self.processes[name], ticket.ref.name
        assert ticket == next(other for other in self.waiting if other.ref.name == agent)
        assert (process.doing, process.is_stopping) == ("ready", False)
        assert (process.is_clean, process.is_unfit) == (True, False)
        assert process.ref == self.known[agent]
        assert self.now >= self.core.paused_until
        assert ticket.worker == name
        self.waiting.remove(ticket)
        process.doing, process.ticket = "leased", ticket
        assert len(self.leased(agent)) <= self.core.limits.max_size

    def on_refuse(self, ticket: Ticket, reason: Reason) -> None:
        self.waiting.remove(ticket)
        if reason in (Reason.START_FAILED, Reason.MAX_RSS):
            assert ticket.ref.name in self.failing
        else:
            assert (reason, self.core.is_closed) == (Reason.CLOSED, True)

    # Looking

    def living(self) -> list[str]:
        return [name for name, process in self.processes.items() if not process.is_stopping]

    def stopping(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.is_stopping]

    def those(self, *doing: str) -> list[str]:
        return [name for name in self.living() if self.processes[name].doing in doing]

    def leased(self, agent: str) -> list[str]:
        return [name for name in self.those("leased") if self.processes[name].agent == agent]
