"""What the pool uses of Ray, through a process that is connected to it: see `ray_driver`."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import pickle
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent_pool.claude.masking import has_secret_name
from agent_pool.cluster.ray_driver import ADVICE, HEADER, frame
from agent_pool.errors import DaemonUnavailable
from agent_pool.models import error_from_json

log = logging.getLogger("agent_pool")

HEAD_SECONDS: Final = 30 * 86400
"""Seconds for which Ray waits for a head that has ended; after them it aborts its process, by
default after 60 (Ray 2.60). Tasks go on without a head for as long as their node does."""
NODES_TIMEOUT: Final = 5.0
"""Seconds for one look at the list of nodes."""
CONNECT_TIMEOUT: Final = 30.0
"""Seconds for joining the cluster; it takes two. Without a head Ray tries for ever (2.60)."""
LEAVE_TIMEOUT: Final = 10.0
"""Seconds for leaving the cluster; then the process that is connected to it is killed."""
REACH_TIMEOUT: Final = 2.0
"""Seconds for a connection to the head's port."""


class CallFailed(Exception):  # noqa: N818 - not an error of this package
    """A call of an actor, or of Ray, that has failed; the words are Ray's."""


class CallRefused(CallFailed):
    """A call that was not passed on, so that the actor does not have it."""


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node of the cluster that lives, as Ray's head describes it.

    Attributes:
        id: Ray's id of it; a node that is started again has another one.
        name: its host's name and address, or the name that it was given.
        resources: what it has declared.
        is_draining: Ray is about to end it, because a person or the autoscaler has asked for that.
    """

    id: str
    name: str
    resources: Mapping[str, float]
    is_draining: bool = False


class RayCluster:
    """A connection to a Ray cluster; one that has ended is not used again, see `again`.

    Args:
        address: ``HOST:PORT`` of its head, or ``auto``.
        working_dir: the folder that Ray copies to the nodes; None for none.
    """

    def __init__(self, address: str, working_dir: Path | None = None) -> None:
        self._address = address
        self._working_dir = working_dir
        self._link: _DriverLink | None = None
        self._process: Process | None = None
        self._keys = itertools.count(1)
        self._look: asyncio.Future[Any] | None = None

    def again(self) -> RayCluster:
        """Return a new connection to the cluster at the same address; it is not made yet."""
        return RayCluster(self._address, self._working_dir)

    async def connect(self) -> None:
        """Connect to the cluster.

        Raises:
            ConfigError: Ray is not installed.
            DaemonUnavailable: there is no cluster at the address.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                self._link = await self._start_driver()
                await self._link.ready
        except TimeoutError:
            await self._end_driver()
            raise DaemonUnavailable(
                f"the Ray cluster {self._address} did not answer within {CONNECT_TIMEOUT:g} s; "
                f"{ADVICE}"
            ) from None
        except CallFailed as error:
            await self._end_driver()
            raise DaemonUnavailable(
                f"the Ray cluster {self._address} cannot be reached: {error}; {ADVICE}"
            ) from None
        except BaseException:
            await self._end_driver()
            raise

    async def _start_driver(self) -> _DriverLink:
        ours, theirs = socket.socketpair()
        with theirs:
            folder = [] if self._working_dir is None else [str(self._working_dir)]
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "agent_pool.cluster.ray_driver"),
                *(str(theirs.fileno()), self._address, *folder),
                stdin=asyncio.subprocess.DEVNULL,
                # The standard output of this process can be the connection of an MCP client.
                stdout=2,
                env=_driver_environ(),
                # Ray adds its folder to the import path of all actors.
                cwd="/",
                pass_fds=(theirs.fileno(),),
                # Ctrl-C is for the pool, which then ends it.
                start_new_session=True,
            )
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(_DriverLink, sock=ours)
        return link

    async def disconnect(self) -> None:
        """Leave the cluster; the actors that were started there end."""
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            await asyncio.wait([asyncio.ensure_future(self._process.wait())], timeout=LEAVE_TIMEOUT)
        await self._end_driver()

    async def _end_driver(self) -> None:
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def is_reached(self) -> bool:
        """Check whether something listens at the address of the head; True if that is unknown."""
        host, _, port = self._address.rpartition(":")
        if not port.isdecimal():
            return True
        try:
            async with asyncio.timeout(REACH_TIMEOUT):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError:
            return False
        writer.close()
        return True

    async def nodes(self) -> list[RayNode]:
        """Return the nodes that live.

        Raises:
            DaemonUnavailable: the head does not answer, or the connection has ended.
        """
        try:
            # Without a head Ray waits in this call for it: there is one at most.
            if self._look is None or self._look.done():
                self._look = self._ask("nodes")
            async with asyncio.timeout(NODES_TIMEOUT):
                found, draining = await asyncio.shield(self._look)
        except TimeoutError:
            raise DaemonUnavailable(
                f"Ray's head does not answer within {NODES_TIMEOUT:g} s ({self._address})"
            ) from None
        except CallFailed as error:
            raise DaemonUnavailable(
                f"Ray's head does not answer ({self._address}): {error}"
            ) from None
        return [
            RayNode(
                one["NodeID"],
                _name_of(one),
                dict(one.get("Resources") or {}),
                one["NodeID"] in draining,
            )
            for one in found
            if one["Alive"]
        ]

    def start_actor(self, node: RayNode, kind: type, *arguments: object) -> RayActor:
        """Start an actor on a node; it lives as long as the connection, and is not started again.

        An error of the start is one of its calls.

        Args:
            node: the node.
            kind: the actor's class.
            arguments: for its constructor; Ray's head keeps and shows them, so no secret.
        """
        key = next(self._keys)
        assert self._link is not None
        with suppress(CallRefused):  # its calls raise it too
            self._link.ask("start", key, node.id, kind, arguments)
        return RayActor(self._link, key)

    def _ask(self, method: str, *arguments: object) -> asyncio.Future[Any]:
        assert self._link is not None
        return self._link.ask(method, *arguments)


class RayActor:
    """A handle of an actor."""

    def __init__(self, link: _DriverLink, key: int) -> None:
        self._link = link
        self._key = key

    def call(self, method: str, *arguments: object) -> Awaitable[Any]:
        """Call a method of the actor.

        Awaiting the answer raises `CallFailed` if the actor has ended or cannot be reached, and
        `CallRefused` if Ray has not passed the call on.

        Raises:
            CallRefused: the connection to Ray has ended.
            Exception: an argument cannot be sent.
        """
        return self._link.ask("call", self._key, method, arguments)

    def kill(self) -> None:
        """Kill the actor's process, without waiting; no effect if that is impossible."""
        with suppress(CallRefused):
            self._link.ask("kill", self._key)


class _DriverLink(asyncio.Protocol):
    """The pool's end of the connection to the process that is connected to Ray.

    Attributes:
        ready: done when that process has joined the cluster; its error if it cannot.
    """

    def __init__(self) -> None:
        self.ready: asyncio.Future[Any] = _quiet_future()
        self._waiting: dict[int, asyncio.Future[Any]] = {0: self.ready}
        self._numbers = itertools.count(1)
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, method: str, *arguments: object) -> asyncio.Future[Any]:
        """Send a request; return its answer to come.

        Raises:
            CallRefused: the connection has ended.
            Exception: an argument cannot be sent.
        """
        if self._transport is None or self._transport.is_closing():
            raise CallRefused("the connection to Ray has ended")
        number = next(self._numbers)
        self._transport.write(frame((number, method, *arguments)))
        answer = self._waiting[number] = _quiet_future()
        return answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        begin, size = 0, HEADER.size
        while len(self._received) >= begin + size:
            end = begin + size + HEADER.unpack_from(self._received, begin)[0]
            if len(self._received) < end:
                break
            self._hear(*pickle.loads(memoryview(self._received)[begin + size : end].tobytes()))
            begin = end
        del self._received[:begin]

    def _hear(self, number: int, kind: str, value: Any) -> None:
        answer = self._waiting.pop(number)
        if answer.done():  # its caller waits no longer
            return
        if kind == "made":
            answer.set_result(value)
        elif number == 0:
            answer.set_exception(error_from_json(value))
        else:
            answer.set_exception(CallRefused(value) if kind == "refused" else CallFailed(value))

    def connection_lost(self, error: Exception | None) -> None:
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(CallFailed("the process that is connected to Ray has ended"))

    def close(self) -> None:
        """End the connection, and with it the process at its other end."""
        if self._transport is not None:
            self._transport.close()


def _driver_environ() -> dict[str, str]:
    found = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(HEAD_SECONDS),
        # Ray's own, such as the token of a cluster, and none of those that workers need.
        **{n: v for n, v in os.environ.items() if n.startswith("RAY_") or not has_secret_name(n)},
    }
    if path := found.get("PYTHONPATH"):
        # Relative ones count from the folder of this process.
        folders = [str(Path(one).absolute()) for one in path.split(os.pathsep) if one]
        found["PYTHONPATH"] = os.pathsep.join(folders)
    return found


def _quiet_future() -> asyncio.Future[Any]:
    """Make a future whose error is no unseen one if its caller waits no longer."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future


def _name_of(node: Mapping[str, Any]) -> str:
    # Without `ray start --node-name` the name is the address.
    name, address = str(node.get("NodeName") or ""), str(node["NodeManagerAddress"])
    return name if name and name != address else address
