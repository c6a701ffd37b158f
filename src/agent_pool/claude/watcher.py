"""Outlives a pool that was killed, and ends what it left: run as a script, standard library only.

    python -I -S watcher.py COOKIE FOLDER

Its standard input is one end of a pipe whose other end the pool holds. The pipe's end means that
the pool is gone, however it went, unless it said goodbye before. So does another parent: a child of
the pool's process may hold the pipe as well. Then every process that bears the pool's cookie in its
environment is killed, until none has been found for a while: a process between fork and exec does
not bear it yet. Last, what the pool had in the FOLDER for temporary files is removed.
"""

import os
import select
import signal
import sys
import time

NAME = "AGENT_POOL_COOKIE"
GOODBYE = b"."
PATIENCE = 1.0  # seconds between two looks at the parent
PAUSE = 0.05  # seconds between two looks
QUIET_LOOKS = 20  # looks in a row that must find nothing
MOST_LOOKS = 600


def bearers(cookie: str) -> list[int]:
    """The pids of the processes whose cookie begins with `cookie` and a slash."""
    if os.path.isdir("/proc/self"):  # noqa: PTH112 - pathlib costs 3 MB here
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))  # noqa: PTH208
        return [pid for pid in pids if _bears(pid, cookie)]
    return _bearers_by_ps(cookie)


def _bears(pid: int, cookie: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            return b"\0%s=%s/" % (NAME.encode(), cookie.encode()) in b"\0" + file.read()
    except OSError:
        return False


def _bearers_by_ps(cookie: str) -> list[int]:
    import subprocess  # costs 3 MB, and only macOS needs it

    said = subprocess.run(
        ["/bin/ps", "-axwwE", "-o", "pid=,command="], capture_output=True, text=True, check=False
    ).stdout
    mark = f" {NAME}={cookie}/"
    return [int(line.split(None, 1)[0]) for line in said.splitlines() if mark in line]


def sweep(cookie: str) -> None:
    """Kill all bearers until none is left."""
    quiet = 0
    for _ in range(MOST_LOOKS):
        found = bearers(cookie)
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        quiet = 0 if found else quiet + 1
        if quiet >= QUIET_LOOKS:
            return
        time.sleep(PAUSE)


def folder_prefix(cookie: str) -> str:
    """What the names of a pool's temporary folders begin with."""
    return f"agent-pool-{cookie.partition('/')[0]}-"


def tidy(folder: str, cookie: str) -> None:
    """Remove the pool's temporary folders: what they hold may be secret."""
    for name in os.listdir(folder):  # noqa: PTH208
        if name.startswith(folder_prefix(cookie)):
            whole = os.path.join(folder, name)  # noqa: PTH118
            for place, folders, files in os.walk(whole, topdown=False):
                for entry in (*files, *folders):
                    _remove(os.path.join(place, entry))  # noqa: PTH118
            _remove(whole)


def _remove(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108
    except OSError:  # a folder, which is empty by now
        try:
            os.rmdir(path)  # noqa: PTH106
        except OSError:
            pass


def pool_has_died() -> bool:
    """Wait for the end of the pool; whether it came without a goodbye."""
    parent = os.getppid()
    while not select.select([0], [], [], PATIENCE)[0]:
        if os.getppid() != parent:
            return True
    return os.read(0, 1) != GOODBYE


def main(cookie: str, folder: str) -> None:
    """Wait for the end, then sweep."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if pool_has_died():
        sweep(cookie)
        tidy(folder, cookie)


if __name__ == "__main__":
    main(*sys.argv[1:])
