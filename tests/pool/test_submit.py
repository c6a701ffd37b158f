"""Tasks that are submitted: their handles, their cancellation, and the pool's events."""

from __future__ import annotations

import asyncio

import pytest

from agent_pool import (
    AgentNotFound,
    AgentPool,
    ConfigError,
    ContextLost,
    Ended,
    Event,
    InternalError,
    PoolAPI,
    PoolClosed,
    Snapshot,
    Started,
    Submitted,
    TaskCancelled,
    TaskRequest,
    TurnEnded,
    WorkerReady,
    WorkerReset,
    WorkerRetired,
    WorkerStateChanged,
)
from support.model_scripts import HeldAnswers, echo_task
from support.pools import PoolProject, wait_until_idle
from support.waiting import run, wait_until


def test_a_submitted_task_runs_without_its_caller(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.on_fake_cli(echo_task) as (pool, _):
            handle = await pool.submit(TaskRequest("tester", "one"))
            assert handle.request == TaskRequest("tester", "one")
            result = await handle.result()
            assert (result.text, result.task_id) == ("echo: one", handle.id)
            assert await handle.result() == result
            assert handle.cancel() is False
            assert await pool.cancel(handle.id) is False

    run(main())


def test_a_caller_that_waits_for_a_handle_can_leave_the_task_running(
    pool_project: PoolProject,
) -> None:
    answers = HeldAnswers()

    async def main() -> None:
        async with pool_project.on_fake_cli(answers) as (pool, _):
            handle = await pool.submit(TaskRequest("tester", "one"))
            waiting = asyncio.create_task(handle.result())
            await wait_until(lambda: answers.began)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            answers.release()
            assert (await handle.result()).text == "echo: one"

    run(main())


def test_cancel_ends_a_running_task_and_its_worker_serves_on(pool_project: PoolProject) -> None:
    answers = HeldAnswers()

    async def main() -> None:
        async with pool_project.real(answers, max_size=1) as (pool, _):
            started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()

            def note(event: Event) -> None:
                if isinstance(event, Started) and not started.done():
                    started.set_result(event)

            pool.subscribe(note)
            invoked = asyncio.create_task(pool.invoke("tester", "one"))
            task_id = (await started).task_id
            await wait_until(lambda: answers.began)
            assert await pool.cancel(task_id) is True
            with pytest.raises(TaskCancelled, match="the task of agent 'tester' was cancelled"):
                await invoked
            assert await pool.cancel("task-unknown") is False
            answers.release()
            assert (await pool.invoke("tester", "two")).text == "echo: two"
            stats = await pool.stats()
            assert stats.total.failed == {"cancelled": 1}

    run(main())


def test_a_task_cancelled_at_once_still_publishes_its_end(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            seen: list[Event] = []
            pool.subscribe(seen.append)
            handle = await pool.submit(TaskRequest("tester", "one"))
            assert handle.cancel() is True
            with pytest.raises(TaskCancelled):
                await handle.result()
            kinds = [type(event) for event in seen]
            assert kinds == [Snapshot, Submitted, Ended]
            assert isinstance(seen[-1], Ended)
            assert seen[-1].failure == "cancelled"

    run(main())


def test_every_task_publishes_exactly_one_end(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.on_fake_cli(echo_task) as (pool, _):
            seen: list[Event] = []
            pool.subscribe(seen.append)
            await pool.invoke("tester", "one")
            with pytest.raises(AgentNotFound):
                await pool.invoke("nobody", "two")
            await pool.map([("tester", "three"), ("nobody", "four")])
            submitted = [event.task_id for event in seen if isinstance(event, Submitted)]
            ended = [event.task_id for event in seen if isinstance(event, Ended)]
            assert sorted(submitted) == sorted(ended)
            assert len(set(ended)) == len(ended) == 4

    run(main())


def test_a_subscriber_sees_the_whole_life_of_a_worker(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.real(echo_task) as (pool, _):
            seen: list[Event] = []
            pool.subscribe(seen.append)
            result = await pool.invoke("tester", "one")
            await wait_until_idle(pool)
            await pool.reset("tester")
            states = [event.state for event in seen if isinstance(event, WorkerStateChanged)]
            expected = ["starting", "idle", "leased", "resetting", "idle", "stopping", "gone"]
            assert states == expected
            (ready,) = [event for event in seen if isinstance(event, WorkerReady)]
            assert (ready.worker, ready.pid) == (result.worker, result.pid)
            assert ready.seconds is not None
            (turn,) = [event for event in seen if isinstance(event, TurnEnded)]
            assert (turn.usage, turn.cost_usd) == (result.usage, result.cost_usd)
            assert [type(event) for event in seen].count(WorkerReset) == 1
            (retired,) = [event for event in seen if isinstance(event, WorkerRetired)]
            assert (retired.reason, retired.agent) == ("asked", "tester")
            numbers = [event.number for event in seen[1:]]
            assert numbers == list(range(1, len(numbers) + 1))

    run(main())


def test_a_late_subscriber_starts_from_the_figures_so_far(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.on_fake_cli(echo_task) as (pool, _):
            await pool.invoke("tester", "one")
            await wait_until_idle(pool)
            seen: list[Event] = []
            unsubscribe = pool.subscribe(seen.append)
            (snapshot,) = seen
            assert isinstance(snapshot, Snapshot)
            assert snapshot.stats.total == (await pool.stats()).total
            unsubscribe()
            await pool.invoke("tester", "two")
            assert len(seen) == 1

    run(main())


def test_a_task_on_a_pool_that_is_not_open_is_refused(pool_project: PoolProject) -> None:
    async def main() -> None:
        pool: PoolAPI = pool_project.faulty()
        with pytest.raises(PoolClosed, match="the pool is not open"):
            await pool.submit(TaskRequest("tester", "one"))

    run(main())


def test_an_unexpected_exception_is_reported_as_a_bug(
    pool_project: PoolProject, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            seen: list[Event] = []
            pool.subscribe(seen.append)
            break_registry(pool)
            with pytest.raises(InternalError, match="ZeroDivisionError: planted") as caught:
                await pool.invoke("tester", "one")
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            (ended,) = [event for event in seen if isinstance(event, Ended)]
            assert ended.failure == "internal_error"
        caplog.clear()

    run(main())


def break_registry(pool: AgentPool) -> None:
    async def resolve(*_: object) -> object:
        raise ZeroDivisionError("planted")

    pool._registry.resolve = resolve  # type: ignore[method-assign, assignment]


def test_cancelling_a_task_from_its_own_end_has_no_effect(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            ends: list[Ended] = []
            cancelled: list[bool] = []

            def cancel_at_the_end(event: Event) -> None:
                if isinstance(event, Ended):
                    ends.append(event)
                    cancelled.append(handle.cancel())

            handle = await pool.submit(TaskRequest("tester", "one"), on_event=cancel_at_the_end)
            assert (await handle.result()).text == "echo: one"
            assert cancelled == [False]
            assert [end.failure for end in ends] == [""]
            assert (await pool.stats()).total.tasks == 1

    run(main())


def test_close_refuses_a_task_that_waits_for_the_cli_version(pool_project: PoolProject) -> None:
    async def main() -> None:
        seen: list[Event] = []
        pool = pool_project.faulty()
        async with pool:
            pool.subscribe(seen.append)
            handle = await pool.submit(TaskRequest("tester", "one"))
            await wait_until(lambda: pool._launches._queries)
        assert [event.failure for event in seen if isinstance(event, Ended)] == ["pool_closed"]
        with pytest.raises(PoolClosed):
            await handle.result()

    run(main())


def test_each_of_two_equal_subscriptions_ends_on_its_own(pool_project: PoolProject) -> None:
    async def main() -> None:
        seen: list[Event] = []
        async with pool_project.faulty() as pool:
            first, _second = pool.subscribe(seen.append), pool.subscribe(seen.append)
            first()
            first()
            await pool.invoke("tester", "one")
        assert sum(isinstance(event, Ended) for event in seen) == 1

    run(main())


def test_a_last_task_that_never_runs_still_ends_its_conversation(
    pool_project: PoolProject,
) -> None:
    schema = {"type": "object"}

    async def main() -> None:
        async with pool_project.faulty(max_size=1) as pool:
            await pool.invoke("tester", "one", conversation="c")
            [refused] = await pool.map(
                [
                    TaskRequest(
                        "tester", "two", conversation="c", ends_conversation=True, schema=schema
                    )
                ]
            )
            assert isinstance(refused, ConfigError)
            assert (await pool.invoke("tester", "free worker", timeout=30)).text

    run(main())


def test_a_skipped_last_task_still_ends_its_conversation(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=1) as pool:
            await pool.invoke("tester", "one", conversation="c")
            refused, skipped = await pool.map(
                [
                    TaskRequest("tester", "two", conversation="c", schema={"type": "object"}),
                    TaskRequest("tester", "three", conversation="c", ends_conversation=True),
                ]
            )
            assert isinstance(refused, ConfigError)
            assert isinstance(skipped, ContextLost)
            assert (await pool.invoke("tester", "free worker", timeout=30)).text

    run(main())
