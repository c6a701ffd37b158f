"""Which task goes to which node, compared with a plain model of the rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agent_pool.cluster.placement import ClusterTicket, Lane, Placed, Placement

MAX_RUNNING = 5
MAX_PER_LANE = 3
LANES = [Lane("/p", "a"), Lane("/p", "b"), Lane("/q", "a")]


class PlacementMachine(RuleBasedStateMachine):
    """Nodes come, are lost and are drained while tasks are added, placed, ended and withdrawn."""

    def __init__(self) -> None:
        super().__init__()
        self.placement = Placement(MAX_RUNNING, MAX_PER_LANE)
        self.count = 0
        self.sizes: dict[str, int] = {}
        self.states: dict[str, str] = {}
        self.warm: dict[str, Counter[Lane]] = {}
        self.queued: dict[str, ClusterTicket] = {}
        self.running: dict[str, Placed] = {}
        self.homes: dict[object, str] = {}
        self.lacks: set[tuple[str, str]] = set()

    # Nodes

    @rule(size=st.integers(1, 3))
    def join(self, size: int) -> None:
        self.count += 1
        node = f"n{self.count}"
        self.sizes[node], self.states[node] = size, "starting"
        self.placement.join(node, node, size)

    @precondition(lambda self: self.states)
    @rule(
        data=st.data(), state=st.sampled_from(["ready", "ready", "ready", "left_out", "draining"])
    )
    def change_state(self, data: st.DataObject, state: str) -> None:
        node = data.draw(st.sampled_from(sorted(self.states)))
        before = self.states[node]
        if state == "ready":
            self.placement.ready(node)
            allowed = before in ("starting", "left_out")
        elif state == "left_out":
            self.placement.leave_out(node, "no CLI")
            allowed = before != "lost"
        else:
            self.placement.drain(node, "asked")
            allowed = before != "lost"
        if allowed:
            self.states[node] = state
        drained = self.states[node] == "draining" and not self._on(node) and not self._held(node)
        assert self.placement.is_drained(node) == drained

    @precondition(lambda self: self.states)
    @rule(data=st.data(), lanes=st.lists(st.sampled_from(LANES), max_size=3))
    def warm_up(self, data: st.DataObject, lanes: list[Lane]) -> None:
        node = data.draw(st.sampled_from(sorted(self.states)))
        self.placement.set_warm(node, lanes)
        if self.states[node] != "lost":
            self.warm[node] = Counter(lanes)

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(sorted(self.states)))
        self.placement.lose(node, "not heard")
        self.states[node] = "lost"
        self.warm.pop(node, None)
        self.homes = {key: home for key, home in self.homes.items() if home != node}

    @precondition(lambda self: "lost" in self.states.values())
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        lost = sorted(node for node, state in self.states.items() if state == "lost")
        node = data.draw(st.sampled_from(lost))
        had = self._on(node)
        assert sorted(self.placement.remove(node)) == sorted(had)
        for task in had:
            del self.running[task]
        del self.states[node], self.sizes[node]

    # Tasks

    @rule(lane=st.sampled_from(LANES), conversation=st.sampled_from([None, None, "x", "y"]))
    def add(self, lane: Lane, conversation: str | None) -> None:
        self.count += 1
        key = None if conversation is None else (lane, conversation)
        ticket = self.queued[f"t{self.count}"] = ClusterTicket(f"t{self.count}", lane, key)
        self.placement.add(ticket)

    @precondition(lambda self: self.queued)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.queued)))
        del self.queued[task]
        assert self.placement.withdraw(task)
        assert not self.placement.withdraw(task)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[task]
        self.placement.ended(task)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.running)))
        placed = self.running.pop(task)
        self.placement.give_back(task)
        lacking = placed.ticket.lacking | {placed.node}
        # It is the first again, of its lane and of its conversation.
        self.queued = {task: replace(placed.ticket, lacking=lacking), **self.queued}
        self.homes.pop(placed.ticket.conversation, None)

    @precondition(lambda self: self.homes)
    @rule(data=st.data())
    def end_conversation(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.homes, key=repr)))
        del self.homes[key]
        assert self.placement.end_conversation(key)
        assert not self.placement.end_conversation(key)

    @precondition(lambda self: self.states)
    @rule(data=st.data(), project=st.sampled_from(["/p", "/q"]), lacks=st.booleans())
    def set_lack(self, data: st.DataObject, project: str, lacks: bool) -> None:
        node = data.draw(st.sampled_from(sorted(self.states)))
        self.placement.set_lack(node, project, lacks=lacks)
        (self.lacks.add if lacks else self.lacks.discard)((node, project))

    @rule()
    def take(self) -> None:
        for placed in self.placement.take():
            ticket = self.queued.pop(placed.ticket.id)
            assert placed.ticket == ticket
            assert placed.node in self._best(ticket)
            assert self._is_first(ticket)
            self.running[ticket.id] = placed
            if ticket.conversation is not None:
                self.homes[ticket.conversation] = placed.node
        # No task waits that could begin.
        assert [
            one for one in self.queued.values() if self._is_first(one) and self._best(one)
        ] == []

    # The rules

    def _on(self, node: str) -> list[str]:
        return [task for task, placed in self.running.items() if placed.node == node]

    def _held(self, node: str) -> list[object]:
        return [key for key, home in self.homes.items() if home == node]

    def _is_first(self, ticket: ClusterTicket) -> bool:
        same = [
            one.id
            for one in self.queued.values()
            if ticket.conversation is not None and one.conversation == ticket.conversation
        ]
        earlier = same.index(ticket.id) if ticket.id in same else 0
        return earlier == 0

    def _best(self, ticket: ClusterTicket) -> list[str]:
        """Return the nodes of which one must get the task; without any, it must wait."""
        lane = [one for one in self.running.values() if one.ticket.lane == ticket.lane]
        if len(self.running) >= MAX_RUNNING or len(lane) >= MAX_PER_LANE:
            return []
        if ticket.conversation is not None:
            if any(one.ticket.conversation == ticket.conversation for one in self.running.values()):
                return []
            if home := self.homes.get(ticket.conversation):
                can = self.states[home] in ("ready", "draining") and self._has_room(home)
                return [home] if can else []
        able = [
            node
            for node, state in self.states.items()
            if state == "ready" and node not in ticket.lacking
        ]
        having = [node for node in able if (node, ticket.lane.project) not in self.lacks]
        fitting = [node for node in having or able if self._has_room(node)]
        warm = [node for node in fitting if self._is_warm(node, ticket.lane)]
        least = min(map(self._load, warm or fitting), default=0.0)
        return [node for node in warm or fitting if self._load(node) == least]

    def _has_room(self, node: str) -> bool:
        return len(self._on(node)) < self.sizes[node]

    def _is_warm(self, node: str, lane: Lane) -> bool:
        busy = [task for task in self._on(node) if self.running[task].ticket.lane == lane]
        return self.warm.get(node, Counter())[lane] > len(busy)

    def _load(self, node: str) -> float:
        busy = {self.running[task].ticket.conversation for task in self._on(node)}
        idle = [key for key in self._held(node) if key not in busy]
        return (len(self._on(node)) + len(idle)) / self.sizes[node]

    @invariant()
    def numbers_agree(self) -> None:
        assert self.placement.queued == len(self.queued)
        assert self.placement.running == len(self.running)
        assert self.placement.homes() == self.homes
        for task, placed in self.running.items():
            assert self.placement.node_of(task) == placed.node
        for node, state in self.states.items():
            info = self.placement.info(node)
            assert (info.state, info.running) == (state, len(self._on(node)))

    @invariant()
    def no_bound_is_exceeded(self) -> None:
        assert len(self.running) <= MAX_RUNNING
        lanes = Counter(one.ticket.lane for one in self.running.values())
        assert max(lanes.values(), default=0) <= MAX_PER_LANE
        for node, size in self.sizes.items():
            assert len(self._on(node)) <= size


def test_every_task_goes_to_the_right_node() -> None:
    run_state_machine_as_test(
        PlacementMachine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )


def _placement(*sizes: int, max_per_lane: int = 100) -> Placement:
    placement = Placement(max_running=100, max_per_lane=max_per_lane)
    for number, size in enumerate(sizes, 1):
        placement.join(f"n{number}", f"n{number}", size)
        placement.ready(f"n{number}")
    return placement


def test_agents_and_projects_take_turns_for_the_free_places() -> None:
    placement = _placement(6)
    for number, lane in enumerate([*[LANES[0]] * 6, LANES[1], LANES[1], LANES[2]]):
        placement.add(ClusterTicket(f"t{number}", lane))
    assert [one.ticket.id for one in placement.take()] == ["t0", "t6", "t8", "t1", "t7", "t2"]


def test_a_task_goes_to_the_node_with_an_idle_worker_of_its_agent() -> None:
    placement = _placement(2, 8)
    placement.set_warm("n1", [LANES[0]])
    for number in range(3):
        placement.add(ClusterTicket(f"t{number}", LANES[0]))
    # The second one would wait for a reset or a start there, as on any node: so the least full.
    assert [one.node for one in placement.take()] == ["n1", "n2", "n2"]


def test_a_conversation_waits_for_its_full_node_and_goes_to_no_other() -> None:
    placement = _placement(1, 1)
    placement.add(ClusterTicket("t1", LANES[0], "talk"))
    assert [one.node for one in placement.take()] == ["n1"]
    placement.ended("t1")
    placement.drain("n2", "asked")
    placement.add(ClusterTicket("t2", LANES[1]))
    assert [one.node for one in placement.take()] == ["n1"]
    placement.ready("n2")
    placement.join("n3", "n3", 1)
    placement.ready("n3")
    placement.add(ClusterTicket("t3", LANES[0], "talk"))
    assert placement.take() == []
    placement.ended("t2")
    assert [one.node for one in placement.take()] == ["n1"]


def test_a_task_without_its_project_is_next_on_another_node() -> None:
    placement = _placement(1, 1)
    placement.add(ClusterTicket("t1", LANES[0]))
    assert [one.node for one in placement.take()] == ["n1"]
    placement.add(ClusterTicket("t2", LANES[0]))
    placement.give_back("t1")
    assert [(one.ticket.id, one.node) for one in placement.take()] == [("t1", "n2"), ("t2", "n1")]


def test_a_node_that_lacked_the_project_is_tried_only_if_all_did() -> None:
    placement = _placement(2, 1)
    placement.set_lack("n1", "/p", lacks=True)
    for number, lane in enumerate([LANES[0], LANES[1], LANES[2]], 1):
        placement.add(ClusterTicket(f"t{number}", lane))
    # The second task waits for the node that has its project; the third has another project.
    assert [(one.ticket.id, one.node) for one in placement.take()] == [("t1", "n2"), ("t3", "n1")]
    placement.set_lack("n2", "/p", lacks=True)
    assert [(one.ticket.id, one.node) for one in placement.take()] == [("t2", "n1")]
    placement.ended("t2")
    placement.set_lack("n2", "/p", lacks=False)
    placement.add(ClusterTicket("t4", LANES[0]))
    assert placement.take() == []
    placement.set_lack("n1", "/p", lacks=False)
    assert [(one.ticket.id, one.node) for one in placement.take()] == [("t4", "n1")]


def test_a_node_that_comes_back_is_shown_as_lost_until_it_is_ready() -> None:
    placement = _placement(1)
    placement.lose("n1", "it was not heard for 4.5 s")
    placement.join("n2", "n1", 1)
    assert [(one.state, one.reason) for one in placement.infos()] == [
        ("lost", "it was not heard for 4.5 s")
    ]
