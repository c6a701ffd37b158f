"""How many workers there are: kept warm, started at once, shared fairly."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from agent_pool import Queued, Started, TaskEvent
from pool_world import PoolWorld, is_alive, say_task, until, until_idle
from reliability.conftest import Clock
from reliability.seen import ticks, told
from support import run


def test_agents_that_are_kept_warm_are_ready_before_their_first_task(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        warm = {"prewarm": ("tester",), "min_size": 2, "max_size": 2}
        async with world.real(say_task, **warm) as (pool, _):
            await until(lambda: pool.stats().workers == {"idle": 2})
            ready = {worker.pid for worker in await pool.list()}
            answers = await asyncio.gather(told(pool, "one"), told(pool, "two"))
            assert {result.pid for result, _ in answers} == ready
            for _, events in answers:
                assert isinstance(events[0], Started)

    run(main())


def test_a_worker_that_is_kept_warm_and_dies_is_replaced_without_a_task(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        async with world.faulty(prewarm=("tester",)) as pool:
            doomed = await pool.warmup("tester")
            assert doomed.pid is not None
            os.kill(doomed.pid, signal.SIGKILL)
            await until(lambda: pool.stats().retired.get("died"))
            await until(lambda: pool.stats().workers == {"idle": 1})
            (new,) = await pool.list()
            assert new.pid != doomed.pid

    run(main())


def test_an_agent_that_is_to_be_kept_warm_and_is_not_there_is_reported_and_nothing_else(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        async with world.faulty(prewarm=("nobody", "tester")) as pool:
            await until(lambda: pool.stats().workers == {"idle": 1})
            (worker,) = await pool.list()
            assert worker.agent == "tester"

    run(main())


def test_no_more_than_spawn_concurrency_processes_are_started_at_once(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        slow = {"at": "initialize", "do": "hang"}
        async with world.faulty(slow, spawn_concurrency=2, max_size=4, spares=1) as pool:
            callers = [asyncio.create_task(pool.invoke("tester", "task")) for _ in range(4)]
            await until(lambda: len(world.journal("start")) == 2)
            await ticks(pool, 10)
            assert pool.stats().workers == {"starting": 2}
            assert len(world.journal("start")) == 2
            for caller in callers:
                caller.cancel()

    run(main())


def test_a_busy_agent_does_not_starve_one_that_came_later(world: PoolWorld, clock: Clock) -> None:
    world.agent("other")

    async def main() -> None:
        async with world.faulty(max_workers=1) as pool:
            await pool.warmup("tester")
            order: list[str] = []

            async def call(agent: str, task: str) -> None:
                order.append((await pool.invoke(agent, task)).text)

            calls = [("tester", "1"), ("tester", "2"), ("tester", "3"), ("other", "A")]
            calls += [("tester", str(number)) for number in range(4, 8)]
            await asyncio.gather(*(call(agent, task) for agent, task in calls))
            assert order == [f"echo: {task}" for task in ("1", "2", "3", "A", "4", "5", "6", "7")]

    run(main())


def test_who_waits_hears_its_place_and_its_time_again_and_again_and_the_result_has_the_sum(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        hang = {"at": "prompt", "do": "hang", "match": "long"}
        async with world.faulty(hang, max_size=1) as pool:
            long = asyncio.create_task(pool.invoke("tester", "long"))
            await until(lambda: world.journal("prompt"))
            events: list[TaskEvent] = []
            first = asyncio.create_task(pool.invoke("tester", "first"))
            waiting = asyncio.create_task(pool.invoke("tester", "next", on_event=events.append))
            await until(lambda: len(events) >= 3)
            first.cancel()
            await until(lambda: any(event.position == 1 for event in queued(events)))
            clock.skip(100)
            said = len(events)
            await until(lambda: len(events) > said)
            long.cancel()
            result = await waiting
            heard = queued(events)
            assert {event.agent for event in heard} == {"tester"}
            assert heard[0].position == 2
            positions = [event.position for event in heard]
            assert positions == sorted(positions, reverse=True)
            waits = [event.waited for event in heard]
            assert waits == sorted(waits)
            assert waits[-1] >= 100
            (started,) = [event for event in events if isinstance(event, Started)]
            assert result.waited == started.waited > 0

    def queued(events: list[TaskEvent]) -> list[Queued]:
        return [event for event in events if isinstance(event, Queued)]

    run(main())


def test_more_agents_than_workers_take_turns_and_the_least_recently_used_one_makes_room(
    world: PoolWorld, clock: Clock
) -> None:
    agents = ["tester", "second", "third"]
    for agent in agents[1:]:
        world.agent(agent, f"You are {agent}.")

    async def main() -> None:
        async with world.real(say_task, max_workers=2) as (pool, _):
            pids = {}
            for agent in agents:
                pids[agent] = (await pool.invoke(agent, "task")).pid
                await until_idle(pool)
            assert not is_alive(pids["tester"])
            assert {worker.pid for worker in await pool.list()} == {pids["second"], pids["third"]}

    run(main())


def test_limits_are_kept_again_after_the_workers_could_not_be_looked_at(
    world: PoolWorld,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            await pool.warmup("tester")
            with monkeypatch.context() as patched:
                patched.setattr("agent_pool.pool.supervisor.tree.census", no_thread)
                await until(lambda: caplog.records)
            clock.skip(600)
            await until(lambda: not pool.stats().workers)

    def no_thread(*_: object) -> object:
        raise RuntimeError("can't start new thread")

    run(main())
    assert {record.getMessage() for record in caplog.records} == {
        "the workers could not be looked at; it is tried again"
    }
    caplog.clear()
