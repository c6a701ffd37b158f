"""One way, measured: tasks one after another, then several at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Final

from agent_pool import TaskFailed
from agent_pool.cli.demo.board import Board
from agent_pool.cli.demo.scene import Model, Task
from agent_pool.cli.demo.ways import Answer, Way

IN_A_ROW: Final = 6
AT_ONCE: Final = 4
THINKING: Final = 0.5
"""Seconds that the model takes for each reply while several tasks run at once."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one way.

    Attributes:
        name: of the way.
        warm_up: seconds until it was ready, None where there is nothing to get ready.
        task: seconds a task, the median of those one after another.
        at_once: seconds for all that ran at once.
        memory_first, memory_last: bytes of the process after the first and the last of those one
            after another; of one that is gone, the most that it had.
        memory_at_once: bytes of all processes together.
        written, read: tokens written to and read from the prompt cache by those one after another.
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


async def measure(way: Way, model: Model, board: Board) -> Figures:
    """Let a way carry out the tasks.

    Raises:
        TaskFailed: an answer is not the one to its task.
        AgentPoolError: a task could not be carried out.
    """
    model.thinking = 0.0
    with board.phase(f"{way.name}: {IN_A_ROW} tasks one after another"):
        warm_up = await _warm_up(way, board)
        answers = [await _one(way, Task(number), board) for number in range(1, IN_A_ROW + 1)]
    usage = way.world.api.books.total.usage
    model.thinking = THINKING
    with board.phase(f"{way.name}: {AT_ONCE} tasks at once"):
        began = time.perf_counter()
        together = await _together(way, board)
        at_once = time.perf_counter() - began
    return Figures(
        name=way.name,
        warm_up=warm_up,
        task=statistics.median(answer.duration for answer in answers),
        at_once=at_once,
        memory_first=answers[0].memory,
        memory_last=answers[-1].memory,
        memory_at_once=await way.memory(together),
        written=usage.cache_creation_input_tokens,
        read=usage.cache_read_input_tokens,
    )


async def _warm_up(way: Way, board: Board) -> float | None:
    if way.warm_up is None:
        return None
    row = board.add("Warm up")
    began = time.perf_counter()
    await way.warm_up()
    took = time.perf_counter() - began
    board.finish(row, "a worker is ready", took)
    return took


async def _one(way: Way, task: Task, board: Board) -> Answer:
    row = board.add(task.text)
    answer = await way.carry_out(task, row.tell)
    if answer.text != task.answer:
        raise TaskFailed(
            f"{way.name}: {task.text!r} was answered {answer.text!r}, not {task.answer!r}"
        )
    board.finish(row, answer.text, answer.duration)
    return answer


async def _together(way: Way, board: Board) -> list[Answer]:
    try:
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(_one(way, Task(number), board))
                for number in range(1, AT_ONCE + 1)
            ]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in running]
