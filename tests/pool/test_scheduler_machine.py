"""A state machine plays callers, processes, memory and time against the scheduler.

The model is built from the scheduler's actions alone: the waiting tickets, the workers and their
leases. Every action is checked against it. Whatever happened before, every waiting caller must be
served or refused in the end, and no worker must be left.
"""

from __future__ import annotations

from bisect import insort
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
from agent_pool.models import AgentKey
from agent_pool.pool.scheduler import (
    AgentSpec,
    Limits,
    RetireReason,
    Scheduler,
    Stop,
    Ticket,
    WorkerState,
)
from agent_pool.pool.scheduler.scheduler import BACKOFF
from support.scheduler_driver import OTHER_PROJECT, PROJECT, SchedulerModel

A, B, C = (AgentKey(PROJECT, name) for name in "abc")
OTHER_A = AgentKey(OTHER_PROJECT, "a")
"""The agent of the same name in another project."""
PROFILES = {A: "f", B: "f", C: "g", OTHER_A: "f"}
"""A worker's profile holds its folder, so two projects never share one; here they do, so that only
the key can keep their workers apart."""
BASES = {A: "base", B: "base", OTHER_A: "base"}
"""The profile of spares that can be claimed for the agent."""
ROLES = {A, B, OTHER_A}
"""The agents that can take over workers of others."""
AGENTS = st.sampled_from([A, A, A, B, C, OTHER_A])
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


class SchedulerMachine(SchedulerModel, RuleBasedStateMachine):
    """Play callers, processes, memory and time, in any order that can happen."""

    def __init__(self) -> None:
        RuleBasedStateMachine.__init__(self)
        SchedulerModel.__init__(self)
        self.starts_fail = False
        self.versions = dict.fromkeys(PROFILES, 1)

    @initialize(limits=LIMITS, starts_fail=st.booleans())
    def create_scheduler(self, limits: Limits, starts_fail: bool) -> None:
        self.scheduler = Scheduler(limits, lambda: 0.5)
        self.starts_fail = starts_fail

    # What usually happens

    @rule(agents=st.lists(AGENTS, min_size=1, max_size=3))
    def request_workers(self, agents: list[AgentKey]) -> None:
        for agent in agents:
            self.request_one(agent)

    def request_one(self, agent: AgentKey, earlier: Ticket | None = None) -> None:
        spec = self.spec(agent)
        is_full = len(self.waiting) >= self.scheduler.limits.max_waiting
        was_full = is_full and earlier is None
        try:
            ticket, actions = self.scheduler.request(spec, self.now, earlier)
        except PoolClosed:
            assert self.scheduler.is_closed
        except TooManyRequests:
            self.known[agent] = spec
            assert was_full
            self.perform(self.scheduler.tick(self.now))  # the definition may be a new one
        else:
            self.known[agent] = spec
            assert earlier is None or ticket.number == earlier.number
            insort(self.waiting, ticket, key=lambda one: one.number)
            self.perform(actions)
            assert not (was_full and ticket in self.waiting)

    @precondition(lambda self: self.those("leased"))
    @rule(data=st.data())
    def ask_again_for_one_task(self, data: st.DataObject) -> None:
        """A task that has done nothing is given to a worker again, at its old place."""
        name = data.draw(st.sampled_from(self.those("leased")))
        ticket = self.workers[name].ticket
        assert ticket is not None
        self.give_back(name)
        self.request_one(ticket.spec.key, ticket)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def finish_one_operation(self, data: st.DataObject) -> None:
        """Something that was begun ends well: a start, a task, a reset, a stop."""
        busy = [*self.those("starting", "leased", "resetting"), *self.stopping()]
        if busy:
            self.finish_one(data.draw(st.sampled_from(busy)))

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def finish_three_operations(self, data: st.DataObject) -> None:
        for _ in range(3):
            self.finish_one_operation(data)

    def finish_one(self, name: str) -> None:
        worker = self.workers[name]
        if worker.is_stopping:
            self.be_gone(name)
        elif worker.doing == "starting":
            self.get_ready(name)
        elif worker.doing == "leased":
            self.give_back(name)
        else:
            self.end_reset(name, clean=True)

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 30.0]), is_told=st.booleans())
    def advance_time(self, seconds: float, is_told: bool) -> None:
        self.now += seconds
        if is_told:
            self.perform(self.scheduler.tick(self.now))

    @precondition(lambda self: self.waiting or self.those("leased"))
    @rule(data=st.data(), by_ticket=st.booleans())
    def cancel_one_caller(self, data: st.DataObject, by_ticket: bool) -> None:
        """Let a caller leave: from the queue, or with a worker that it has not used."""
        callers: list[Ticket | str] = [*self.waiting, *self.those("leased")]
        who = data.draw(st.sampled_from(callers))
        if isinstance(who, Ticket):
            self.waiting.remove(who)
            self.perform(self.scheduler.abandon(who, self.now))
        else:
            self.give_back_unused(who, by_ticket)

    # What goes wrong

    @precondition(lambda self: self.workers)
    @rule(
        data=st.data(),
        how=st.sampled_from(
            ["finish_one_operation", "finish_one_operation", "mark_unfit", "stop", "late"]
        ),
    )
    def inject_worker_fault(self, data: st.DataObject, how: str) -> None:
        if how == "late" and self.stopping():
            self.be_heard_of_late(data.draw(st.sampled_from(self.stopping())), data)
        elif self.living():
            name = data.draw(st.sampled_from(self.living()))
            if how == "unfit":
                self.become_unfit(name)
            elif how == "stop":
                self.perform(self.scheduler.stop(name, RetireReason.MAX_RSS, self.now))
                assert self.workers[name].is_stopping
            elif self.workers[name].doing == "starting":
                if self.workers[name].was_claimed and data.draw(st.booleans()):
                    self.refuse_claim(name)
                else:
                    self.fail_to_start(name, fatal=data.draw(st.booleans()))
            elif self.workers[name].doing == "resetting":
                self.end_reset(name, clean=False)

    @rule(
        data=st.data(),
        what=st.sampled_from(
            [
                *("grow", "pause", "resume", "no_reset", "drain", "drain", "retire"),
                *("switchable", "switchable", "no_claims"),
            ]
        ),
    )
    def disturb_the_pool(self, data: st.DataObject, what: str) -> None:
        if what == "grow":
            sizes = {name: data.draw(st.integers(0, 230)) for name in self.workers}
            self.grow(sizes)
        elif what == "resume":
            self.perform(self.scheduler.resume(self.now))
        elif what == "pause":
            self.perform(self.scheduler.pause(self.now + data.draw(st.integers(1, 60)), self.now))
        elif what == "no_reset":
            profile = data.draw(st.sampled_from(["f", "g"]))
            self.no_reset.add(profile)
            self.perform(self.scheduler.forbid_reset(profile, self.now))
        elif what == "no_claims":
            self.unclaimable.add("base")
            spares = [
                one for one in self.workers.values() if (one.spec, one.profile) == (None, "base")
            ]
            for worker in spares:
                worker.is_unfit = True
            self.perform(self.scheduler.forbid_claims("base", self.now))
            assert all(one.is_stopping or one.doing == "starting" for one in spares)
        elif what == "switchable":
            self.switchable.add("f")
            self.perform(self.scheduler.allow_switching("f", self.now))
        elif what == "drain":
            self.perform(self.scheduler.drain(self.now))
        else:
            agent = data.draw(AGENTS)
            doomed = [name for name in self.living() if self.workers[name].key == agent]
            self.perform(self.scheduler.retire(agent, self.now))
            assert all(self.workers[name].is_stopping for name in doomed)

    @rule(
        data=st.data(),
        what=st.sampled_from(["edit", "edit", "keep_warm", "keep_warm", "resize", "close"]),
    )
    def change_the_pool(self, data: st.DataObject, what: str) -> None:
        if what == "edit":
            self.versions[data.draw(AGENTS)] += 1
        elif what == "resize":
            self.perform(self.scheduler.resize(data.draw(LIMITS), self.now))
        elif what == "close":
            self.perform(self.scheduler.close(self.now))
            assert self.waiting == []
        elif not self.scheduler.is_closed:
            agent = data.draw(AGENTS)
            self.known[agent] = self.spec(agent)
            self.perform(
                self.scheduler.keep_warm(self.known[agent], data.draw(st.integers(1, 2)), self.now)
            )

    # One event each

    def give_back(self, name: str) -> None:
        worker = self.workers[name]
        worker.doing, worker.ticket, worker.is_clean = "given_back", None, False
        has_successor = any(
            self.scheduler.workers[other].replaces == name
            and (self.workers[other].spec, self.workers[other].is_unfit) == (worker.spec, False)
            for other in self.those("ready", "leased", "resetting")
        )
        self.perform(self.scheduler.release(name, self.now))
        assert worker.is_stopping or (worker.doing == "resetting" and not has_successor)

    def give_back_unused(self, name: str, by_ticket: bool) -> None:
        worker = self.workers[name]
        ticket, worker.ticket, worker.doing = worker.ticket, None, "ready"
        assert ticket is not None
        if by_ticket:
            self.perform(self.scheduler.abandon(ticket, self.now))
        else:
            self.perform(self.scheduler.return_unused(name, self.now))

    def get_ready(self, name: str) -> None:
        worker = self.workers[name]
        worker.doing = "ready" if worker.spec else "parked"
        self.perform(self.scheduler.started(name, self.now))

    def fail_to_start(self, name: str, fatal: bool) -> None:
        worker = self.workers[name]
        worker.doing, worker.is_clean = "given_back", False
        self.failing = {worker.key}
        self.perform(self.scheduler.start_failed(name, fatal, self.now))
        self.failing = set()
        assert worker.is_stopping

    def refuse_claim(self, name: str) -> None:
        """Let a spare refuse the project of the agent that it was assigned to."""
        worker = self.workers[name]
        assert worker.spec is not None
        self.unclaimable.add(worker.spec.profile)
        worker.profile, worker.spec, worker.doing = worker.spec.base, None, "parked"
        worker.was_claimed = False
        self.perform(self.scheduler.claim_refused(name, self.now))
        assert worker.is_stopping or not worker.is_unfit

    def end_reset(self, name: str, clean: bool) -> None:
        worker = self.workers[name]
        clean = clean and not worker.is_unfit and worker.profile not in self.no_reset
        worker.doing, worker.is_clean = ("ready", True) if clean else ("given_back", False)
        self.perform(self.scheduler.reset_finished(name, clean, self.now))
        assert clean or worker.is_stopping

    def become_unfit(self, name: str) -> None:
        worker = self.workers[name]
        worker.is_unfit = True
        self.perform(self.scheduler.mark_unfit(name, RetireReason.DIED, self.now))
        assert worker.is_stopping or worker.doing in ("leased", "resetting", "starting")

    def grow(self, sizes: dict[str, int]) -> None:
        """Report a worker that is too large before its first task: a failed start."""
        most = self.scheduler.limits.max_rss_hard
        over = [name for name, size in sizes.items() if most is not None and size > most]
        doomed = set(over) & set(self.living())
        unused = [self.workers[name] for name in doomed & set(self.those("starting", "ready"))]
        self.failing = {worker.key for worker in unused}
        self.perform(self.scheduler.memory_measured(sizes, self.now))
        self.failing = set()
        assert all(self.workers[name].is_stopping for name in doomed)

    def be_gone(self, name: str) -> None:
        del self.workers[name]
        self.perform(self.scheduler.removed(name, self.now))

    def be_heard_of_late(self, name: str, data: st.DataObject) -> None:
        """Report a start or a reset that was running when its worker was stopped."""
        said = data.draw(
            st.sampled_from(
                ["started", "start_failed", "claim_refused", "reset_finished", "release"]
            )
        )
        arguments: dict[str, tuple[Any, ...]] = {"start_failed": (True,), "reset_finished": (True,)}
        self.perform(getattr(self.scheduler, said)(name, *arguments.get(said, ()), self.now))

    # What must always hold

    @invariant()
    def check_scheduler_agrees_with_the_model(self) -> None:
        assert self.scheduler.waiting == len(self.waiting)
        assert list(self.scheduler.workers) == list(self.workers)
        for name, worker in self.workers.items():
            record = self.scheduler.workers[name]
            assert worker.key == record.key
            assert worker.is_stopping == (record.state is WorkerState.STOPPING)
            assert (worker.ticket is not None) == (record.state is WorkerState.LEASED) or (
                worker.is_stopping
            )

    @invariant()
    def check_the_agents_in_use_are_known(self) -> None:
        used = {ticket.spec.key for ticket in self.waiting}
        used |= {worker.key for worker in self.workers.values() if worker.key is not None}
        assert used <= self.scheduler.agents

    @invariant()
    def check_no_action_is_left_pending(self) -> None:
        """But that a worker may have been kept for a caller whom another one serves."""
        looked = self.last_look
        actions = self.scheduler.tick(looked)
        assert [a for a in actions if not isinstance(a, Stop) or a.reason != "max_idle"] == []
        self.perform(actions)
        self.last_look = looked

    @invariant()
    def check_no_caller_waits_while_a_matching_worker_is_idle(self) -> None:
        if self.last_look < self.scheduler.paused_until:
            return
        for agent in {ticket.spec.key for ticket in self.waiting}:
            ready = [n for n in self.those("ready") if self.workers[n].spec == self.known[agent]]
            assert not ready or len(self.leased(agent)) >= self.scheduler.limits.max_size

    def teardown(self) -> None:
        self.come_to_rest()
        at_work = {self.workers[name].key for name in self.living()}
        self.request_workers([key for key in PROFILES if key not in at_work])
        self.serve_everybody()
        self.perform(self.scheduler.close(self.now))
        for place, name in enumerate(self.those("leased")):
            if place % 2:
                self.give_back(name)
            else:
                self.give_back_unused(name, by_ticket=self.starts_fail)
        for name in self.stopping():
            self.be_gone(name)
        assert self.workers == {}
        assert self.scheduler.agents == set()

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
            self.perform(self.scheduler.tick(self.now))
            self.finish_all("starting", "resetting", "leased")
        raise AssertionError(f"these wait for ever: {self.waiting}")

    def finish_all(self, *doing: str) -> None:
        for name in [*self.those(*doing), *self.stopping()]:
            worker = self.workers[name]
            if worker.doing == "starting" and self.starts_fail and not worker.is_stopping:
                self.fail_to_start(name, fatal=False)
            elif worker.is_stopping or worker.doing in doing:
                self.finish_one(name)

    def spec(self, agent: AgentKey) -> AgentSpec:
        version = f"v{self.versions[agent]}"
        base = BASES.get(agent, "")
        return AgentSpec(agent, version, PROFILES[agent], is_role=agent in ROLES, base=base)


def test_the_scheduler_keeps_all_rules_under_random_events() -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(
            max_examples=300,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
