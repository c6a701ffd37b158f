"""A daemon and its offline model for all tests of a module, on one event loop.

A test that kills or replaces the daemon leaves it so: the next client starts another one. The
tests tell their tasks apart by handles and by the newest entries of the store.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.daemons import DaemonProject
from support.mcp_server import IMPORTABLE
from support.model_scripts import echo_task
from support.relays import RelayProject
from support.waiting import TEST_TIMEOUT, bounded

T = TypeVar("T")


class SharedDaemon(DaemonProject):
    """A project with the agent `tester`, whose daemon is started by the first client.

    Attributes:
        api: the model; `use_model` gives it another script.
        env: the environment of clients.
    """

    def __init__(self, folder: Path, short: Path) -> None:
        super().__init__(folder, short)
        self.api = LoopbackAPI(echo_task)
        self._runner = asyncio.Runner()
        self.run(self.api.__aenter__())
        self.reset()

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Self]:
        """Make the project; at the end stop its daemon, after which none of its processes lives."""
        with tempfile.TemporaryDirectory(prefix="apd-", dir="/tmp") as short:
            project = cls(folder, Path(short))
            yield project
            project.stop(now=True)
            left = [" ".join(process.cmdline()) for process in project.processes()]
            project.end()
            project.run(project.api.__aexit__(None, None, None))
            project._runner.close()
        assert left == []

    def reset(self) -> None:
        """Give a test the plain model and environment."""
        self.api.script = echo_task
        self.env = self.daemon_environment(self.api.url, PYTHONPATH=IMPORTABLE)

    def use_model(self, script: Callable[[ModelRequest], Any]) -> None:
        """Let this script answer from now on."""
        self.api.script = script

    def run(self, main: Coroutine[Any, Any, T], bound: float = TEST_TIMEOUT) -> T:
        """Run a coroutine on the loop; raise TimeoutError after `bound` seconds."""
        return self._runner.run(bounded(main, bound))


class SharedRelays(SharedDaemon, RelayProject):
    """The same with the agent `reviewer` and relays; `stderr` has what those of one test wrote."""

    def reset(self) -> None:
        super().reset()
        (self.home / "stderr").write_text("")
