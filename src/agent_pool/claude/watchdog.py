"""The pool's side of its watchdog, the small process that cleans up if the pool is killed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from agent_pool.claude import watchdog_script
from agent_pool.errors import ConfigError

log = logging.getLogger("agent_pool")


class Watchdog:
    """The watchdog of one pool, started before the pool's first worker.

    Args:
        cookie: the cookie that the pool's processes have in their environment.
    """

    def __init__(self, cookie: str) -> None:
        self._cookie = cookie
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return its process id; `None` before the start and after the goodbye."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it unless it runs; log a warning where that is impossible."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self.dismiss(0)  # it was killed: free its pipe before another one is started
        script = watchdog_script.__file__
        try:
            self._process = subprocess.Popen(
                # -I and -S: PYTHON* variables and site-packages have no effect on it.
                [sys.executable, "-I", "-S", script, self._cookie, tempfile.gettempdir()],
                # The kernel closes our end of this pipe even if we get SIGKILL.
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # A signal to our process group must not reach it: it has to outlive us.
                start_new_session=True,
                env={"PATH": os.defpath},
                cwd="/",
            )
        except OSError as error:
            log.warning(
                "the watchdog cannot be started, so agents stay if this process is killed: %s",
                error,
            )

    def dismiss(self, timeout: float) -> None:
        """Say goodbye and block until it has ended; kill it after `timeout` seconds.

        Call it after all workers have ended.
        """
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(watchdog_script.GOODBYE)
            process.stdin.close()
        except OSError as error:
            log.debug("the watchdog had ended before: %s", error)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def make_run_folder(cookie: str) -> Path:
    """Make a private folder for the pool's temporary files; the watchdog knows it by its name.

    Raises:
        ConfigError: no temporary folder can be made.
    """
    try:
        return Path(tempfile.mkdtemp(prefix=watchdog_script.folder_prefix(cookie)))
    except OSError as error:
        raise ConfigError(
            f"no temporary folder can be made: {error}; free some space, or correct TMPDIR"
        ) from None
