"""The number of workers: kept warm, started at once, shared between agents."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from agent_pool import Queued, Started, Submitted, TaskEvent
from support.model_scripts import echo_task
from support.pool_observers import AdjustableClock, invoke_with_events, wait_for_ticks
from support.pools import PoolProject, wait_for_stats, wait_until_idle
from support.process_checks import is_alive
from support.waiting import run, wait_until


def test_agents_kept_warm_are_ready_before_their_first_task(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        warm = {"prewarm": ("tester",), "min_size": 2, "max_size": 2}
        async with pool_project.on_fake_cli(echo_task, **warm) as (pool, _):
            await wait_for_stats(pool, lambda stats: stats.workers == {"idle": 2})
            ready = {worker.pid for worker in await pool.workers()}
            answers = await asyncio.gather(
                invoke_with_events(pool, "one"), invoke_with_events(pool, "two")
            )
            assert {result.pid for result, _ in answers} == ready
            for _, events in answers:
                assert [type(event) for event in events[:2]] == [Submitted, Started]

    run(main())


def test_a_warm_worker_that_dies_is_replaced_without_a_task(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        async with pool_project.faulty(prewarm=("tester",)) as pool:
            doomed = await pool.warmup("tester")
            assert doomed.pid is not None
            os.kill(doomed.pid, signal.SIGKILL)
            await wait_for_stats(pool, lambda stats: stats.retired.get("died"))
            await wait_for_stats(pool, lambda stats: stats.workers == {"idle": 1})
            (new,) = await pool.workers()
            assert new.pid != doomed.pid

    run(main())


def test_an_unknown_agent_in_prewarm_does_no_harm(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        async with pool_project.faulty(prewarm=("nobody", "tester")) as pool:
            await wait_for_stats(pool, lambda stats: stats.workers == {"idle": 1})
            (worker,) = await pool.workers()
            assert worker.agent == "tester"

    run(main())


def test_no_more_processes_start_at_once_than_spawn_concurrency(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        slow = {"at": "initialize", "do": "hang"}
        async with pool_project.faulty(slow, spawn_concurrency=2, max_size=4, spares=1) as pool:
            callers = [asyncio.create_task(pool.invoke("tester", "task")) for _ in range(4)]
            await wait_until(lambda: len(pool_project.journal("start")) == 2)
            await wait_for_ticks(pool, 10)
            assert (await pool.stats()).workers == {"starting": 2}
            assert len(pool_project.journal("start")) == 2
            for caller in callers:
                caller.cancel()

    run(main())


def test_a_busy_agent_does_not_starve_one_that_came_later(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    pool_project.agent("other")

    async def main() -> None:
        async with pool_project.faulty(max_workers=1) as pool:
            await pool.warmup("tester")
            order: list[str] = []

            async def call(agent: str, task: str) -> None:
                order.append((await pool.invoke(agent, task)).text)

            calls = [("tester", "1"), ("tester", "2"), ("tester", "3"), ("other", "A")]
            calls += [("tester", str(number)) for number in range(4, 8)]
            await asyncio.gather(*(call(agent, task) for agent, task in calls))
            assert order == [f"echo: {task}" for task in ("1", "2", "3", "A", "4", "5", "6", "7")]

    run(main())


def test_a_waiting_caller_gets_repeated_events_with_place_and_time(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        hang = {"at": "prompt", "do": "hang", "match": "long"}
        async with pool_project.faulty(hang, max_size=1) as pool:
            long = asyncio.create_task(pool.invoke("tester", "long"))
            await wait_until(lambda: pool_project.journal("prompt"))
            events: list[TaskEvent] = []
            first = asyncio.create_task(pool.invoke("tester", "first"))
            waiting = asyncio.create_task(pool.invoke("tester", "next", on_event=events.append))
            await wait_until(lambda: len(queued(events)) >= 3)
            first.cancel()
            await wait_until(lambda: any(event.position == 1 for event in queued(events)))
            clock.skip(100)
            before = len(queued(events))
            await wait_until(lambda: len(queued(events)) > before)
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


def test_the_least_recently_used_agent_makes_room_for_another(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    agents = ["tester", "second", "third"]
    for turns, agent in enumerate(agents[1:], 1):
        # Their processes have different options.
        pool_project.agent(agent, f"You are {agent}.", maxTurns=str(turns))

    async def main() -> None:
        async with pool_project.on_fake_cli(echo_task, max_workers=2) as (pool, _):
            pids = {}
            for agent in agents:
                pids[agent] = (await pool.invoke(agent, "task")).pid
                await wait_until_idle(pool)
            assert not is_alive(pids["tester"])
            assert {worker.pid for worker in await pool.workers()} == {
                pids["second"],
                pids["third"],
            }

    run(main())


def test_limits_apply_again_after_the_workers_could_not_be_sampled(
    pool_project: PoolProject,
    clock: AdjustableClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            await pool.warmup("tester")
            with monkeypatch.context() as patched:
                patched.setattr("agent_pool.claude.process_tree.KernelSearch.trees", no_thread)
                await wait_until(lambda: caplog.records)
            clock.skip(600)
            await wait_for_stats(pool, lambda stats: not stats.workers)

    def no_thread(*_: object) -> object:
        raise RuntimeError("can't start new thread")

    run(main())
    assert {record.getMessage() for record in caplog.records} == {
        "the workers could not be checked; the next tick tries again"
    }
    caplog.clear()
