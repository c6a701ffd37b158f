"""The pool's side of its watcher, the small process that cleans up if the pool is killed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from agent_pool.claude import watcher
from agent_pool.errors import ConfigError

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
        """Start it unless it runs; where that is impossible the pool works without, and says so."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self.dismiss(0)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", watcher.__file__, self._cookie, tempfile.gettempdir()],
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


def make_folder(cookie: str) -> Path:
    """A private folder for the pool's temporary files; the watcher removes it if need be.

    Raises:
        ConfigError: there is no place for it.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=watcher.folder_prefix(cookie)))
    except OSError as error:
        raise ConfigError(
            f"no temporary folder can be made: {error}; make room, or correct TMPDIR"
        ) from None
