"""Usage and cost over many processes: recycled ones, one for each task, eight at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agent_pool import AgentStats, Ended, ReuseStats, TaskCancelled, Usage
from agent_pool.loopback import ModelRequest
from agent_pool.pool.stats import StatsCounter
from support.pool_harness import PoolHarness
from support.pools import PoolProject, wait_until_idle
from support.usage_totals import UsageTotals, agent_stats, is_same, total_usage, usage_and_cost
from support.variants import later
from support.waiting import run


@pytest.mark.parametrize(
    "settings",
    [
        {"reset": "clear", "max_tasks": 1, "max_tasks_jitter": 0},
        later({"reset": "respawn"}),
    ],
)
def test_the_stats_of_an_agent_outlive_its_workers(
    open_harness: Callable[..., PoolHarness], settings: dict[str, Any]
) -> None:
    harness = open_harness(max_size=1, **settings)

    async def main() -> None:
        totals = UsageTotals(harness)
        results = []
        for number in range(3):
            results.append((await harness.ask(harness.plan(f"answer {number}"))).result)
            assert results[-1].usage == total_usage(totals.of(results[-1]))
            await harness.wait_until_idle()
        assert len({result.pid for result in results}) == 3
        stats = await agent_stats(harness, "tester")
        total = (await harness.pool.stats()).total
        assert stats.usage == total.usage == total_usage(totals.since())
        assert is_same((stats.usage, stats.cost_usd), usage_and_cost(results))
        for worker in await harness.pool.workers():
            own = [result for result in results if result.worker == worker.worker]
            assert is_same((worker.usage, worker.cost_usd), usage_and_cost(own))

    harness.run(main())


@pytest.mark.long
def test_eight_parallel_tasks_each_report_their_own_billed_usage(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="clear", max_size=8, max_workers=8)

    async def main() -> None:
        totals, began, all_there = UsageTotals(harness), [], asyncio.Event()

        async def meet(request: ModelRequest) -> str:
            began.append(request)
            if len(began) == 8:
                all_there.set()
            await all_there.wait()
            return "word " * len(began)

        results = [
            said.result
            for said in await asyncio.gather(
                *(harness.ask(harness.plan(meet, "x" * 10 * n)) for n in range(8))
            )
        ]
        assert len({result.pid for result in results}) == 8
        for result in results:
            assert result.usage == total_usage(totals.of(result)) != Usage()
        await harness.wait_until_idle()
        workers = {worker.worker: worker.usage for worker in await harness.pool.workers()}
        assert workers == {result.worker: result.usage for result in results}
        total = (await harness.pool.stats()).total
        assert total.usage == total_usage(totals.since())
        assert is_same((total.usage, total.cost_usd), usage_and_cost(results))

    harness.run(main())


# The starts that using processes again saved


def test_saved_time_counts_only_measured_starts(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=1) as pool:
            assert (await pool.stats()).reuse == ReuseStats()
            await pool.warmup("tester")
            started = (await pool.stats()).reuse
            assert (started.tasks, started.starts) == (0, 1)
            (worker,) = await pool.workers()
            assert 0 < started.starting < worker.uptime
            for _ in range(3):
                await pool.invoke("tester", "task")
            for _ in range(2):
                await pool.invoke("tester", "task", conversation="talk")
            await pool.end_conversation("tester", "talk")
            assert (await pool.stats()).reuse == ReuseStats(4, 1, started.starting)
            await pool.reset("tester")
            await pool.invoke("tester", "task")
            await wait_until_idle(pool)
            reuse = (await pool.stats()).reuse
            assert (reuse.tasks, reuse.starts) == (4, 2)
            assert reuse.seconds_saved == pytest.approx(4 * reuse.starting / 2)

    run(main())


def test_a_process_for_each_task_saves_no_time(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty(reset="respawn", max_size=1) as pool:
            for _ in range(3):
                await pool.invoke("tester", "task")
            await wait_until_idle(pool)
            assert (await pool.stats()).reuse.tasks == 0
            assert (await pool.stats()).reuse.seconds_saved == 0

    run(main())


def test_the_start_of_a_spare_is_not_measured(pool_project: PoolProject) -> None:
    async def main() -> None:
        pool_project.agent("other", description="Tests.")
        async with pool_project.faulty(spares=1, max_size=1) as pool:
            await pool.warmup("tester")
            async with asyncio.timeout(10):
                while not [w for w in await pool.workers() if w.state == "idle" and not w.agent]:
                    pass
            spares = {worker.pid for worker in await pool.workers() if not worker.agent}
            assert (await pool.warmup("other")).pid in spares
            stats = await pool.stats()
            assert (stats.reuse.starts, stats.spawned > 1) == (1, True)

    run(main())


def test_no_saved_time_is_reported_without_a_measured_start() -> None:
    reuse = ReuseStats(tasks=5)
    assert (reuse.mean_start, reuse.seconds_saved) == (None, None)
    assert reuse.as_json() == {
        "tasks": 5,
        "starts": 0,
        "starting": 0.0,
        "mean_start": None,
        "seconds_saved": None,
    }


def ended(
    agent: str, *, waited: float, running: float, error: str = "", reused: bool = False
) -> Ended:
    return Ended(
        agent=agent,
        worker="worker-1",
        waited=waited,
        running=running,
        reused=reused,
        error=TaskCancelled(error) if error else None,
    )


def test_total_stats_add_the_failures_of_agents_by_kind() -> None:
    counter = StatsCounter()
    for error in ("", "left", "left"):
        counter.record(ended("one", waited=1.0, running=2.0, error=error, reused=True))
    counter.record(ended("two", waited=0.5, running=0.25, error="left"))
    stats = counter.snapshot(uptime=0, waiting=0, paused=0, workers={})
    one, _ = stats.agents
    assert stats.total == AgentStats("", 4, {"cancelled": 3}, 6.25, 3.5)
    assert stats.reuse == ReuseStats(tasks=3)
    assert one.failed == {"cancelled": 2}
