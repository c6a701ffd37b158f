"""A scheduler with a clock, driven by hand, and a model of the state that it must have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from agent_pool.models import AgentKey
from agent_pool.pool.scheduler import (
    Action,
    AgentSpec,
    Assign,
    Grant,
    Limits,
    Refuse,
    Reset,
    RetireReason,
    Scheduler,
    Spawn,
    Stop,
    Ticket,
    TicketState,
    WorkerState,
)
from agent_pool.pool.scheduler.scheduler import BACKOFF

PROJECT, OTHER_PROJECT = "/project", "/other"


def spec(
    name: str,
    version: str = "1",
    profile: str = "f",
    project: str = PROJECT,
    *,
    is_role: bool = False,
    base: str = "",
) -> AgentSpec:
    """Return one version of an agent."""
    return AgentSpec(AgentKey(project, name), version, profile, is_role, base)


A, A2, B = spec("a"), spec("a", "2"), spec("b")
C = spec("c", profile="g")
"""An agent with another profile than A and B."""
OTHER_A = spec("a", profile="h", project=OTHER_PROJECT)
"""The agent of the same name in another project."""
ROLE_A, ROLE_B, ROLE_C = (spec(name, profile="r", is_role=True) for name in "abc")
"""Agents that can take over each other's workers once the profile is switchable."""

LONG = BACKOFF[1] + 1


class SchedulerDriver:
    """A scheduler, a clock, and the actions of the last stimulus."""

    def __init__(self, **limits: Any) -> None:
        self.scheduler = Scheduler(Limits(**limits))
        self.now = 0.0
        self.actions: list[Action] = []

    def request(self, spec: AgentSpec = A) -> Ticket:
        """Request a worker; keep the actions."""
        ticket, self.actions = self.scheduler.request(spec, self.now)
        return ticket

    def tell(self, stimulus: str, *args: Any) -> list[Action]:
        """Call a stimulus at the present time; keep and return the actions."""
        self.actions = getattr(self.scheduler, stimulus)(*args, self.now)
        return self.actions

    def tick(self, seconds: float = 0.0) -> list[Action]:
        """Let time pass."""
        self.now += seconds
        return self.tell("tick")

    def spawned(self) -> str:
        """Return the one worker of an agent that was just started."""
        [name] = [a.worker for a in self.actions if isinstance(a, Spawn) and a.spec is not None]
        return name

    def idle(self, spec: AgentSpec = A) -> str:
        """Return a worker of this agent that is ready and unused."""
        ticket = self.leased_ticket(spec)
        self.tell("abandon", ticket)
        return ticket.worker

    def leased(self, spec: AgentSpec = A) -> str:
        """Return a leased worker of this agent."""
        return self.leased_ticket(spec).worker

    def leased_ticket(self, spec: AgentSpec = A) -> Ticket:
        """Return the granted ticket of a leased worker of this agent."""
        ticket = self.request(spec)
        if ticket.state is not TicketState.GRANTED:
            self.tell("started", self.spawned())
        assert ticket.state is TicketState.GRANTED
        return ticket

    def use(self, name: str, *, clean: bool = True) -> list[Action]:
        """Release a leased worker and finish its reset."""
        assert Reset(name) in self.tell("release", name)
        return self.tell("reset_finished", name, clean)

    def end(self, name: str) -> list[Action]:
        """Release a worker that must stop, and finish its stop."""
        self.tell("release", name)
        assert self.state(name) is WorkerState.STOPPING
        return self.tell("removed", name)

    def settle(self) -> None:
        """Finish all starts, resets and stops; leases go on."""
        for _ in range(50):
            busy = {name: record.state for name, record in self.scheduler.workers.items()}
            for name, state in busy.items():
                if state is WorkerState.STARTING:
                    self.tell("started", name)
                elif state is WorkerState.RESETTING:
                    self.tell("reset_finished", name, True)
                elif state is WorkerState.STOPPING:
                    self.tell("removed", name)
            if set(busy.values()) <= {WorkerState.IDLE, WorkerState.LEASED}:
                return
        raise AssertionError("workers are started and stopped without end")

    def all_leased(self) -> list[str]:
        """Return the workers that are leased."""
        return [name for name in self.scheduler.workers if self.state(name) is WorkerState.LEASED]

    def agents(self) -> list[str]:
        """Return the names of the agents of all workers, sorted; empty for a spare."""
        keys = (record.key for record in self.scheduler.workers.values())
        return sorted(key.name if key else "" for key in keys)

    def state(self, name: str) -> WorkerState:
        """Return the state of a worker."""
        return self.scheduler.workers[name].state


@dataclass
class ModelWorker:
    """A worker as the model knows it."""

    spec: AgentSpec | None
    profile: str
    doing: str = "starting"
    """Or parked, ready, leased, given_back, resetting; what it did last if it is stopping."""
    is_stopping: bool = False
    is_clean: bool = True
    is_unfit: bool = False
    is_switching: bool = False
    was_claimed: bool = False
    ticket: Ticket | None = field(default=None, repr=False)

    @property
    def key(self) -> AgentKey | None:
        return self.spec.key if self.spec else None


class SchedulerModel:
    """The state that a scheduler must have, from its actions alone; checks every action.

    Attributes:
        now: the time.
        last_look: the time of the scheduler's last stimulus.
        known: the version of each agent that was requested last.
        failing: the agents that cannot be started, by the stimulus that runs now.
    """

    def __init__(self) -> None:
        self.scheduler = Scheduler(Limits())
        self.now = self.last_look = 0.0
        self.known: dict[AgentKey, AgentSpec] = {}
        self.waiting: list[Ticket] = []
        self.workers: dict[str, ModelWorker] = {}
        self.names_used: set[str] = set()
        self.no_reset: set[str] = set()
        self.switchable: set[str] = set()
        self.unclaimable: set[str] = set()
        self.failing: set[AgentKey | None] = set()

    # Checks of the actions

    def perform(self, actions: Iterable[Action]) -> None:
        """Check actions and apply them to the model."""
        self.last_look = self.now
        for action in actions:
            match action:
                case Spawn(name, spec, profile):
                    self.on_spawn(name, spec, profile)
                case Assign(name, spec, previous):
                    self.on_assign(name, spec, previous)
                case Reset(name):
                    worker = self.workers[name]
                    assert (worker.doing, worker.is_stopping) == ("given_back", False)
                    worker.doing = "resetting"
                case Stop(name):
                    assert not self.workers[name].is_stopping
                    self.workers[name].is_stopping = True
                case Grant(ticket, name):
                    self.on_grant(ticket, name)
                case Refuse(ticket, reason):
                    self.on_refuse(ticket, reason)

    def on_spawn(self, name: str, spec: AgentSpec | None, profile: str) -> None:
        assert name not in self.names_used
        assert not self.scheduler.is_closed
        assert spec is None or profile == spec.profile
        self.names_used.add(name)
        self.workers[name] = ModelWorker(spec, profile)
        one_above = bool(self.scheduler.workers[name].replaces)
        assert len(self.workers) <= self.scheduler.limits.max_workers + one_above
        self.check_start(spec, one_above)

    def on_assign(self, name: str, spec: AgentSpec, previous: AgentKey | None) -> None:
        worker = self.workers[name]
        assert worker.key == previous
        assert (worker.is_unfit, worker.is_stopping) == (False, False)
        if worker.spec is None:
            assert worker.doing == "parked"
            claims = worker.profile == spec.base and not (
                self.unclaimable & {spec.profile, spec.base}
            )
            assert worker.profile == spec.profile or claims
        else:
            self.check_switch(worker, spec)
        worker.is_switching = worker.spec is not None
        worker.was_claimed = worker.spec is None and worker.profile != spec.profile
        worker.profile = spec.profile
        worker.spec, worker.doing = spec, "starting"
        is_replacement = bool(self.scheduler.workers[name].replaces)
        self.check_start(spec, is_replacement and not worker.is_switching, worker.is_switching)

    def check_switch(self, worker: ModelWorker, spec: AgentSpec) -> None:
        assert (worker.doing, worker.is_clean) == ("ready", True)
        assert worker.spec != spec
        assert worker.profile == spec.profile
        # A worker never leaves its project, whatever its profile is.
        assert worker.key is not None
        assert worker.key.project == spec.key.project
        assert spec.is_role
        assert spec.profile in self.switchable - self.no_reset
        # Only for a caller that waits, and not before those of its own that waited longer.
        first = next(ticket for ticket in self.waiting if ticket.spec.key == spec.key)
        own = [ticket for ticket in self.waiting if ticket.spec.key == worker.key]
        assert all(ticket.number >= first.number for ticket in own)

    def check_start(self, spec: AgentSpec | None, one_above: bool, is_switch: bool = False) -> None:
        limits = self.scheduler.limits
        starting = [one for one in self.those("starting") if not self.workers[one].is_switching]
        if one_above:
            assert sum(bool(self.scheduler.workers[name].replaces) for name in starting) == 1
        elif not is_switch:
            assert len(starting) <= limits.spawn_concurrency
        if spec is not None:
            assert spec == self.known[spec.key]
            of_agent = [name for name in self.living() if self.workers[name].key == spec.key]
            assert len(of_agent) <= limits.max_size + one_above

    def on_grant(self, ticket: Ticket, name: str) -> None:
        worker, key = self.workers[name], ticket.spec.key
        assert ticket == next(other for other in self.waiting if other.spec.key == key)
        # A worker serves callers of its own project only, whatever its agent is called.
        assert worker.key is not None
        assert worker.key.project == key.project
        assert (worker.doing, worker.is_stopping) == ("ready", False)
        assert (worker.is_clean, worker.is_unfit) == (True, False)
        assert worker.spec == self.known[key]
        assert self.now >= self.scheduler.paused_until
        assert ticket.worker == name
        self.waiting.remove(ticket)
        worker.doing, worker.ticket = "leased", ticket
        assert len(self.leased(key)) <= self.scheduler.limits.max_size

    def on_refuse(self, ticket: Ticket, reason: RetireReason) -> None:
        self.waiting.remove(ticket)
        if reason in (RetireReason.START_FAILED, RetireReason.MAX_RSS):
            assert ticket.spec.key in self.failing
        else:
            assert (reason, self.scheduler.is_closed) == (RetireReason.CLOSED, True)

    # Questions

    def living(self) -> list[str]:
        """Return the workers that are not stopping."""
        return [name for name, worker in self.workers.items() if not worker.is_stopping]

    def stopping(self) -> list[str]:
        """Return the workers that are stopping."""
        return [name for name, worker in self.workers.items() if worker.is_stopping]

    def those(self, *doing: str) -> list[str]:
        """Return the living workers in one of these phases."""
        return [name for name in self.living() if self.workers[name].doing in doing]

    def leased(self, key: AgentKey) -> list[str]:
        """Return the leased workers of an agent."""
        return [name for name in self.those("leased") if self.workers[name].key == key]
