"""Memory is bounded, between tasks and during them, for one worker and for all of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from agent_pool import Queued, SpawnError, WorkerDied
from agent_pool.loopback import Request
from pool_world import Held, PoolWorld, bash, is_alive, say_task, until, until_idle
from reliability.conftest import Clock
from reliability.seen import MIB, Stops, ticks, told
from support import run

LESS_THAN_ONE = 60 * MIB
"""No worker of the real CLI has so little."""
LESS_THAN_TWO = 280 * MIB
"""Room for one worker of the real CLI, but not for two."""
HOG = "python3 -c 'import time; held = b\"x\" * (700 << 20); time.sleep(1000)'"


def greedy(command: str) -> Callable[[Request], object]:
    """A script that calls the shell with this command for the task `greedy`."""

    def script(request: Request) -> object:
        wanted = "greedy" in request.last_user_text and not request.tool_results
        return bash(command) if wanted else say_task(request)

    return script


@pytest.mark.parametrize(
    "command", [HOG, f"(setsid {HOG} >/dev/null 2>&1 &); exec sleep 1000"], ids=["own", "daemon"]
)
def test_a_task_that_takes_too_much_memory_fails_with_the_numbers_and_the_next_one_works(
    world: PoolWorld, clock: Clock, command: str
) -> None:
    async def main() -> None:
        limits = {"max_size": 1, "max_rss_hard": 600 * MIB}
        async with world.real(greedy(command), **limits) as (pool, _):
            doomed = await pool.warmup("tester")
            with pytest.raises(WorkerDied, match="raise the limit") as failure:
                await pool.invoke("tester", "greedy")
            said = r"used (\d+) MiB, over max_rss_hard \(600 MiB\)"
            numbers = re.search(said, str(failure.value))
            assert numbers is not None
            assert int(numbers[1]) > 600
            assert failure.value.worker == doomed.worker
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert result.pid != doomed.pid
            await until_idle(pool)
            hogs = [p for p in world.processes() if p.name().startswith("python")]
            assert hogs == []

    run(main())


def test_a_greedy_task_harms_no_other_one(world: PoolWorld, clock: Clock) -> None:
    async def main() -> None:
        held = Held()

        async def script(request: Request) -> object:
            greedy_one = "greedy" in request.last_user_text
            return bash(HOG) if greedy_one else await held(request)

        limits = {"max_size": 2, "max_rss_hard": 600 * MIB}
        async with world.real(script, **limits) as (pool, _):
            modest = asyncio.create_task(pool.invoke("tester", "modest"))
            await until(lambda: held.began == ["modest"])
            with pytest.raises(WorkerDied, match="max_rss_hard"):
                await pool.invoke("tester", "greedy")
            held.let_go()
            assert (await modest).text == "echo: modest"

    run(main())


def test_a_worker_over_max_rss_goes_after_its_task_when_its_replacement_is_warm(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        limits = {"max_size": 1, "max_rss": LESS_THAN_ONE}
        async with world.real(say_task, **limits) as (pool, _):
            with Stops(pool) as stops:
                old = await pool.invoke("tester", "one")
                await until(lambda: stops.seen)
                await until_idle(pool)
                result, events = await told(pool, "two")
            assert stops.seen[0] == ("max_rss", {"idle": 1, "stopping": 1})
            assert [event for event in events if isinstance(event, Queued)] == []
            assert result.pid != old.pid

    run(main())


def test_a_worker_that_has_served_nobody_is_not_replaced_by_one_that_is_as_large(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        limits = {"max_rss": 1 * MIB, "spares": 1, "prewarm": ("tester",)}
        async with world.faulty(**limits) as pool:
            await pool.warmup("tester")
            await until(lambda: pool.stats().workers == {"idle": 2})
            await ticks(pool, 20)
            assert pool.stats().spawned == 2

    run(main())


def test_over_max_total_rss_the_least_recently_used_worker_goes(
    world: PoolWorld, clock: Clock
) -> None:
    world.agent("other")

    async def main() -> None:
        async with world.real(say_task, max_total_rss=LESS_THAN_TWO) as (pool, _):
            first = await pool.invoke("tester", "one")
            second = await pool.invoke("other", "two")
            assert second.text == "echo: two"
            await until(lambda: pool.stats().workers == {"idle": 1})
            (left,) = await pool.list()
            assert left.pid == second.pid
            assert left.rss < LESS_THAN_TWO
            assert not is_alive(first.pid)

    run(main())


def test_at_max_total_rss_no_worker_is_started_beside_a_busy_one_and_who_waits_is_served_after_it(
    world: PoolWorld, clock: Clock
) -> None:
    world.agent("other")

    async def main() -> None:
        script = Held()
        async with world.real(script, max_total_rss=LESS_THAN_ONE) as (pool, _):
            busy = asyncio.create_task(pool.invoke("tester", "busy"))
            await until(lambda: script.began == ["busy"])
            await ticks(pool, 2)
            waiting = asyncio.create_task(pool.invoke("other", "waiting"))
            await ticks(pool, 5)
            assert pool.stats().spawned == 1
            assert not waiting.done()
            script.let_go()
            assert (await busy).text == "echo: busy"
            assert (await waiting).text == "echo: waiting"
            assert script.most == 1

    run(main())


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_spare_for_which_there_is_no_memory_drives_nobody_out_and_is_not_tried_again(
    world: PoolWorld, clock: Clock, is_busy: bool
) -> None:
    async def main() -> None:
        script = Held()
        limits = {"max_total_rss": LESS_THAN_TWO, "spares": 1}
        async with world.real(script, **limits) as (pool, _):
            task = asyncio.create_task(pool.invoke("tester", "task"))
            await until(lambda: script.began)
            if not is_busy:
                script.let_go()
                await task
            await until(lambda: pool.stats().workers == {"leased" if is_busy else "idle": 1})
            before = pool.stats().spawned
            await ticks(pool, 20)
            (left,) = await pool.list()
            assert left.agent == "tester"
            assert pool.stats().spawned == before <= 3
            script.let_go()
            assert (await task).pid == left.pid

    run(main())


def test_an_agent_whose_new_process_is_over_the_hard_limit_is_refused_with_the_numbers(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        async with world.real(say_task, max_rss_hard=LESS_THAN_ONE) as (pool, _):
            with pytest.raises((SpawnError, WorkerDied), match=r"max_rss_hard \(60 MiB\)"):
                await pool.invoke("tester", "one")
            before = pool.stats().spawned
            await ticks(pool, 20)
            assert pool.stats().spawned == before == 1

    run(main())
