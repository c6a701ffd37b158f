"""Which task goes to which node: the decisions alone, without IO and without a clock.

A lane holds the tasks of one agent of one project. The lanes take turns, so that a long queue of
one agent does not hold up the others. A task goes to a node with a worker of its lane that has
nothing to do; else to the node that is the least full. A conversation stays on its node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from agent_pool.models import NodeInfo, NodeState

NO_NODE: Final = ""


class Lane(NamedTuple):
    """An agent of a project."""

    project: str
    agent: str


@dataclass(frozen=True, slots=True)
class ClusterTicket:
    """A task that waits for a node.

    Attributes:
        id: the task's id.
        lane: its agent.
        conversation: its conversation; None for a task without one.
        lacking: nodes that have said that they do not have its project.
    """

    id: str
    lane: Lane
    conversation: Hashable | None = None
    lacking: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Placed:
    """A task, and the node that it goes to."""

    ticket: ClusterTicket
    node: str


@dataclass(slots=True)
class _Node:
    name: str
    size: int
    state: NodeState = "starting"
    reason: str = ""
    version: str = ""
    running: dict[str, ClusterTicket] = field(default_factory=dict)
    lanes: Counter[Lane] = field(default_factory=Counter)
    warm: Counter[Lane] = field(default_factory=Counter)
    conversations: set[Hashable] = field(default_factory=set)
    lacks: set[str] = field(default_factory=set)

    @property
    def has_room(self) -> bool:
        return len(self.running) < self.size

    def has_idle_worker(self, lane: Lane) -> bool:
        return self.warm[lane] > self.lanes[lane]

    @property
    def load(self) -> float:
        busy = len(self.running)
        if self.conversations:
            # An idle conversation has a worker too.
            busy += len(self.conversations - {one.conversation for one in self.running.values()})
        return busy / self.size


class Placement:
    """The nodes and their tasks; every call is synchronous.

    Args:
        max_running: the most tasks that run at once on all nodes together.
        max_per_lane: the most tasks of one agent that run at once on all nodes together.
    """

    def __init__(self, max_running: int, max_per_lane: int) -> None:
        self._max_running = max_running
        self._max_per_lane = max_per_lane
        self._nodes: dict[str, _Node] = {}
        # In the order of their turns: a lane goes to the end when a task of it is placed.
        self._queued: dict[Lane, dict[str, ClusterTicket]] = {}
        self._lane_of: dict[str, Lane] = {}
        self._node_of: dict[str, str] = {}
        self._running: Counter[Lane] = Counter()
        self._homes: dict[Hashable, str] = {}
        self._busy: set[Hashable] = set()

    # Nodes

    def join(self, node: str, name: str, size: int) -> None:
        """Add a node that is being started; it gets no tasks yet.

        Args:
            node: its id; one that comes back has another.
            name: its name for people.
            size: how many tasks it runs at once.
        """
        assert node not in self._nodes
        self._nodes[node] = _Node(name, size)

    def ready(self, node: str, version: str = "") -> None:
        """Let a node have tasks, unless it is draining or lost."""
        found = self._nodes[node]
        if found.state in ("starting", "left_out"):
            found.state, found.reason, found.version = "ready", "", version

    def leave_out(self, node: str, reason: str, version: str = "") -> None:
        """Give a node no more tasks, for a reason that people read."""
        found = self._nodes[node]
        if found.state != "lost":
            found.state, found.reason, found.version = "left_out", reason, version

    def drain(self, node: str, reason: str) -> None:
        """Give a node no more tasks, except those of conversations that it has."""
        found = self._nodes[node]
        if found.state != "lost":
            found.state, found.reason = "draining", reason

    def is_drained(self, node: str) -> bool:
        """Check whether a draining node has neither a task nor a conversation."""
        found = self._nodes[node]
        return found.state == "draining" and not found.running and not found.conversations

    def lose(self, node: str, reason: str) -> None:
        """Give a node no more tasks; its conversations are lost, its tasks are still unknown."""
        found = self._nodes[node]
        found.state, found.reason = "lost", reason
        for conversation in tuple(found.conversations):
            self.end_conversation(conversation)
        found.warm.clear()

    def remove(self, node: str) -> list[str]:
        """Forget a node; return the tasks that it had, which run no longer."""
        self.lose(node, "")
        tasks = list(self._nodes[node].running)
        for task in tasks:
            self.ended(task)
        del self._nodes[node]
        return tasks

    def set_warm(self, node: str, lanes: Iterable[Lane]) -> None:
        """Note the lane of each worker that a node has."""
        if (found := self._nodes.get(node)) is not None and found.state != "lost":
            found.warm = Counter(lanes)

    def set_lack(self, node: str, project: str, *, lacks: bool) -> None:
        """Note whether a node does not have a project; others are preferred then.

        Where every node lacks it, its tasks try them all: the folder can have appeared.
        """
        if (found := self._nodes.get(node)) is not None:
            (found.lacks.add if lacks else found.lacks.discard)(project)

    def info(self, node: str) -> NodeInfo:
        """Return a node as it is now."""
        found = self._nodes[node]
        return NodeInfo(
            found.name, found.state, found.reason, found.size, len(found.running), found.version
        )

    def infos(self) -> list[NodeInfo]:
        """Return all nodes by name.

        A node that was lost and is being started again is shown as lost until it can have tasks.
        """
        found = sorted((self.info(node) for node in self._nodes), key=lambda one: one.node)
        lost = {one.node for one in found if one.state == "lost"}
        return [one for one in found if one.state != "starting" or one.node not in lost]

    def with_state(self, *states: NodeState) -> list[str]:
        """Return the nodes in these states, in the order in which they joined."""
        return [node for node, found in self._nodes.items() if found.state in states]

    def running_on(self, node: str) -> list[str]:
        """Return the tasks that a node has."""
        return list(self._nodes[node].running)

    # Tasks

    @property
    def queued(self) -> int:
        """Return how many tasks wait."""
        return sum(map(len, self._queued.values()))

    @property
    def running(self) -> int:
        """Return how many tasks nodes have."""
        return len(self._node_of)

    def node_of(self, task: str) -> str:
        """Return the node that has a task; empty if none has it."""
        return self._node_of.get(task, NO_NODE)

    def home_of(self, conversation: Hashable) -> str:
        """Return the node that has a conversation; empty if none has it."""
        return self._homes.get(conversation, NO_NODE)

    def is_busy(self, conversation: Hashable) -> bool:
        """Check whether a task of a conversation runs."""
        return conversation in self._busy

    def homes(self) -> dict[Hashable, str]:
        """Return the conversations and their nodes."""
        return dict(self._homes)

    def add(self, ticket: ClusterTicket) -> None:
        """Queue a task; `take` returns it when a node can have it."""
        assert ticket.id not in self._lane_of
        assert ticket.id not in self._node_of
        self._queued.setdefault(ticket.lane, {})[ticket.id] = ticket
        self._lane_of[ticket.id] = ticket.lane

    def withdraw(self, task: str) -> bool:
        """Remove a task that waits; return False if it does not wait."""
        lane = self._lane_of.pop(task, None)
        if lane is None:
            return False
        self._drop(lane, task)
        return True

    def position(self, task: str) -> int:
        """Return the place of a task that waits in its lane, 1 for the next; 0 if it does not."""
        lane = self._lane_of.get(task)
        return 0 if lane is None else list(self._queued[lane]).index(task) + 1

    def take(self) -> list[Placed]:
        """Return the tasks that go to a node now, and their nodes; from now on they run."""
        taken: list[Placed] = []
        while len(self._node_of) < self._max_running:
            placed = self._next()
            if placed is None:
                break
            self._begin(placed)
            taken.append(placed)
        return taken

    def ended(self, task: str) -> None:
        """Note that a task runs no longer; no effect if it did not run."""
        node = self._node_of.pop(task, NO_NODE)
        if not node:
            return
        found = self._nodes[node]
        ticket = found.running.pop(task)
        found.lanes[ticket.lane] -= 1
        self._running[ticket.lane] -= 1
        self._busy.discard(ticket.conversation)

    def give_back(self, task: str) -> None:
        """Queue a task again, as the first of its lane, that its node cannot have.

        The node does not have its project, and nothing of the task was done.
        """
        node = self._node_of[task]
        ticket = self._nodes[node].running[task]
        self.ended(task)
        if ticket.conversation is not None:
            self.end_conversation(ticket.conversation)
        again = replace(ticket, lacking=ticket.lacking | {node})
        self._queued[ticket.lane] = {task: again, **self._queued.get(ticket.lane, {})}
        self._lane_of[task] = ticket.lane

    def is_hopeless(self, task: str) -> bool:
        """Check whether every node that can have tasks now or soon has said that it cannot."""
        lane = self._lane_of[task]
        lacking = self._queued[lane][task].lacking
        return all(node in lacking for node in self.with_state("ready", "starting"))

    def end_conversation(self, conversation: Hashable) -> bool:
        """Forget where a conversation is; return whether it was anywhere."""
        node = self._homes.pop(conversation, NO_NODE)
        if node:
            self._nodes[node].conversations.discard(conversation)
        return bool(node)

    # Which task is next

    def _next(self) -> Placed | None:
        """Return the first task of the first lane that can begin, and its node."""
        if not any(node.has_room for node in self._nodes.values()):
            return None
        for lane, tickets in self._queued.items():
            if self._running[lane] < self._max_per_lane:
                for ticket in _firsts(tickets.values()):
                    if node := self._place(ticket):
                        return Placed(ticket, node)
        return None

    def _place(self, ticket: ClusterTicket) -> str:
        """Return the node that a task goes to now; empty for none."""
        if ticket.conversation is not None:
            if ticket.conversation in self._busy:
                return NO_NODE
            if home := self._homes.get(ticket.conversation):
                node = self._nodes[home]
                return home if node.has_room and node.state in ("ready", "draining") else NO_NODE
        able = [
            (name, node)
            for name, node in self._nodes.items()
            if node.state == "ready" and name not in ticket.lacking
        ]
        # A task waits for a node with its project rather than try one that has just lacked it.
        having = [one for one in able if ticket.lane.project not in one[1].lacks]
        fitting = [
            (not node.has_idle_worker(ticket.lane), node.load, name)
            for name, node in having or able
            if node.has_room
        ]
        return min(fitting)[-1] if fitting else NO_NODE

    def _begin(self, placed: Placed) -> None:
        ticket, node = placed.ticket, self._nodes[placed.node]
        del self._lane_of[ticket.id]
        self._drop(ticket.lane, ticket.id)
        if (rest := self._queued.pop(ticket.lane, None)) is not None:
            self._queued[ticket.lane] = rest  # the next turn is another lane's
        self._node_of[ticket.id] = placed.node
        self._running[ticket.lane] += 1
        node.running[ticket.id] = ticket
        node.lanes[ticket.lane] += 1
        if ticket.conversation is not None:
            self._homes[ticket.conversation] = placed.node
            self._busy.add(ticket.conversation)
            node.conversations.add(ticket.conversation)

    def _drop(self, lane: Lane, task: str) -> None:
        tickets = self._queued[lane]
        del tickets[task]
        if not tickets:
            del self._queued[lane]


def _firsts(tickets: Iterable[ClusterTicket]) -> Iterable[ClusterTicket]:
    """Yield the tasks that can be next: of those that can go to the same nodes, the first one."""
    seen: set[object] = set()
    for ticket in tickets:
        # Tasks of a conversation never overtake each other.
        kind = ticket.lacking if ticket.conversation is None else (ticket.conversation,)
        if kind not in seen:
            seen.add(kind)
            yield ticket
