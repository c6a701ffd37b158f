"""The two task runners that the demo compares: a pool, and a new `claude -p` for each task."""

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
    PoolAPI,
    Queued,
    Started,
    Submitted,
    TaskEvent,
    TaskFailed,
    TaskTimeout,
    ToolUse,
)
from agent_pool.cli.demo.scenario import AGENT, CheckedTask
from agent_pool.cli.offline import OfflineSandbox
from agent_pool.cli.progress import describe_tool_call

TASK_TIMEOUT_SECONDS: Final = 60.0
_SAMPLE_INTERVAL_SECONDS: Final = 0.02

ShowStatus = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MeasuredAnswer:
    """The answer to a task, with its time and memory.

    Attributes:
        duration: seconds from the request to the answer.
        memory: resident bytes of the process that answered; the peak if that process has ended.
    """

    text: str
    duration: float
    memory: int


class DemoRunner(Protocol):
    """Runs the demo's tasks."""

    @property
    def name(self) -> str:
        """Return the heading of its column in the table."""

    @property
    def sandbox(self) -> OfflineSandbox:
        """Return the project, environment and model that it uses."""

    @property
    def warm_up(self) -> Callable[[], Awaitable[None]] | None:
        """Return a function that prepares for the first task; None if there is none."""

    async def run_task(self, task: CheckedTask, show: ShowStatus) -> MeasuredAnswer:
        """Run one task and pass each step, in words, to `show`."""

    async def total_memory(self, answers: Iterable[MeasuredAnswer]) -> int:
        """Return the bytes held while these answers were given at the same time."""


class PoolRunner:
    """Runs tasks on an open pool."""

    name = "pool"

    def __init__(self, sandbox: OfflineSandbox, pool: PoolAPI) -> None:
        self.sandbox = sandbox
        self._pool = pool

    async def warm_up(self) -> None:
        """Start a worker and wait until it is ready."""
        await self._pool.warmup(AGENT)

    async def run_task(self, task: CheckedTask, show: ShowStatus) -> MeasuredAnswer:
        def on_event(event: TaskEvent) -> None:
            if status := _status_of(event):
                show(status)

        started = time.perf_counter()
        result = await self._pool.invoke(
            AGENT, task.text, timeout=TASK_TIMEOUT_SECONDS, on_event=on_event
        )
        duration = time.perf_counter() - started
        result.raise_for_error()
        memory = [info.rss for info in await self._pool.workers() if info.worker == result.worker]
        return MeasuredAnswer(result.text, duration, sum(memory))

    async def total_memory(self, answers: Iterable[MeasuredAnswer]) -> int:
        return sum(info.rss for info in await self._pool.workers())


def _status_of(event: TaskEvent) -> str:
    match event:
        case Submitted() | Queued():
            return "waiting for a worker"
        case Started():
            return f"on {event.worker}, process {event.pid}"
        case ToolUse():
            return describe_tool_call(event)
    return ""


class ProcessRunner:
    """Starts a new `claude -p` for each task, as a user would type it."""

    name = "claude -p per task"
    warm_up = None

    def __init__(self, sandbox: OfflineSandbox, cli: Path) -> None:
        self.sandbox = sandbox
        self._argv = [str(cli), "-p", "--agent", AGENT, "--dangerously-skip-permissions"]

    async def run_task(self, task: CheckedTask, show: ShowStatus) -> MeasuredAnswer:
        started = time.perf_counter()
        process = await self._start(task)
        show(f"process {process.pid}")
        sampling = asyncio.create_task(_peak_memory(process.pid))
        try:
            output, _ = await asyncio.wait_for(process.communicate(), TASK_TIMEOUT_SECONDS)
        except TimeoutError:
            raise TaskTimeout(
                f"{self._argv[0]} -p did not end within {TASK_TIMEOUT_SECONDS:g} s"
            ) from None
        finally:
            sampling.cancel()
            # Kill the whole group, so that the children of an interrupted CLI end too.
            _kill_group(process.pid)
        duration = time.perf_counter() - started
        text = output.decode("utf-8", "replace").strip()
        if process.returncode:
            raise TaskFailed(f"{self._argv[0]} -p ended with {process.returncode}: {text}")
        return MeasuredAnswer(text, duration, await sampling)

    async def _start(self, task: CheckedTask) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._argv,
            task.text,
            cwd=self.sandbox.settings.project_dir,
            env=dict(self.sandbox.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    async def total_memory(self, answers: Iterable[MeasuredAnswer]) -> int:
        return sum(answer.memory for answer in answers)


async def _peak_memory(pid: int) -> int:
    """Return the largest resident size sampled, in bytes, when the process ends or on cancel."""
    peak = 0
    with contextlib.suppress(psutil.Error, asyncio.CancelledError):
        process = psutil.Process(pid)
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(_SAMPLE_INTERVAL_SECONDS)
    return peak


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
