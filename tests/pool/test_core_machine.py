"""A rule machine plays the world against the pool's core.

The machine keeps books of its own from the actions alone: who waits, who has which worker, which
worker may be trusted. Each action is checked against the books as it comes, and whatever happens,
everybody who waits must in the end be served or refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent_pool.errors import PoolClosed, TooManyRequests
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
    WorkerState,
)
from agent_pool.pool.core import PoolCore
from agent_pool.pool.policy import BACKOFF, Limits

FLAGS = {"a": "f", "b": "f", "c": "g"}
PAST_BACKOFF = BACKOFF[1] + 1

agents = st.sampled_from(sorted(FLAGS))
limits_strategy = st.builds(
    Limits,
    max_size=st.integers(1, 3),
    max_workers=st.integers(1, 4),
    max_waiting=st.integers(1, 6),
    spares=st.integers(0, 2),
    spawn_concurrency=st.integers(1, 3),
    max_tasks=st.none() | st.integers(1, 3),
    max_lifetime=st.none() | st.floats(5, 100),
    max_idle=st.none() | st.floats(5, 100),
    max_rss=st.none() | st.just(100),
    max_rss_hard=st.none() | st.just(200),
    max_total_rss=st.none() | st.just(300),
)


@dataclass
class Process:
    """What the machine knows of a worker."""

    ref: AgentRef | None
    flags: str
    doing: str = "starting"
    """starting, parked, ready, leased, given_back, resetting"""
    is_clean: bool = True
    stopping: bool = False
    ticket: Ticket | None = None


class World(RuleBasedStateMachine):
    """Callers, processes, memory and time, in any order that can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.last_look = 0.0
        self.versions = dict.fromkeys(FLAGS, 1)
        self.known: dict[str, AgentRef] = {}
        self.waiting: list[Ticket] = []
        self.processes: dict[str, Process] = {}
        self.names_used: set[str] = set()
        self.no_reset: set[str] = set()
        self.failed: set[str] = set()

    @initialize(limits=limits_strategy, starts_fail=st.booleans())
    def begin(self, limits: Limits, starts_fail: bool) -> None:
        self.core = PoolCore(limits, lambda: 0.5)
        self.starts_fail = starts_fail

    # Callers

    @rule(agent=agents)
    def request(self, agent: str) -> None:
        ref = self.ref(agent)
        try:
            ticket, actions = self.core.request(ref, self.now)
        except PoolClosed:
            assert self.core.is_closed
            return
        except TooManyRequests:
            self.known[agent] = ref
            assert len(self.waiting) >= self.core.limits.max_waiting
            return
        self.known[agent] = ref
        full = len(self.waiting) >= self.core.limits.max_waiting
        self.waiting.append(ticket)
        self.perform(actions)
        assert not (full and ticket in self.waiting)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave_the_queue(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(ticket)
        self.perform(self.core.abandon(ticket, self.now))

    @precondition(lambda self: self.those_doing("leased"))
    @rule(data=st.data(), by_ticket=st.booleans())
    def leave_before_the_first_word(self, data: st.DataObject, by_ticket: bool) -> None:
        name = self.draw(data, "leased")
        process = self.processes[name]
        ticket, process.ticket, process.doing = process.ticket, None, "ready"
        assert ticket is not None
        if by_ticket:
            self.perform(self.core.abandon(ticket, self.now))
        else:
            self.perform(self.core.unused(name, self.now))

    @precondition(lambda self: self.those_doing("leased"))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.give_back_one(self.draw(data, "leased"))

    def give_back_one(self, name: str) -> None:
        process = self.processes[name]
        process.doing, process.ticket, process.is_clean = "given_back", None, False
        self.perform(self.core.release(name, self.now))
        assert process.stopping or process.doing == "resetting"

    @precondition(lambda self: not self.core.is_closed)
    @rule(agent=agents, count=st.integers(1, 3))
    def keep_warm(self, agent: str, count: int) -> None:
        self.known[agent] = self.ref(agent)
        self.perform(self.core.warm(self.known[agent], count, self.now))

    @rule(agent=agents)
    def edit(self, agent: str) -> None:
        self.versions[agent] += 1

    @rule(agent=agents)
    def retire(self, agent: str) -> None:
        self.perform(self.core.retire(agent, self.now))
        left = [p for p in self.processes.values() if p.ref and p.ref.name == agent]
        assert all(p.stopping or p.doing == "starting" for p in left)

    # Processes

    @precondition(lambda self: self.those_doing("starting"))
    @rule(data=st.data())
    def get_ready(self, data: st.DataObject) -> None:
        self.get_one_ready(self.draw(data, "starting"))

    def get_one_ready(self, name: str) -> None:
        process = self.processes[name]
        process.doing = "ready" if process.ref else "parked"
        self.perform(self.core.started(name, self.now))

    @precondition(lambda self: self.those_doing("starting"))
    @rule(data=st.data(), fatal=st.booleans())
    def fail_to_start(self, data: st.DataObject, fatal: bool) -> None:
        self.fail_one(self.draw(data, "starting"), fatal)

    def fail_one(self, name: str, fatal: bool) -> None:
        process = self.processes[name]
        process.is_clean = False
        process.doing = "given_back"
        if process.ref is not None:
            self.failed = {process.ref.name}
        self.perform(self.core.start_failed(name, fatal, self.now))
        self.failed = set()
        assert process.stopping

    @precondition(lambda self: self.those_doing("resetting"))
    @rule(data=st.data(), clean=st.booleans())
    def end_a_reset(self, data: st.DataObject, clean: bool) -> None:
        self.end_one_reset(self.draw(data, "resetting"), clean)

    def end_one_reset(self, name: str, clean: bool) -> None:
        process = self.processes[name]
        clean = clean and process.flags not in self.no_reset
        process.is_clean = clean and process.is_clean is not None
        process.doing = "ready" if clean else "given_back"
        self.perform(self.core.was_reset(name, clean, self.now))
        assert clean or process.stopping

    @precondition(lambda self: self.living())
    @rule(data=st.data(), reason=st.sampled_from([Reason.DIED, Reason.TAINTED]))
    def die_or_be_tainted(self, data: st.DataObject, reason: Reason) -> None:
        name = data.draw(st.sampled_from(self.living()))
        process = self.processes[name]
        self.perform(self.core.unfit(name, reason, self.now), unfit=name)
        busy = ("leased", "resetting", "starting")
        assert process.stopping or process.doing in busy

    @precondition(lambda self: self.living())
    @rule(data=st.data())
    def be_stopped(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.living()))
        self.perform(self.core.stop(name, Reason.MAX_RSS, self.now))
        assert self.processes[name].stopping

    @precondition(lambda self: self.stopping())
    @rule(data=st.data())
    def be_gone(self, data: st.DataObject) -> None:
        self.be_one_gone(data.draw(st.sampled_from(self.stopping())))

    def be_one_gone(self, name: str) -> None:
        del self.processes[name]
        self.perform(self.core.gone(name, self.now))

    @precondition(lambda self: self.stopping())
    @rule(data=st.data(), late=st.sampled_from(["started", "start_failed", "was_reset", "release"]))
    def be_heard_of_late(self, data: st.DataObject, late: str) -> None:
        name = data.draw(st.sampled_from(self.stopping()))
        args: dict[str, tuple[Any, ...]] = {"start_failed": (True,), "was_reset": (True,)}
        self.perform(getattr(self.core, late)(name, *args.get(late, ()), self.now))

    # The world

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        sizes = st.integers(0, 250)
        self.perform(
            self.core.sampled({name: data.draw(sizes) for name in self.processes}, self.now)
        )

    @rule(seconds=st.floats(0, 60), is_told=st.booleans())
    def let_time_pass(self, seconds: float, is_told: bool) -> None:
        self.now += seconds
        if is_told:
            self.perform(self.core.tick(self.now))

    @rule(seconds=st.floats(1, 60))
    def pause(self, seconds: float) -> None:
        self.perform(self.core.pause(self.now + seconds, self.now))

    @rule(flags=st.sampled_from(sorted(set(FLAGS.values()))))
    def learn_that_resets_fail(self, flags: str) -> None:
        self.no_reset.add(flags)
        self.perform(self.core.no_reset(flags, self.now))

    @rule()
    def drain(self) -> None:
        self.perform(self.core.drain(self.now))

    @rule(limits=limits_strategy)
    def resize(self, limits: Limits) -> None:
        self.perform(self.core.resize(limits, self.now))

    @rule()
    def close(self) -> None:
        self.perform(self.core.close(self.now))
        assert self.waiting == []

    # What must hold

    def perform(self, actions: Iterable[Action], unfit: str = "") -> None:
        self.last_look = self.now
        if unfit:
            self.processes[unfit].is_clean = False
            self.processes[unfit].flags += " "  # no reset makes it clean again
        for action in actions:
            match action:
                case Spawn(name, ref, flags):
                    self.on_spawn(name, ref, flags)
                case Adopt(name, ref):
                    self.on_adopt(name, ref)
                case Reset(name):
                    process = self.processes[name]
                    assert (process.doing, process.stopping) == ("given_back", False)
                    process.doing = "resetting"
                case Stop(name, _):
                    assert not self.processes[name].stopping, "stopped twice"
                    self.processes[name].stopping = True
                case Grant(ticket, name):
                    self.on_grant(ticket, name)
                case Refuse(ticket, reason):
                    self.on_refuse(ticket, reason)

    def on_spawn(self, name: str, ref: AgentRef | None, flags: str) -> None:
        assert name not in self.names_used
        self.names_used.add(name)
        self.processes[name] = Process(ref, flags)
        assert not self.core.is_closed
        assert ref is None or flags == ref.flags
        limits, replaces = self.core.limits, bool(self.core.workers[name].replaces)
        assert len(self.processes) <= limits.max_workers + replaces
        self.check_start(ref, replaces)

    def on_adopt(self, name: str, ref: AgentRef) -> None:
        process = self.processes[name]
        assert (process.ref, process.doing, process.stopping) == (None, "parked", False)
        assert process.flags == ref.flags
        process.ref, process.doing = ref, "starting"
        self.check_start(ref, bool(self.core.workers[name].replaces))

    def check_start(self, ref: AgentRef | None, replaces: bool) -> None:
        limits = self.core.limits
        starting = self.those_doing("starting")
        if replaces:
            assert sum(bool(self.core.workers[n].replaces) for n in starting) == 1
        else:
            assert len(starting) <= limits.spawn_concurrency
        if ref is not None:
            assert ref == self.known[ref.name]
            of_agent = [n for n in self.living() if self.agent_of(n) == ref.name]
            assert len(of_agent) <= limits.max_size + replaces

    def on_grant(self, ticket: Ticket, name: str) -> None:
        process, agent = self.processes[name], ticket.ref.name
        assert ticket == next(t for t in self.waiting if t.ref.name == agent)
        assert (process.doing, process.stopping, process.is_clean) == ("ready", False, True)
        assert process.ref == self.known[agent]
        assert self.now >= self.core.paused_until
        assert ticket.worker == name
        self.waiting.remove(ticket)
        process.doing, process.ticket = "leased", ticket

    def on_refuse(self, ticket: Ticket, reason: Reason) -> None:
        assert ticket in self.waiting
        self.waiting.remove(ticket)
        if reason is Reason.START_FAILED:
            assert ticket.ref.name in self.failed
        else:
            assert (reason, self.core.is_closed) == (Reason.CLOSED, True)

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "core"):
            return
        assert self.core.waiting == len(self.waiting)
        assert set(self.core.workers) == set(self.processes)
        for name, process in self.processes.items():
            assert self.agent_of(name) == self.core.workers[name].agent
            assert process.stopping == (self.core.workers[name].state is WorkerState.STOPPING)

    @invariant()
    def nobody_waits_while_a_fitting_worker_is_idle(self) -> None:
        if not hasattr(self, "core") or self.last_look < self.core.paused_until:
            return
        for ticket in self.waiting:
            ref = self.known[ticket.ref.name]
            idle = [n for n in self.those_doing("ready") if self.processes[n].ref == ref]
            leased = [n for n in self.those_doing("leased") if self.agent_of(n) == ref.name]
            assert not idle or len(leased) >= self.core.limits.max_size

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        self.come_to_rest()
        self.serve_everybody()
        self.perform(self.core.close(self.now))
        for name in self.those_doing("leased"):
            self.give_back_one(name)
        for name in self.stopping():
            self.be_one_gone(name)
        assert self.processes == {}

    def come_to_rest(self) -> None:
        """With time and leases held still, starting and stopping must come to an end."""
        for _ in range(30):
            if not (self.those_doing("starting") or self.those_doing("resetting")):
                if not self.stopping():
                    return
            self.finish_what_was_begun()
        raise AssertionError("workers are started and stopped without end")

    def serve_everybody(self) -> None:
        """With time going on and leases ending, nobody is left waiting."""
        for _ in range(60):
            if not self.waiting:
                return
            self.now += PAST_BACKOFF
            self.perform(self.core.tick(self.now))
            for name in self.those_doing("leased"):
                self.give_back_one(name)
            self.finish_what_was_begun()
        raise AssertionError(f"these wait for ever: {self.waiting}")

    def finish_what_was_begun(self) -> None:
        for name in self.those_doing("resetting"):
            self.end_one_reset(name, clean=True)
        for name in self.those_doing("starting"):
            if self.starts_fail:
                self.fail_one(name, fatal=False)
            else:
                self.get_one_ready(name)
        for name in self.stopping():
            self.be_one_gone(name)

    # Looking

    def ref(self, agent: str) -> AgentRef:
        return AgentRef(agent, f"v{self.versions[agent]}", FLAGS[agent])

    def agent_of(self, name: str) -> str:
        ref = self.processes[name].ref
        return ref.name if ref else ""

    def living(self) -> list[str]:
        return [name for name, p in self.processes.items() if not p.stopping]

    def stopping(self) -> list[str]:
        return [name for name, p in self.processes.items() if p.stopping]

    def those_doing(self, what: str) -> list[str]:
        return [name for name in self.living() if self.processes[name].doing == what]

    def draw(self, data: st.DataObject, doing: str) -> str:
        return str(data.draw(st.sampled_from(self.those_doing(doing))))


def test_the_core_keeps_its_promises_in_every_world() -> None:
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=100,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
