"""Sums of ended tasks by day, project and agent."""

from __future__ import annotations

import time
from contextlib import suppress

from agent_pool import TaskFailed, TaskFilter, TaskRequest, TaskResult, Usage
from agent_pool.api import OnEvent
from support.durable_pools import OpenPool
from support.fake_pool import make_result
from support.waiting import run


async def _run(agent: str, task: str, emit: OnEvent) -> TaskResult:
    if task == "fail":
        raise TaskFailed("it failed")
    usage = Usage(1, 2, 3, 4)
    return make_result("done", agent=agent, usage=usage, cost_usd=0.5, is_error=task == "err")


def test_totals_sum_cost_and_tokens_and_count_failures(durable: OpenPool) -> None:
    async def main() -> None:
        async with durable(_run) as pool:
            for agent, task in (("a", "x"), ("a", "fail"), ("a", "err"), ("b", "x")):
                handle = await pool.submit(TaskRequest(agent, task))
                with suppress(TaskFailed):
                    await handle.result()
            await pool._store.flush()
            first, second = await pool.totals(TaskFilter())
            assert (first.agent, first.tasks, first.cost_usd) == ("a", 3, 1.0)
            assert first.usage == Usage(2, 4, 6, 8)
            assert first.failed == {"task_failed": 1, "task_error": 1}
            assert (second.agent, second.tasks, second.failed) == ("b", 1, {})
            assert first.day == time.strftime("%Y-%m-%d")
            assert await pool.totals(TaskFilter(agent="c")) == []
            only = await pool.totals(TaskFilter(states=("failed",)))
            assert [(one.agent, one.tasks) for one in only] == [("a", 2)]
            assert await pool.totals(TaskFilter(text="nowhere")) == []

    run(main())
