"""What the isolation tests share: a warm pool on a CLI, its offline model, and who was told what.

A lab's model answers by plans: a task is told apart by the word that it begins with, and each step
of its turn has an answer of its own. So many tests can share one pool, as long as each uses words
of its own (`Lab.word`).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from agent_pool import AgentPool, TaskResult
from agent_pool.loopback import LoopbackAPI, Reply, Request, ToolUse
from pool_world import MARK, PoolWorld, say_task, until_idle

T = TypeVar("T")
Step = Any
"""A reply, or a function (async or not) of the request that gives one."""


@dataclass(frozen=True, slots=True)
class Said:
    """One task: how it was answered, and the requests of its own conversation."""

    result: TaskResult
    requests: list[Request]

    @property
    def text(self) -> str:
        return self.result.text

    @property
    def pid(self) -> int:
        return self.result.pid


class Lab:
    """An open pool and its model on an event loop that outlives a single test.

    `environ` holds the variables that tell its pool's environment from the usual one.

    Args:
        root: a folder for the project and the home.
        cache: the user's cache folder, so that the canary is paid once.
        cli: the binary, by default the one that the tests bring.
        environ: further variables of the pool's own environment.
        settings: of the pool; `reset` is auto unless it says otherwise.
    """

    def __init__(
        self,
        root: Path,
        cache: Path,
        *,
        cli: Path | None = None,
        environ: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.world = PoolWorld(root)
        self.api = LoopbackAPI(self._answer)
        self.runner = asyncio.Runner()
        self._plans: dict[str, tuple[Step, ...]] = {}
        self._words = itertools.count(1)
        self._stack = AsyncExitStack()
        self.environ = {"XDG_CACHE_HOME": str(cache), MARK: self.world.mark, **(environ or {})}
        if cli is not None:
            self.environ["CLAUDE_CLI"] = str(cli)
        self._settings = {"spares": 0, "close_timeout": 5, **settings}
        self.pool: AgentPool

    # Life

    def open(self) -> None:
        """Start the model and the pool."""
        self.run(self._open())

    async def _open(self) -> None:
        await self._stack.enter_async_context(self.api)
        environ = self.world.environment(self.api.url, **self.environ)
        self.pool = AgentPool(environ=environ, **self._settings)
        await self._stack.enter_async_context(self.pool)

    def close(self) -> None:
        """End both; raises what the model's script raised."""
        try:
            self.run(self._stack.aclose())
        finally:
            self.runner.close()

    def run(self, main: Coroutine[Any, Any, T], bound: float = 60.0) -> T:
        """Run a test on the lab's loop, within a bound."""

        async def bounded() -> T:
            async with asyncio.timeout(bound):
                return await main

        return self.runner.run(bounded())

    # The model

    def word(self, kind: str) -> str:
        """A word that nothing else in this lab contains, to tell a task or a canary by."""
        return f"{kind}-{next(self._words)}x"

    def plan(self, *steps: Step) -> str:
        """A task whose turn goes through these steps; what comes after them is told back."""
        word = self.word("task")
        self._plans[word] = steps
        return word

    def plan_for(self, beginning: str, *steps: Step) -> None:
        """Whatever is said that begins so goes through these steps."""
        self._plans[beginning] = steps

    def _answer(self, request: Request) -> Any:
        steps = self._plans.get(next(iter(request.last_user_text.split()), ""), ())
        done = sum(message["role"] == "assistant" for message in request.messages)
        step = steps[done] if done < len(steps) else say_task
        return step(request) if callable(step) else step

    # Callers

    async def ask(self, task: str, agent: str = "tester", **options: Any) -> Said:
        """Give a task; `requests` are those of the conversations in which it was said."""
        before = len(self.api.requests)
        result = await self.pool.invoke(agent, task, **options)
        requests = [r for r in self.api.requests[before:] if _asks(r, task)]
        return Said(result, requests)

    async def settled(self) -> None:
        """Wait until the pool has done its own work on every worker."""
        await until_idle(self.pool)

    def told(self, word: str) -> list[Request]:
        """The requests that contain a word anywhere."""
        return [request for request in self.api.requests if word in flat(request)]

    def processes(self, command: str) -> list[psutil.Process]:
        """The living processes of this lab in whose command line this stands."""
        return [p for p in self.world.processes() if command in _command(p)]


def flat(request: Request) -> str:
    """All that a request says, as one text."""
    return json.dumps(request.body, ensure_ascii=False)


def task_blocks(request: Request) -> list[str]:
    """The text blocks of the last thing that the user said, as the model receives them."""
    return _texts([message for message in request.messages if message["role"] == "user"][-1])


def bash(command: str, **more: Any) -> Reply:
    """The model calls the shell."""
    return tool("Bash", command=command, description="Tests.", **more)


def tool(name: str, **given: Any) -> Reply:
    """The model calls a tool."""
    return Reply([ToolUse(name, given)])


async def resolved(step: Step, request: Request) -> Any:
    """What a step answers."""
    answer = step(request) if callable(step) else step
    return await answer if inspect.isawaitable(answer) else answer


class Gate:
    """A step that waits: the model thinks until it is opened.

    Attributes:
        reached: set when the model has begun to think.
    """

    def __init__(self, then: Step = "done") -> None:
        self.reached = asyncio.Event()
        self._opened = asyncio.Event()
        self._then = then

    def open(self) -> None:
        """Let the model answer."""
        self._opened.set()

    async def reached_within(self, seconds: float) -> bool:
        """Whether the model begins to think in time."""
        try:
            await asyncio.wait_for(self.reached.wait(), seconds)
        except TimeoutError:
            return False
        return True

    async def __call__(self, request: Request) -> Any:
        self.reached.set()
        await self._opened.wait()
        return await resolved(self._then, request)


def _asks(request: Request, task: str) -> bool:
    users = [message for message in request.messages if message["role"] == "user"]
    return any(task in text for message in users for text in _texts(message))


def _texts(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [block["text"] for block in blocks if block["type"] == "text"]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
