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
from agent_pool.errors import DaemonUnavailable, PoolTimeout
from agent_pool.settings import Settings

log = logging.getLogger("agent_pool")

LOOK_SECONDS: Final = 1.0
"""The pause between two looks at the list of nodes."""
AGAIN_SECONDS: Final = 10.0
"""The pause before another try to start an actor that could not be started."""
LOST_SECONDS: Final = 300.0
"""For so long a lost node is shown."""


class PoolListener(LinkListener, Protocol):
    """Gets what happens on nodes, and which can have tasks."""

    def ready(self, node: str) -> None:
        """Handle that a node can have tasks from now on."""


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
        self._joined = 0
        self._changed = asyncio.Event()
        self._is_stopped = False

    async def run(self) -> None:
        """Take new nodes until the pool is closed."""
        while not self._is_stopped:
            try:
                self._take(await self._cluster.nodes())
            except DaemonUnavailable as error:
                # Nodes and driver speak with each other without the head.
                log.warning("%s", error)
            self._forget_lost()
            await asyncio.sleep(LOOK_SECONDS)

    def _take(self, found: list[RayNode]) -> None:
        if self._is_stopped:
            return
        listed = {node.id for node in found}
        idle = set(self._placement.with_state("starting", "left_out"))
        for node, link in list(self._links.items()):
            # One that has tasks is lost only when it is not heard: the head can be wrong.
            if node in idle and link.node.id not in listed:
                self._drop(node)
        known = {link.node.id for link in self._links.values()}
        for one in found:
            # Started with `--num-cpus=0`, as heads are, so that it does no work.
            if one.id not in known and one.resources.get("CPU"):
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

    def look_at_drained(self) -> None:
        """Let the nodes go that have nothing left to do; nothing is drained yet."""

    # Links

    def link(self, node: str) -> NodeLink:
        """Return the link to a node that is not lost."""
        return self._links[node]

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

    def stop(self) -> None:
        """Take no more nodes."""
        self._is_stopped = True
        for opening in self._opening.values():
            opening.cancel()
