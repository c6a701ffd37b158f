"""The watchdog: a small process that outlives a killed pool and ends the pool's processes.

    python -I -S watchdog_script.py COOKIE FOLDER

It runs as a script of the standard library. Its standard input is the reading end of a pipe; the
pool holds the other end. If the pipe ends without a goodbye, the pool was killed. The watchdog then
kills every process that has the pool's cookie in its environment, until several scans in a row find
no such process, and removes the pool's folders in FOLDER, the place for temporary files.
"""

import os
import select
import signal
import sys
import time

COOKIE_VARIABLE = "AGENT_POOL_COOKIE"
GOODBYE = b"."
PARENT_CHECK_SECONDS = 1.0
SCAN_SECONDS = 0.05
QUIET_SCANS = 20
"""Scans in a row that must find no process: one between fork and exec has no cookie yet."""
# Half a minute: a process that the kernel does not let go must not keep the watchdog for ever.
MOST_SCANS = 600


def with_cookie(cookie: str) -> list[int]:
    """Return the pids of the processes whose cookie begins with `cookie` and a slash."""
    if os.path.isdir("/proc/self"):  # noqa: PTH112 - importing pathlib costs 3 MB here
        pids = map(int, filter(str.isdigit, os.listdir("/proc")))  # noqa: PTH208
        return [pid for pid in pids if _has_cookie(pid, cookie)]
    return _with_cookie_by_ps(cookie)


def _has_cookie(pid: int, cookie: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            environ = b"\0" + file.read()
    except OSError:  # it has ended, or belongs to another user
        return False
    return b"\0%s=%s/" % (COOKIE_VARIABLE.encode(), cookie.encode()) in environ


def _with_cookie_by_ps(cookie: str) -> list[int]:
    import subprocess  # costs 3 MB, and only macOS needs it: there is no /proc

    output = subprocess.run(
        ["/bin/ps", "-axwwE", "-o", "pid=,command="], capture_output=True, text=True, check=False
    ).stdout
    mark = f" {COOKIE_VARIABLE}={cookie}/"
    return [int(line.split(None, 1)[0]) for line in output.splitlines() if mark in line]


def kill_all(cookie: str) -> None:
    """Kill every process with the cookie, and scan again until no process is found."""
    quiet = 0
    for _ in range(MOST_SCANS):
        found = with_cookie(cookie)
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:  # it has ended by itself
                continue
        quiet = 0 if found else quiet + 1
        if quiet >= QUIET_SCANS:
            return
        time.sleep(SCAN_SECONDS)


def folder_prefix(cookie: str) -> str:
    """Return the beginning of the names of a pool's temporary folders."""
    return f"agent-pool-{cookie.partition('/')[0]}-"


def remove_folders(place: str, cookie: str) -> None:
    """Remove the pool's folders in `place`: they can hold secrets."""
    for name in os.listdir(place):  # noqa: PTH208
        if name.startswith(folder_prefix(cookie)):
            whole = os.path.join(place, name)  # noqa: PTH118
            # Bottom up, because a folder must be empty to be removed.
            for folder, folders, files in os.walk(whole, topdown=False):
                for entry in (*files, *folders):
                    _remove(os.path.join(folder, entry))  # noqa: PTH118
            _remove(whole)


def _remove(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108
    except OSError:  # a folder, which is empty by now
        try:
            os.rmdir(path)  # noqa: PTH106
        except OSError:
            pass


def wait_for_end() -> bool:
    """Wait until the pool ends; return whether it ended without a goodbye."""
    parent = os.getppid()
    while not select.select([0], [], [], PARENT_CHECK_SECONDS)[0]:
        # A child that the pool's process forked can hold the pipe open after the pool's death;
        # the kernel then gives us another parent.
        if os.getppid() != parent:
            return True
    # The end of the pipe reads as no bytes at all.
    return os.read(0, 1) != GOODBYE


def main(cookie: str, place: str) -> None:
    """Wait for the end of the pool, then clean up if it was killed."""
    # Ctrl-C and a closed terminal reach the whole process group: the pool ends by them, and the
    # watchdog must outlive it.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if wait_for_end():
        kill_all(cookie)
        remove_folders(place, cookie)


if __name__ == "__main__":
    main(*sys.argv[1:])
