"""Facts about processes and files, asked of the kernel."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from support.waiting import wait_until

MIB = 1 << 20
HAS_PROC = Path("/proc/self/environ").exists()


def is_alive(pid: int) -> bool:
    """Check whether a process exists and has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Wait until these processes have ended; raise TimeoutError after `WAIT_TIMEOUT` seconds."""
    await wait_until(lambda: not any(is_alive(process.pid) for process in processes))


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """Return the living processes that have this variable in their environment."""
    found = []
    for pid in _pids_with(f"{variable}={value}".encode()):
        with suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def _pids_with(entry: bytes) -> list[int]:
    """Return the processes with this entry, of the form NAME=value, in their environment."""
    return [pid for pid in psutil.pids() if entry in environment_entries(pid)]


def environment_entries(pid: int) -> list[bytes]:
    """Return the environment of a process, as NAME=value; empty for a zombie."""
    try:
        if not HAS_PROC:
            found = psutil.Process(pid).environ()
            return [f"{name}={value}".encode() for name, value in found.items()]
        # Read as bytes: tests ask often, and on a machine with a thousand processes more a
        # dictionary for each of them took three times as long. And psutil stops at the empty
        # entries of a process that has changed its title, as those of Ray do.
        with Path(f"/proc/{pid}/environ").open("rb", buffering=0) as file:
            return file.read().split(b"\0")
    except (psutil.Error, OSError):
        return []


def zombies(since: float) -> list[int]:
    """Return the pids of ended, unreaped children of this process that started after `since`."""
    children = [child for child in psutil.Process().children() if child.create_time() >= since]
    return [child.pid for child in children if _is_zombie(child)]


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it is reaped meanwhile
        return False


def watchdogs(pid: int) -> list[psutil.Process]:
    """Return the living watchdogs of the pools in a process: the parents of their workers."""
    own = _watchdog_processes(pid)
    return [one for one in own if _parent_of(one) in {other.pid for other in own}]


def reapers(pid: int) -> list[psutil.Process]:
    """Return the parents of these watchdogs."""
    above = {_parent_of(one) for one in watchdogs(pid)}
    return [one for one in _watchdog_processes(pid) if one.pid in above]


def _watchdog_processes(pid: int) -> list[psutil.Process]:
    return [one for one in psutil.process_iter() if _watches(one, pid)]


def _watches(process: psutil.Process, pid: int) -> bool:
    try:
        script, *arguments = process.cmdline()[3:]
        is_alive = process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False
    return is_alive and script.endswith("watchdog_script.py") and arguments[2:3] == [str(pid)]


def _parent_of(process: psutil.Process) -> int:
    try:
        return int(process.ppid())
    except psutil.Error:
        return 0


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """Kill processes; skip those that have ended."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def temporary_files() -> list[Path]:
    """Return the content of the temporary folder."""
    return list(Path(tempfile.gettempdir()).iterdir())


def open_files() -> int:
    """Count the file descriptors that this process holds."""
    return len(os.listdir(f"/proc/{os.getpid()}/fd"))  # noqa: PTH208


async def read_pid(path: Path) -> int:
    """Wait until a command has written its pid to `path`; return the pid."""
    await wait_until(path.exists)
    return int(path.read_text())  # noqa: ASYNC240 - a few bytes
