"""The benchmark's side of a method that runs in its own process, project and home."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import psutil

from agent_pool.cli.offline import OfflineSandbox, offline_sandbox
from agent_pool.errors import TaskFailed, TaskTimeout
from benchmarks.results import MemoryUse, ProcessSnapshot
from benchmarks.workload import AGENT, project_files, scripted_model, sum_task

REQUEST_TIMEOUT_SECONDS: Final = 300.0
"""For one request to a method, and for its start."""
END_TIMEOUT_SECONDS: Final = 15.0
"""For a method to end by itself; then its processes are killed."""
SAMPLE_INTERVAL_SECONDS: Final = 0.02
MAX_AT_ONCE: Final = 8
_LINE_LIMIT_BYTES: Final = 64 << 20


@dataclass(slots=True)
class MethodProcess:
    """A method that is ready for tasks.

    Attributes:
        sandbox: its project, environment and model.
        ready: seconds that its start took.
        tasks_done: how many tasks it has run.
    """

    name: str
    sandbox: OfflineSandbox
    process: asyncio.subprocess.Process
    ready: float = 0.0
    tasks_done: int = 0
    _samples: list[ProcessSnapshot] = field(default_factory=list)
    _watchdogs: dict[int, int] = field(default_factory=dict)

    async def run_tasks(self, count: int, at_once: int = 1) -> tuple[list[float], float]:
        """Run the next tasks and clean up after them.

        Returns:
            The seconds of each task, and of all together.

        Raises:
            TaskFailed: an answer is wrong, or the method failed.
            TaskTimeout: no answer came within REQUEST_TIMEOUT_SECONDS.
        """
        tasks = [sum_task(self.tasks_done + place) for place in range(1, count + 1)]
        self.tasks_done += count
        assert self.process.stdin is not None
        request = {"tasks": [task.text for task in tasks], "at_once": at_once}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        reply = await self.receive()
        for task, (text, _) in zip(tasks, reply["answers"], strict=True):
            if task.answer not in text:
                raise TaskFailed(f"{self.name}: {task.text!r} was answered {text!r}")
        return [seconds for _, seconds in reply["answers"]], reply["seconds"]

    async def receive(self) -> dict[str, Any]:
        """Read the next line of the method's process.

        Raises:
            TaskFailed: the method reports an error, or its process has ended.
            TaskTimeout: no line came within REQUEST_TIMEOUT_SECONDS.
        """
        assert self.process.stdout is not None
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), REQUEST_TIMEOUT_SECONDS)
        except TimeoutError:
            raise TaskTimeout(
                f"{self.name}: no answer within {REQUEST_TIMEOUT_SECONDS:g} s"
            ) from None
        reply: dict[str, Any] = json.loads(line or '{"error": "its process has ended"}')
        if "error" in reply:
            raise TaskFailed(f"{self.name}: {reply['error']}")
        return reply

    async def measure_memory(self) -> MemoryUse:
        """Run one task and sample the memory during it and after it."""
        with self._sampling():
            await self.run_tasks(1)
        samples = [*self._samples, self.snapshot()]
        return MemoryUse(
            peak=max(sample.memory for sample in samples),
            after=samples[-1].memory,
            processes=max(sample.processes for sample in samples),
        )

    def snapshot(self) -> ProcessSnapshot:
        """Add up memory and processor time of its processes now."""
        memory, count, cpu = 0, 0, 0.0
        for process in self.processes():
            # A process can end between the listing and these reads.
            with contextlib.suppress(psutil.Error), process.oneshot():
                memory += process.memory_info().rss
                cpu += sum(process.cpu_times()[:4])  # user and system, own and of ended children
                count += 1
        return ProcessSnapshot(memory, count, cpu)

    def processes(self) -> list[psutil.Process]:
        """Return its process, all processes below it, and those of its pool's watchdog."""
        found = _with_children(self.process.pid)
        # Only these methods have a pool; looking for one costs time.
        for own in list(found) if self.name in ("pool", "mcp") else ():
            # The watchdog is no child of the pool, and the parent of the pool's workers.
            self._watchdogs.setdefault(own.pid, 0)
            if not psutil.pid_exists(self._watchdogs[own.pid]):
                self._watchdogs[own.pid] = _find_watchdog(own.pid)
            found += _with_children(self._watchdogs[own.pid])
        return found

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        async def sample() -> None:
            while True:
                self._samples.append(self.snapshot())
                await asyncio.sleep(SAMPLE_INTERVAL_SECONDS)

        self._samples = []
        sampling = asyncio.create_task(sample())
        try:
            yield
        finally:
            sampling.cancel()

    async def close(self) -> None:
        """Let the method end, then kill the processes that are left."""
        # Listed before the end: children of an ended process can no longer be found from it.
        before = self.processes()
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), END_TIMEOUT_SECONDS)
        for process in [*before, *self.processes()]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        await self.process.wait()


def _with_children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)] if pid else []
    return []


def _find_watchdog(pool: int) -> int:
    """Return the pid of the first process of the watchdog of a pool in this process, or 0."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        is_watchdog = any(word.endswith("watchdog_script.py") for word in command)
        # The reaper is the parent of the other one, and was started before it.
        if is_watchdog and str(pool) in command:
            return int(process.pid)
    return 0


@asynccontextmanager
async def start_method(
    name: str,
    cli: Path,
    root: Path = Path(__file__).parents[1],
    variables: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[MethodProcess]:
    """Start a method with its own project, home, model and an empty prompt cache.

    Args:
        name: the method's name.
        cli: the Claude Code CLI.
        root: the checkout whose code it runs.
        variables: more variables of its environment.

    Raises:
        TaskFailed: the method cannot be started.
    """
    async with offline_sandbox(cli, project_files(), scripted_model) as sandbox:
        process = await asyncio.create_subprocess_exec(
            *_command(name),
            env={**python_environ(sandbox, root), **_limits(), **variables},
            cwd=sandbox.settings.project_dir,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE_LIMIT_BYTES,
        )
        method = MethodProcess(name, sandbox, process)
        try:
            method.ready = (await method.receive())["ready"]
            yield method
        finally:
            await method.close()


def python_environ(
    sandbox: OfflineSandbox, root: Path = Path(__file__).parents[1]
) -> dict[str, str]:
    """Return the environment of a Python process that imports the code of a checkout."""
    folders = [root, root / "src"]
    return {**sandbox.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}


def _command(name: str) -> Sequence[str]:
    return [sys.executable, "-m", "benchmarks.method_server", name, AGENT]


def _limits() -> dict[str, str]:
    """Return the pool's default settings, but with as many workers as tasks at the same time."""
    return dict.fromkeys(("AGENT_POOL_MAX_SIZE", "AGENT_POOL_MAX_WORKERS"), str(MAX_AT_ONCE))
