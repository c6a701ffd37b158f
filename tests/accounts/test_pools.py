"""Accounts over many processes: recycled ones, one for each task, eight at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from accounts.ledger import Ledger, account_of, all_of, same, usage_of
from agent_pool import AgentStats, PoolStats, Usage
from agent_pool.loopback import Request
from agent_pool.pool.books import Books, Reuse
from isolation.lab import Lab
from pool_world import PoolWorld, until_idle
from support import run


@pytest.mark.parametrize(
    "settings", [{"reset": "clear", "max_tasks": 1, "max_tasks_jitter": 0}, {"reset": "respawn"}]
)
def test_an_agents_account_goes_on_when_its_processes_do_not(
    labs: Callable[..., Lab], settings: dict[str, Any]
) -> None:
    lab = labs(max_size=1, **settings)

    async def main() -> None:
        ledger = Ledger(lab)
        results = []
        for number in range(3):
            results.append((await lab.ask(lab.plan(f"answer {number}"))).result)
            assert results[-1].usage == usage_of(ledger.of(results[-1]))
            await lab.settled()
        assert len({result.pid for result in results}) == 3
        account = account_of(lab, "tester")
        assert account.usage == lab.pool.stats().total.usage == usage_of(ledger.since())
        assert same((account.usage, account.cost_usd), all_of(results))
        for worker in await lab.pool.list():
            own = [result for result in results if result.worker == worker.worker]
            assert same((worker.usage, worker.cost_usd), all_of(own))

    lab.run(main())


def test_eight_tasks_at_once_take_what_each_was_billed(labs: Callable[..., Lab]) -> None:
    lab = labs(reset="clear", max_size=8, max_workers=8)

    async def main() -> None:
        ledger, began, all_there = Ledger(lab), [], asyncio.Event()

        async def meet(request: Request) -> str:
            began.append(request)
            if len(began) == 8:
                all_there.set()
            await all_there.wait()
            return "word " * len(began)

        results = [
            said.result
            for said in await asyncio.gather(
                *(lab.ask(lab.plan(meet, "x" * 10 * n)) for n in range(8))
            )
        ]
        assert len({result.pid for result in results}) == 8
        for result in results:
            assert result.usage == usage_of(ledger.of(result)) != Usage()
        await lab.settled()
        workers = {worker.worker: worker.usage for worker in await lab.pool.list()}
        assert workers == {result.worker: result.usage for result in results}
        total = lab.pool.stats().total
        assert total.usage == usage_of(ledger.since())
        assert same((total.usage, total.cost_usd), all_of(results))

    lab.run(main())


# What using processes again saved


def test_only_what_was_measured_is_said_to_be_saved(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty(max_size=1) as pool:
            assert pool.stats().reuse == Reuse()
            await pool.warmup("tester")
            started = pool.stats().reuse
            assert (started.tasks, started.starts) == (0, 1)
            (worker,) = await pool.list()
            assert 0 < started.starting < worker.uptime
            for _ in range(3):
                await pool.invoke("tester", "task")
            for _ in range(2):
                await pool.invoke("tester", "task", conversation="talk")
            pool.end_conversation("tester", "talk")
            assert pool.stats().reuse == Reuse(4, 1, started.starting)
            await pool.reset("tester")
            await pool.invoke("tester", "task")
            await until_idle(pool)
            reuse = pool.stats().reuse
            assert (reuse.tasks, reuse.starts) == (4, 2)
            assert reuse.seconds_saved == pytest.approx(4 * reuse.starting / 2)

    run(main())


def test_a_process_for_each_task_saves_nothing(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty(reset="respawn", max_size=1) as pool:
            for _ in range(3):
                await pool.invoke("tester", "task")
            await until_idle(pool)
            assert pool.stats().reuse.tasks == 0
            assert pool.stats().reuse.seconds_saved == 0

    run(main())


def test_the_start_of_a_spare_is_not_measured(world: PoolWorld) -> None:
    async def main() -> None:
        world.agent("other", description="Tests.")
        async with world.faulty(spares=1, max_size=1) as pool:
            await pool.warmup("tester")
            async with asyncio.timeout(10):
                while not [w for w in await pool.list() if w.state == "idle" and not w.agent]:
                    pass
            adopted = {worker.pid for worker in await pool.list() if not worker.agent}
            assert (await pool.warmup("other")).pid in adopted
            reuse, spawned = pool.stats().reuse, pool.stats().spawned
            assert (reuse.starts, spawned > 1) == (1, True)

    run(main())


def test_without_a_measured_start_nothing_is_said_to_be_saved() -> None:
    reuse = Reuse(tasks=5)
    assert (reuse.mean_start, reuse.seconds_saved) == (None, None)
    assert reuse.as_json() == {
        "tasks_on_a_used_process": 5,
        "measured_starts": 0,
        "mean_seconds_from_spawn_to_ready": None,
        "seconds_of_starting_saved": None,
    }


def test_accounts_are_added_failure_by_failure() -> None:
    books = Books()
    for failure in ("", "cancelled", "cancelled"):
        books.task_ended("one", waited=1.0, running=2.0, reused=True, failure=failure)
    books.task_ended("two", waited=0.5, running=0.25, reused=False, failure="cancelled")
    one, two = books.agents()
    stats = PoolStats(0, 0, 0, {}, 0, 0, 0, {}, (one, two), books.reuse)
    assert stats.total == AgentStats("", 4, {"cancelled": 3}, 6.25, 3.5)
    assert stats.reuse == Reuse(tasks=3)
    assert one.failed == {"cancelled": 2}
