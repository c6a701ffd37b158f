"""The nodes of the cluster: each gets an actor when it joins, and is checked again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Final, Protocol

from agent_pool.cluster.capacity import node_size
from agent_pool.cluster.node_link import LinkListener, NodeLink
from agent_pool.cluster.node_probe import PROBE_GAP_SECONDS
from agent_pool.cluster.placement import Placement
from agent_pool.cluster.ray_api import RayCluster, RayNode
from agent_pool.errors import AgentPoolError, DaemonUnavailable, PoolTimeout
from agent_pool.settings import Settings

log = logging.getLogger("agent_pool")

LOOK_SECONDS: Final = 1.0
"""The pause between two looks at the list of nodes."""
AGAIN_SECONDS: Final = 10.0
"""The pause before another try to start an actor that could not be started."""
CLOSE_SECONDS: Final = 15.0
"""Seconds for a node without tasks to end its workers."""
LOST_SECONDS: Final = 300.0
"""For so long a lost node is shown."""
FIRST_PAUSE: Final = 1.0
"""Seconds after which another connection to the cluster is tried; each next pause is twice as
long."""
LAST_PAUSE: Final = 30.0
"""The longest pause between two such tries; a try takes a second of a core and more."""


class PoolListener(LinkListener, Protocol):
    """Gets what happens on nodes, and which can have tasks."""

    def ready(self, node: str) -> None:
        """Handle that a node can have tasks from now on."""

    def left(self, node: str) -> None:
        """Handle that a node without tasks is being forgotten."""


class Members:
    """The nodes, and the actor on each of them.

    Args:
        cluster: Ray.
        placement: what decides which node gets a task; it learns the state of each node here.
        settings: of the pool.
        environ: the variables that nodes get.
        listener: gets what happens.
    """

    def __init__(
        self,
        cluster: RayCluster,
        placement: Placement,
        settings: Settings,
        environ: Mapping[str, str],
        listener: PoolListener,
    ) -> None:
        self._cluster = cluster
        self._placement = placement
        self._settings = settings
        self._environ = environ
        self._listener = listener
        self._links: dict[str, NodeLink] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._lost: dict[str, float] = {}
        self._gone: set[str] = set()
        self._closing: list[asyncio.Task[None]] = []
        self._joined = 0
        self._changed = asyncio.Event()
        self._is_stopped = False
        self._problem = ""
        self._pause = FIRST_PAUSE
        self._next_try = 0.0

    # The cluster

    @property
    def cluster_problem(self) -> str:
        """Return why the cluster cannot be reached; empty if it can."""
        return self._problem

    async def connect(self) -> None:
        """Connect to the cluster.

        Raises:
            ConfigError, DaemonUnavailable: see `RayCluster.connect`.
        """
        await self._cluster.connect()

    async def disconnect(self) -> None:
        """Leave the cluster; every actor ends."""
        await self._cluster.disconnect()

    async def run(self) -> None:
        """Take new nodes until the pool is closed; connect again when the cluster was away."""
        while not self._is_stopped:
            if not await self._look():
                await self._try_again()
            self._forget_lost()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> bool:
        """Take the nodes that the head lists; return False if it does not answer."""
        try:
            found = await self._cluster.nodes()
        except DaemonUnavailable as error:
            if not self._problem:
                self._next_try, self._pause = time.monotonic() + FIRST_PAUSE, FIRST_PAUSE
            self._note_problem(str(error))
            return False
        self._note_problem("")
        self._take(found)
        return True

    def _note_problem(self, problem: str) -> None:
        if problem and problem != self._problem:
            # Tasks go on: nodes and this process speak with each other without the head, until
            # another cluster is at the address or the nodes end without a head (by default 60 s).
            log.warning("%s", problem)
        elif self._problem and not problem:
            log.info("the Ray cluster is reached again")
        self._problem = problem

    async def _try_again(self) -> None:
        """Connect to the cluster that is at the address now: perhaps it is another one."""
        if time.monotonic() < self._next_try or not await self._cluster.is_reached():
            return
        fresh = self._cluster.again()
        try:
            await fresh.connect()
        except (AgentPoolError, OSError) as error:  # OSError: no process can be started
            self._note_problem(str(error))
            self._next_try = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LAST_PAUSE)
            return
        is_needed = False
        try:
            is_needed = not self._is_stopped and not await self._look()
        finally:  # the same head answers again, or the pool is being closed
            if not is_needed:
                await fresh.disconnect()
        if is_needed:
            self._replace_cluster(fresh)

    def _replace_cluster(self, fresh: RayCluster) -> None:
        """Take the nodes of another cluster; those of the one before are lost."""
        log.warning("the Ray cluster was started anew; its nodes are taken")
        before, self._cluster = self._cluster, fresh
        self._problem = ""
        self._gone.clear()
        for node in list(self._links):
            if not self._placement.running_on(node):
                self._drop(node)
        # The nodes with tasks are heard no more, and these end as those of any lost node.
        self._closing.append(asyncio.create_task(before.disconnect()))

    # Nodes that come and go

    def _take(self, found: list[RayNode]) -> None:
        if self._is_stopped:
            return
        listed = {node.id for node in found}
        idle = set(self._placement.with_state("starting", "left_out"))
        for node, link in list(self._links.items()):
            # One that has tasks is lost only when it is not heard: the head can be wrong.
            if node in idle and link.node.id not in listed:
                self._drop(node)
        self._drain_ids({node.id for node in found if node.is_draining}, "Ray drains it")
        known = self._gone | {link.node.id for link in self._links.values()}
        for one in found:
            # Started with `--num-cpus=0`, as heads are, so that it does no work.
            if one.id not in known and one.resources.get("CPU") and not one.is_draining:
                self._join(one)

    def _join(self, node: RayNode) -> None:
        # An actor that was lost and the next one on the same node are two nodes here.
        self._joined += 1
        key = f"{self._joined}"
        size = node_size(node.resources, self._settings)
        self._placement.join(key, node.name, max(size, 1))
        link = self._links[key] = NodeLink(self._cluster, node, key, self._listener)
        work = self._open_forever(key, link, size)
        self._opening[key] = asyncio.create_task(work, name=f"agent-pool {node.name}")

    async def _open_forever(self, node: str, link: NodeLink, size: int) -> None:
        """Check a node until it can have tasks, or until its actor must be started anew."""
        while True:
            pause, version = PROBE_GAP_SECONDS, ""
            problem = "it has declared no cores, or too little memory, to Ray"
            try:
                if size:
                    probe = await link.open(self._settings, size, self._environ, None)
                    version, problem = probe.version, probe.problem
            except DaemonUnavailable as error:
                pause, problem = AGAIN_SECONDS, str(error)
            if not problem:
                self._begin(node, link, version)
                return
            log.warning("node %s gets no tasks: %s", link.node.name, problem)
            self._placement.leave_out(node, problem, version)
            self._note_change()
            await asyncio.sleep(pause)
            if pause == AGAIN_SECONDS:
                self._drop(node)
                return

    def _begin(self, node: str, link: NodeLink, version: str) -> None:
        for lost in self._placement.with_state("lost"):
            if lost in self._lost and self._placement.info(lost).node == link.node.name:
                self._forget(lost)
        self._placement.ready(node, version)
        self._note_change()
        self._listener.ready(node)

    def _drop(self, node: str) -> None:
        """Forget a node that has no tasks."""
        self._listener.left(node)
        self._links.pop(node).kill()
        self._placement.remove(node)
        self._opening.pop(node).cancel()
        self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _forget_lost(self) -> None:
        for node, since in list(self._lost.items()):
            if time.monotonic() - since > LOST_SECONDS:
                self._forget(node)

    def _forget(self, node: str) -> None:
        self._placement.remove(node)
        del self._lost[node]

    # The state of a node

    def doubt(self, node: str, reason: str) -> None:
        """Give a node no more tasks, because it does not answer."""
        self._placement.lose(node, reason)
        self._note_change()

    def lose(self, node: str, reason: str) -> list[str]:
        """Give a node up; return the tasks that it had."""
        tasks = self._placement.running_on(node)
        for task in tasks:
            self._placement.ended(task)
        self._placement.lose(node, reason)
        self._links.pop(node).kill()
        self._opening.pop(node).cancel()
        self._lost[node] = time.monotonic()  # it is shown for some time
        self._note_change()
        return tasks

    def drain(self, name: str) -> bool:
        """Let a node finish what it has, and go; return False if no node that works has the name.

        It is taken again when Ray is started anew on it.
        """
        named = {link.node.id for link in self._links.values() if link.node.name == name}
        return self._drain_ids(named, "a person has asked for it")

    def _drain_ids(self, ids: set[str], reason: str) -> bool:
        """Drain the nodes with these ids of Ray; return False if none of them had tasks."""
        found = [
            node
            for node in self._placement.with_state("ready")
            if node in self._links and self._links[node].node.id in ids
        ]
        for node in found:
            self._placement.drain(node, reason)
            log.info("node %s gets no more tasks: %s", self._links[node].node.name, reason)
        self.look_at_drained()
        return bool(found)

    def look_at_drained(self) -> None:
        """Let the draining nodes go that have nothing left to do."""
        for node in self._placement.with_state("draining"):
            if self._placement.is_drained(node):
                self._listener.left(node)
                link = self._links.pop(node)
                self._gone.add(link.node.id)
                self._closing.append(asyncio.create_task(link.close(CLOSE_SECONDS)))
                self._opening.pop(node).cancel()
                self._placement.remove(node)
                log.info("node %s was drained", link.node.name)

    # Links

    def link(self, node: str) -> NodeLink:
        """Return the link to a node that is not lost."""
        return self._links[node]

    def has(self, node: str) -> bool:
        """Check whether a node is neither lost nor forgotten."""
        return node in self._links

    def links(self) -> list[NodeLink]:
        """Return the links to all nodes that are not lost."""
        return list(self._links.values())

    def asked(self) -> list[NodeLink]:
        """Return the links to the nodes that have a pool."""
        return [self._links[node] for node in self._placement.with_state("ready", "draining")]

    async def any_ready(self, seconds: float) -> NodeLink:
        """Return the link to a node that is ready, once there is one.

        Raises:
            PoolTimeout: there was none for so many seconds.
        """
        try:
            async with asyncio.timeout(seconds):
                while not (found := self._placement.with_state("ready")):
                    await self._changed.wait()
        except TimeoutError:
            raise PoolTimeout(f"no node was ready within {seconds:g} s") from None
        return self._links[found[0]]

    async def closed(self) -> None:
        """Wait until drained nodes have ended their workers."""
        if self._closing:
            await asyncio.wait(self._closing)

    def stop(self) -> None:
        """Take no more nodes."""
        self._is_stopped = True
        for opening in self._opening.values():
            opening.cancel()
