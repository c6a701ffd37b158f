"""A way in its own process and its own world, as the benchmark's conductor sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from agent_pool.cli.bench.figures import Census, Memory
from agent_pool.cli.bench.scene import AGENT, Task, model, project_files
from agent_pool.cli.offline import World, offline_world
from agent_pool.errors import TaskFailed, TaskTimeout

BOUND: Final = 300.0
"""Seconds for one request to a way, and for its opening."""
GRACE: Final = 15.0
"""Seconds for a way to end by itself."""
SAMPLED_EVERY: Final = 0.02
MOST_AT_ONCE: Final = 8
_LINE_LIMIT: Final = 64 << 20


@dataclass(slots=True)
class Drive:
    """A way that is open.

    Attributes:
        world: where it works.
        ready: seconds until it was.
        done: tasks that it has carried out.
    """

    name: str
    world: World
    process: asyncio.subprocess.Process
    ready: float = 0.0
    done: int = 0
    _seen: list[Census] = field(default_factory=list)

    async def run(self, count: int, at_once: int = 1) -> tuple[list[float], float]:
        """Let it carry out the next tasks and clean up; seconds of each, and of all together.

        Raises:
            TaskFailed: an answer is not the one to its task, or the way gave up.
            TaskTimeout: it took too long.
        """
        tasks = [Task(self.done + 1 + place) for place in range(count)]
        self.done += count
        assert self.process.stdin is not None
        request = {"tasks": [task.text for task in tasks], "at_once": at_once}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        answer = await self.receive()
        for task, (text, _) in zip(tasks, answer["answers"], strict=True):
            if task.answer not in text:
                raise TaskFailed(f"{self.name}: {task.text!r} was answered {text!r}")
        return [seconds for _, seconds in answer["answers"]], answer["took"]

    async def receive(self) -> dict[str, Any]:
        """The next line of the way."""
        assert self.process.stdout is not None
        try:
            line = await asyncio.wait_for(self.process.stdout.readline(), BOUND)
        except TimeoutError:
            raise TaskTimeout(f"{self.name}: no answer in {BOUND:g} s") from None
        answer: dict[str, Any] = json.loads(line or '{"error": "its process has ended"}')
        if "error" in answer:
            raise TaskFailed(f"{self.name}: {answer['error']}")
        return answer

    async def observed(self) -> Memory:
        """Carry out one task and look at the memory meanwhile and after."""
        with self._sampling():
            await self.run(1)
        seen = [*self._seen, self.census()]
        return Memory(
            busy=max(census.memory for census in seen),
            rest=seen[-1].memory,
            processes=max(census.processes for census in seen),
        )

    def census(self) -> Census:
        """Its processes now."""
        memory, count, cpu = 0, 0, 0.0
        for process in self.family():
            with contextlib.suppress(psutil.Error), process.oneshot():
                memory += process.memory_info().rss
                cpu += sum(process.cpu_times()[:4])  # its own, and those of ended children
                count += 1
        return Census(memory, count, cpu)

    def family(self) -> list[psutil.Process]:
        """Its process and all below it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        return []

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        async def sample() -> None:
            while True:
                self._seen.append(self.census())
                await asyncio.sleep(SAMPLED_EVERY)

        self._seen = []
        sampling = asyncio.create_task(sample())
        try:
            yield
        finally:
            sampling.cancel()

    async def close(self) -> None:
        """Let it end, then end what is left of it."""
        doomed = self.family()
        assert self.process.stdin is not None
        self.process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), GRACE)
        for process in [*doomed, *self.family()]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        await self.process.wait()


@asynccontextmanager
async def driven(name: str, cli: Path) -> AsyncIterator[Drive]:
    """A way in a world of its own: its own project, home, model, and an empty prompt cache.

    Raises:
        TaskFailed: it cannot be opened.
    """
    async with offline_world(cli, project_files(), model) as world:
        process = await asyncio.create_subprocess_exec(
            *_command(name),
            env={**world.environ, **_limits()},
            cwd=world.settings.project_dir,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE_LIMIT,
        )
        drive = Drive(name, world, process)
        try:
            drive.ready = (await drive.receive())["ready"]
            yield drive
        finally:
            await drive.close()


def _command(name: str) -> Sequence[str]:
    return [sys.executable, "-m", "agent_pool.cli.bench.driver", name, AGENT]


def _limits() -> dict[str, str]:
    """The pool's defaults, but for as many workers of one agent as there are tasks at once."""
    return dict.fromkeys(("AGENT_POOL_MAX_SIZE", "AGENT_POOL_MAX_WORKERS"), str(MOST_AT_ONCE))
