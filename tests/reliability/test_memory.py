"""The limits of memory: between tasks and during them, of one worker and of all."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from agent_pool import Queued, SpawnError, WorkerDied
from agent_pool.loopback import ModelRequest
from support.model_scripts import HeldAnswers, bash, echo_task
from support.pool_observers import AdjustableClock, StopRecorder, invoke_with_events, wait_for_ticks
from support.pools import PoolProject, wait_for_stats, wait_until_idle
from support.process_checks import MIB, is_alive
from support.variants import later
from support.waiting import run, wait_until

LESS_THAN_ONE = 60 * MIB
"""Bytes; every worker of the real CLI has more."""
LESS_THAN_TWO = 280 * MIB
"""Bytes; room for one worker of the real CLI, but not for two."""
HOG = "python3 -c 'import time; held = b\"x\" * (700 << 20); time.sleep(1000)'"


def greedy(command: str) -> Callable[[ModelRequest], object]:
    """Build a script that calls the shell with this command for the task `greedy`."""

    def script(request: ModelRequest) -> object:
        wanted = "greedy" in request.last_user_text and not request.tool_results
        return bash(command) if wanted else echo_task(request)

    return script


@pytest.mark.parametrize(
    "command",
    [HOG, later(f"(setsid {HOG} >/dev/null 2>&1 &); exec sleep 1000")],
    ids=["own", "daemon"],
)
def test_a_task_over_max_rss_hard_fails_with_the_numbers(
    pool_project: PoolProject, clock: AdjustableClock, command: str
) -> None:
    async def main() -> None:
        limits = {"max_size": 1, "max_rss_hard": 600 * MIB}
        async with pool_project.real(greedy(command), **limits) as (pool, _):
            doomed = await pool.warmup("tester")
            with pytest.raises(WorkerDied, match="raise the limit") as failure:
                await pool.invoke("tester", "greedy")
            said = r"used (\d+) MiB, more than max_rss_hard \(600 MiB\)"
            numbers = re.search(said, str(failure.value))
            assert numbers is not None
            assert int(numbers[1]) >= 600  # it is rounded
            assert failure.value.worker == doomed.worker
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert result.pid != doomed.pid
            await wait_until_idle(pool)
            hogs = [p for p in pool_project.processes() if p.name().startswith("python")]
            assert hogs == []

    run(main())


def test_a_task_over_max_rss_hard_harms_no_other(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        held = HeldAnswers()

        async def script(request: ModelRequest) -> object:
            greedy_one = "greedy" in request.last_user_text
            return bash(HOG) if greedy_one else await held(request)

        limits = {"max_size": 2, "max_rss_hard": 600 * MIB}
        async with pool_project.real(script, **limits) as (pool, _):
            modest = asyncio.create_task(pool.invoke("tester", "modest"))
            await wait_until(lambda: held.began == ["modest"])
            with pytest.raises(WorkerDied, match="max_rss_hard"):
                await pool.invoke("tester", "greedy")
            held.release()
            assert (await modest).text == "echo: modest"

    run(main())


def test_a_worker_over_max_rss_retires_after_its_replacement_starts(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        limits = {"max_size": 1, "max_rss": LESS_THAN_ONE}
        async with pool_project.real(echo_task, **limits) as (pool, _):
            with StopRecorder(pool) as stops:
                old = await pool.invoke("tester", "one")
                await wait_until(lambda: stops.seen)
                await wait_until_idle(pool)
                result, events = await invoke_with_events(pool, "two")
            assert stops.seen[0] == ("max_rss", {"idle": 1, "stopping": 1})
            assert [event for event in events if isinstance(event, Queued)] == []
            assert result.pid != old.pid

    run(main())


def test_an_unused_worker_over_max_rss_is_not_replaced(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        limits: dict[str, Any] = {"max_rss": 1 * MIB, "spares": 1, "prewarm": ("tester",)}
        async with pool_project.faulty(**limits) as pool:
            await pool.warmup("tester")
            await wait_for_stats(pool, lambda stats: stats.workers == {"idle": 2})
            await wait_for_ticks(pool, 20)
            assert (await pool.stats()).spawned == 2

    run(main())


def test_max_total_rss_stops_the_least_recently_used_worker(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    pool_project.agent("other", maxTurns="9")  # its processes have another option

    async def main() -> None:
        async with pool_project.real(echo_task, max_total_rss=LESS_THAN_TWO) as (pool, _):
            first = await pool.invoke("tester", "one")
            second = await pool.invoke("other", "two")
            assert second.text == "echo: two"
            await wait_for_stats(pool, lambda stats: stats.workers == {"idle": 1})
            (left,) = await pool.workers()
            assert left.pid == second.pid
            assert left.rss < LESS_THAN_TWO
            assert not is_alive(first.pid)

    run(main())


def test_callers_wait_for_the_busy_worker_at_max_total_rss(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    pool_project.agent("other")

    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.real(script, max_total_rss=LESS_THAN_ONE) as (pool, _):
            busy = asyncio.create_task(pool.invoke("tester", "busy"))
            await wait_until(lambda: script.began == ["busy"])
            await wait_for_ticks(pool, 2)
            waiting = asyncio.create_task(pool.invoke("other", "waiting"))
            await wait_for_ticks(pool, 5)
            assert (await pool.stats()).spawned == 1
            assert not waiting.done()
            script.release()
            assert (await busy).text == "echo: busy"
            assert (await waiting).text == "echo: waiting"
            assert script.most == 1

    run(main())


@pytest.mark.parametrize("is_busy", [True, later(False)])
def test_a_spare_without_memory_stops_and_is_not_retried(
    pool_project: PoolProject, clock: AdjustableClock, is_busy: bool
) -> None:
    async def main() -> None:
        script = HeldAnswers()
        limits = {"max_total_rss": LESS_THAN_TWO, "spares": 1}
        async with pool_project.real(script, **limits) as (pool, _):
            task = asyncio.create_task(pool.invoke("tester", "task"))
            await wait_until(lambda: script.began)
            if not is_busy:
                script.release()
                await task
            await wait_for_stats(
                pool, lambda stats: stats.workers == {"leased" if is_busy else "idle": 1}
            )
            before = (await pool.stats()).spawned
            await wait_for_ticks(pool, 20)
            (left,) = await pool.workers()
            assert left.agent == "tester"
            assert (await pool.stats()).spawned == before <= 3
            script.release()
            assert (await task).pid == left.pid

    run(main())


def test_a_start_over_max_rss_hard_fails_with_the_limit(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        async with pool_project.real(echo_task, max_rss_hard=LESS_THAN_ONE) as (pool, _):
            with pytest.raises((SpawnError, WorkerDied), match=r"max_rss_hard \(60 MiB\)"):
                await pool.invoke("tester", "one")
            before = (await pool.stats()).spawned
            await wait_for_ticks(pool, 20)
            assert (await pool.stats()).spawned == before == 1

    run(main())
