"""The lock that makes a daemon the only one of its user."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

from agent_pool.errors import ConfigError
from agent_pool.runtime import LOCK_FILE

PATIENCE_SECONDS: Final = 0.3
"""How long a daemon tries to get the lock: clients take it for a moment to see whether it is free.
"""
_POLL_SECONDS: Final = 0.005


class DaemonLock:
    """The lock, held until `release` or the end of the process; the kernel frees it then."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @property
    def is_held(self) -> bool:
        """Return whether it was not given up."""
        return self._descriptor is not None

    def note(self, state: str) -> None:
        """Write into the file what the daemon does, for people and for clients that wait for it."""
        if self._descriptor is not None:
            text = f"{os.getpid()} {state}\n".encode()
            os.pwrite(self._descriptor, text, 0)
            os.ftruncate(self._descriptor, len(text))

    def release(self) -> None:
        """Give the lock up; do nothing if that was done before."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def take_lock(folder: Path) -> DaemonLock | None:
    """Take the lock of a runtime folder; return None if another daemon has it.

    The file stays for ever: two daemons could lock two different files of its name otherwise.

    Raises:
        ConfigError: the file cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(folder / LOCK_FILE, flags, 0o600)
    except OSError as error:
        raise ConfigError(f"{folder / LOCK_FILE}: cannot be opened: {error}; remove it") from None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(_POLL_SECONDS)
        else:
            return DaemonLock(descriptor)
