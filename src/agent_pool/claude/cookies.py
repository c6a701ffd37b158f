"""The processes of a worker where there are no subreapers (macOS): by parentage and by a cookie.

A task's commands can leave the worker's process group and session and be re-parented to init, so
neither the group nor parentage finds all of them. Every worker therefore starts with a cookie in
its environment, which its descendants inherit. On Linux this is used only if no watchdog can be
started, which is the parent of the workers there.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent_pool.claude.process_tree import KernelProcess, LivingProcess, ProcessTree, TreeRoot

COOKIE = "AGENT_POOL_COOKIE"
SERVER_MARK = "AGENT_POOL_SERVER"
"""Set in the environment of a worker's own MCP servers: they must outlive its tasks."""
_HAS_PROC = Path("/proc/self/environ").exists()


@dataclass(frozen=True, slots=True)
class MarkedProcess:
    """A process with its identity: psutil compares start times before it sends a signal."""

    process: psutil.Process

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def key(self) -> tuple[int, int]:
        return self.pid, int(self.process.create_time() * 1000)

    def is_alive(self) -> bool:
        return _is_alive(self.process)

    def send_signal(self, sig: signal.Signals) -> None:
        try:
            self.process.send_signal(sig)
        except (psutil.Error, OSError):  # it has ended, or belongs to another user
            pass

    def rss(self) -> int:
        try:
            return int(self.process.memory_info().rss)
        except psutil.Error:
            return 0


class CookieSearch:
    """Finds the processes of workers by the environment of every process of this user.

    Attributes:
        way: how, for people.
        is_slow: it takes milliseconds, more with every process of the machine.
    """

    way = "the environment of all processes"
    is_slow = True
    finds_all = False

    def trees(self, roots: Mapping[str, TreeRoot]) -> dict[str, ProcessTree]:
        found = processes_by_worker(roots)
        return {name: ProcessTree(_marked(processes)) for name, processes in found.items()}

    def leftovers(self, root: TreeRoot) -> list[LivingProcess]:
        found = members(root.pid, root.cookie)
        marks = root.server_marks
        return [*_marked(one for one in found if one.pid != root.pid and not is_server(one, marks))]

    def members(self, root: TreeRoot) -> list[KernelProcess]:
        return []  # servers are known by the marks in their environment

    def strays(self, cookie: str) -> list[LivingProcess]:
        return [*_marked(with_cookie(cookie))]


def _marked(processes: Iterable[psutil.Process]) -> tuple[MarkedProcess, ...]:
    return tuple(map(MarkedProcess, processes))


def descendants(pid: int) -> list[psutil.Process]:
    """Return `pid` and its living descendants by parentage; empty if it has ended."""
    try:
        root = psutil.Process(pid)
        found = [root, *root.children(recursive=True)]
    except psutil.Error:
        return []
    return [process for process in found if _is_alive(process)]


def with_cookie(cookie: str) -> list[psutil.Process]:
    """Return the living processes with this cookie.

    The cookie is a worker's, or its part before the ``/``, which all workers of a pool share.
    Reads the environment of every process of this user, which takes milliseconds: call it in a
    thread, not on the event loop.
    """
    found = []
    for pid in psutil.pids():
        # Compared with the slash: the cookie of worker-1 is no part of the cookie of worker-10.
        if f"{cookie_of(pid)}/".startswith(f"{cookie}/"):
            try:
                found.append(psutil.Process(pid))
            except psutil.Error:
                continue
    return [process for process in found if _is_alive(process)]


def members(pid: int, cookie: str) -> list[psutil.Process]:
    """Return a worker's living processes, found by parentage and by cookie; the worker first."""
    found = {process.pid: process for process in descendants(pid)}
    for process in with_cookie(cookie):
        found.setdefault(process.pid, process)
    return list(found.values())


def processes_by_worker(roots: Mapping[str, TreeRoot]) -> dict[str, list[psutil.Process]]:
    """Return the living processes of many workers, by the workers' names, in one scan."""
    processes = {process.pid: process for process in psutil.process_iter()}
    owner = {root.pid: name for name, root in roots.items()}
    cookies = {root.cookie: name for name, root in roots.items()}
    for pid in processes:
        if (name := cookies.get(cookie_of(pid))) is not None:
            owner[pid] = name
    # Parentage finds those that cleared their environment: they belong to the owner of their
    # nearest ancestor that has one.
    parents = {pid: _parent_of(process) for pid, process in processes.items()}
    found: dict[str, list[psutil.Process]] = {name: [] for name in roots}
    for pid, process in processes.items():
        name = _owner_of(pid, parents, owner)
        if name and _is_alive(process):
            found[name].append(process)
    return found


def _owner_of(pid: int, parents: Mapping[int, int], owner: Mapping[int, str]) -> str:
    seen: set[int] = set()  # a reused pid can make a circle of parents
    while pid not in owner and pid in parents and pid not in seen:
        seen.add(pid)
        pid = parents[pid]
    return owner.get(pid, "")


def _parent_of(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.Error:
        return 0


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def is_server(process: psutil.Process, marks: Collection[str] | None) -> bool:
    """Check whether it is, or was started by, one of the MCP servers with these marks.

    Args:
        process: a process of a worker.
        marks: see `mcp_config.server_marks`; None for all servers.
    """
    mark = _variable(process.pid, SERVER_MARK)
    return bool(mark) and (marks is None or mark in marks)


def cookie_of(pid: int) -> str:
    """Return the cookie with which a process was started; empty without one."""
    return _variable(pid, COOKIE)


def _variable(pid: int, name: str) -> str:
    if not _HAS_PROC:
        return _variable_by_psutil(pid, name)
    try:
        # The environment with which its program was started; later changes do not show here.
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended, or belongs to another user
        return ""
    # With the zero byte before it a name is found whole, and also as the first variable.
    _, found, rest = (b"\0" + environ).partition(f"\0{name}=".encode())
    return rest.partition(b"\0")[0].decode("utf-8", "replace") if found else ""


def _variable_by_psutil(pid: int, name: str) -> str:
    try:
        return str(psutil.Process(pid).environ().get(name, ""))
    except (psutil.Error, OSError):
        return ""
