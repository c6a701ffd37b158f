"""The processes that belong to a worker, found by parentage and by a cookie.

A task's commands can leave the worker's process group and session and be re-parented to init, so
neither a group nor parentage finds them all. Every worker therefore starts with a cookie in its
environment, which its descendants inherit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

COOKIE = "AGENT_POOL_COOKIE"
SERVER_MARK = "AGENT_POOL_SERVER"
"""In the environment of a worker's own MCP servers: they outlive its tasks."""
POLL = 0.005
"""Seconds between two looks at processes that are about to end."""
_HAS_PROC = Path("/proc/self/environ").exists()


def descendants(pid: int) -> list[psutil.Process]:
    """The living processes below `pid` by parentage, itself first; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        found = [root, *root.children(recursive=True)]
    except psutil.Error:
        return []
    return [process for process in found if _is_alive(process)]


def bearers(cookie: str) -> list[psutil.Process]:
    """The living processes with this cookie: a worker's own, or a pool's, which is the part before
    the ``/`` of its workers' cookies.

    Reads the environment of every process of this user: some milliseconds, so call it off the
    event loop.
    """
    found = []
    for pid in psutil.pids():
        if f"{_cookie_of(pid)}/".startswith(f"{cookie}/"):
            try:
                found.append(psutil.Process(pid))
            except psutil.Error:
                continue
    return [process for process in found if _is_alive(process)]


def members(pid: int, cookie: str) -> list[psutil.Process]:
    """All of a worker's living processes, by parentage and by cookie, itself first."""
    found = {process.pid: process for process in descendants(pid)}
    for process in bearers(cookie):
        found.setdefault(process.pid, process)
    return list(found.values())


def census(cookie: str, roots: Mapping[str, int]) -> dict[str, list[psutil.Process]]:
    """The living processes of many workers in one look, by name.

    Args:
        cookie: the common beginning of the workers' cookies, before ``/`` and the name.
        roots: the workers' process ids.
    """
    processes = {process.pid: process for process in psutil.process_iter()}
    owner = {pid: name for name, pid in roots.items()}
    for pid in processes:
        whole, _, name = _cookie_of(pid).partition("/")
        if whole == cookie and name in roots:
            owner[pid] = name
    parents = {pid: _parent_of(process) for pid, process in processes.items()}
    found: dict[str, list[psutil.Process]] = {name: [] for name in roots}
    for pid, process in processes.items():
        name = _owner_of(pid, parents, owner)
        if name and _is_alive(process):
            found[name].append(process)
    return found


def _owner_of(pid: int, parents: Mapping[int, int], owner: Mapping[int, str]) -> str:
    seen: set[int] = set()
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
    """Resident bytes of these processes together; those that are gone count nothing."""
    return sum(_rss_of(process) for process in processes)


def kill(processes: Iterable[psutil.Process], sig: signal.Signals = signal.SIGKILL) -> None:
    """Signal each process; one that is gone or not ours to end is passed over.

    psutil checks the start time, so a pid that was given to another process is never signalled.
    """
    for process in processes:
        try:
            process.send_signal(sig)
        except (psutil.Error, OSError):
            continue


def wait_gone(processes: Iterable[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Those that are still alive after `timeout` seconds; blocks until all are gone or then.

    One that has ended is gone, whether its parent has noticed or not.
    """
    deadline = time.monotonic() + timeout
    alive = [process for process in processes if _is_alive(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(POLL)
        alive = [process for process in alive if _is_alive(process)]
    return alive


def kill_group(pgid: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """Signal a worker's own process group, remembered from its start; gone is fine."""
    try:
        os.killpg(pgid, sig)
    except (ProcessLookupError, PermissionError):
        pass


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def is_server(process: psutil.Process) -> bool:
    """Whether it is, or was started by, an MCP server that its worker was given."""
    return bool(_variable(process.pid, SERVER_MARK))


def _cookie_of(pid: int) -> str:
    return _variable(pid, COOKIE)


def _variable(pid: int, name: str) -> str:
    if not _HAS_PROC:
        return _variable_by_psutil(pid, name)
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
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
