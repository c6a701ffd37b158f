"""The driver's side of one node: its actor, the exchange of messages, and its loss."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from agent_pool.cluster.node import VERSION, Message, NodeActor
from agent_pool.cluster.node_probe import NodeProbe
from agent_pool.cluster.project_source import ProjectSource
from agent_pool.cluster.ray_api import CallRefused, RayActor, RayCluster, RayNode
from agent_pool.errors import DaemonUnavailable, WorkerDied
from agent_pool.models import error_from_json
from agent_pool.settings import Settings

log = logging.getLogger("agent_pool")

LOSS_SECONDS: Final = 4.5
"""Seconds after the last answer of a node after which its tasks have ended. More than
`FENCE_SECONDS`, after which the node ends them, and the time that a kill takes."""
RETRY_SECONDS: Final = 0.2
"""The pause after a question that Ray could not pass on."""
START_TIMEOUT: Final = 120.0
"""Seconds for the start of an actor and the check of its node."""
ASK_TIMEOUT: Final = 120.0
"""Seconds for a question about a node's pool: some start a process."""


class LinkListener(Protocol):
    """Gets what happens on a node."""

    def heard(self, node: str, message: Message) -> None:
        """Handle a message; they come in order, and each one once."""

    def doubted(self, node: str, reason: str) -> None:
        """Handle that a node is not heard, so that it must get no more tasks."""

    def lost(self, node: str, reason: str) -> None:
        """Handle that a node's tasks have ended: it has ended, or its fence has ended them."""


class NodeLink:
    """One actor on one node, from its start to its loss.

    Args:
        cluster: Ray.
        node: the node.
        key: the pool's id of it, which the listener gets.
        listener: gets what happens.
    """

    def __init__(
        self, cluster: RayCluster, node: RayNode, key: str, listener: LinkListener
    ) -> None:
        self.node = node
        self._key = key
        self.is_over = False
        self._listener = listener
        self._actor: RayActor = cluster.start_actor(node, NodeActor, node.name)
        self._heard = time.monotonic()
        self._answer = 0
        self._seen = 0
        self._background: set[asyncio.Task[None]] = set()

    async def open(
        self,
        settings: Settings,
        size: int,
        environ: Mapping[str, str],
        source: ProjectSource | None,
    ) -> NodeProbe:
        """Check the node, and begin the exchange if it can have tasks.

        Raises:
            DaemonUnavailable: the actor could not be started, or has ended.
        """
        arguments = (
            *(VERSION, settings.model_dump(mode="json"), size, dict(environ)),
            None if source is None else source.as_json(),
        )
        try:
            async with asyncio.timeout(START_TIMEOUT):
                found = NodeProbe.from_json(await self._actor.call("open", *arguments))
        except Exception as error:  # Ray raises errors of its own, also for a failed import there
            raise DaemonUnavailable(
                f"its part of agent-pool cannot be started: {_last_line(error)}"
            ) from None
        if not found.problem and not self._background:
            self._heard = time.monotonic()
            self._spawn(self._listen())
            self._spawn(self._watch())
        return found

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"agent-pool {self.node.name}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # The exchange

    async def _listen(self) -> None:
        """Ask for messages until the node is lost or closed."""
        while not self.is_over:
            try:
                answer, messages = await self._actor.call("messages", self._answer, self._seen)
            except Exception as error:  # Ray raises errors of its own
                if self.is_over:
                    return
                # Not lost yet: the actor perhaps works on, although Ray says that it has ended.
                self._listener.doubted(self._key, _first_line(error))
                self._actor.kill()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._hear(answer, messages)

    def _hear(self, answer: int, messages: list[tuple[int, Message]]) -> None:
        is_late = self.is_over
        if not is_late:
            self._heard, self._answer = time.monotonic(), answer
        for number, message in messages:
            if number <= self._seen:
                continue
            self._seen = number
            if is_late:
                self._drop(message)
            else:
                self._listener.heard(self._key, message)

    def _drop(self, message: Message) -> None:
        event = message.get("event") or {}
        if event.get("type") == "task.ended":
            log.warning(
                "node %s was given up, and answers task %s only now; the answer is dropped",
                *(self.node.name, event.get("task_id")),
            )

    async def _watch(self) -> None:
        """Wait until the node is not heard for `LOSS_SECONDS`."""
        while (left := self._heard + LOSS_SECONDS - time.monotonic()) > 0:
            await asyncio.sleep(left)
            if self.is_over:
                return
        self.is_over = True
        self._actor.kill()
        self._listener.lost(
            self._key, f"it was not heard for {time.monotonic() - self._heard:.1f} s"
        )

    # Calls

    def call(
        self, method: str, *arguments: object, on_refused: Callable[[], None] | None = None
    ) -> bool:
        """Call a method of the actor, whose answer comes as messages.

        Args:
            method: the method.
            arguments: its arguments.
            on_refused: called when Ray does not pass the call on, so that the node does not have
                it; not called if this method returns False.

        Returns:
            False if it is clear already that Ray does not pass the call on.
        """
        try:
            answer = self._actor.call(method, *arguments)
        except Exception as error:  # an argument cannot be sent, or the connection is closed
            log.warning("node %s: %s: %s", self.node.name, method, _first_line(error))
            return False
        self._spawn(self._wait_for(method, answer, on_refused))
        return True

    async def _wait_for(
        self, method: str, answer: Awaitable[Any], on_refused: Callable[[], None] | None
    ) -> None:
        try:
            await answer
        except Exception as error:  # the exchange notices it too, and ends the tasks
            log.warning("node %s: %s: %s", self.node.name, method, _first_line(error))
            if isinstance(error, CallRefused) and on_refused is not None:
                on_refused()

    async def ask(
        self, method: str, source: ProjectSource | None = None, **arguments: object
    ) -> Any:
        """Call a method of the node's pool; return the JSON of its value.

        Raises:
            AgentPoolError: as the method; `WorkerDied` if the node cannot be asked.
        """
        place = None if source is None else source.as_json()
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                answer = await self._actor.call("ask", method, place, arguments)
        except Exception as error:
            raise WorkerDied(f"node {self.node.name}: {_first_line(error)}") from None
        if "error" in answer:
            raise error_from_json(answer["error"])
        return answer["value"]

    # The end

    async def close(self, seconds: float) -> None:
        """End the node's pool, which gives running tasks their time; then end the actor."""
        try:
            async with asyncio.timeout(seconds):
                await self._actor.call("close")
        except Exception as error:
            log.warning("node %s did not end in order: %s", self.node.name, _first_line(error))
        self.kill()

    def kill(self) -> None:
        """End the actor at once; the watchdog on its node ends what it has started."""
        self.is_over = True
        self._actor.kill()
        for task in self._background:
            task.cancel()


def _last_line(error: BaseException) -> str:
    # Ray's errors end with the traceback of the node.
    return (str(error).strip().splitlines() or [repr(error)])[-1]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
