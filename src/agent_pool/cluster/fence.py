"""The node's side of its fence, which ends the node's tasks when the driver is not heard of."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from contextlib import suppress
from typing import Final

from agent_pool.cluster import fence_script
from agent_pool.cluster.fence_script import TIME_FORMAT, now

__all__ = ["Fence", "now"]

START_TIMEOUT: Final = 10.0
"""Seconds for the fence's process to leave its child; it takes some hundredths."""


class Fence:
    """Kills this process unless it is told again and again to wait longer."""

    def __init__(self) -> None:
        self._pipe: int | None = None
        self._until = 0.0

    def live_until(self, until: float) -> None:
        """Kill this process at a time of the clock `now`, unless a later call names a later one.

        Raises:
            OSError: the fence cannot be started.
        """
        self._until = max(self._until, until)
        message = struct.pack(TIME_FORMAT, self._until)
        if self._pipe is not None:
            try:
                os.write(self._pipe, message)
            except BrokenPipeError:  # it was killed
                self.close()
            else:
                return
        self._pipe = _start()
        os.write(self._pipe, message)

    def close(self) -> None:
        """End the fence; this process lives on."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            with suppress(OSError):
                os.close(pipe)


def _start() -> int:
    """Start the fence's process; return the pipe to it."""
    theirs, ours = os.pipe()
    try:
        # It ends at once and leaves a child, which so is no child of this process.
        subprocess.run(
            [sys.executable, "-I", "-S", fence_script.__file__, str(os.getpid())],
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            # A signal to this process group must not reach it.
            start_new_session=True,
            env={"PATH": os.defpath},
            cwd="/",
            check=True,
            timeout=START_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.close(ours)
        raise OSError(f"the fence of this node cannot be started: {error}") from None
    finally:
        os.close(theirs)
    return ours
