"""Workers are replaced by age, by tasks and by idleness, and no caller waits for it."""

from __future__ import annotations

import asyncio

import pytest

from agent_pool import Queued, Started, TaskEvent
from agent_pool.pool.actions import AgentRef
from agent_pool.pool.core import PoolCore
from agent_pool.pool.policy import Limits
from pool_world import Held, PoolWorld, say_task, until, until_idle
from reliability.conftest import Clock
from reliability.seen import Stops, ticks, told
from support import run

WARM_BESIDE_IT = {"idle": 1, "stopping": 1}
"""The workers at the moment when one is stopped: its replacement is ready."""


def test_a_worker_goes_after_max_tasks_when_its_replacement_is_warm(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        limits = {"max_size": 1, "max_tasks": 2, "max_tasks_jitter": 0}
        async with world.real(say_task, **limits) as (pool, _):
            await pool.warmup("tester")
            pids = []
            with Stops(pool) as stops:
                for number in range(6):
                    result, events = await told(pool, f"task {number}")
                    assert isinstance(events[0], Started)  # nobody has queued
                    pids.append(result.pid)
                    await until_idle(pool)
            assert [pids.index(pid) for pid in pids] == [0, 0, 2, 2, 4, 4]
            assert stops.seen == [("max_tasks", WARM_BESIDE_IT)] * 3

    run(main())


def test_callers_without_a_pause_between_them_wait_for_resets_and_never_for_a_start(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        limits = {"max_size": 1, "max_tasks": 1, "max_tasks_jitter": 0}
        async with world.real(say_task, **limits) as (pool, _):
            await pool.warmup("tester")
            waits = []

            def listen(event: TaskEvent) -> None:
                if isinstance(event, Queued):
                    waits.append("resetting" in pool.stats().workers)

            pids = set()
            while len(pids) < 3:
                result = await pool.invoke("tester", "task", on_event=listen)
                assert result.text == "echo: task"
                pids.add(result.pid)
            assert waits == [True] * len(waits)

    run(main())


def test_a_task_outlives_max_lifetime_and_the_next_one_is_served_by_the_warm_replacement(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script, max_size=1) as (pool, _):
            old = await pool.warmup("tester")
            running = asyncio.create_task(pool.invoke("tester", "long"))
            await until(lambda: script.began == ["long"])
            with Stops(pool) as stops:
                clock.skip(3600)
                script.let_go()
                assert (await running).pid == old.pid
                await until(lambda: stops.seen)
                await until_idle(pool)
                result, events = await told(pool, "next")
            assert stops.seen == [("max_lifetime", WARM_BESIDE_IT)]
            assert result.pid != old.pid
            assert [event for event in events if isinstance(event, Queued)] == []

    run(main())


def test_a_worker_that_is_kept_warm_is_replaced_at_max_lifetime_too(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        async with world.faulty(prewarm=("tester",)) as pool:
            old = await pool.warmup("tester")
            with Stops(pool) as stops:
                clock.skip(3600)
                await until(lambda: stops.seen)
            assert stops.seen == [("max_lifetime", WARM_BESIDE_IT)]
            await until_idle(pool)
            (new,) = await pool.list()
            assert new.pid != old.pid

    run(main())


def test_a_burst_shrinks_to_nothing_after_max_idle(world: PoolWorld, clock: Clock) -> None:
    async def main() -> None:
        async with world.real(say_task, max_size=3, spawn_concurrency=3) as (pool, _):
            await pool.map([("tester", str(number)) for number in range(3)])
            await until_idle(pool)
            assert pool.stats().workers == {"idle": 3}
            with Stops(pool) as stops:
                clock.skip(400)
                await ticks(pool, 3)
                assert stops.seen == []
                clock.skip(200)
                await until(lambda: not pool.stats().workers)
            assert [reason for reason, _ in stops.seen] == ["max_idle"] * 3
            assert world.processes() == []
            assert (await pool.invoke("tester", "again")).text == "echo: again"

    run(main())


def test_a_burst_shrinks_to_min_size_of_an_agent_that_is_kept_warm(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        warm = {"prewarm": ("tester",), "min_size": 2}
        async with world.faulty({"at": "prompt", "do": "hang"}, max_size=4, **warm) as pool:
            burst = [asyncio.create_task(pool.invoke("tester", "task")) for _ in range(4)]
            await until(lambda: len(world.journal("prompt")) == 4)
            for caller in burst:
                caller.cancel()
            await until_idle(pool)
            assert pool.stats().workers == {"idle": 4}
            clock.skip(600)
            await until(lambda: pool.stats().workers == {"idle": 2})
            clock.skip(600)
            await ticks(pool, 5)
            assert pool.stats().workers == {"idle": 2}
            assert pool.stats().retired == {"max_idle": 2}
            assert pool.stats().spawned == 4

    run(main())


def test_a_replacement_that_cannot_be_started_leaves_the_old_worker_in_service(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        limits = {"max_size": 1, "max_tasks": 1, "max_tasks_jitter": 0}
        async with world.faulty(**limits) as pool:
            await pool.warmup("tester")
            launcher = world.fake / "claude"
            good = launcher.read_text()
            broken = good.replace("exec", 'case "$*" in *--version*) ;; *) exit 1;; esac\nexec')
            launcher.write_text(broken)
            pids = []
            for _ in range(4):
                pids.append((await pool.invoke("tester", "task")).pid)
                await until(lambda: "resetting" not in pool.stats().workers)
            assert len(set(pids)) == 1
            launcher.write_text(good)
            clock.skip(60)
            await until(lambda: pool.stats().retired.get("max_tasks"))
            await until_idle(pool)
            assert (await pool.invoke("tester", "task")).pid != pids[0]

    run(main())


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_jitter_only_shortens_a_workers_life_and_each_ones_otherwise(chance: float) -> None:
    limits = Limits(
        max_tasks=200, max_tasks_jitter=0.1, max_lifetime=3600.0, max_lifetime_jitter=0.05
    )
    core = PoolCore(limits, lambda: chance)
    core.request(AgentRef("tester", "1", "flags"), 0.0)
    (record,) = core.workers.values()
    assert record.task_limit == pytest.approx(200 - 20 * chance)
    assert record.expires == pytest.approx(3600 - 180 * chance)
