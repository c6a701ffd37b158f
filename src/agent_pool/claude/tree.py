"""The processes that belong to a worker, found by parentage and by a cookie.

A task's commands can leave the worker's process group and session and be re-parented to init, so
neither a group nor parentage finds them all. Every worker therefore starts with a cookie in its
environment, which its descendants inherit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable

import psutil

COOKIE = "AGENT_POOL_COOKIE"


def descendants(pid: int) -> list[psutil.Process]:
    """The living processes below `pid` by parentage, itself first; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        found = [root, *root.children(recursive=True)]
    except psutil.Error:
        return []
    return [process for process in found if _is_alive(process)]


def bearers(cookie: str) -> list[psutil.Process]:
    """The living processes whose cookie is, or begins with, `cookie`.

    Reads the environment of every process of this user: some milliseconds, so call it off the
    event loop.
    """
    return [process for process in psutil.process_iter() if _cookie_of(process).startswith(cookie)]


def members(pid: int, cookie: str) -> list[psutil.Process]:
    """All of a worker's living processes, by parentage and by cookie, itself first."""
    found = {process.pid: process for process in descendants(pid)}
    for process in bearers(cookie):
        found.setdefault(process.pid, process)
    return list(found.values())


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
    """Those that are still alive after `timeout` seconds; blocks until all are gone or then."""
    _, alive = psutil.wait_procs(list(processes), timeout=timeout)
    return [process for process in alive if _is_alive(process)]


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


def _cookie_of(process: psutil.Process) -> str:
    try:
        return str(process.environ().get(COOKIE, ""))
    except (psutil.Error, OSError):
        return ""


def _rss_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
