"""Requests that the API refuses fail or delay their own task, and use no tries of other tasks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent_pool import AgentPool, PoolTimeout, Queued, Retry, SignInRefused, TaskEvent, TaskTimeout
from agent_pool.loopback import ErrorResponse, LoopbackAPI, ModelRequest
from support.model_scripts import echo_task
from support.pool_observers import AdjustableClock, invoke_with_events
from support.pools import PoolProject, wait_for_stats, wait_until_idle
from support.variants import later
from support.waiting import run

SIGN_IN = "Claude Code is not signed in, or the API refused its sign-in"
"""The message for every form of it."""


class Refusing:
    """A script that refuses the first tries of the task `refused`.

    Attributes:
        failure: the refusal.
        times: the refusals that are still to come.
    """

    def __init__(self, failure: ErrorResponse, times: int) -> None:
        self.failure = failure
        self.times = times

    def __call__(self, request: ModelRequest) -> Any:
        if "refused" in request.last_user_text and self.times > 0:
            self.times -= 1
            return self.failure
        return echo_task(request)


@pytest.mark.parametrize(
    ("failure", "note"),
    [
        pytest.param(
            ErrorResponse(429, retry_after=1, delay=0.4),
            "the API answers 429 (rate_limit); try 2 in 1 s",
            id="rate-limit",
        ),
        later(
            ErrorResponse(529, delay=0.4),
            "the API answers 529 (overloaded); try 2 in 1 s",
            name="overload",
        ),
    ],
)
def test_no_task_begins_while_the_api_refuses_work(
    pool_project: PoolProject, clock: AdjustableClock, failure: ErrorResponse, note: str
) -> None:
    async def main() -> None:
        async with pool_project.real(Refusing(failure, times=2), max_size=3) as (pool, api):
            await pool.warmup("tester")
            retried = asyncio.Event()

            def listen(event: TaskEvent) -> None:
                if isinstance(event, Retry):
                    retried.set()

            refused = asyncio.create_task(pool.invoke("tester", "refused", on_event=listen))
            await asyncio.wait_for(retried.wait(), 15)
            assert [worker.note for worker in await pool.workers()] == [note]
            assert (await pool.stats()).paused > 0
            others = [
                asyncio.create_task(invoke_with_events(pool, task)) for task in ("one", "two")
            ]
            answers = [await other for other in others]
            assert (await refused).text == "echo: refused"
            assert [result.text for result, _ in answers] == ["echo: one", "echo: two"]
            tried = [request.last_user_text.strip() for request in api.requests]
            assert tried[:3] == ["refused"] * 3  # and only then the others
            assert sorted(tried[3:]) == ["one", "two"]
            for _, events in answers:
                queued = [event for event in events if isinstance(event, Queued)]
                assert queued[0].paused > 0
            await wait_until_idle(pool)
            assert {worker.note for worker in await pool.workers()} == {""}

    run(main())


def test_a_task_that_is_always_refused_leaves_no_note(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        refusing = Refusing(ErrorResponse(429, retry_after=60), times=100)
        async with pool_project.real(refusing, max_size=1) as (pool, api):
            warmed = await pool.warmup("tester")
            with pytest.raises(TaskTimeout):
                await pool.invoke("tester", "refused", timeout=3)
            await wait_until_idle(pool)
            (worker,) = await pool.workers()
            assert (worker.pid, worker.note) == (warmed.pid, "")
            assert len(api.requests) == 1

    run(main())


def test_a_timeout_during_an_api_pause_names_the_api(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        refusing = Refusing(ErrorResponse(429, retry_after=60), times=100)
        async with pool_project.real(refusing, acquire_timeout=3) as (pool, _):
            refused = asyncio.create_task(pool.invoke("tester", "refused"))
            await wait_for_stats(pool, lambda stats: stats.paused)
            said = r"the API refuses work, so the pool sends it none for another \d+ s"
            with pytest.raises(PoolTimeout, match=said):
                await pool.invoke("tester", "next")
            refused.cancel()
            clock.skip(100)
            assert (await pool.invoke("tester", "next")).text == "echo: next"

    run(main())


def test_a_refused_sign_in_fails_within_two_tries_with_advice(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        async with pool_project.real(Refusing(ErrorResponse(401), times=100), max_size=1) as (
            pool,
            api,
        ):
            with pytest.raises(SignInRefused, match=SIGN_IN) as refused:
                await pool.invoke("tester", "refused")
            assert "401" in refused.value.message
            assert SignInRefused.advice in refused.value.message
            assert len(api.requests) <= 2
            assert (await pool.stats()).paused == 0
            assert (await pool.invoke("tester", "next")).text == "echo: next"

    run(main())


def test_a_refused_permission_is_an_error_at_the_first_try(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        async with pool_project.real(Refusing(ErrorResponse(403), times=100), max_size=1) as (
            pool,
            api,
        ):
            result = await pool.invoke("tester", "refused")
            assert (result.code, result.retryable) == ("sign_in", False)
            assert SIGN_IN in result.text
            assert "403" in result.text
            assert len(api.requests) == 1

    run(main())


def test_a_signed_out_cli_fails_without_asking_the_api(
    pool_project: PoolProject, clock: AdjustableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        without = {"env_block": ("ANTHROPIC_API_KEY",), "max_size": 1}
        async with pool_project.real(echo_task, **without) as (pool, api):
            result = await pool.invoke("tester", "task")
            assert (result.code, result.advice) == ("sign_in", SignInRefused.advice)
            assert SIGN_IN in result.text
            with pytest.raises(SignInRefused, match="Not logged in"):
                result.raise_for_error()
            assert api.requests == []

    run(main())


@pytest.mark.parametrize(
    ("url", "note"),
    [
        pytest.param("http://127.0.0.1:9", "the API cannot be reached", id="unreachable"),
        later(None, "the API answers 500", name="broken"),
    ],
)
def test_a_failing_api_is_named_in_list_and_timeout_error(
    pool_project: PoolProject, clock: AdjustableClock, url: str | None, note: str
) -> None:
    async def main(pool: AgentPool) -> None:
        async with pool:
            running = asyncio.create_task(pool.invoke("tester", "refused", timeout=3))
            notes = {""}
            while not running.done():
                notes |= {worker.note for worker in await pool.workers()}
            assert any(said.startswith(note) for said in notes)
            with pytest.raises(TaskTimeout, match=rf"stopped after 3 s .*; {note} .* try \d"):
                await running
            assert (await pool.stats()).paused == 0

    with LoopbackAPI(Refusing(ErrorResponse(500), times=100)).in_thread() as api:
        run(main(pool_project.pool(url or api.url)))
