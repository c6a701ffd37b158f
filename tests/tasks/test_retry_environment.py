"""The variables of a task that is tried again: their values are not kept when it has ended."""

from __future__ import annotations

from contextlib import suppress

import pytest

from agent_pool import ConfigError, TaskFailed, TaskRequest, TaskResult
from agent_pool.api import OnEvent
from support.durable_pools import OpenPool
from support.fake_pool import FakePool, make_result
from support.waiting import run

SECRET = "a value that nobody may read"


class FailsOnce:
    """A task that fails the first time."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        self.runs += 1
        if self.runs == 1:
            raise TaskFailed("it failed")
        return make_result("done", agent=agent)


def test_a_retried_task_gets_the_variables_that_are_given(durable: OpenPool) -> None:
    async def main() -> None:
        async with durable(FailsOnce()) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "look", env={"KEY": SECRET}))
            with suppress(TaskFailed):
                await handle.result()
            with pytest.raises(ConfigError, match="KEY"):
                await pool.retry(handle.id)
            again = await pool.retry(handle.id, env={"KEY": "other"})
            assert (await again.result()).text == "done"
            inner = pool._pool
            assert isinstance(inner, FakePool)
            assert [one.env for one in inner.requests] == [{"KEY": SECRET}, {"KEY": "other"}]
            record = await pool.task(handle.id)
            assert record.attempts == 2
            assert "other" not in repr(record.as_json())

    run(main())
