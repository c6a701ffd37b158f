"""Many callers and one pool, on the real CLI and on the fake one."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from agent_pool import AgentPool, PoolTimeout, Queued, TaskEvent, TaskResult, TooManyRequests
from support.model_scripts import HeldAnswers, echo_task
from support.pools import PoolProject, wait_until_idle
from support.process_checks import is_alive
from support.waiting import run, wait_until


def start(pool: AgentPool, *tasks: str, agent: str = "tester") -> list[asyncio.Task[TaskResult]]:
    """Start one caller for each task, in this order."""
    return [asyncio.create_task(pool.invoke(agent, task)) for task in tasks]


async def texts(callers: list[asyncio.Task[TaskResult]]) -> list[str]:
    """Return the answers of the callers, in their order."""
    return [result.text for result in await asyncio.gather(*callers)]


async def until_waiting(pool: AgentPool, agent: str, task: str) -> asyncio.Task[TaskResult]:
    """Start a caller, and wait until it is in the queue."""
    queued = asyncio.Event()

    def listen(event: TaskEvent) -> None:
        if isinstance(event, Queued):
            queued.set()

    caller = asyncio.create_task(pool.invoke(agent, task, on_event=listen))
    await asyncio.wait_for(queued.wait(), 10)
    return caller


def test_eight_tasks_at_once_each_get_their_own_answer(pool_project: PoolProject) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.real(script, max_size=4) as (pool, _):
            tasks = [f"task {number}" for number in range(8)]
            callers = start(pool, *tasks)
            await wait_until(lambda: len(script.began) == 4)
            for task in reversed(tasks):
                script.release(task)
            assert await texts(callers) == [f"echo: {task}" for task in tasks]
            assert script.most == 4
            assert sorted(script.began) == tasks

    run(main())


def test_an_agent_has_no_more_workers_than_max_size(pool_project: PoolProject) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.on_fake_cli(script, max_size=2) as (pool, _):
            callers = start(pool, "a", "b", "c")
            await wait_until(lambda: len(script.began) == 2)
            workers = await pool.workers()
            assert [worker.state for worker in workers] == ["leased", "leased"]
            script.release()
            assert await texts(callers) == ["echo: a", "echo: b", "echo: c"]
            assert script.most == 2
            assert {worker.pid for worker in await pool.workers()} == {w.pid for w in workers}

    run(main())


def test_all_agents_together_have_no_more_workers_than_max_workers(
    pool_project: PoolProject,
) -> None:
    pool_project.agent("other")

    async def main() -> None:
        async with pool_project.faulty(max_workers=2) as pool:
            calls = [(agent, str(number)) for number in range(8) for agent in ("tester", "other")]
            mapped = asyncio.create_task(pool.map(calls))
            most = 0
            while not mapped.done():
                most = max(most, len(await pool.workers()))
            results = [r.text for r in mapped.result() if isinstance(r, TaskResult)]
            assert results == [f"echo: {task}" for _, task in calls]
            assert most == 2

    run(main())


def test_an_idle_worker_makes_room_for_another_agent(pool_project: PoolProject) -> None:
    pool_project.agent("other", maxTurns="9")  # its processes have another option

    async def main() -> None:
        async with pool_project.faulty(max_workers=1) as pool:
            first = await pool.invoke("tester", "one")
            second = await pool.invoke("other", "two")
            assert (first.text, second.text) == ("echo: one", "echo: two")
            assert not is_alive(first.pid)
            assert [worker.pid for worker in await pool.workers()] == [second.pid]

    run(main())


def test_the_least_recently_used_agent_makes_room(pool_project: PoolProject) -> None:
    pool_project.agent("second")
    pool_project.agent("third")

    async def main() -> None:
        async with pool_project.faulty(max_workers=2) as pool:
            await pool.invoke("tester", "one")
            await wait_until_idle(pool)
            kept = await pool.invoke("second", "two")
            await wait_until_idle(pool)
            third = await pool.invoke("third", "three")
            await wait_until_idle(pool)
            assert {worker.pid for worker in await pool.workers()} == {kept.pid, third.pid}

    run(main())


def test_waiting_callers_are_served_in_order_of_arrival(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.on_fake_cli(echo_task, max_size=1) as (pool, api):
            tasks = [f"task {number}" for number in range(6)]
            assert await texts(start(pool, *tasks)) == [f"echo: {task}" for task in tasks]
            assert [request.last_user_text.strip() for request in api.requests] == tasks

    run(main())


def test_a_caller_that_leaves_the_queue_does_not_block_it(pool_project: PoolProject) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.on_fake_cli(script, max_size=1) as (pool, _):
            (first,) = start(pool, "first")
            await wait_until(lambda: script.began == ["first"])
            leaving = await until_waiting(pool, "tester", "leaving")
            last = await until_waiting(pool, "tester", "last")
            leaving.cancel()
            script.release()
            assert (await first).text == "echo: first"
            assert (await last).text == "echo: last"
            assert leaving.cancelled()
            assert script.began == ["first", "last"]

    run(main())


def test_waiting_callers_learn_their_place_in_the_queue(pool_project: PoolProject) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.on_fake_cli(script, max_size=1) as (pool, _):
            (running,) = start(pool, "running")
            await wait_until(lambda: script.began == ["running"])
            told: dict[str, list[int]] = {"a": [], "b": []}

            def listen(task: str, event: TaskEvent) -> None:
                if isinstance(event, Queued):
                    told[task].append(event.position)

            callers = [
                asyncio.create_task(pool.invoke("tester", task, on_event=partial(listen, task)))
                for task in told
            ]
            await wait_until(lambda: all(told.values()))
            script.release()
            await asyncio.gather(running, *callers)
            assert told["a"][0] == 1
            assert told["b"][0] == 2
            assert told["b"] == sorted(told["b"], reverse=True)

    run(main())


def test_callers_beyond_max_waiting_are_refused_at_once(pool_project: PoolProject) -> None:
    async def main() -> None:
        held = {"at": "prompt", "do": "hang", "match": "running"}
        async with pool_project.faulty(held, max_size=1, max_waiting=1) as pool:
            (running,) = start(pool, "running")
            await wait_until(lambda: pool_project.journal("prompt") == ["prompt running"])
            waiting = await until_waiting(pool, "tester", "waiting")
            with pytest.raises(TooManyRequests, match="max_waiting"):
                await pool.invoke("tester", "refused")
            running.cancel()
            assert (await waiting).text == "echo: waiting"
            assert pool_project.journal("prompt") == ["prompt running", "prompt waiting"]

    run(main())


def test_a_caller_waits_at_most_for_acquire_timeout(pool_project: PoolProject) -> None:
    async def main() -> None:
        held = {"at": "prompt", "do": "hang", "match": "running"}
        async with pool_project.faulty(held, max_size=1, acquire_timeout=2) as pool:
            (running,) = start(pool, "running")
            await wait_until(lambda: pool_project.journal("prompt") == ["prompt running"])
            with pytest.raises(
                PoolTimeout, match=r"within 2 s .* 1 of at most 1.*raise the limits"
            ):
                await pool.invoke("tester", "late")
            running.cancel()
            assert (await pool.invoke("tester", "next")).text == "echo: next"
            assert "prompt late" not in pool_project.journal("prompt")

    run(main())


def test_many_tasks_on_few_workers_get_their_own_answers(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=3) as pool:
            calls = [("tester", f"task {number}") for number in range(60)]
            results = await pool.map(calls)
            assert [r.text for r in results if isinstance(r, TaskResult)] == [
                f"echo: {task}" for _, task in calls
            ]
            assert len(await pool.workers()) <= 3

    run(main())


def test_parallel_callers_ask_the_binary_for_its_version_once(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            await pool.map([("tester", f"task {number}") for number in range(8)])
            assert len(pool_project.journal("version")) == 1

    run(main())
