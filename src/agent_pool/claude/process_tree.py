"""The processes that belong to a worker, found by parentage and by a cookie.

A task's commands can leave the worker's process group and session and be re-parented to init, so
neither the group nor parentage finds all of them. Every worker therefore starts with a cookie in
its environment, which its descendants inherit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import psutil

COOKIE = "AGENT_POOL_COOKIE"
SERVER_MARK = "AGENT_POOL_SERVER"
"""Set in the environment of a worker's own MCP servers: they must outlive its tasks."""
_POLL_SECONDS = 0.005
"""Seconds between two checks of processes that are about to end."""
_HAS_PROC = Path("/proc/self/environ").exists()


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
        if f"{_cookie_of(pid)}/".startswith(f"{cookie}/"):
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


def processes_by_worker(cookie: str, roots: Mapping[str, int]) -> dict[str, list[psutil.Process]]:
    """Return the living processes of many workers, by the workers' names, in one scan.

    Args:
        cookie: the part of the workers' cookies before ``/`` and the name.
        roots: the workers' process ids, by name.
    """
    processes = {process.pid: process for process in psutil.process_iter()}
    owner = {pid: name for name, pid in roots.items()}
    for pid in processes:
        whole, _, name = _cookie_of(pid).partition("/")
        if whole == cookie and name in roots:
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


def rss(processes: Iterable[psutil.Process]) -> int:
    """Return the sum of the resident bytes; a process that has ended counts as 0."""
    return sum(_rss_of(process) for process in processes)


def kill(processes: Iterable[psutil.Process], sig: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to each process; skip those that have ended or belong to another user.

    psutil compares start times, so a pid that the kernel has given to another process is never
    signalled.
    """
    for process in processes:
        try:
            process.send_signal(sig)
        except (psutil.Error, OSError):
            continue


def wait_ended(processes: Iterable[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Block until all have ended, at most `timeout` seconds; return those that still live.

    A zombie has ended: only its parent can remove it.
    """
    deadline = time.monotonic() + timeout
    alive = [process for process in processes if _is_alive(process)]
    while alive and time.monotonic() < deadline:
        # Polled: the kernel reports the end of a process only to its parent.
        time.sleep(_POLL_SECONDS)
        alive = [process for process in alive if _is_alive(process)]
    return alive


def kill_group(pgid: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the process group of a worker; do nothing if it has ended."""
    try:
        os.killpg(pgid, sig)
    except (ProcessLookupError, PermissionError):  # not ours any more
        pass


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


def _cookie_of(pid: int) -> str:
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


def _rss_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
