"""A daemon in the background: it is no child of its starter, which still learns how it began."""

from __future__ import annotations

import os
from collections.abc import Callable

_READY = b"+"


def detach() -> Callable[[], None]:
    """Go on in a new process; the old one ends when that is ready or has ended, with its status.

    It must be called before the first thread and the first event loop. The starter has given this
    process a session of its own, whose leader it is; the new one is not, so it can get no terminal.

    Returns:
        A function for the new process, to be called when it is ready.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        _wait_and_exit(child, reading)
    os.close(reading)

    def report() -> None:
        try:
            os.write(writing, _READY)
        except OSError:  # the starter did not wait for so long
            pass
        os.close(writing)

    return report


def _wait_and_exit(child: int, reading: int) -> None:
    if os.read(reading, 1) == _READY:
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    # Not `sys.exit`: what both processes have registered and buffered is the new one's.
    os._exit(code if code >= 0 else 128 - code)
