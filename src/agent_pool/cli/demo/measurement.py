"""Measures one task runner: many tasks of several agents, some of them at the same time."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from agent_pool import TaskFailed
from agent_pool.cli.demo.progress import DemoProgress
from agent_pool.cli.demo.runners import DemoRunner
from agent_pool.cli.demo.scenario import AGENTS, AT_ONCE, CheckedTask, counting_tasks
from agent_pool.text import count

ROUNDS: Final = 3
"""Tasks of each agent."""
_SAMPLE_INTERVAL_SECONDS: Final = 0.4
"""A measurement of the pool reads all processes of the user, which takes time from the tasks."""


@dataclass(frozen=True, slots=True)
class RunnerMeasurement:
    """The figures of one task runner.

    Attributes:
        name: the runner's name.
        agents, tasks: how many agents had how many tasks.
        warm_up: seconds until it was ready; 0 if there was nothing to prepare.
        seconds: from the first task to the last answer.
        task: median seconds of a task.
        processes: processes of Claude Code that were started.
        memory: bytes of all processes together, the most that was seen.
        written, read: tokens that were written to and read from the prompt cache.
    """

    name: str
    agents: int
    tasks: int
    warm_up: float
    seconds: float
    task: float
    processes: int
    memory: int
    written: int
    read: int


async def measure_runner(
    runner: DemoRunner, progress: DemoProgress, rounds: int = ROUNDS
) -> RunnerMeasurement:
    """Run all tasks on a runner and measure them.

    Raises:
        TaskFailed: an answer is wrong.
        AgentPoolError: a task could not be run.
    """
    tasks = counting_tasks(rounds)
    title = (
        f"{runner.name}: {count(len(tasks), 'task')} for {len(AGENTS)} agents, {AT_ONCE} at a time"
    )
    with progress.phase(title):
        warm_up = await _warm_up(runner, progress)
        async with _peak_memory(runner) as peak:
            started = time.perf_counter()
            durations = await _run_all(runner, tasks, progress)
            seconds = time.perf_counter() - started
    usage = runner.sandbox.api.usage.total.usage
    return RunnerMeasurement(
        name=runner.name,
        agents=len(AGENTS),
        tasks=len(tasks),
        warm_up=warm_up,
        seconds=seconds,
        task=statistics.median(durations),
        processes=await runner.processes(),
        memory=max(peak),
        written=usage.cache_creation_input_tokens,
        read=usage.cache_read_input_tokens,
    )


async def _warm_up(runner: DemoRunner, progress: DemoProgress) -> float:
    if runner.warm_up is None:
        return 0.0
    row = progress.add_row("Warm up")
    started = time.perf_counter()
    await runner.warm_up()
    duration = time.perf_counter() - started
    progress.finish_row(row, "the workers are ready", duration)
    return duration


async def _run_all(
    runner: DemoRunner, tasks: Sequence[CheckedTask], progress: DemoProgress
) -> list[float]:
    """Run the tasks in their order, `AT_ONCE` at the same time; return the seconds of each."""
    waiting = iter(tasks)
    try:
        async with asyncio.TaskGroup() as group:
            lanes = [
                group.create_task(_run_lane(runner, waiting, progress)) for _ in range(AT_ONCE)
            ]
    except BaseExceptionGroup as failed:
        # The command reports a single error; the first one is the cause of the cancelled rest.
        raise failed.exceptions[0] from None
    return [seconds for lane in lanes for seconds in lane.result()]


async def _run_lane(
    runner: DemoRunner, waiting: Iterator[CheckedTask], progress: DemoProgress
) -> list[float]:
    return [await _run_task(runner, task, progress) for task in waiting]


async def _run_task(runner: DemoRunner, task: CheckedTask, progress: DemoProgress) -> float:
    row = progress.add_row(f"{task.agent.name}: {task.text}")
    started = time.perf_counter()
    answer = await runner.run_task(task, row.show)
    duration = time.perf_counter() - started
    if answer != task.answer:
        raise TaskFailed(
            f"{runner.name}: {task.agent.name} answered {task.text!r} with {answer!r}, not "
            f"{task.answer!r}"
        )
    progress.finish_row(row, answer, duration)
    return duration


@asynccontextmanager
async def _peak_memory(runner: DemoRunner) -> AsyncIterator[list[int]]:
    """Measure the memory again and again; the list has all figures at the end, and at least one."""
    figures: list[int] = []

    async def measure_again() -> None:
        while True:
            figures.append(await runner.memory())
            await asyncio.sleep(_SAMPLE_INTERVAL_SECONDS)

    measuring = asyncio.create_task(measure_again())
    try:
        yield figures
        figures.append(await runner.memory())
    finally:
        measuring.cancel()
