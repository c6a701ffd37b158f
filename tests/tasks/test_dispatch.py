"""Which queued task is next, compared with a plain model that looks at every task."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent_pool.tasks.dispatch import Dispatcher, QueuedTask

MAX_RUNNING = 3
MAX_PER_LANE = 2


class DispatchMachine(RuleBasedStateMachine):
    """Adds, takes, ends and removes tasks while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatcher = Dispatcher(MAX_RUNNING, MAX_PER_LANE)
        self.now = 0.0
        self.count = 0
        self.queued: dict[str, QueuedTask] = {}
        self.running: dict[str, QueuedTask] = {}
        self.ended: dict[str, QueuedTask] = {}

    @rule(
        lane=st.integers(0, 2),
        priority=st.integers(-1, 1),
        delay=st.sampled_from([None, 0.0, 1.0, 5.0]),
        patience=st.sampled_from([None, None, 2.0, 6.0]),
        conversation=st.sampled_from([None, None, "x"]),
    )
    def add(
        self,
        lane: int,
        priority: int,
        delay: float | None,
        patience: float | None,
        conversation: str | None,
    ) -> None:
        self.count += 1
        ticket = QueuedTask(
            f"t{self.count}",
            self.count,
            lane,
            priority,
            None if delay is None else self.now + delay,
            None if patience is None else self.now + patience,
            None if conversation is None else (lane, conversation),
        )
        self._add(ticket)

    def _add(self, ticket: QueuedTask) -> None:
        self.queued[ticket.id] = ticket
        self.dispatcher.add(ticket, self.now)

    @rule(data=st.data())
    def add_an_ended_one_again(self, data: st.DataObject) -> None:
        if self.ended:
            name = data.draw(st.sampled_from(sorted(self.ended)))
            self._add(self.ended.pop(name))

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.queued:
            name = data.draw(st.sampled_from(sorted(self.queued)))
            self.ended[name] = self.queued.pop(name)
            assert self.dispatcher.remove(name, self.now)
        assert not self.dispatcher.remove("unknown", self.now)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.running:
            name = data.draw(st.sampled_from(sorted(self.running)))
            self.ended[name] = self.running.pop(name)
            self.dispatcher.ended(name, self.now)

    @rule()
    def take(self) -> None:
        late = {one.id for one in self.queued.values() if _is_late(one, self.now)}
        expired = self.dispatcher.expired(self.now)
        assert set(expired) <= late
        for name in sorted(late):
            # A task that was added after its deadline had been reported is removed as well.
            self.ended[name] = self.queued.pop(name)
            self.dispatcher.remove(name, self.now)
        expected: list[str] = []
        while ticket := self._model_next():
            expected.append(ticket.id)
            self.running[ticket.id] = self.queued.pop(ticket.id)
        assert [one.id for one in self.dispatcher.take(self.now)] == expected

    def _model_next(self) -> QueuedTask | None:
        can_begin = [one for one in self.queued.values() if self._can_begin(one)]
        return min(can_begin, key=lambda one: one.rank, default=None)

    def _can_begin(self, ticket: QueuedTask) -> bool:
        of_lane = [one for one in self.running.values() if one.lane == ticket.lane]
        if len(self.running) >= MAX_RUNNING or len(of_lane) >= MAX_PER_LANE:
            return False
        if ticket.not_before is not None and ticket.not_before > self.now:
            return False
        if ticket.conversation is None:
            return True
        same = [one for one in self.running.values() if one.conversation == ticket.conversation]
        older = [
            one
            for one in self.queued.values()
            if one.conversation == ticket.conversation and one.number < ticket.number
        ]
        return not same and not older

    @invariant()
    def numbers_agree(self) -> None:
        assert self.dispatcher.queued == len(self.queued)
        assert self.dispatcher.running == len(self.running)
        assert set(self.dispatcher.positions()) == set(self.queued)

    @invariant()
    def a_timer_is_set_for_every_later_time(self) -> None:
        times = [
            when
            for one in self.queued.values()
            for when in (one.not_before, one.deadline)
            if when is not None and when > self.now and one.conversation is None
        ]
        if times:
            soonest = self.dispatcher.next_time()
            assert soonest is not None
            assert soonest <= min(times)


def _is_late(ticket: QueuedTask, now: float) -> bool:
    return ticket.deadline is not None and ticket.deadline <= now


DispatchMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
TestEveryTaskBeginsInItsTurn = DispatchMachine.TestCase


def test_a_full_agent_does_not_hold_up_the_others() -> None:
    dispatcher = Dispatcher(max_running=10, max_per_lane=1)
    for number, lane in enumerate(["a", "a", "a", "b"]):
        dispatcher.add(QueuedTask(f"{lane}{number}", number, lane), 0.0)
    assert [one.id for one in dispatcher.take(0.0)] == ["a0", "b3"]
    dispatcher.ended("a0", 1.0)
    assert [one.id for one in dispatcher.take(1.0)] == ["a1"]


def test_tasks_of_one_conversation_begin_one_at_a_time() -> None:
    dispatcher = Dispatcher(max_running=10, max_per_lane=10)
    for number, priority in enumerate([0, 9]):
        dispatcher.add(QueuedTask(f"t{number}", number, "a", priority, conversation="c"), 0.0)
    assert [one.id for one in dispatcher.take(0.0)] == ["t0"]
    dispatcher.ended("t0", 0.0)
    assert [one.id for one in dispatcher.take(0.0)] == ["t1"]


def test_a_retried_older_task_begins_before_a_younger_one() -> None:
    dispatcher = Dispatcher(max_running=10, max_per_lane=10)
    older = QueuedTask("older", 1, "a", -1, conversation="c")
    dispatcher.add(older, 0.0)
    assert dispatcher.remove("older", 0.0)
    dispatcher.add(QueuedTask("younger", 2, "a", 0, conversation="c"), 0.0)
    dispatcher.add(older, 0.0)
    assert [one.id for one in dispatcher.take(0.0)] == ["older"]
    dispatcher.ended("older", 0.0)
    assert [one.id for one in dispatcher.take(0.0)] == ["younger"]
