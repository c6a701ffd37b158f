"""Spares: blank processes that are ready before an agent needs them."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest

from agent_pool import AgentPool, SpawnError, WorkerInfo
from support.model_scripts import echo_task
from support.pool_observers import AdjustableClock, wait_for_ticks
from support.pools import PoolProject, wait_for_stats, wait_until_idle
from support.waiting import run, wait_until


async def parked(pool: AgentPool, without: int = 0) -> WorkerInfo:
    """Wait for a spare with another pid than `without`; return it."""
    found: list[WorkerInfo] = []
    while not found:
        await wait_for_stats(pool, lambda stats: stats.workers.get("idle"))
        found = [
            one
            for one in await pool.workers()
            if not one.agent and one.state == "idle" and one.pid not in (None, without)
        ]
    return found[0]


def test_a_spare_serves_a_first_task_with_the_agents_prompt(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    pool_project.agent("other", "You are the other one, who grows quinces.")

    async def main() -> None:
        async with pool_project.real(echo_task, spares=1) as (pool, api):
            first = await pool.invoke("tester", "one")
            spare = await parked(pool)
            assert (spare.state, spare.tasks) == ("idle", 0)
            talk = await pool.invoke("tester", "one", conversation="keeps the worker busy")
            assert talk.pid == first.pid
            result = await pool.invoke("other", "two")
            assert (result.text, result.pid) == ("echo: two", spare.pid)
            prompts = [request.system_text for request in api.requests]
            assert "who grows quinces" not in prompts[0]
            assert "You are the other one, who grows quinces." in prompts[-1]
            assert "You test." in prompts[0]
            assert "You test." not in prompts[-1]
            refilled = await parked(pool, without=spare.pid or 0)
            assert refilled.pid != spare.pid

    run(main())


def test_the_second_worker_of_an_agent_can_be_a_spare(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "prompt", "do": "hang"}, spares=1) as pool:
            first = asyncio.create_task(pool.invoke("tester", "one"))
            await wait_until(lambda: pool_project.journal("prompt"))
            spare = await parked(pool)
            second = asyncio.create_task(pool.invoke("tester", "two"))
            await wait_until(lambda: len(pool_project.journal("prompt")) == 2)
            assert [w.state for w in await pool.workers() if w.pid == spare.pid] == ["leased"]
            first.cancel()
            second.cancel()

    run(main())


def test_an_idle_spare_stops_and_returns_with_the_next_task(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        async with pool_project.faulty(spares=1) as pool:
            await pool.warmup("tester")
            spare = await parked(pool)
            await wait_until_idle(pool)
            clock.skip(600)
            await wait_for_stats(pool, lambda stats: not stats.workers)
            await wait_for_ticks(pool, 10)
            assert pool_project.fakes() == []
            assert (await pool.invoke("tester", "again")).text == "echo: again"
            assert (await parked(pool)).pid != spare.pid

    run(main())


def test_a_killed_spare_is_replaced_only_with_the_next_task(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        async with pool_project.faulty(spares=1) as pool:
            await pool.warmup("tester")
            spare = await parked(pool)
            assert spare.pid is not None
            os.kill(spare.pid, signal.SIGKILL)
            await wait_for_stats(pool, lambda stats: stats.retired.get("died"))
            await wait_for_ticks(pool, 10)
            assert (await pool.stats()).spawned == 2
            assert (await pool.invoke("tester", "again")).text == "echo: again"
            assert (await parked(pool)).pid != spare.pid

    run(main())


def test_spares_that_end_at_once_are_not_started_again(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        crash = {"at": "start", "do": "exit", "code": 7}
        async with pool_project.faulty(crash, spares=1) as pool:
            with pytest.raises(SpawnError, match="exit code 7"):
                await pool.invoke("tester", "one")
            await wait_for_stats(pool, lambda stats: not stats.workers)
            before = len(pool_project.journal("start"))
            await wait_for_ticks(pool, 20)
            assert len(pool_project.journal("start")) == before

    run(main())


def test_a_spare_makes_room_for_a_worker_of_another_agent(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    pool_project.agent("other", maxTurns="9")  # its processes have another option

    async def main() -> None:
        async with pool_project.faulty(spares=1, max_workers=2) as pool:
            kept = await pool.warmup("tester")
            spare = await parked(pool)
            assert (await pool.invoke("other", "task")).pid not in (kept.pid, spare.pid)
            await wait_until_idle(pool)
            assert kept.pid in [worker.pid for worker in await pool.workers()]
            assert not psutil.pid_exists(spare.pid or 0)

    run(main())


def test_an_old_cli_gets_no_spare_with_another_agents_prompt(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    pool_project.agent("other", "You are the other one.")

    async def main() -> None:
        async with pool_project.faulty(version="2.0.77", spares=1) as pool:
            await pool.warmup("tester")
            await parked(pool)
            for agent, prompt in (("other", "You are the other one."), ("tester", "You test.")):
                info = await pool.warmup(agent)
                assert prompt in prompt_of(info)

    def prompt_of(info: WorkerInfo) -> str:
        command = psutil.Process(info.pid).cmdline()
        (option,) = [part for part in command if part.startswith("--system-prompt-file=")]
        with open(option.partition("=")[2], encoding="utf-8") as file:  # noqa: PTH123
            return file.read()

    run(main())
