"""A call can be cancelled at every await, and the pool goes on as if it had never been made.

`CancelledAt` drives a coroutine step by step: it counts the awaits at which it really waits, and
cancels it at the n-th: while it waits, at the moment when it can go on but has not yet, or by its
caller. The tests count n up until the call ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from agent_pool import AgentPool, TaskCancelled, TaskResult
from agent_pool.pool.task_runner import RunningTask
from support.model_scripts import echo_task
from support.pools import PoolProject, wait_until_idle
from support.waiting import run

MAX_STEPS = 60
WAYS = ["while it waits", "when it may go on"]
BY_CALLER = "by its caller"


class CancelledAt:
    """Run a coroutine, and cancel a task at its n-th await, counted from 0.

    Args:
        call: the coroutine.
        number: n.
        way: one of `WAYS`, which cancel the task that runs the coroutine, or `BY_CALLER`.
        caller: the task that is cancelled by `BY_CALLER`.

    Attributes:
        reached: there was an n-th await.
    """

    def __init__(
        self,
        call: Coroutine[Any, Any, Any],
        number: int,
        way: str,
        caller: asyncio.Task[Any] | None = None,
    ) -> None:
        self.reached = False
        self._call = call
        self._number = number
        self._waits = way != WAYS[1]
        self._caller = caller if way == BY_CALLER else None

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._call.__await__()
        step = 0
        given: BaseException | None = None
        while True:
            try:
                awaited = steps.send(None) if given is None else steps.throw(given)
            except StopIteration as end:
                return end.value
            if step == self._number:
                self.reached = True
                self._cancel_at(awaited)
            step += 1
            try:
                yield awaited
                given = None
            except BaseException as error:
                given = error

    def _cancel_at(self, awaited: Any) -> None:
        task = self._caller or asyncio.current_task()
        assert task is not None
        if self._waits or awaited is None:
            task.cancel()
        else:
            awaited.add_done_callback(lambda _: task.cancel())


async def cancel_everywhere(
    call: Callable[[], Coroutine[Any, Any, Any]],
    way: str,
    afterwards: Callable[[], Coroutine[Any, Any, None]],
) -> int:
    """Cancel `call` at each of its awaits in turn; return how many there are."""
    for number in range(MAX_STEPS):
        attempt = CancelledAt(call(), number, way)

        async def attempted(attempt: CancelledAt = attempt) -> Any:
            return await attempt

        caller = asyncio.create_task(attempted())
        await asyncio.wait([caller])
        if not attempt.reached:
            caller.result()
            return number
        assert caller.cancelled(), f"not cancelled at await {number}: {caller!r}"
        await afterwards()
    raise AssertionError(f"more than {MAX_STEPS} awaits")


async def cancel_task_everywhere(
    pool: AgentPool,
    call: Callable[[], Coroutine[Any, Any, Any]],
    way: str,
    afterwards: Callable[[], Coroutine[Any, Any, None]],
) -> int:
    """Cancel the task "medlar", which `call` gives the pool, at each of its awaits in turn.

    Returns:
        How many awaits the task has.
    """
    for number in range(MAX_STEPS):
        attempt, calling = await _cancel_task_at(pool, call, number, way)
        if not attempt.reached:
            calling.result()
            return number
        if way == BY_CALLER:
            assert calling.cancelled(), f"not cancelled at await {number}: {calling!r}"
        else:
            assert isinstance(calling.exception(), TaskCancelled)
        await afterwards()
    raise AssertionError(f"more than {MAX_STEPS} awaits")


async def _cancel_task_at(
    pool: AgentPool, call: Callable[[], Coroutine[Any, Any, Any]], number: int, way: str
) -> tuple[CancelledAt, asyncio.Task[Any]]:
    run_task = pool._runner.run
    attempts: list[CancelledAt] = []

    async def run_and_cancel(task: RunningTask) -> TaskResult:
        if task.request.task != "medlar":
            return await run_task(task)
        attempts.append(CancelledAt(run_task(task), number, way, calling))
        result: TaskResult = await attempts[0]
        return result

    pool._runner.run = run_and_cancel  # type: ignore[method-assign]
    calling = asyncio.create_task(call())
    await asyncio.wait([calling])
    pool._runner.run = run_task  # type: ignore[method-assign]
    return attempts[0], calling


async def still_serves(pool: AgentPool, task: str = "quince") -> None:
    """Check that the pool answers with its one worker, and wait until it is idle."""
    result = await pool.invoke("tester", task)
    assert result.text == f"echo: {task}"
    await wait_until_idle(pool)
    assert len(await pool.workers()) == 1


@pytest.mark.parametrize("way", [*WAYS, BY_CALLER])
def test_a_caller_cancelled_on_a_warm_worker_frees_it(pool_project: PoolProject, way: str) -> None:
    async def main() -> None:
        async with pool_project.real(echo_task, max_size=1) as (pool, api):
            await still_serves(pool)
            steps = await cancel_task_everywhere(
                pool, lambda: pool.invoke("tester", "medlar"), way, lambda: still_serves(pool)
            )
            assert steps >= 1
            await wait_until_idle(pool)
            for request in api.requests:
                told = str(request.messages)
                assert not ("medlar" in told and "quince" in told)

    run(main())


@pytest.mark.parametrize("way", [*WAYS, BY_CALLER])
def test_a_worker_starting_for_a_cancelled_caller_serves_the_next(
    pool_project: PoolProject, way: str
) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=1) as pool:
            await pool.launch_spec("tester")  # so that no await of that is among those counted

            async def afresh() -> None:
                await still_serves(pool)
                await pool.reset("tester")

            steps = await cancel_task_everywhere(
                pool, lambda: pool.invoke("tester", "medlar"), way, afresh
            )
            assert steps >= 2

    run(main())


@pytest.mark.parametrize("way", [*WAYS, BY_CALLER])
def test_a_caller_cancelled_while_waiting_leaves_the_queue(
    pool_project: PoolProject, way: str
) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=1) as pool:
            others: list[asyncio.Task[TaskResult]] = []

            async def second() -> TaskResult:
                others.append(asyncio.create_task(pool.invoke("tester", "before")))
                await asyncio.sleep(0)
                others.append(asyncio.create_task(pool.invoke("tester", "beside")))
                return await pool.invoke("tester", "medlar")

            async def all_served() -> None:
                results = await asyncio.gather(*others)
                assert [r.text for r in results] == ["echo: before", "echo: beside"][: len(others)]
                others.clear()
                await still_serves(pool)

            await still_serves(pool)
            steps = await cancel_task_everywhere(pool, second, way, all_served)
            assert steps >= 2
            await asyncio.gather(*others)

    run(main())


@pytest.mark.parametrize("way", [*WAYS, BY_CALLER])
def test_a_caller_cancelled_during_a_reset_leaves_the_worker_usable(
    pool_project: PoolProject, way: str
) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=1) as pool:

            async def after_a_task() -> TaskResult:
                return await pool.invoke("tester", "medlar")

            async def used() -> None:
                assert (await pool.invoke("tester", "quince")).text == "echo: quince"

            await used()  # and its reset is under way now
            steps = await cancel_task_everywhere(pool, after_a_task, way, used)
            assert steps >= 2
            await still_serves(pool)

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_warmup_cancelled_at_any_await_leaves_a_working_pool(
    pool_project: PoolProject, way: str
) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=1) as pool:
            await pool.launch_spec("tester")  # so that no await of that is among those counted

            async def afresh() -> None:
                await still_serves(pool)
                await pool.reset("tester")

            assert await cancel_everywhere(lambda: pool.warmup("tester"), way, afresh) >= 2

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_reset_cancelled_at_any_await_is_still_carried_out(
    pool_project: PoolProject, way: str
) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=1) as pool:
            old = await pool.warmup("tester")

            async def replaced() -> None:
                nonlocal old
                result = await pool.invoke("tester", "quince")
                assert result.pid != old.pid
                await wait_until_idle(pool)
                (old,) = await pool.workers()

            assert await cancel_everywhere(lambda: pool.reset("tester"), way, replaced) >= 1

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_map_cancelled_at_any_await_frees_all_its_workers(
    pool_project: PoolProject, way: str
) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=2) as pool:
            await pool.launch_spec("tester")

            async def serves_all() -> None:
                results = await pool.map([("tester", str(number)) for number in range(4)])
                told = [result.text for result in results if isinstance(result, TaskResult)]
                assert told == [f"echo: {number}" for number in range(4)]
                await wait_until_idle(pool)
                assert len(await pool.workers()) <= 2

            calls = [("tester", "a"), ("tester", "b"), ("tester", "c")]
            assert await cancel_everywhere(lambda: pool.map(calls), way, serves_all) >= 1

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_cancelled_at_any_await_frees_its_worker(
    pool_project: PoolProject, way: str
) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=1) as pool:

            async def consume() -> None:
                stream = pool.stream("tester", "medlar")
                try:
                    async for _ in stream:
                        pass
                finally:
                    await stream.aclose()

            await still_serves(pool)
            steps = await cancel_everywhere(consume, way, lambda: still_serves(pool))
            assert steps >= 2

    run(main())


@pytest.mark.parametrize("way", [*WAYS, BY_CALLER])
def test_the_first_caller_cancelled_at_any_await_leaves_no_process(
    pool_project: PoolProject, way: str
) -> None:
    async def main(number: int) -> bool:
        async with pool_project.faulty() as pool:
            attempt, calling = await _cancel_task_at(
                pool, lambda: pool.invoke("tester", "medlar"), number, way
            )
            if way == BY_CALLER:
                assert calling.cancelled() == attempt.reached
            else:
                assert isinstance(calling.exception(), TaskCancelled) == attempt.reached
        assert pool_project.fakes() == []
        return attempt.reached

    for number in range(MAX_STEPS):
        if not run(main(number)):  # each in a loop of its own, which ends at once
            break
    assert number >= 3
