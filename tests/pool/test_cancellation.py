"""A caller may be cancelled at every await, and the pool goes on as if it had never come.

`CancelledAt` drives a call step by step: it counts the awaits at which the call really waits, and
cancels it at the n-th, either while it waits or at the moment when what it waits for is there but
the call has not gone on yet. The tests count n up until the call ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from agent_pool import AgentPool, TaskResult
from pool_world import PoolWorld, say_task, until_idle
from support import run

MOST_STEPS = 60
WAYS = ["while it waits", "when it may go on"]


class CancelledAt:
    """Runs a coroutine and cancels the current task at its n-th await, counted from 0.

    Attributes:
        reached: whether there was an n-th await.
    """

    def __init__(self, call: Coroutine[Any, Any, Any], number: int, way: str) -> None:
        self.reached = False
        self._call = call
        self._number = number
        self._waits = way == WAYS[0]

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
        task = asyncio.current_task()
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
    """Cancel `call` at each of its awaits in turn; returns how many there are."""
    for number in range(MOST_STEPS):
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
    raise AssertionError(f"more than {MOST_STEPS} awaits")


async def still_serves(pool: AgentPool, task: str = "quince") -> None:
    """The pool answers, has kept to its one worker, and comes to rest."""
    result = await pool.invoke("tester", task)
    assert result.text == f"echo: {task}"
    await until_idle(pool)
    assert len(await pool.list()) == 1


@pytest.mark.parametrize("way", WAYS)
def test_a_caller_cancelled_on_a_warm_worker_frees_it(world: PoolWorld, way: str) -> None:
    async def main() -> None:
        async with world.real(say_task, max_size=1) as (pool, api):
            await still_serves(pool)
            steps = await cancel_everywhere(
                lambda: pool.invoke("tester", "medlar"), way, lambda: still_serves(pool)
            )
            assert steps >= 1
            await until_idle(pool)
            for request in api.requests:
                told = str(request.messages)
                assert not ("medlar" in told and "quince" in told)

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_caller_cancelled_while_its_worker_is_spawned_leaves_it_to_the_next(
    world: PoolWorld, way: str
) -> None:
    async def main() -> None:
        async with world.faulty(max_size=1) as pool:
            await pool.launch("tester")  # so that no await of that is among those counted

            async def afresh() -> None:
                await still_serves(pool)
                await pool.reset("tester")

            steps = await cancel_everywhere(lambda: pool.invoke("tester", "medlar"), way, afresh)
            assert steps >= 2

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_caller_cancelled_while_another_has_the_worker_leaves_the_queue(
    world: PoolWorld, way: str
) -> None:
    async def main() -> None:
        async with world.faulty(max_size=1) as pool:
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
            steps = await cancel_everywhere(second, way, all_served)
            assert steps >= 3
            await asyncio.gather(*others)

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_caller_cancelled_during_the_reset_before_its_task_waits_no_longer(
    world: PoolWorld, way: str
) -> None:
    async def main() -> None:
        async with world.faulty(max_size=1) as pool:

            async def after_a_task() -> TaskResult:
                return await pool.invoke("tester", "medlar")

            async def used() -> None:
                assert (await pool.invoke("tester", "quince")).text == "echo: quince"

            await used()  # and its reset is under way now
            steps = await cancel_everywhere(after_a_task, way, used)
            assert steps >= 2
            await still_serves(pool)

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_warmup_cancelled_anywhere_leaves_a_pool_that_serves(world: PoolWorld, way: str) -> None:
    async def main() -> None:
        async with world.faulty(max_size=1) as pool:
            await pool.launch("tester")  # so that no await of that is among those counted

            async def afresh() -> None:
                await still_serves(pool)
                await pool.reset("tester")

            assert await cancel_everywhere(lambda: pool.warmup("tester"), way, afresh) >= 2

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_reset_cancelled_anywhere_is_carried_out_all_the_same(world: PoolWorld, way: str) -> None:
    async def main() -> None:
        async with world.faulty(max_size=1) as pool:
            old = await pool.warmup("tester")

            async def replaced() -> None:
                nonlocal old
                result = await pool.invoke("tester", "quince")
                assert result.pid != old.pid
                await until_idle(pool)
                (old,) = await pool.list()

            assert await cancel_everywhere(lambda: pool.reset("tester"), way, replaced) >= 1

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_map_cancelled_anywhere_frees_all_its_workers(world: PoolWorld, way: str) -> None:
    async def main() -> None:
        async with world.faulty(max_size=2) as pool:
            await pool.launch("tester")

            async def serves_all() -> None:
                results = await pool.map([("tester", str(number)) for number in range(4)])
                told = [result.text for result in results if isinstance(result, TaskResult)]
                assert told == [f"echo: {number}" for number in range(4)]
                await until_idle(pool)
                assert len(await pool.list()) <= 2

            calls = [("tester", "a"), ("tester", "b"), ("tester", "c")]
            assert await cancel_everywhere(lambda: pool.map(calls), way, serves_all) >= 1

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_cancelled_anywhere_frees_its_worker(world: PoolWorld, way: str) -> None:
    async def main() -> None:
        async with world.faulty(max_size=1) as pool:

            async def consume() -> None:
                stream = pool.stream("tester", "medlar")
                try:
                    async for _ in stream:
                        pass
                finally:
                    await stream.aclose()  # type: ignore[attr-defined]

            await still_serves(pool)
            steps = await cancel_everywhere(consume, way, lambda: still_serves(pool))
            assert steps >= 2

    run(main())


@pytest.mark.parametrize("way", WAYS)
def test_the_very_first_caller_of_a_pool_cancelled_anywhere_leaves_nothing(
    world: PoolWorld, way: str
) -> None:
    async def main(number: int) -> bool:
        async with world.faulty() as pool:
            attempt = CancelledAt(pool.invoke("tester", "medlar"), number, way)

            async def attempted() -> Any:
                return await attempt

            caller = asyncio.create_task(attempted())
            await asyncio.wait([caller])
            assert caller.cancelled() == attempt.reached
        assert world.fakes() == []
        return attempt.reached

    for number in range(MOST_STEPS):
        if not run(main(number)):  # each in a loop of its own, which ends at once
            break
    assert number >= 3
