"""Runs all measurements of the methods, in an order in which they do not disturb each other."""

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
from agent_pool.cli.offline import offline_sandbox
from benchmarks.method_process import MethodProcess, start_method
from benchmarks.results import BenchmarkResult, MethodResult, time_spread
from benchmarks.startup import measure_starts
from benchmarks.tokens import token_use
from benchmarks.workload import project_files

METHOD_LABELS: Final = {
    "bare": "bare warm turn",
    "pool": "pool, library",
    "mcp": "pool, MCP",
    "claude-p": "`claude -p` per task",
    "sdk": "SDK `query()` per task",
    "agent-tool": "native Agent tool",
}
"""The methods by name, and their labels in the tables."""
PAIR: Final = ("pool", "bare")
"""The two methods whose ratio is the project's acceptance figure."""
_BLOCK: Final = 10
_NOISE_LOOPS: Final = 1_000_000

ShowProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """How much is measured.

    Attributes:
        methods: names of the methods.
        tokens_after: the task numbers after which a method's tokens are added up.
        rounds: how many tasks of each method are timed.
        pairs: how many more tasks of the two methods in PAIR are timed, in alternation.
        memory_after: the task numbers around which memory is measured.
        budget: seconds that each method has to reach the last of these after the timed tasks.
        at_once: how many tasks are run, by how many run at the same time.
        starts: how often each program is started for the start times.
    """

    methods: Sequence[str] = tuple(METHOD_LABELS)
    tokens_after: Sequence[int] = (1, 3, 5, 10)
    rounds: int = 30
    pairs: int = 200
    memory_after: Sequence[int] = (1, 10, 100, 300)
    budget: float = 40.0
    at_once: Mapping[int, int] = field(default_factory=lambda: {1: 12, 4: 16, 8: 32})
    starts: int = 5


QUICK_PLAN: Final = BenchmarkPlan(
    rounds=5, pairs=40, memory_after=(1, 10), budget=5.0, at_once={1: 6, 4: 8}, starts=2
)


async def compare_methods(plan: BenchmarkPlan, cli: Path, show: ShowProgress) -> BenchmarkResult:
    """Run the benchmark and pass each step, in words, to `show`.

    A method that fails is left out from then on, and its result says why.
    """
    started = time.perf_counter()
    runs = [MethodRun(name, plan, show) for name in plan.methods]
    try:
        for run in runs:
            await run.attempt(run.begin(cli), "its first tasks")
        noise = await _time_rounds(runs, plan.rounds, show)
        await _time_pairs(runs, plan.pairs, show)
        for run in runs:
            await run.attempt(run.run_many(), "many tasks")
            await run.attempt(run.measure_throughput(), "tasks at once")
            await run.close()
    finally:
        await asyncio.gather(*(run.close() for run in runs))
    result = BenchmarkResult(methods={run.name: run.result for run in runs})
    result.noise = time_spread(noise) if noise else None
    if plan.starts:
        show("start of the MCP server")
        async with offline_sandbox(cli, project_files(), lambda _: "") as sandbox:
            result.starts = await measure_starts(sandbox, plan.starts)
    result.duration = time.perf_counter() - started
    return result


async def _time_rounds(runs: Sequence[MethodRun], rounds: int, show: ShowProgress) -> list[float]:
    """Time one task of each method per round; return the seconds of the fixed work after each."""
    noise = []
    show(f"time per task: {rounds} rounds of every method in turns")
    for number in range(rounds):
        # Rotate, so that each method is first, in the middle and last equally often.
        first = number % len(runs)
        for run in [*runs[first:], *runs[:first]]:
            await run.attempt(run.time_task())
        noise.append(_fixed_work())
    return noise


def _fixed_work() -> float:
    started = time.perf_counter()
    for _ in range(_NOISE_LOOPS):
        pass
    return time.perf_counter() - started


async def _time_pairs(runs: Sequence[MethodRun], pairs: int, show: ShowProgress) -> None:
    """Time tasks of the two methods in PAIR in alternation."""
    pair = [run for run in runs if run.name in PAIR]
    if len(pair) < len(PAIR):
        return
    show(f"acceptance: {pairs} pairs of a pooled task and a bare turn, in alternation")
    for number in range(pairs):
        if any(run.result.problem for run in pair):
            return
        # Each method comes first in every other pair, so that neither always follows the other.
        for run in pair if number % 2 else reversed(pair):
            await run.attempt(run.time_paired_task())


class MethodRun:
    """All measurements of one method.

    Attributes:
        result: the figures so far.
    """

    def __init__(self, name: str, plan: BenchmarkPlan, show: ShowProgress) -> None:
        self.name = name
        self.result = MethodResult()
        self._plan = plan
        self._show = show
        self._closer = AsyncExitStack()
        self._started: MethodProcess | None = None

    async def attempt(self, step: Coroutine[None, None, None], title: str = "") -> None:
        """Take a step, unless an earlier step of this method has failed."""
        if self.result.problem:
            step.close()
            return
        if title:
            self._show(f"{self.name}: {title}")
        try:
            await step
        except AgentPoolError as error:
            self.result.problem = str(error)
            self._show(str(error))
            await self.close()

    async def close(self) -> None:
        """End the method's process if it was started."""
        await self._closer.aclose()

    async def begin(self, cli: Path) -> None:
        """Start the method and run its first tasks one by one."""
        if self.name == "sdk" and find_spec("claude_agent_sdk") is None:
            self.result.problem = "claude-agent-sdk is not installed"
            return
        self._started = await self._closer.enter_async_context(start_method(self.name, cli))
        self.result.ready = self._started.ready
        for _ in range(max(self._plan.tokens_after)):
            await self._run_next()
            if (done := self._method.tasks_done) in self._plan.tokens_after:
                self.result.tokens[done] = token_use(self._method.sandbox.api.requests)

    async def time_task(self) -> None:
        """Time one task. The clean-up after it is waited for, but does not count."""
        self.result.times += await self._run_next()

    async def time_paired_task(self) -> None:
        """Time one task of a pair, in the same way."""
        self.result.paired_times += await self._run_next()

    async def run_many(self) -> None:
        """Run one task after another and measure memory and processor time."""
        method, last = self._method, max(self._plan.memory_after, default=0)
        cpu, done = method.snapshot().cpu, method.tasks_done
        end = time.perf_counter() + self._plan.budget
        for stop in self._plan.memory_after if done < last else [done + _BLOCK]:
            while method.tasks_done < stop - 1 and (
                method.tasks_done == done or time.perf_counter() < end
            ):
                await method.run_tasks(min(_BLOCK, stop - 1 - method.tasks_done))
            if method.tasks_done == stop - 1:
                await self._run_next()
        self.result.cpu = (method.snapshot().cpu - cpu) / (method.tasks_done - done)

    async def measure_throughput(self) -> None:
        """Run tasks at the same time, after a first group that is not timed."""
        for at_once, count in self._plan.at_once.items():
            await self._method.run_tasks(at_once, at_once)
            _, seconds = await self._method.run_tasks(count, at_once)
            self.result.per_second[at_once] = count / seconds

    async def _run_next(self) -> list[float]:
        """Run one task and return its seconds; return [] if its memory was measured.

        Sampling the memory takes processor time, so such a task is not timed.
        """
        number = self._method.tasks_done + 1
        if number in self._plan.memory_after:
            self.result.memory[number] = await self._method.measure_memory()
            return []
        seconds, _ = await self._method.run_tasks(1)
        return seconds

    @property
    def _method(self) -> MethodProcess:
        assert self._started is not None, "attempt() takes no step after begin() has failed"
        return self._started
