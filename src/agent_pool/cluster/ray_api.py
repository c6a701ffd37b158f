"""What the pool uses of Ray; the only module of the package that imports it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent_pool.errors import ConfigError, DaemonUnavailable

log = logging.getLogger("agent_pool")

HEAD_SECONDS: Final = 30 * 86400
"""Seconds for which Ray waits for a head that has ended; after them it aborts this process, by
default after 60 (Ray 2.60)."""
NODES_TIMEOUT: Final = 5.0
"""Seconds for one look at the list of nodes."""
CONNECT_TIMEOUT: Final = 30.0
"""Seconds for joining the cluster; it takes one. Without a head Ray tries for ever (2.60)."""
LEAVE_TIMEOUT: Final = 10.0
"""Seconds for leaving the cluster; the end of this process closes the connection too."""

_ADVICE: Final = "start a node of it on this machine with `ray start`, or correct the setting ray"


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node of the cluster that lives, as Ray's head describes it.

    Attributes:
        id: Ray's id of it; a node that is started again has another one.
        name: its host's name and address, or the name that it was given.
        resources: what it has declared.
    """

    id: str
    name: str
    resources: Mapping[str, float]


class RayCluster:
    """A connection of this process to a Ray cluster.

    Args:
        address: ``HOST:PORT`` of its head, or ``auto``.
        working_dir: the folder that Ray copies to the nodes; None for none.
    """

    def __init__(self, address: str, working_dir: Path | None = None) -> None:
        self._address = address
        self._working_dir = working_dir
        self._ray: Any = None
        self._look: asyncio.Future[Any] | None = None

    async def connect(self) -> None:
        """Connect to the cluster.

        Raises:
            ConfigError: Ray is not installed, or this process uses another cluster already.
            DaemonUnavailable: there is no cluster at the address.
        """
        connecting = _in_own_thread(self._connect)
        await asyncio.wait([connecting], timeout=CONNECT_TIMEOUT)
        if not connecting.done():
            raise DaemonUnavailable(
                f"the Ray cluster {self._address} did not answer within {CONNECT_TIMEOUT:g} s; "
                f"{_ADVICE}"
            )
        connecting.result()

    def _connect(self) -> None:
        # Read when Ray is imported: set later, they have no effect.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(HEAD_SECONDS))
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                f"the setting ray names the cluster {self._address}, and Ray cannot be imported "
                f"({error}); run: pip install 'claude-agent-pool[ray]'"
            ) from None
        if ray.is_initialized():
            raise ConfigError("ray: this process is connected to a Ray cluster already")
        environment: dict[str, Any] = {}
        if self._working_dir is not None:
            environment["working_dir"] = str(self._working_dir)
        try:
            ray.init(
                address=self._address,
                configure_logging=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=environment or None,
            )
        except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and more
            raise DaemonUnavailable(
                f"the Ray cluster {self._address} cannot be reached: {error}; {_ADVICE}"
            ) from None
        self._ray = ray

    async def disconnect(self) -> None:
        """Leave the cluster; the actors that this process has started there end."""
        ray, self._ray = self._ray, None
        if ray is not None:
            await asyncio.wait([_in_own_thread(ray.shutdown)], timeout=LEAVE_TIMEOUT)

    async def nodes(self) -> list[RayNode]:
        """Return the nodes that live.

        Raises:
            DaemonUnavailable: the head does not answer.
        """
        # Without a head Ray waits in this call for it: there is one such thread at most.
        if self._look is None or self._look.done():
            self._look = _in_own_thread(self._ray.nodes)
        try:
            async with asyncio.timeout(NODES_TIMEOUT):
                found = await asyncio.shield(self._look)
        except Exception as error:  # Ray raises RpcError, RaySystemError and more
            raise DaemonUnavailable(f"Ray's head does not answer: {error!r}") from None
        return [
            RayNode(one["NodeID"], _name_of(one), dict(one.get("Resources") or {}))
            for one in found
            if one["Alive"]
        ]

    def start_actor(self, node: RayNode, kind: type, *arguments: object) -> RayActor:
        """Start an actor on a node; it lives as long as this process, and is not started again.

        Args:
            node: the node.
            kind: the actor's class.
            arguments: for its constructor; Ray's head keeps and shows them, so no secret.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = {
            "num_cpus": 0,  # a node can have declared none, and what fits is counted here
            "max_restarts": 0,  # a new one could work beside the old one, see `node_link`
            "max_task_retries": 0,  # no task is given twice
            "max_concurrency": 10_000,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node.id, soft=False),
            "name": None,
        }
        made = self._ray.remote(kind).options(**options).remote(*arguments)
        return RayActor(self._ray, made)


class RayActor:
    """A handle of an actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor

    def call(self, method: str, *arguments: object) -> Awaitable[Any]:
        """Call a method of the actor.

        Awaiting the answer raises the errors of Ray if the actor has ended or cannot be reached.
        """
        answer: Awaitable[Any] = getattr(self._actor, method).remote(*arguments)
        return answer

    def kill(self) -> None:
        """Kill the actor's process, without waiting; no effect if that is impossible."""
        try:
            self._ray.kill(self._actor, no_restart=True)
        except Exception as error:  # the connection is closed, or the head is away
            log.debug("an actor could not be killed: %r", error)


def _in_own_thread(function: Callable[[], Any]) -> asyncio.Future[Any]:
    """Call a function that can hang; the end of the process does not wait for its thread."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    def end(value: Any, error: Exception | None) -> None:
        if result.done():
            return
        if error is None:
            result.set_result(value)
        else:
            result.set_exception(error)
            result.exception()  # perhaps nobody waits for it any more

    def run() -> None:
        value, problem = None, None
        try:
            value = function()
        except Exception as error:
            problem = error
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(end, value, problem)

    threading.Thread(target=run, name="agent-pool ray", daemon=True).start()
    return result


def _name_of(node: Mapping[str, Any]) -> str:
    # Without `ray start --node-name` the name is the address.
    name, address = str(node.get("NodeName") or ""), str(node["NodeManagerAddress"])
    return name if name and name != address else address
