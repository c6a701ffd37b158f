"""Workers are replaced after max_tasks, max_lifetime and max_idle, and no caller waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent_pool import Queued, Started, Submitted, TaskEvent
from agent_pool.loopback import ModelRequest
from agent_pool.models import AgentKey
from agent_pool.pool.scheduler import AgentSpec, Limits, Scheduler
from support.model_scripts import HeldAnswers, bash, echo_task
from support.pool_observers import AdjustableClock, StopRecorder, invoke_with_events, wait_for_ticks
from support.pools import PoolProject, wait_for_stats, wait_until_idle
from support.waiting import run, wait_until

REPLACEMENT_IS_READY = {"idle": 1, "stopping": 1}
"""The states of the workers at the moment when one is retired and its replacement is ready."""


def test_a_worker_at_max_tasks_stops_after_its_replacement_starts(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        limits = {"max_size": 1, "max_tasks": 2, "max_tasks_jitter": 0}
        async with pool_project.on_fake_cli(echo_task, **limits) as (pool, _):
            await pool.warmup("tester")
            pids = []
            with StopRecorder(pool) as stops:
                for number in range(6):
                    result, events = await invoke_with_events(pool, f"task {number}")
                    assert [type(event) for event in events[:2]] == [
                        Submitted,
                        Started,
                    ]  # no Queued
                    pids.append(result.pid)
                    await wait_until_idle(pool)
            assert [pids.index(pid) for pid in pids] == [0, 0, 2, 2, 4, 4]
            assert stops.seen == [("max_tasks", REPLACEMENT_IS_READY)] * 3

    run(main())


def test_steady_callers_wait_for_resets_but_never_for_a_start(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        limits: dict[str, Any] = {"max_size": 1, "max_tasks": 1, "max_tasks_jitter": 0}
        async with pool_project.on_fake_cli(echo_task, **limits) as (pool, _):
            await pool.warmup("tester")
            waits = []

            def listen(event: TaskEvent) -> None:
                if isinstance(event, Queued):
                    waits.append("resetting" in pool._supervisor.worker_states())

            pids: set[int] = set()
            while len(pids) < 3:
                result = await pool.invoke("tester", "task", on_event=listen)
                assert result.text == "echo: task"
                pids.add(result.pid)
            assert waits == [True] * len(waits)

    run(main())


def test_a_task_outlives_max_lifetime_before_its_worker_is_replaced(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.on_fake_cli(script, max_size=1) as (pool, _):
            old = await pool.warmup("tester")
            running = asyncio.create_task(pool.invoke("tester", "long"))
            await wait_until(lambda: script.began == ["long"])
            with StopRecorder(pool) as stops:
                clock.skip(3600)
                script.release()
                assert (await running).pid == old.pid
                await wait_until(lambda: stops.seen)
                await wait_until_idle(pool)
                result, events = await invoke_with_events(pool, "next")
            assert stops.seen == [("max_lifetime", REPLACEMENT_IS_READY)]
            assert result.pid != old.pid
            assert [event for event in events if isinstance(event, Queued)] == []

    run(main())


def test_a_worker_kept_warm_is_replaced_at_max_lifetime_too(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        async with pool_project.faulty(prewarm=("tester",)) as pool:
            old = await pool.warmup("tester")
            with StopRecorder(pool) as stops:
                clock.skip(3600)
                await wait_until(lambda: stops.seen)
            assert stops.seen == [("max_lifetime", REPLACEMENT_IS_READY)]
            await wait_until_idle(pool)
            (new,) = await pool.workers()
            assert new.pid != old.pid

    run(main())


def test_all_workers_of_a_burst_stop_after_max_idle(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        three: dict[str, Any] = {"max_size": 3, "spawn_concurrency": 3}
        async with pool_project.on_fake_cli(echo_task, **three) as (pool, _):
            await pool.map([("tester", str(number)) for number in range(3)])
            await wait_until_idle(pool)
            assert (await pool.stats()).workers == {"idle": 3}
            with StopRecorder(pool) as stops:
                clock.skip(400)
                await wait_for_ticks(pool, 3)
                assert stops.seen == []
                clock.skip(200)
                await wait_for_stats(pool, lambda stats: not stats.workers)
            assert [reason for reason, _ in stops.seen] == ["max_idle"] * 3
            assert pool_project.processes() == []
            assert (await pool.invoke("tester", "again")).text == "echo: again"

    run(main())


def test_a_burst_shrinks_to_min_size_after_max_idle(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        warm: dict[str, Any] = {"prewarm": ("tester",), "min_size": 2}
        async with pool_project.faulty({"at": "prompt", "do": "hang"}, max_size=4, **warm) as pool:
            burst = [asyncio.create_task(pool.invoke("tester", "task")) for _ in range(4)]
            await wait_until(lambda: len(pool_project.journal("prompt")) == 4)
            for caller in burst:
                caller.cancel()
            await wait_until_idle(pool)
            assert (await pool.stats()).workers == {"idle": 4}
            clock.skip(600)
            await wait_for_stats(pool, lambda stats: stats.workers == {"idle": 2})
            clock.skip(600)
            await wait_for_ticks(pool, 5)
            assert (await pool.stats()).workers == {"idle": 2}
            assert (await pool.stats()).retired == {"max_idle": 2}
            assert (await pool.stats()).spawned == 4

    run(main())


def test_an_old_worker_serves_while_no_replacement_can_start(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        limits: dict[str, Any] = {"max_size": 1, "max_tasks": 1, "max_tasks_jitter": 0}
        async with pool_project.faulty(**limits) as pool:
            await pool.warmup("tester")
            launcher = pool_project.fake / "claude"
            good = launcher.read_text()
            broken = good.replace("exec", 'case "$*" in *--version*) ;; *) exit 1;; esac\nexec')
            launcher.write_text(broken)
            pids = []
            for _ in range(4):
                pids.append((await pool.invoke("tester", "task")).pid)
                await wait_for_stats(pool, lambda stats: "resetting" not in stats.workers)
            assert len(set(pids)) == 1
            launcher.write_text(good)
            clock.skip(60)
            await wait_for_stats(pool, lambda stats: stats.retired.get("max_tasks"))
            await wait_until_idle(pool)
            assert (await pool.invoke("tester", "task")).pid != pids[0]

    run(main())


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_jitter_only_shortens_the_limits_of_a_worker(chance: float) -> None:
    limits = Limits(
        max_tasks=200, max_tasks_jitter=0.1, max_lifetime=3600.0, max_lifetime_jitter=0.05
    )
    scheduler = Scheduler(limits, lambda: chance)
    scheduler.request(AgentSpec(AgentKey("/project", "tester"), "1", "profile"), 0.0)
    (record,) = scheduler.workers.values()
    assert record.task_limit == pytest.approx(200 - 20 * chance)
    assert record.expires == pytest.approx(3600 - 180 * chance)


def test_a_worker_with_many_zombies_stops_after_its_replacement_starts(
    pool_project: PoolProject, clock: AdjustableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_pool.pool.scheduler.scheduler.MAX_ZOMBIES", 4)

    def script(request: ModelRequest) -> Any:
        # Each daemon loses its parent and ends: the CLI does not reap it.
        return echo_task(request) if request.tool_results else bash("(sleep 0 &); (sleep 0 &)")

    async def main() -> None:
        async with pool_project.real(script, max_size=1) as (pool, _):
            pids = []
            with StopRecorder(pool) as stops:
                while not stops.seen:
                    pids.append((await pool.invoke("tester", "task")).pid)
                    await wait_until_idle(pool)
                    await wait_for_ticks(pool, 6)
            assert stops.seen == [("zombies", REPLACEMENT_IS_READY)]
            assert len(set(pids)) == 1
            assert len(pids) >= 2

    run(main())
