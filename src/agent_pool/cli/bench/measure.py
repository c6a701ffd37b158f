"""The order of the measurements: a way alone where it must be, all in turns where time counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from agent_pool import AgentPoolError
from agent_pool.cli.bench.drive import Drive, driven
from agent_pool.cli.bench.figures import Figures, Memory, Result, spread
from agent_pool.cli.bench.scene import project_files
from agent_pool.cli.bench.startup import starts
from agent_pool.cli.bench.tokens import accounts
from agent_pool.cli.offline import offline_world

NAMES: Final = {
    "pool": "pool, library",
    "mcp": "pool, MCP",
    "bare": "bare warm turn",
    "claude-p": "`claude -p` per task",
    "sdk": "SDK `query()` per task",
    "agent-tool": "native Agent tool",
}
"""The ways by name, as the tables call them."""
TOKENS_AFTER: Final = (1, 3, 5, 10)
_BLOCK: Final = 10
_SPIN: Final = 20_000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        ways: which, by name.
        rounds: timed tasks of each way.
        memory_after: the tasks around which memory is measured; the first ten belong to it.
        budget: seconds for each way to get from the timed tasks to the last of these.
        at_once: tasks side by side.
        starts: starts of the MCP server.
    """

    ways: Sequence[str]
    rounds: int = 30
    memory_after: Sequence[int] = (1, 10, 100, 300)
    budget: float = 40.0
    at_once: Sequence[int] = (1, 4, 8)
    starts: int = 5


async def measure(plan: Plan, cli: Path, tell: Callable[[str], None]) -> Result:
    """Run the benchmark; `tell` is called with what is done now.

    A way that fails is left out from there on; its figures say why.
    """
    began = time.perf_counter()
    result = Result(ways={name: Figures() for name in plan.ways})
    async with AsyncExitStack() as stack:
        course = _Course(plan, cli, tell, result, stack)
        await course.open_all()
        await course.time_all()
        for name in list(course.open):
            await course.finish(name)
    if plan.starts:
        tell("start of the MCP server")
        async with offline_world(cli, project_files(), lambda _: "") as world:
            result.starts = await starts(world, plan.starts)
    result.duration = time.perf_counter() - began
    return result


class _Course:
    """One run: the ways that are open, and the figures so far."""

    def __init__(
        self,
        plan: Plan,
        cli: Path,
        tell: Callable[[str], None],
        result: Result,
        stack: AsyncExitStack,
    ) -> None:
        self.open: dict[str, Drive] = {}
        self._plan = plan
        self._cli = cli
        self._tell = tell
        self._result = result
        self._stack = stack
        self._closers: dict[str, AsyncExitStack] = {}

    async def open_all(self) -> None:
        """Open each way, and let it carry out its first ten tasks: tokens and memory."""
        for name in self._plan.ways:
            if missing := _missing(name):
                self._result.ways[name].problem = missing
                continue
            self._tell(f"{name}: tokens and memory of the first tasks")
            await self._guarded(name, self._open(name))

    async def _open(self, name: str) -> None:
        closer = self._closers[name] = await self._stack.enter_async_context(AsyncExitStack())
        drive = await closer.enter_async_context(driven(name, self._cli))
        figures = self._result.ways[name]
        figures.ready = drive.ready
        for number in range(1, max(TOKENS_AFTER) + 1):
            await self._next(drive, figures)
            if number in TOKENS_AFTER:
                figures.tokens[number] = accounts(drive.world.api.requests)
        self.open[name] = drive
