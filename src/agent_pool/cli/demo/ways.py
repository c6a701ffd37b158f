"""The two ways to carry out tasks that the demo compares: the pool, and `claude -p` for each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import psutil

from agent_pool import (
    AgentPool,
    Queued,
    Started,
    TaskEvent,
    TaskFailed,
    TaskTimeout,
    ToolUse,
)
from agent_pool.cli.demo.scene import AGENT, Task
from agent_pool.cli.narrate import describe_call
from agent_pool.cli.offline import World

BOUND: Final = 60.0
"""Seconds for one task, however it is carried out."""
_SAMPLED_EVERY: Final = 0.02

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a task.

    Attributes:
        text: the agent's words.
        duration: seconds from asking to having them.
        memory: bytes of the process that gave them; the most it had, if it is gone.
    """

    text: str
    duration: float
    memory: int


class Way(Protocol):
    """How tasks are carried out.

    Attributes:
        name: what it is called in the table.
        world: where it works.
        warm_up: gets ready for the first task; None where there is nothing to get ready.
    """

    name: str
    world: World
    warm_up: Callable[[], Awaitable[None]] | None

    async def carry_out(self, task: Task, tell: Tell) -> Answer:
        """Carry out one task; `tell` is called with what happens."""

    async def memory(self, answers: Iterable[Answer]) -> int:
        """Bytes that it held while, or right after, it gave these answers at once."""


class PoolWay:
    """An open pool."""

    name = "pool"

    def __init__(self, world: World, pool: AgentPool) -> None:
        self.world = world
        self.warm_up: Callable[[], Awaitable[None]] | None = self._warm_up
        self._pool = pool

    async def _warm_up(self) -> None:
        await self._pool.warmup(AGENT)

    async def carry_out(self, task: Task, tell: Tell) -> Answer:
        def on_event(event: TaskEvent) -> None:
            if words := _in_words(event):
                tell(words)

        began = time.perf_counter()
        result = await self._pool.invoke(AGENT, task.text, timeout=BOUND, on_event=on_event)
        duration = time.perf_counter() - began
        result.raise_for_error()
        used = [info.rss for info in await self._pool.list() if info.worker == result.worker]
        return Answer(result.text, duration, sum(used))

    async def memory(self, answers: Iterable[Answer]) -> int:
        return sum(info.rss for info in await self._pool.list())


def _in_words(event: TaskEvent) -> str:
    match event:
        case Queued():
            return "waiting for a worker"
        case Started():
            return f"on {event.worker}, process {event.pid}"
        case ToolUse():
            return describe_call(event)
    return ""


class ProcessWay:
    """A new `claude -p` for each task, as one would type it."""

    name = "claude -p for each"

    def __init__(self, world: World, cli: Path) -> None:
        self.world = world
        self.warm_up: Callable[[], Awaitable[None]] | None = None
        self._argv = [str(cli), "-p", "--agent", AGENT, "--dangerously-skip-permissions"]

    async def carry_out(self, task: Task, tell: Tell) -> Answer:
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            task.text,
            cwd=self.world.settings.project_dir,
            env=dict(self.world.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        tell(f"process {process.pid}")
        sampling = asyncio.create_task(_peak_memory(process.pid))
        try:
            said, _ = await asyncio.wait_for(process.communicate(), BOUND)
        except TimeoutError:
            raise TaskTimeout(f"{self._argv[0]} -p did not end in {BOUND:g} s") from None
        finally:
            sampling.cancel()
            _kill_group(process.pid)
        duration = time.perf_counter() - began
        text = said.decode("utf-8", "replace").strip()
        if process.returncode:
            raise TaskFailed(f"{self._argv[0]} -p ended with {process.returncode}: {text}")
        return Answer(text, duration, await sampling)

    async def memory(self, answers: Iterable[Answer]) -> int:
        return sum(answer.memory for answer in answers)


async def _peak_memory(pid: int) -> int:
    """The most resident bytes that a process was seen with, until it is gone or this cancelled."""
    peak = 0
    with contextlib.suppress(psutil.Error, asyncio.CancelledError):
        process = psutil.Process(pid)
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(_SAMPLED_EVERY)
    return peak


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
