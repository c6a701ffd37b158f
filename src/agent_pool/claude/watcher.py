"""Outlives a pool that was killed, and ends what it left: run as a script, standard library only.

    python -I -S watcher.py COOKIE

Its standard input is one end of a pipe whose other end only the pool holds. The pipe's end means
that the pool is gone, however it went, unless it said goodbye before. Then every process that bears
the pool's cookie in its environment is killed, until none has been found for a while: a process
between fork and exec does not bear it yet.
"""

import os
import signal
import sys
import time

NAME = "AGENT_POOL_COOKIE"
GOODBYE = b"."
PAUSE = 0.05  # seconds between two looks
QUIET_LOOKS = 20  # looks in a row that must find nothing
MOST_LOOKS = 600


def bearers(cookie: str) -> list[int]:
    """The pids of the processes whose cookie begins with `cookie`."""
    if os.path.isdir("/proc/self"):  # noqa: PTH112 - pathlib costs 3 MB here
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))  # noqa: PTH208
        return [pid for pid in pids if _bears(pid, cookie)]
    return _bearers_by_ps(cookie)


def _bears(pid: int, cookie: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            return b"\0%s=%s" % (NAME.encode(), cookie.encode()) in b"\0" + file.read()
    except OSError:
        return False


def _bearers_by_ps(cookie: str) -> list[int]:
    import subprocess  # costs 3 MB, and only macOS needs it

    said = subprocess.run(
        ["/bin/ps", "-axwwE", "-o", "pid=,command="], capture_output=True, text=True, check=False
    ).stdout
    mark = f" {NAME}={cookie}"
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


def main() -> None:
    """Wait for the pipe's end, then sweep."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if os.read(0, 1) != GOODBYE:
        sweep(sys.argv[1])


if __name__ == "__main__":
    main()
