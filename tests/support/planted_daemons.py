"""Daemons that leave their session, lose their parents and clear their environment."""

from __future__ import annotations

import itertools
import os
import shlex
from pathlib import Path

import psutil

_NUMBERS = itertools.count(1)


class PlantedDaemon:
    """A daemon that nothing but its command line tells from others.

    Args:
        folder: where `planting` leaves a file.

    Attributes:
        command: starts it in a shell, and returns at once.
        planting: the same, but returns when the daemon stands and has left the file `stood`.
        stood: exists if it was ever started by `planting`.
    """

    def __init__(self, folder: Path = Path("/nonexistent")) -> None:
        # A number of seconds that no other process sleeps.
        self._seconds = f"1000.{os.getpid()}{next(_NUMBERS):05}"
        inner = f"sleep {self._seconds} </dev/null >/dev/null 2>&1 &"
        self.command = f"(env -i setsid /bin/sh -c {shlex.quote(inner)} >/dev/null 2>&1 &)"
        self.stood = folder / f"stood-{self._seconds}"
        waiting = f"until pgrep -x -f 'sleep {self._seconds}' >/dev/null; do sleep 0.01; done"
        self.planting = f"{self.command}; {waiting}; touch {shlex.quote(str(self.stood))}"

    def processes(self) -> list[psutil.Process]:
        """Return its living processes."""
        return [one for one in psutil.process_iter() if self._is_it(one)]

    def _is_it(self, process: psutil.Process) -> bool:
        try:
            is_alive = process.status() != psutil.STATUS_ZOMBIE
            return is_alive and process.cmdline() == ["sleep", self._seconds]
        except psutil.Error:
            return False
