"""The order of the measurements: a way alone where it must be, all in turns where time counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from agent_pool import AgentPoolError
from agent_pool.cli.bench.drive import Drive, driven
from agent_pool.cli.bench.figures import Figures, Result, spread
from agent_pool.cli.bench.scene import project_files
from agent_pool.cli.bench.startup import starts
from agent_pool.cli.bench.tokens import accounts
from agent_pool.cli.offline import offline_world

NAMES: Final = {
    "bare": "bare warm turn",
    "pool": "pool, library",
    "mcp": "pool, MCP",
    "claude-p": "`claude -p` per task",
    "sdk": "SDK `query()` per task",
    "agent-tool": "native Agent tool",
}
"""The ways, and what the tables call them."""
_BLOCK: Final = 10
_SPINS: Final = 1_000_000

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        ways: which, by name.
        tokens_after: the first tasks of each way, after which tokens are added up.
        rounds: timed tasks of each way.
        memory_after: the tasks around which memory is measured.
        budget: seconds that each way has to get to the last of these, after the timed tasks.
        at_once: how many tasks are carried out, by how many of them side by side.
        starts: starts of the MCP server.
    """

    ways: Sequence[str] = tuple(NAMES)
    tokens_after: Sequence[int] = (1, 3, 5, 10)
    rounds: int = 30
    memory_after: Sequence[int] = (1, 10, 100, 300)
    budget: float = 40.0
    at_once: Mapping[int, int] = field(default_factory=lambda: {1: 12, 4: 16, 8: 32})
    starts: int = 5


QUICK: Final = Plan(rounds=5, memory_after=(1, 10), budget=5.0, at_once={1: 6, 4: 8}, starts=2)


async def measure(plan: Plan, cli: Path, tell: Tell) -> Result:
    """Run the benchmark; `tell` is called with what is done now.

    A way that fails is left out from there on, and its figures say why.
    """
    began = time.perf_counter()
    courses = [Course(name, plan, tell) for name in plan.ways]
    try:
        for course in courses:
            await course.attempt(course.begin(cli), "its first tasks")
        noise = await _time_in_turns(courses, plan.rounds, tell)
        for course in courses:
            await course.attempt(course.go_on(), "many tasks")
            await course.attempt(course.widen(), "tasks at once")
            await course.close()
    finally:
        await asyncio.gather(*(course.close() for course in courses))
    result = Result(ways={course.name: course.figures for course in courses})
    result.noise = spread(noise) if noise else None
    if plan.starts:
        tell("start of the MCP server")
        async with offline_world(cli, project_files(), lambda _: "") as world:
            result.starts = await starts(world, plan.starts)
    result.duration = time.perf_counter() - began
    return result


async def _time_in_turns(courses: Sequence[Course], rounds: int, tell: Tell) -> list[float]:
    """Time one task of each way in each round; returns the seconds of the same work in between."""
    noise = []
    tell(f"time per task: {rounds} rounds of every way in turns")
    for number in range(rounds):
        first = number % len(courses)  # no way always comes after the same other
        for course in [*courses[first:], *courses[:first]]:
            await course.attempt(course.time_one())
        noise.append(_fixed_work())
    return noise


def _fixed_work() -> float:
    began = time.perf_counter()
    for _ in range(_SPINS):
        pass
    return time.perf_counter() - began


class Course:
    """One way on its course through the measurements.

    Attributes:
        figures: what was found so far.
    """

    def __init__(self, name: str, plan: Plan, tell: Tell) -> None:
        self.name = name
        self.figures = Figures()
        self._plan = plan
        self._tell = tell
        self._closer = AsyncExitStack()
        self._drive: Drive | None = None

    async def attempt(self, step: Coroutine[None, None, None], what: str = "") -> None:
        """Take a step, unless an earlier one failed."""
        if self.figures.problem:
            step.close()
            return
        if what:
            self._tell(f"{self.name}: {what}")
        try:
            await step
        except AgentPoolError as error:
            self.figures.problem = str(error)
            self._tell(str(error))
            await self.close()

    async def close(self) -> None:
        """End the way, if it is open."""
        await self._closer.aclose()

    async def begin(self, cli: Path) -> None:
        """Open it, and let it carry out its first tasks one by one."""
        if self.name == "sdk" and find_spec("claude_agent_sdk") is None:
            self.figures.problem = "claude-agent-sdk is not installed"
            return
        self._drive = await self._closer.enter_async_context(driven(self.name, cli))
        self.figures.ready = self._drive.ready
        for _ in range(max(self._plan.tokens_after)):
            await self._next()
            if self._open.done in self._plan.tokens_after:
                self.figures.tokens[self._open.done] = accounts(self._open.world.api.requests)

    async def time_one(self) -> None:
        """Time one task; whatever cleans up after it is waited for, and does not count."""
        self.figures.times += await self._next()

    async def go_on(self) -> None:
        """One task after another: memory, and processor time."""
        drive, last = self._open, max(self._plan.memory_after, default=0)
        before, done = drive.census().cpu, drive.done
        until = time.perf_counter() + self._plan.budget
        for stop in self._plan.memory_after if drive.done < last else [drive.done + _BLOCK]:
            while drive.done < stop - 1 and (drive.done == done or time.perf_counter() < until):
                await drive.run(min(_BLOCK, stop - 1 - drive.done))
            if drive.done == stop - 1:
                await self._next()
        self.figures.cpu = (drive.census().cpu - before) / (drive.done - done)

    async def widen(self) -> None:
        """Tasks side by side, after some that nobody times."""
        for at_once, count in self._plan.at_once.items():
            await self._open.run(at_once, at_once)
            _, took = await self._open.run(count, at_once)
            self.figures.per_second[at_once] = count / took

    async def _next(self) -> list[float]:
        """One task; its seconds, unless its memory was looked at, which takes time."""
        number = self._open.done + 1
        if number in self._plan.memory_after:
            self.figures.memory[number] = await self._open.observed()
            return []
        seconds, _ = await self._open.run(1)
        return seconds

    @property
    def _open(self) -> Drive:
        assert self._drive is not None, "attempt() takes no step after begin() has failed"
        return self._drive
