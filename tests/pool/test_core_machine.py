"""A rule machine plays the world against the pool's core.

The machine keeps books of its own from the actions alone: who waits, who has which worker, which
worker may be trusted. Each action is checked against the books as it comes; whatever happened
before, everybody who waits must in the end be served or refused, and nothing may be left behind.
"""

from __future__ import annotations

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
    AgentRef,
    Reason,
    Stop,
    Ticket,
    WorkerState,
)
from agent_pool.pool.core import PoolCore
from agent_pool.pool.policy import BACKOFF, Limits
from pool.core_books import Books

FLAGS = {"a": "f", "b": "f", "c": "g"}
AGENTS = st.sampled_from(["a", "a", "a", "b", "c"])
LIMITS = st.builds(
    Limits,
    max_size=st.integers(1, 3),
    max_workers=st.integers(1, 3),
    max_waiting=st.integers(2, 5),
    spares=st.sampled_from([0, 0, 1, 2]),
    spawn_concurrency=st.integers(1, 3),
    max_tasks=st.sampled_from([None, None, 1, 2]),
    max_lifetime=st.sampled_from([None, None, 40.0]),
    max_idle=st.sampled_from([None, None, 20.0]),
    max_rss=st.sampled_from([None, None, 100]),
    max_rss_hard=st.sampled_from([None, None, 200]),
    max_total_rss=st.sampled_from([None, None, 250]),
)


class World(Books, RuleBasedStateMachine):
    """Callers, processes, memory and time, in any order that can happen."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        Books.__init__(self)
        self.starts_fail = False
        self.versions = dict.fromkeys(FLAGS, 1)

    @initialize(limits=LIMITS, starts_fail=st.booleans())
    def begin(self, limits: Limits, starts_fail: bool) -> None:
        self.core = PoolCore(limits, lambda: 0.5)
        self.starts_fail = starts_fail

    # What usually happens

    @rule(agents=st.lists(AGENTS, min_size=1, max_size=3))
    def request(self, agents: list[str]) -> None:
        for agent in agents:
            self.request_one(agent)

    def request_one(self, agent: str) -> None:
        ref = self.ref(agent)
        was_full = len(self.waiting) >= self.core.limits.max_waiting
        try:
            ticket, actions = self.core.request(ref, self.now)
        except PoolClosed:
            assert self.core.is_closed
        except TooManyRequests:
            self.known[agent] = ref
            assert was_full
            self.perform(self.core.tick(self.now))  # the definition may be a new one
        else:
            self.known[agent] = ref
            self.waiting.append(ticket)
            self.perform(actions)
            assert not (was_full and ticket in self.waiting)

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Something that was begun ends well: a start, a task, a reset, a stop."""
        busy = [*self.those("starting", "leased", "resetting"), *self.stopping()]
        if busy:
            self.finish_one(data.draw(st.sampled_from(busy)))

    @precondition(lambda self: self.processes)
    @rule(data=st.data())
    def finish_more(self, data: st.DataObject) -> None:
        for _ in range(3):
            self.finish(data)

    def finish_one(self, name: str) -> None:
        process = self.processes[name]
        if process.is_stopping:
            self.be_gone(name)
        elif process.doing == "starting":
            self.get_ready(name)
        elif process.doing == "leased":
            self.give_back(name)
        else:
            self.end_reset(name, clean=True)

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 30.0]), is_told=st.booleans())
    def let_time_pass(self, seconds: float, is_told: bool) -> None:
        self.now += seconds
        if is_told:
            self.perform(self.core.tick(self.now))

    @precondition(lambda self: self.waiting or self.those("leased"))
    @rule(data=st.data(), by_ticket=st.booleans())
    def leave(self, data: st.DataObject, by_ticket: bool) -> None:
        """A caller goes: from the queue, or with a worker to which it has said nothing."""
        who = data.draw(st.sampled_from([*self.waiting, *self.those("leased")]))
        if isinstance(who, Ticket):
            self.waiting.remove(who)
            self.perform(self.core.abandon(who, self.now))
        else:
            self.give_back_unused(who, by_ticket)

    # What goes wrong

    @precondition(lambda self: self.processes)
    @rule(data=st.data(), how=st.sampled_from(["finish", "finish", "unfit", "stop", "late"]))
    def go_wrong(self, data: st.DataObject, how: str) -> None:
        if how == "late" and self.stopping():
            self.be_heard_of_late(data.draw(st.sampled_from(self.stopping())), data)
        elif self.living():
            name = data.draw(st.sampled_from(self.living()))
            if how == "unfit":
                self.become_unfit(name)
            elif how == "stop":
                self.perform(self.core.stop(name, Reason.MAX_RSS, self.now))
                assert self.processes[name].is_stopping
            elif self.processes[name].doing == "starting":
                self.fail_to_start(name, fatal=data.draw(st.booleans()))
            elif self.processes[name].doing == "resetting":
                self.end_reset(name, clean=False)

    @rule(
        data=st.data(),
        what=st.sampled_from(["grow", "pause", "no_reset", "drain", "drain", "retire"]),
    )
    def be_disturbed(self, data: st.DataObject, what: str) -> None:
        if what == "grow":
            sizes = {name: data.draw(st.integers(0, 230)) for name in self.processes}
            self.grow(sizes)
        elif what == "pause":
            self.perform(self.core.pause(self.now + data.draw(st.integers(1, 60)), self.now))
        elif what == "no_reset":
            flags = data.draw(st.sampled_from(["f", "g"]))
            self.no_reset.add(flags)
            self.perform(self.core.no_reset(flags, self.now))
        elif what == "drain":
            self.perform(self.core.drain(self.now))
        else:
            agent = data.draw(AGENTS)
            doomed = [name for name in self.living() if self.processes[name].agent == agent]
            self.perform(self.core.retire(agent, self.now))
            assert all(self.processes[name].is_stopping for name in doomed)

    @rule(data=st.data(), what=st.sampled_from(["edit", "edit", "warm", "warm", "resize", "close"]))
    def be_changed(self, data: st.DataObject, what: str) -> None:
        if what == "edit":
            self.versions[data.draw(AGENTS)] += 1
        elif what == "resize":
            self.perform(self.core.resize(data.draw(LIMITS), self.now))
        elif what == "close":
            self.perform(self.core.close(self.now))
            assert self.waiting == []
        elif not self.core.is_closed:
            agent = data.draw(AGENTS)
            self.known[agent] = self.ref(agent)
            self.perform(self.core.warm(self.known[agent], data.draw(st.integers(1, 2)), self.now))

    # One event each

    def give_back(self, name: str) -> None:
        process = self.processes[name]
        process.doing, process.ticket, process.is_clean = "given_back", None, False
        has_successor = any(
            self.core.workers[other].replaces == name
            and (self.processes[other].ref, self.processes[other].is_unfit) == (process.ref, False)
            for other in self.those("ready", "leased", "resetting")
        )
        self.perform(self.core.release(name, self.now))
        assert process.is_stopping or (process.doing == "resetting" and not has_successor)

    def give_back_unused(self, name: str, by_ticket: bool) -> None:
        process = self.processes[name]
        ticket, process.ticket, process.doing = process.ticket, None, "ready"
        assert ticket is not None
        if by_ticket:
            self.perform(self.core.abandon(ticket, self.now))
        else:
            self.perform(self.core.unused(name, self.now))

    def get_ready(self, name: str) -> None:
        process = self.processes[name]
        process.doing = "ready" if process.ref else "parked"
        self.perform(self.core.started(name, self.now))

    def fail_to_start(self, name: str, fatal: bool) -> None:
        process = self.processes[name]
        process.doing, process.is_clean = "given_back", False
        self.failing = {process.agent}
        self.perform(self.core.start_failed(name, fatal, self.now))
        self.failing = set()
        assert process.is_stopping

    def end_reset(self, name: str, clean: bool) -> None:
        process = self.processes[name]
        clean = clean and not process.is_unfit and process.flags not in self.no_reset
        process.doing, process.is_clean = ("ready", True) if clean else ("given_back", False)
        self.perform(self.core.was_reset(name, clean, self.now))
        assert clean or process.is_stopping

    def become_unfit(self, name: str) -> None:
        process = self.processes[name]
        process.is_unfit = True
        self.perform(self.core.unfit(name, Reason.DIED, self.now))
        assert process.is_stopping or process.doing in ("leased", "resetting", "starting")

    def grow(self, sizes: dict[str, int]) -> None:
        """A worker that is too large before its first task is as good as a failed start."""
        most = self.core.limits.max_rss_hard
        over = [name for name, size in sizes.items() if most is not None and size > most]
        doomed = set(over) & set(self.living())
        unused = [self.processes[name] for name in doomed & set(self.those("starting", "ready"))]
        self.failing = {process.agent for process in unused}
        self.perform(self.core.sampled(sizes, self.now))
        self.failing = set()
        assert all(self.processes[name].is_stopping for name in doomed)

    def be_gone(self, name: str) -> None:
        del self.processes[name]
        self.perform(self.core.gone(name, self.now))

    def be_heard_of_late(self, name: str, data: st.DataObject) -> None:
        """What was under way when a worker was stopped may still be reported."""
        said = data.draw(st.sampled_from(["started", "start_failed", "was_reset", "release"]))
        arguments: dict[str, tuple[Any, ...]] = {"start_failed": (True,), "was_reset": (True,)}
        self.perform(getattr(self.core, said)(name, *arguments.get(said, ()), self.now))

    # What must always hold

    @invariant()
    def the_books_agree(self) -> None:
        assert self.core.waiting == len(self.waiting)
        assert list(self.core.workers) == list(self.processes)
        for name, process in self.processes.items():
            record = self.core.workers[name]
            assert process.agent == record.agent
            assert process.is_stopping == (record.state is WorkerState.STOPPING)
            assert (process.ticket is not None) == (record.state is WorkerState.LEASED) or (
                process.is_stopping
            )

    @invariant()
    def nothing_is_left_to_do_until_something_happens(self) -> None:
        """But that a worker may have been kept for a caller whom another one serves."""
        looked = self.last_look
        actions = self.core.tick(looked)
        assert [a for a in actions if not isinstance(a, Stop) or a.reason != "max_idle"] == []
        self.perform(actions)
        self.last_look = looked

    @invariant()
    def nobody_waits_while_a_fitting_worker_is_idle(self) -> None:
        if self.last_look < self.core.paused_until:
            return
        for agent in {ticket.ref.name for ticket in self.waiting}:
            ready = [n for n in self.those("ready") if self.processes[n].ref == self.known[agent]]
            assert not ready or len(self.leased(agent)) >= self.core.limits.max_size

    def teardown(self) -> None:
        self.come_to_rest()
        at_work = {self.processes[name].agent for name in self.living()}
        self.request(sorted(set(FLAGS) - at_work))
        self.serve_everybody()
        self.perform(self.core.close(self.now))
        for place, name in enumerate(self.those("leased")):
            if place % 2:
                self.give_back(name)
            else:
                self.give_back_unused(name, by_ticket=self.starts_fail)
        for name in self.stopping():
            self.be_gone(name)
        assert self.processes == {}

    def come_to_rest(self) -> None:
        """While time stands still and leases last, starting and stopping must come to an end."""
        for _ in range(30):
            if not (self.those("starting", "resetting") or self.stopping()):
                return
            self.finish_all("starting", "resetting")
        raise AssertionError("workers are started and stopped without end")

    def serve_everybody(self) -> None:
        """While time goes on and leases end, nobody is left waiting."""
        for _ in range(60):
            if not self.waiting:
                return
            self.now += BACKOFF[1] + 1
            self.perform(self.core.tick(self.now))
            self.finish_all("starting", "resetting", "leased")
        raise AssertionError(f"these wait for ever: {self.waiting}")

    def finish_all(self, *doing: str) -> None:
        for name in [*self.those(*doing), *self.stopping()]:
            process = self.processes[name]
            if process.doing == "starting" and self.starts_fail and not process.is_stopping:
                self.fail_to_start(name, fatal=False)
            elif process.is_stopping or process.doing in doing:
                self.finish_one(name)

    def ref(self, agent: str) -> AgentRef:
        return AgentRef(agent, f"v{self.versions[agent]}", FLAGS[agent])


def test_the_core_keeps_its_promises_in_every_world() -> None:
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=300,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
