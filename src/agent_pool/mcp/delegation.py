"""Tasks given to agents: one, or many side by side."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mcp_types import CallToolResult

from agent_pool import AgentPoolError, ContextLost, TaskEvent
from agent_pool.mcp import answers
from agent_pool.mcp.answers import Ended
from agent_pool.mcp.arguments import Invoke, InvokeMany
from agent_pool.mcp.interfaces import Caller, Pool, Report
from agent_pool.mcp.permissions import Permissions
from agent_pool.mcp.progress import Progress, narrate

logger = logging.getLogger(__name__)

Say = Callable[[str], None]


async def invoke(pool: Pool, call: Invoke, caller: Caller) -> CallToolResult:
    """One task, and the agent's answer."""
    with _narrating(caller.report) as say:
        say(f"{call.agent} is called")
        return answers.task_answer(await _run(pool, call, caller, say))


async def invoke_many(pool: Pool, call: InvokeMany, caller: Caller) -> CallToolResult:
    """Many tasks side by side, within the pool's limits, and every answer in their order."""
    ended: dict[int, Ended] = {}
    with _narrating(caller.report) as say:
        say(f"{len(call.tasks)} tasks are given out")
        many = _Many(pool, call.tasks, caller, say, ended)
        await asyncio.gather(*map(many.run_in_order, _threads(call.tasks)))
    return answers.many_answers([ended[place] for place in sorted(ended)])


def _threads(tasks: Sequence[Invoke]) -> list[list[int]]:
    """The places of the tasks: those of one conversation together, each other one alone."""
    threads: dict[object, list[int]] = {}
    for place, task in enumerate(tasks):
        key = (task.agent, task.conversation) if task.conversation is not None else place
        threads.setdefault(key, []).append(place)
    return list(threads.values())


class _Many:
    """The tasks of one call, and how they ended, by their places."""

    def __init__(
        self,
        pool: Pool,
        tasks: Sequence[Invoke],
        caller: Caller,
        say: Say,
        ended: dict[int, Ended],
    ) -> None:
        self._pool = pool
        self._tasks = tasks
        self._caller = caller
        self._say = say
        self._ended = ended

    async def run_in_order(self, places: Sequence[int]) -> None:
        for number, place in enumerate(places):
            ended = self._ended[place] = await self._run_one(place)
            if ended.is_error:
                self._give_up(places[number + 1 :], place)
                return

    async def _run_one(self, place: int) -> Ended:
        task = self._tasks[place]

        def say(line: str) -> None:
            who = "" if line.startswith(task.agent) else f"{task.agent}: "
            self._say(f"{place + 1}/{len(self._tasks)} {who}{line}")

        ended = await _run(self._pool, task, self._caller, say)
        say("failed" if ended.is_error else "done")
        return ended

    def _give_up(self, places: Sequence[int], failed: int) -> None:
        for place in places:
            task = self._tasks[place]
            why = ContextLost(
                f"not begun: task {failed + 1} of the conversation {task.conversation!r} did not "
                "end well, and its context is gone"
            )
            self._ended[place] = Ended(task.agent, why)


async def _run(pool: Pool, call: Invoke, caller: Caller, say: Say) -> Ended:
    """One task to its end, whatever that is; only being cancelled is passed on."""

    def tell(event: TaskEvent) -> None:
        if line := narrate(event):
            say(line)

    permissions = Permissions(caller.ask)
    began = time.monotonic()
    outcome: answers.Outcome
    try:
        outcome = await pool.invoke(
            call.agent,
            call.task,
            on_event=tell,
            on_permission=permissions.permit,
            conversation=call.conversation,
        )
    except AgentPoolError as error:
        outcome = error
    except Exception as error:
        logger.exception("bug: a task of %s failed", call.agent)
        outcome = error
    return Ended(call.agent, outcome, time.monotonic() - began, tuple(permissions.refused))


@contextmanager
def _narrating(report: Report) -> Iterator[Say]:
    progress = Progress(report)
    reporting = asyncio.create_task(progress.run())
    try:
        yield progress.say
    finally:
        reporting.cancel()  # not awaited: in a cancelled call every await is cancelled again
