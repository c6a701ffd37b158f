"""A warm pool on a CLI and its offline model, shared by the tests of a module.

The model answers by plans: a task is recognised by its first word, and each step of its turn has
its own answer. Many tests can share one pool if each uses words of its own (`PoolHarness.word`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from agent_pool import AgentPool, ResetVerdict, TaskResult, WorkerInfo
from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.cli_age import is_older_cli
from support.model_scripts import Step, as_text, echo_task, message_texts, user_messages
from support.pools import PoolProject, wait_until_idle
from support.waiting import TEST_TIMEOUT, WAIT_TIMEOUT, bounded

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """The result of one task, and the requests of its own conversation."""

    result: TaskResult
    requests: list[ModelRequest]

    @property
    def text(self) -> str:
        return self.result.text

    @property
    def pid(self) -> int:
        return self.result.pid


class PoolHarness:
    """An open pool and its offline model, on an event loop that outlives a single test.

    Args:
        folder: a folder for the project and the home.
        cache: the user's cache folder; with a shared one the reset probe runs once.
        cli: the binary, by default the one inside the claude-agent-sdk package.
        environ: further variables of the pool's own environment.
        settings: settings of the pool; `reset` is auto by default.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        *,
        cli: Path | None = None,
        environ: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.project = PoolProject(folder)
        self.api = LoopbackAPI(self._answer)
        self.runner = asyncio.Runner()
        self._plans: dict[str, tuple[Step, ...]] = {}
        self._words = itertools.count(1)
        self._stack = AsyncExitStack()
        self.environ = {"XDG_CACHE_HOME": str(cache), **(environ or {})}
        if cli is not None:
            self.environ["CLAUDE_CLI"] = str(cli)
        self._settings = {"spares": 0, "close_timeout": 5, **settings}
        self.pool: AgentPool

    def open(self) -> None:
        """Start the model and the pool."""
        self.run(self._open())

    async def _open(self) -> None:
        await self._stack.enter_async_context(self.api)
        environ = self.project.environment(self.api.url, **self.environ)
        self.pool = AgentPool(environ=environ, **self._settings)
        await self._stack.enter_async_context(self.pool)

    def close(self) -> None:
        """Close both; raise the error of the model's script if there was one."""
        try:
            self.run(self._stack.aclose())
        finally:
            self.runner.close()

    def run(self, main: Coroutine[Any, Any, T], bound: float = TEST_TIMEOUT) -> T:
        """Run a test on the harness's loop; raise TimeoutError after `bound` seconds.

        An older CLI, which can need a process for each task, has four times as long.
        """
        return self.runner.run(bounded(main, bound * (4 if is_older_cli() else 1)))

    def word(self, kind: str) -> str:
        """Make a word that occurs nowhere else in this harness, for a task or a canary."""
        return f"{kind}-{next(self._words)}x"

    def plan(self, *steps: Step) -> str:
        """Make a task whose turn goes through these steps; later requests are echoed."""
        word = self.word("task")
        self._plans[word] = steps
        return word

    def plan_for(self, beginning: str, *steps: Step) -> None:
        """Let every prompt whose first word is `beginning` go through these steps."""
        self._plans[beginning] = steps

    def _answer(self, request: ModelRequest) -> Any:
        steps = self._plans.get(next(iter(request.last_user_text.split()), ""), ())
        done = sum(message["role"] == "assistant" for message in request.messages)
        step = steps[done] if done < len(steps) else echo_task
        return step(request) if callable(step) else step

    async def ask(self, task: str, agent: str = "tester", **options: Any) -> TaskOutcome:
        """Give a task to the pool; return its result and its conversation's requests."""
        before = len(self.api.requests)
        result = await self.pool.invoke(agent, task, **options)
        requests = [r for r in self.api.requests[before:] if _asks(r, task)]
        return TaskOutcome(result, requests)

    async def verdict(self) -> ResetVerdict:
        """Return what the probe has found out about this CLI; probe it if that is not known."""
        found = await self.pool.reset_verdict("tester")
        found = found or await self.pool.reset_verdict("tester", refresh=True)
        assert found is not None
        return found

    async def check_pids(self, *pids: int) -> None:
        """Check that one process served these tasks, or one each where no process may serve two.

        Only an older CLI that somebody names may be one that is not used again.
        """
        is_reused = not is_older_cli() or (await self.verdict()).forgets
        assert len(set(pids)) == (1 if is_reused else len(pids))

    async def wait_until_idle(self) -> None:
        """Wait until every worker is idle."""
        await wait_until_idle(self.pool)

    async def parked_spare(self) -> WorkerInfo:
        """Wait for a spare that can be claimed; return it."""
        async with asyncio.timeout(WAIT_TIMEOUT):
            while True:
                for worker in await self.pool.workers():
                    if not worker.agent and worker.state == "idle":
                        return worker
                await asyncio.sleep(0.01)

    def requests_with(self, word: str) -> list[ModelRequest]:
        """Return the requests that contain a word anywhere."""
        return [request for request in self.api.requests if word in as_text(request)]

    def processes(self, command: str) -> list[psutil.Process]:
        """Return this harness's living processes whose command line contains `command`."""
        return [p for p in self.project.processes() if command in _command(p)]


def _asks(request: ModelRequest, task: str) -> bool:
    return any(task in text for said in user_messages(request) for text in message_texts(said))


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
