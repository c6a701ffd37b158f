"""What the API refuses costs the one who is refused, and burns nobody else's tries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent_pool import AgentPool, PoolTimeout, Queued, Retry, TaskEvent, TaskFailed, TaskTimeout
from agent_pool.loopback import Failure, LoopbackAPI, Request
from pool_world import PoolWorld, say_task, until, until_idle
from reliability.conftest import Clock
from reliability.seen import told
from support import run


class Refusing:
    """A script that refuses the first tries of the task `refused`."""

    def __init__(self, failure: Failure, times: int) -> None:
        self.failure = failure
        self.times = times

    def __call__(self, request: Request) -> Any:
        if "refused" in request.last_user_text and self.times > 0:
            self.times -= 1
            return self.failure
        return say_task(request)


@pytest.mark.parametrize(
    ("failure", "note"),
    [
        (Failure(429, retry_after=1, delay=0.4), "the API answers 429 (rate_limit); try 2 in 1 s"),
        (Failure(529, delay=0.4), "the API answers 529 (overloaded); try 2 in 1 s"),
    ],
    ids=["rate-limit", "overload"],
)
def test_while_the_api_refuses_work_nothing_new_is_begun_and_everybody_is_told(
    world: PoolWorld, clock: Clock, failure: Failure, note: str
) -> None:
    async def main() -> None:
        async with world.real(Refusing(failure, times=2), max_size=3) as (pool, api):
            await pool.warmup("tester")
            retried = asyncio.Event()

            def listen(event: TaskEvent) -> None:
                if isinstance(event, Retry):
                    retried.set()

            refused = asyncio.create_task(pool.invoke("tester", "refused", on_event=listen))
            await asyncio.wait_for(retried.wait(), 15)
            assert [worker.note for worker in await pool.list()] == [note]
            assert pool.stats().paused > 0
            others = [asyncio.create_task(told(pool, task)) for task in ("one", "two")]
            answers = [await other for other in others]
            assert (await refused).text == "echo: refused"
            assert [result.text for result, _ in answers] == ["echo: one", "echo: two"]
            tried = [request.last_user_text.strip() for request in api.requests]
            assert tried[:3] == ["refused"] * 3  # and only then the others
            assert sorted(tried[3:]) == ["one", "two"]
            for _, events in answers:
                queued = [event for event in events if isinstance(event, Queued)]
                assert queued[0].paused > 0
            await until_idle(pool)
            assert {worker.note for worker in await pool.list()} == {""}

    run(main())


def test_a_task_that_is_refused_again_and_again_leaves_no_note_behind(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        refusing = Refusing(Failure(429, retry_after=60), times=100)
        async with world.real(refusing, max_size=1) as (pool, api):
            warmed = await pool.warmup("tester")
            with pytest.raises(TaskTimeout):
                await pool.invoke("tester", "refused", timeout=3)
            await until_idle(pool)
            (worker,) = await pool.list()
            assert (worker.pid, worker.note) == (warmed.pid, "")
            assert len(api.requests) == 1

    run(main())


def test_who_waits_for_the_api_in_vain_is_told_that_it_is_the_api(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        refusing = Refusing(Failure(429, retry_after=60), times=100)
        async with world.real(refusing, acquire_timeout=3) as (pool, _):
            refused = asyncio.create_task(pool.invoke("tester", "refused"))
            await until(lambda: pool.stats().paused)
            with pytest.raises(PoolTimeout, match=r"the API refuses work .* for another \d+ s"):
                await pool.invoke("tester", "next")
            refused.cancel()
            clock.skip(100)
            assert (await pool.invoke("tester", "next")).text == "echo: next"

    run(main())


def test_a_sign_in_that_the_api_refuses_fails_at_the_second_try_and_says_what_to_do(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        async with world.real(Refusing(Failure(401), times=100), max_size=1) as (pool, api):
            with pytest.raises(TaskFailed, match=r"with 401 .* sign in again with `claude`, or"):
                await pool.invoke("tester", "refused")
            assert len(api.requests) <= 2
            assert pool.stats().paused == 0
            assert (await pool.invoke("tester", "next")).text == "echo: next"

    run(main())


def test_a_permission_that_the_api_refuses_is_an_error_at_the_first_try(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        async with world.real(Refusing(Failure(403), times=100), max_size=1) as (pool, api):
            result = await pool.invoke("tester", "refused")
            assert result.is_error
            assert "403" in result.text
            assert len(api.requests) == 1

    run(main())


def test_a_cli_that_is_not_signed_in_says_so_without_asking_the_api(
    world: PoolWorld, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        without = {"env_block": ("ANTHROPIC_API_KEY",), "max_size": 1}
        async with world.real(say_task, **without) as (pool, api):
            result = await pool.invoke("tester", "task")
            assert result.is_error
            assert "Not logged in" in result.text
            with pytest.raises(TaskFailed, match="Not logged in"):
                result.raise_for_error()
            assert api.requests == []

    run(main())


@pytest.mark.parametrize(
    ("url", "note"),
    [("http://127.0.0.1:9", "the API cannot be reached"), (None, "the API answers 500")],
    ids=["unreachable", "broken"],
)
def test_an_api_that_fails_is_named_in_the_list_and_when_the_time_is_up(
    world: PoolWorld, clock: Clock, url: str | None, note: str
) -> None:
    async def main(pool: AgentPool) -> None:
        async with pool:
            running = asyncio.create_task(pool.invoke("tester", "refused", timeout=3))
            notes = {""}
            while not running.done():
                notes |= {worker.note for worker in await pool.list()}
            assert any(said.startswith(note) for said in notes)
            with pytest.raises(TaskTimeout, match=rf"stopped after 3 s .*; {note} .* try \d"):
                await running
            assert pool.stats().paused == 0

    with LoopbackAPI(Refusing(Failure(500), times=100)).in_thread() as api:
        run(main(world.pool(url or api.url)))
