"""The two task runners that the demo compares: a pool, and a new `claude -p` for each task."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Protocol

import psutil

from agent_pool import (
    PoolAPI,
    Queued,
    Started,
    TaskEvent,
    TaskFailed,
    TaskTimeout,
    ToolUse,
)
from agent_pool.cli.demo.scenario import AGENTS, AT_ONCE, CheckedTask
from agent_pool.cli.offline import OfflineSandbox
from agent_pool.views.activity import describe_tool_call, describe_wait

TASK_TIMEOUT_SECONDS: Final = 60.0

ShowStatus = Callable[[str], None]


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

    async def run_task(self, task: CheckedTask, show: ShowStatus) -> str:
        """Run one task, pass each step, in words, to `show`, and return the answer."""

    async def memory(self) -> int:
        """Return the resident bytes of all its processes of Claude Code now."""

    async def processes(self) -> int:
        """Return how many processes of Claude Code it has started."""


class PoolRunner:
    """Runs tasks on an open pool."""

    name = "pool"

    def __init__(self, sandbox: OfflineSandbox, pool: PoolAPI) -> None:
        self.sandbox = sandbox
        self._pool = pool

    async def warm_up(self) -> None:
        """Start the workers, and find out whether this CLI forgets, which is kept for a user."""
        agents = [agent.name for agent in AGENTS]
        await asyncio.gather(*(self._pool.warmup(agent) for agent in agents[:AT_ONCE]))
        await self._pool.reset_verdict(agents[0], refresh=True)

    async def run_task(self, task: CheckedTask, show: ShowStatus) -> str:
        def on_event(event: TaskEvent) -> None:
            if status := _status_of(event):
                show(status)

        result = await self._pool.invoke(
            task.agent.name, task.text, timeout=TASK_TIMEOUT_SECONDS, on_event=on_event
        )
        result.raise_for_error()
        return result.text

    async def memory(self) -> int:
        return sum(info.rss for info in await self._pool.workers())

    async def processes(self) -> int:
        return (await self._pool.stats()).spawned


def _status_of(event: TaskEvent) -> str:
    match event:
        case Queued():
            return describe_wait(event)
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
        self._argv = [str(cli), "-p", "--dangerously-skip-permissions", "--agent"]
        self._running: set[int] = set()
        self._started = 0

    async def run_task(self, task: CheckedTask, show: ShowStatus) -> str:
        process = await self._start(task)
        show(f"process {process.pid}")
        self._started += 1
        self._running.add(process.pid)
        try:
            output, _ = await asyncio.wait_for(process.communicate(), TASK_TIMEOUT_SECONDS)
        except TimeoutError:
            raise TaskTimeout(
                f"{self._argv[0]} -p did not end within {TASK_TIMEOUT_SECONDS:g} s"
            ) from None
        finally:
            self._running.discard(process.pid)
            # Kill the whole group, so that the children of an interrupted CLI end too.
            _kill_group(process.pid)
        text = output.decode("utf-8", "replace").strip()
        if process.returncode:
            raise TaskFailed(f"{self._argv[0]} -p ended with {process.returncode}: {text}")
        return text

    async def _start(self, task: CheckedTask) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._argv,
            task.agent.name,
            task.text,
            cwd=self.sandbox.settings.project_dir,
            env=dict(self.sandbox.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    async def memory(self) -> int:
        return sum(map(_resident, self._running))

    async def processes(self) -> int:
        return self._started


def _resident(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:  # it has just ended
        return 0


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
