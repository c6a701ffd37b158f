"""The fence of a node: kills the node's pool when its driver is not heard of any more.

It is a process of its own, so that it works although the pool's process hangs or is stopped. The
pool's watchdog then kills what the pool has started. It needs the standard library alone, and runs
with `-I -S`, so that it is small and starts fast.

    fence_script.py PID

PID is the pool's process, its parent. On stdin comes the time until which the pool can live, again
and again, eight bytes each; see `now`. The end of stdin is the end of the pool.
"""

from __future__ import annotations

import os
import select
import struct
import sys
import time

TIME_FORMAT = "<d"
TIME_BYTES = struct.calcsize(TIME_FORMAT)
MOST_SECONDS = 1.0
"""The clock is read so often: `poll` does not count the time that a machine sleeps."""


def now() -> float:
    """Return the seconds since the machine was started, those that it slept included."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def main() -> None:
    """Wait until the time is over or the pool has ended."""
    pid = int(sys.argv[1])
    handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
    # Asked after the handle was opened: as long as it is the parent, the pid is that of the pool.
    if os.getppid() != pid:
        return
    # The pool must not be the parent: `ray.kill` kills its children first, and this one would no
    # longer see that the pool is stuck.
    if os.fork():
        os._exit(0)
    until = _wait_for_time(float("inf"))
    while until is not None:
        if now() >= until:
            _kill(pid, handle)
            return
        until = _wait_for_time(until)


def _wait_for_time(until: float) -> float | None:
    """Return the newest time, `until` if there is no newer one yet; None at the end of stdin."""
    seconds = min(MOST_SECONDS, max(0.0, until - now()))
    if not select.select([0], [], [], seconds)[0]:
        return until
    data = os.read(0, 1024 * TIME_BYTES)
    # A message is smaller than PIPE_BUF, so it is never cut.
    return struct.unpack(TIME_FORMAT, data[-TIME_BYTES:])[0] if data else None


def _kill(pid: int, handle: int | None) -> None:
    sys.stderr.write("agent-pool: the driver was not heard of in time; this node ends its tasks\n")
    sys.stderr.flush()
    try:
        if handle is None:
            os.kill(pid, 9)
        else:
            import signal

            signal.pidfd_send_signal(handle, 9)
    except ProcessLookupError:  # it has ended by itself
        pass


if __name__ == "__main__":
    main()
