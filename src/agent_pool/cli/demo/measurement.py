"""Measures one task runner: tasks one after another, then several at the same time."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Final

from agent_pool import TaskFailed
from agent_pool.cli.demo.progress import DemoProgress
from agent_pool.cli.demo.runners import DemoRunner, MeasuredAnswer
from agent_pool.cli.demo.scenario import CheckedTask, CountingModel, counting_task

SEQUENTIAL_TASKS: Final = 6
PARALLEL_TASKS: Final = 4
REPLY_DELAY_SECONDS: Final = 0.5
"""How long the model takes for each reply while several tasks run at the same time."""


@dataclass(frozen=True, slots=True)
class RunnerMeasurement:
    """The figures of one task runner.

    Attributes:
        name: the runner's name.
        warm_up: seconds until it was ready, None if there was nothing to prepare.
        task: median seconds of the tasks that ran one after another.
        at_once: seconds until all tasks that ran at the same time had ended.
        memory_first, memory_last: bytes of the process after the first and the last of the tasks
            one after another; the peak if that process has ended.
        memory_at_once: bytes of all processes together while tasks ran at the same time.
        written, read: tokens that the tasks one after another wrote to and read from the prompt
            cache.
    """

    name: str
    warm_up: float | None
    task: float
    at_once: float
    memory_first: int
    memory_last: int
    memory_at_once: int
    written: int
    read: int


async def measure_runner(
    runner: DemoRunner, model: CountingModel, progress: DemoProgress
) -> RunnerMeasurement:
    """Run all tasks on a runner and measure them.

    Raises:
        TaskFailed: an answer is wrong.
        AgentPoolError: a task could not be run.
    """
    model.reply_delay = 0.0
    with progress.phase(f"{runner.name}: {SEQUENTIAL_TASKS} tasks one after another"):
        warm_up = await _warm_up(runner, progress)
        numbers = range(1, SEQUENTIAL_TASKS + 1)
        answers = [await _run_task(runner, counting_task(n), progress) for n in numbers]
    # Read here, because the tasks at the same time are no part of the token figures.
    usage = runner.sandbox.api.usage.total.usage
    model.reply_delay = REPLY_DELAY_SECONDS
    with progress.phase(f"{runner.name}: {PARALLEL_TASKS} tasks at once"):
        started = time.perf_counter()
        parallel = await _run_parallel(runner, progress)
        at_once = time.perf_counter() - started
    return RunnerMeasurement(
        name=runner.name,
        warm_up=warm_up,
        task=statistics.median(answer.duration for answer in answers),
        at_once=at_once,
        memory_first=answers[0].memory,
        memory_last=answers[-1].memory,
        memory_at_once=await runner.total_memory(parallel),
        written=usage.cache_creation_input_tokens,
        read=usage.cache_read_input_tokens,
    )


async def _warm_up(runner: DemoRunner, progress: DemoProgress) -> float | None:
    if runner.warm_up is None:
        return None
    row = progress.add_row("Warm up")
    started = time.perf_counter()
    await runner.warm_up()
    duration = time.perf_counter() - started
    progress.finish_row(row, "a worker is ready", duration)
    return duration


async def _run_task(
    runner: DemoRunner, task: CheckedTask, progress: DemoProgress
) -> MeasuredAnswer:
    row = progress.add_row(task.text)
    answer = await runner.run_task(task, row.show)
    if answer.text != task.answer:
        raise TaskFailed(
            f"{runner.name}: {task.text!r} was answered {answer.text!r}, not {task.answer!r}"
        )
    progress.finish_row(row, answer.text, answer.duration)
    return answer


async def _run_parallel(runner: DemoRunner, progress: DemoProgress) -> list[MeasuredAnswer]:
    try:
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(_run_task(runner, counting_task(number), progress))
                for number in range(1, PARALLEL_TASKS + 1)
            ]
    except BaseExceptionGroup as failed:
        # The command reports a single error; the first one is the cause of the cancelled rest.
        raise failed.exceptions[0] from None
    return [task.result() for task in running]
