"""Blank processes that are ready before anybody needs them."""

from __future__ import annotations

import asyncio
import os
import signal

import psutil
import pytest

from agent_pool import AgentPool, SpawnError, WorkerInfo
from pool_world import PoolWorld, say_task, until, until_idle
from reliability.conftest import Clock
from reliability.seen import ticks
from support import run


async def parked(pool: AgentPool, without: int = 0) -> WorkerInfo:
    """The spare, as soon as there is another one than `without`."""
    found: list[WorkerInfo] = []
    while not found:
        await until(lambda: pool.stats().workers.get("idle"))
        found = [w for w in await pool.list() if not w.agent and w.pid not in (None, without)]
    return found[0]


def test_an_agents_first_task_is_served_by_a_spare_with_the_agents_own_prompt(
    world: PoolWorld, clock: Clock
) -> None:
    world.agent("other", "You are the other one, who grows quinces.")

    async def main() -> None:
        async with world.real(say_task, spares=1) as (pool, api):
            first = await pool.invoke("tester", "one")
            spare = await parked(pool)
            assert (spare.state, spare.tasks) == ("idle", 0)
            result = await pool.invoke("other", "two")
            assert (result.text, result.pid) == ("echo: two", spare.pid)
            assert result.pid != first.pid
            prompts = [request.system_text for request in api.requests]
            assert "who grows quinces" not in prompts[0]
            assert "You are the other one, who grows quinces." in prompts[1]
            assert "You test." in prompts[0]
            assert "You test." not in prompts[1]
            refilled = await parked(pool, without=spare.pid or 0)
            assert refilled.pid != spare.pid

    run(main())


def test_a_second_worker_of_an_agent_comes_from_a_spare_too(world: PoolWorld, clock: Clock) -> None:
    async def main() -> None:
        async with world.faulty({"at": "prompt", "do": "hang"}, spares=1) as pool:
            first = asyncio.create_task(pool.invoke("tester", "one"))
            await until(lambda: world.journal("prompt"))
            spare = await parked(pool)
            second = asyncio.create_task(pool.invoke("tester", "two"))
            await until(lambda: len(world.journal("prompt")) == 2)
            assert [w.state for w in await pool.list() if w.pid == spare.pid] == ["leased"]
            first.cancel()
            second.cancel()

    run(main())


def test_a_spare_that_nobody_needs_goes_and_comes_back_with_the_next_task(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        async with world.faulty(spares=1) as pool:
            await pool.warmup("tester")
            spare = await parked(pool)
            await until_idle(pool)
            clock.skip(600)
            await until(lambda: not pool.stats().workers)
            await ticks(pool, 10)
            assert world.fakes() == []
            assert (await pool.invoke("tester", "again")).text == "echo: again"
            assert (await parked(pool)).pid != spare.pid

    run(main())


def test_a_spare_that_is_killed_is_not_missed_and_the_next_task_brings_another(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        async with world.faulty(spares=1) as pool:
            await pool.warmup("tester")
            spare = await parked(pool)
            assert spare.pid is not None
            os.kill(spare.pid, signal.SIGKILL)
            await until(lambda: pool.stats().retired.get("died"))
            await ticks(pool, 10)
            assert pool.stats().spawned == 2
            assert (await pool.invoke("tester", "again")).text == "echo: again"
            assert (await parked(pool)).pid != spare.pid

    run(main())


def test_spares_that_end_at_once_are_not_started_again_and_again(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        crash = {"at": "start", "do": "exit", "code": 7}
        async with world.faulty(crash, spares=1) as pool:
            with pytest.raises(SpawnError, match="exit code 7"):
                await pool.invoke("tester", "one")
            await until(lambda: not pool.stats().workers)
            before = len(world.journal("start"))
            await ticks(pool, 20)
            assert len(world.journal("start")) == before

    run(main())


def test_a_spare_makes_room_for_who_needs_its_place(world: PoolWorld, clock: Clock) -> None:
    world.agent("other", model="haiku")  # whose processes have other flags

    async def main() -> None:
        async with world.faulty(spares=1, max_workers=2) as pool:
            kept = await pool.warmup("tester")
            spare = await parked(pool)
            assert (await pool.invoke("other", "task")).pid not in (kept.pid, spare.pid)
            await until_idle(pool)
            assert kept.pid in [worker.pid for worker in await pool.list()]
            assert not psutil.pid_exists(spare.pid or 0)

    run(main())


def test_a_cli_that_takes_its_prompt_at_the_start_gets_no_spare_with_the_prompt_of_another(
    world: PoolWorld, clock: Clock
) -> None:
    world.agent("other", "You are the other one.")

    async def main() -> None:
        async with world.faulty(version="2.0.77", spares=1) as pool:
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
