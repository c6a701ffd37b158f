"""The pool's side of its watcher, the small process that cleans up if the pool is killed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

from agent_pool.claude import watcher

log = logging.getLogger("agent_pool")


class Watcher:
    """One for a pool, started before its first worker.

    Args:
        cookie: what the pool's processes bear in their environment.
    """

    def __init__(self, cookie: str) -> None:
        self._cookie = cookie
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, once; where that is impossible the pool works without, and says so."""
        if self._process is not None:
            return
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", watcher.__file__, self._cookie],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={"PATH": os.defpath},
                cwd="/",
            )
        except OSError as error:
            log.warning("no watcher: should this process be killed, agents may be left: %s", error)

    def dismiss(self, timeout: float) -> None:
        """End it, after everything else has ended; blocks until it has."""
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(watcher.GOODBYE)
            process.stdin.close()
        except OSError as error:
            log.debug("the watcher was gone already: %s", error)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
