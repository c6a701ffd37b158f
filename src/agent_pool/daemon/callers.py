"""Who calls the daemon: the process at the other end, and whether a worker has started it.

Workers run as the user, so the kernel lets them connect. A caller that descends from a worker is
recognised by the cookie in the environment with which it or one of its ancestors was started. It
can clear its own environment, but not that of its ancestors, and on Linux it cannot leave them: a
worker, and above it the watchdog, become the parents of what loses its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import psutil

from agent_pool.api import TaskAPI
from agent_pool.claude import cookies, watchdog_script
from agent_pool.claude.process_tree import read_process
from agent_pool.errors import NestingRefused, TaskNotFound
from agent_pool.models import TaskFilter, WorkerInfo
from agent_pool.settings import Settings

MAX_DEPTH: Final = 5
"""The most tasks in a chain, each of which was started by a worker of the one before."""
_MOST_PARENTS: Final = 200
"""Bound of the way from a process to the first one; changing parents could make a circle."""
_ATTEMPTS: Final = 3
_WATCHDOG: Final = str(Path(watchdog_script.__file__)).encode()
_LOCAL_PEERPID: Final = 2
"""`LOCAL_PEERPID` of macOS, an option of the level 0."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a connection.

    Attributes:
        pid: its process id; 0 if it is unknown: on TCP, or in another process namespace.
        uid: its user; that of the daemon if it is unknown, as it is on TCP unless this is Linux;
            -1 if the connection has ended.
        worker: the worker that it descends from; empty for any other process.
        node: the machine by which this worker is named; empty for a pool without names.
        task_id: the task that this worker runs; empty without one.
        depth: how many tasks are above a task that it starts; 0 for any other process.
    """

    pid: int
    uid: int
    worker: str = ""
    task_id: str = ""
    depth: int = 0
    node: str = ""

    @property
    def is_nested(self) -> bool:
        """Return whether a worker has started it, directly or not."""
        return self.depth > 0


class PeerSocket(Protocol):
    """What a connection's socket is asked: `socket.socket` and asyncio's stand-in for it."""

    @property
    def family(self) -> int: ...

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...

    def getsockname(self) -> object: ...

    def getpeername(self) -> object: ...


async def identify_peer(sock: PeerSocket, pool: TaskAPI) -> Peer:
    """Return the process at the other end of a connection to the daemon.

    A process that a worker has started is nested. On a Unix socket it is found for the workers of
    every pool, on TCP for those of `pool`.

    Raises:
        PermissionError: it belongs to another user, or has ended, so nothing is known about it.
        OSError: the connection has ended.
    """
    if sock.family != socket.AF_UNIX:
        return await _identify_by_port(sock, pool)
    pid, uid = _credentials(sock)
    if uid != os.getuid():
        raise PermissionError(f"the daemon belongs to user {os.getuid()}, not to user {uid}")
    if pid == 0:  # outside of this process namespace, so no worker has started it
        return Peer(0, uid)
    return await _describe(pid, uid, pool)


def refuse_nested(peer: Peer, settings: Settings) -> None:
    """Refuse a caller that a worker has started: tasks would multiply without bound.

    Raises:
        NestingRefused: the setting `allow_nested` is off, or too many tasks are above it.
    """
    if not peer.is_nested:
        return
    caller = f"the caller (pid {peer.pid}) is a process of the worker {peer.worker or 'of a pool'}"
    if not settings.allow_nested:
        raise NestingRefused(
            f"{caller}, and agents cannot use the pool; to allow it, write allow_nested = true in "
            "the settings file"
        )
    if peer.depth > MAX_DEPTH:
        raise NestingRefused(
            f"{caller}, and {peer.depth} tasks are above its own, at most {MAX_DEPTH} are allowed; "
            "let the first of these agents do more of the work itself"
        )


# Unix sockets


def _credentials(sock: PeerSocket) -> tuple[int, int]:
    """Return pid and uid of the process that connected."""
    if sys.platform == "darwin":
        pid = int.from_bytes(sock.getsockopt(0, _LOCAL_PEERPID, 4), sys.byteorder)
        # `struct xucred`: a version, then the effective user.
        _, uid = struct.unpack("2I", sock.getsockopt(0, 1, 8))
        return pid, uid
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


async def _describe(pid: int, uid: int, pool: TaskAPI) -> Peer:
    chain = _ancestors(pid)
    if not chain:
        raise PermissionError(f"the process {pid} has connected and ended, so it is not served")
    cookie = next(filter(None, map(cookies.cookie_of, chain)), "")
    if not cookie and not any(map(_is_watchdog, chain)):
        return Peer(pid, uid)
    workers = await _workers_here(pool)
    worker = next((workers[one] for one in chain if one in workers), None)
    if worker is None:  # of another pool, or it has ended just now
        return Peer(pid, uid, cookie.rpartition("/")[2], depth=1)
    return await _with_task(Peer(pid, uid, worker.worker, depth=1, node=worker.node), pool)


async def _workers_here(pool: TaskAPI) -> dict[int, WorkerInfo]:
    """Return the pool's workers on this machine by their process ids."""
    return {one.pid: one for one in await pool.workers() if one.pid and _is_here(one, one.pid)}


def _is_here(worker: WorkerInfo, pid: int) -> bool:
    # Each machine counts processes on its own: that of another worker can have this number here.
    return not worker.node or cookies.cookie_of(pid).rpartition("/")[2] == worker.worker


async def _with_task(peer: Peer, pool: TaskAPI) -> Peer:
    """Add the task that the peer's worker runs, and the number of tasks above one of its own."""
    running = await pool.tasks(TaskFilter(states=("running", "input_required"), limit=1000))
    task = next(
        (one for one in running if (one.node, one.worker) == (peer.node, peer.worker)), None
    )
    if task is None:
        return peer
    depth, parent = 1, task.request.parent
    while parent is not None and depth <= MAX_DEPTH:
        depth += 1
        try:
            parent = (await pool.task(parent)).request.parent
        except TaskNotFound:  # removed from the history
            break
    return replace(peer, task_id=task.id, depth=depth)


def _ancestors(pid: int) -> list[int]:
    """Return a process and those above it, up to the first one; empty if it has ended."""
    for _ in range(_ATTEMPTS):
        chain: list[int] = []
        parent = pid
        while parent > 0 and len(chain) < _MOST_PARENTS:
            above = _parent_of(parent)
            if above is None:
                break
            chain.append(parent)
            parent = above
        # Otherwise one has ended meanwhile, and the one below it has another parent now.
        if parent == 0 or not chain:
            break
    return chain


def _parent_of(pid: int) -> int | None:
    """Return the parent of a living process; None if it has ended, 0 for the first process."""
    if sys.platform == "linux":
        process = read_process(pid)
        return None if process is None or process.is_zombie else process.parent
    try:
        return int(psutil.Process(pid).ppid())
    except psutil.Error:
        return None


def _is_watchdog(pid: int) -> bool:
    # Its environment has no cookie. It is the parent of what a worker leaves when it ends.
    try:
        return _WATCHDOG in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


# TCP


async def _identify_by_port(sock: PeerSocket, pool: TaskAPI) -> Peer:
    own, other = _port(sock.getsockname()), _port(sock.getpeername())
    uid = _user_of_port(own, other) if sys.platform == "linux" else os.getuid()
    workers = await _workers_here(pool)
    pid, root = await asyncio.to_thread(_find_in_workers, own, other, tuple(workers))
    if not pid:
        return Peer(0, uid)
    worker = workers[root]
    peer = Peer(pid, os.getuid(), worker.worker, depth=1, node=worker.node)
    return await _with_task(peer, pool)


def _port(address: object) -> int:
    assert isinstance(address, tuple)
    return int(address[1])


def _find_in_workers(own: int, other: int, workers: Sequence[int]) -> tuple[int, int]:
    """Return the process below a worker that has this connection, and the worker's; else zeros."""
    inode = _socket_inode(own, other) if sys.platform == "linux" else ""
    for root in workers:
        for pid in _family(root):
            if _has_socket(pid, inode) if inode else _has_connection(pid, own, other):
                return pid, root
    return 0, 0


def _family(root: int) -> Iterator[int]:
    yield root
    if sys.platform == "linux":
        yield from (pid for pid, _ in watchdog_script.descendants(root))
    else:
        yield from (process.pid for process in cookies.descendants(root)[1:])


def _socket_inode(own: int, other: int) -> str:
    """Return the inode of the socket at the other end of a connection on 127.0.0.1."""
    found = _socket_entry(other, own)
    return found.inode if found is not None else "none"


class _SocketEntry(NamedTuple):
    """A socket as the kernel lists it."""

    is_connected: bool
    uid: int
    inode: str


def _socket_entry(local: int, remote: int) -> _SocketEntry | None:
    """Return the socket of this machine with these two ports; None if there is none."""
    for name in ("tcp", "tcp6"):  # an IPv6 socket can be connected to ::ffff:127.0.0.1
        with suppress(FileNotFoundError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(f":{local:04X}") and fields[2].endswith(f":{remote:04X}"):
                    return _SocketEntry(fields[3] == "01", int(fields[7]), fields[9])
    return None


def _user_of_port(own: int, other: int) -> int:
    """Return the user at the other end of a connection on 127.0.0.1; -1 if it has ended."""
    found = _socket_entry(other, own)
    if found is not None:
        # A socket that its process has closed belongs to root here, whoever sent the request.
        return found.uid if found.uid or found.is_connected else -1
    # The other end is outside of this kernel's list (WSL passes connections of Windows on), or it
    # has ended: then this end, which is looked up later, is not connected any more.
    here = _socket_entry(own, other)
    return os.getuid() if here is not None and here.is_connected else -1


def _has_socket(pid: int, inode: str) -> bool:
    wanted = f"socket:[{inode}]"
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_target(entry.path) == wanted for entry in entries)
    except OSError:
        return False


def _target(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - a text that is no path
    except OSError:
        return ""


def _has_connection(pid: int, own: int, other: int) -> bool:
    try:
        found = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(one.laddr.port == other and one.raddr and one.raddr.port == own for one in found)
