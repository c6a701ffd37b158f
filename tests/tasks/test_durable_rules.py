"""Times, budgets, conversations, questions, subscriptions and the end of a durable pool."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent_pool import (
    BudgetReached,
    ConfigError,
    ContextLost,
    DeadlinePassed,
    Denied,
    Ended,
    Event,
    PermissionAnswered,
    PermissionAsked,
    PermissionRequest,
    PoolClosed,
    Queued,
    Snapshot,
    Spent,
    Started,
    Submitted,
    TaskEvent,
    TaskFailed,
    TaskInterrupted,
    TaskNotFound,
    TaskRequest,
    Text,
    Usage,
)
from agent_pool.api import OnEvent
from agent_pool.events import BaseTaskEvent
from agent_pool.models import TaskResult
from agent_pool.settings import Settings
from agent_pool.tasks.budgets import DayBudgets, day_of
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.durable_pools import OpenPool, TaskGate
from support.fake_pool import FakePool, make_result
from support.pools import PoolProject
from support.waiting import run, wait_until

# Times


def test_a_task_does_not_begin_before_its_time(durable: OpenPool) -> None:
    async def main() -> None:
        async with durable() as pool:
            when = time.time() + 0.3
            later = await pool.submit(TaskRequest("reviewer", "later", not_before=when))
            assert (await pool.task(later.id)).state == "queued"
            # It holds up no other task.
            assert (await pool.invoke("reviewer", "now")).text == "reviewer did now"
            assert (await pool.task(later.id)).state == "queued"
            await later.result()
            assert time.time() >= when

    run(main())


def test_a_task_that_has_not_begun_fails_at_its_deadline(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate, max_workers=1) as pool:
            running = await pool.submit(TaskRequest("reviewer", "running"))
            late = await pool.submit(TaskRequest("reviewer", "late", deadline=time.time() + 0.2))
            with pytest.raises(DeadlinePassed, match="its deadline came after"):
                await late.result()
            assert (await pool.task(late.id)).state == "failed"
            assert "late" not in gate.begun
            gate.open()
            await running.result()

    run(main())


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": 2**70},
        {"priority": True},
        {"deadline": float("nan")},
        {"not_before": "soon"},
        {"idempotency_key": ""},
        {"parent": "x" * 1000},
    ],
)
def test_a_wrong_field_of_the_store_is_named(durable: OpenPool, fields: dict[str, Any]) -> None:
    async def main() -> None:
        async with durable() as pool:
            with pytest.raises(ConfigError, match=next(iter(fields))):
                await pool.submit(TaskRequest("reviewer", "x", **fields))

    run(main())


# Budgets of the day


def test_a_task_fails_at_once_when_its_day_is_used_up(durable: OpenPool) -> None:
    async def main() -> None:
        async with durable(daily_tokens=10) as pool:
            result = await pool.invoke("reviewer", "first")
            assert result.usage == Usage(1, 2, 3, 4)
            await pool.invoke("reviewer", "second")
            with pytest.raises(BudgetReached, match=r"12 of 10 tokens today.*the day ends in"):
                await pool.invoke("reviewer", "third")
            [third, *_] = await pool.tasks()
            assert (third.state, third.attempts) == ("failed", 0)
        # The sum is kept with the tasks.
        async with durable(daily_tokens=10) as pool:
            with pytest.raises(BudgetReached):
                await pool.invoke("reviewer", "fourth")

    run(main())


def test_running_tasks_end_when_the_budget_of_the_day_is_reached(durable: OpenPool) -> None:
    spend = asyncio.Event()

    async def spending(agent: str, task: str, emit: OnEvent) -> TaskResult:
        emit(Started("worker-1", 1, 0.0))
        emit(Text("words so far"))
        await spend.wait()
        emit(Spent(Usage(), 0.6))
        await asyncio.Event().wait()
        raise AssertionError("it is cancelled")

    async def main() -> None:
        async with durable(spending, daily_budget_usd=1.0) as pool:
            handles = [await pool.submit(TaskRequest("reviewer", str(n))) for n in range(2)]
            spend.set()
            for handle in handles:
                with pytest.raises(BudgetReached, match=r"\$1\.2000 of \$1\.00"):
                    await handle.result()

    run(main())


def test_a_task_gets_what_is_left_of_the_day_as_its_budget(tmp_path: Path) -> None:
    async def main() -> None:
        fake = FakePool()
        wanted = Settings(project_dir=tmp_path, daily_tokens=100, project_daily_budget_usd=5)
        async with DurablePool(fake, Store(tmp_path / "tasks.db"), wanted) as pool:
            await pool.invoke("reviewer", "first")
            handle = await pool.submit(TaskRequest("reviewer", "second", max_budget_usd=0.5))
            await handle.result()
        assert (fake.requests[0].max_tokens, fake.requests[0].max_budget_usd) == (100, 5)
        assert (fake.requests[1].max_tokens, fake.requests[1].max_budget_usd) == (94, 0.5)

    run(main())


def test_a_day_begins_with_nothing_used() -> None:
    budgets = DayBudgets(Settings(daily_budget_usd=1))
    before, after = datetime(2026, 1, 1, 23, 59, 30), datetime(2026, 1, 2, 0, 0, 1)
    budgets.add(day_of(before), "/a", 5, 1.5)
    assert "$1.5000 of $1.00" in budgets.problem(before, "/b")
    assert "ends in 30.0 s" in budgets.problem(before, "/b")
    assert budgets.problem(after, "/b") == ""


def test_the_budget_of_a_project_does_not_bind_others() -> None:
    budgets = DayBudgets(Settings(project_daily_tokens=10))
    now = datetime(2026, 1, 1, 12)
    budgets.add(day_of(now), "/a", 10, 0.0)
    assert "the project /a" in budgets.problem(now, "/a")
    assert budgets.problem(now, "/b") == ""


def test_dollars_do_not_count_with_a_subscription() -> None:
    now = datetime(2026, 1, 1, 12)
    for with_subscription in (False, True):
        wanted = Settings(daily_budget_usd=1, budget_with_subscription=with_subscription)
        budgets = DayBudgets(wanted)
        budgets.has_subscription = True
        budgets.add(day_of(now), "/a", 0, 2.0)
        assert bool(budgets.problem(now, "/a")) is with_subscription


def test_open_tasks_are_never_removed_from_the_history(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate, max_workers=1, history_size=1) as pool:
            running = await pool.submit(TaskRequest("reviewer", "running"))
            queued = await pool.submit(TaskRequest("reviewer", "queued"))
            ended = await pool.submit(TaskRequest("reviewer", "ended"))
            await pool.cancel(ended.id)
            await pool._store.flush()
            await pool._prune()
            assert [one.id for one in await pool.tasks()] == [queued.id, running.id]
            with pytest.raises(TaskNotFound, match="history_size"):
                await pool.task(ended.id)
            gate.open()
            await queued.result()

    run(main())


def test_a_stored_task_runs_in_its_project_after_a_move(tmp_path: Path) -> None:
    async def main() -> None:
        here, there = tmp_path / "here", tmp_path / "there"
        first = DurablePool(FakePool(), Store(tmp_path / "tasks.db"), Settings(project_dir=here))
        async with first:
            await first.drain()
            await first.submit(TaskRequest("reviewer", "look"))
        fake = FakePool()
        moved = DurablePool(fake, Store(tmp_path / "tasks.db"), Settings(project_dir=there))
        async with moved:
            await (await moved.attach((await moved.tasks())[0].id)).result()
        assert [one.project for one in fake.requests] == [str(here)]

    run(main())


# Conversations and batches


def test_tasks_of_a_conversation_run_in_their_order(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate) as pool:
            handles = [
                await pool.submit(TaskRequest("reviewer", name, conversation="c", priority=rank))
                for rank, name in enumerate(["first", "second", "third"])
            ]
            for name, handle in zip(["first", "second", "third"], handles, strict=True):
                await wait_until(partial(gate.has_begun, name))
                assert gate.begun[-1] == name
                gate.open(name)
                await handle.result()

    run(main())


def test_a_batch_skips_the_rest_of_a_failed_conversation(durable: OpenPool) -> None:
    async def failing(agent: str, task: str, emit: OnEvent) -> TaskResult:
        if task == "bad":
            raise TaskFailed("it failed")
        return make_result(task)

    async def main() -> None:
        ended: list[int] = []
        requests = [
            TaskRequest("reviewer", "bad", conversation="c"),
            TaskRequest("reviewer", "next", conversation="c"),
            TaskRequest("reviewer", "alone"),
        ]
        async with durable(failing) as pool:
            first, second, third = await pool.map(
                requests, on_end=lambda index, outcome: ended.append(index)
            )
        assert isinstance(first, TaskFailed)
        assert isinstance(second, ContextLost)
        assert isinstance(third, TaskResult)
        assert sorted(ended) == [0, 1, 2]

    run(main())


def test_a_stream_ends_with_the_result(durable: OpenPool) -> None:
    async def main() -> None:
        async with durable() as pool:
            events = [event async for event in pool.stream("reviewer", "look")]
            assert isinstance(events[0], Submitted)
            assert isinstance(events[-1], Ended)
            assert events[-1].result is not None
            stream = pool.stream("reviewer", "left")
            await anext(stream)
            await stream.aclose()
            assert (await pool.tasks())[0].has_ended

    run(main())


# Questions


class AskingPool(FakePool):
    """Asks for permission to use a tool in each task."""

    asks = ("Bash",)


def test_a_question_waits_for_anybody_who_answers(tmp_path: Path) -> None:
    async def main() -> None:
        wanted = Settings(project_dir=tmp_path)
        async with DurablePool(AskingPool(), Store(tmp_path / "tasks.db"), wanted) as pool:
            events: list[TaskEvent] = []
            handle = await pool.submit(
                TaskRequest("reviewer", "ask", asks=True), on_event=events.append
            )
            await wait_until(lambda: any(isinstance(one, PermissionAsked) for one in events))
            record = await pool.task(handle.id)
            assert record.state == "input_required"
            [question] = record.questions
            assert question.request == PermissionRequest("reviewer", "Bash", {"for": "ask"})
            assert not await pool.answer(handle.id, "another", True)
            assert await pool.answer(handle.id, question.key, True)
            assert not await pool.answer(handle.id, question.key, False)
            assert "permitted ['Bash']" in (await handle.result()).text
            answered = [one for one in events if isinstance(one, PermissionAnswered)]
            assert [(one.key, one.allowed) for one in answered] == [(question.key, True)]
            assert not await pool.answer(handle.id, question.key, True)

    run(main())


def test_the_first_answer_to_a_question_decides(tmp_path: Path) -> None:
    async def main() -> None:
        wanted = Settings(project_dir=tmp_path)
        asked: list[PermissionRequest] = []

        async def never(request: PermissionRequest) -> bool:
            asked.append(request)
            await asyncio.Event().wait()
            return True

        async def at_once(request: PermissionRequest) -> bool:
            return True

        async with DurablePool(AskingPool(), Store(tmp_path / "tasks.db"), wanted) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "ask"), on_permission=never)
            await wait_until(lambda: asked)
            [question] = (await pool.task(handle.id)).questions
            assert await pool.answer(handle.id, question.key, Denied("not today"))
            assert "permitted []" in (await handle.result()).text
            result = await pool.invoke("reviewer", "ask", on_permission=at_once)
            assert "permitted ['Bash']" in result.text
            assert "permitted []" in (await pool.invoke("reviewer", "ask")).text

    run(main())


# Subscriptions


def test_a_subscriber_gets_each_event_of_a_task_once(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        events: list[Event] = []
        async with durable(gate, max_workers=1) as pool:
            unsubscribe = pool.subscribe(events.append)
            running = await pool.submit(TaskRequest("reviewer", "running"))
            queued = await pool.submit(TaskRequest("reviewer", "queued"))
            await pool.cancel(queued.id)
            gate.open()
            await running.result()
            unsubscribe()
            await pool.invoke("reviewer", "later")
        assert isinstance(events[0], Snapshot)
        found: dict[str, list[type]] = {}
        for event in events[1:]:
            assert isinstance(event, BaseTaskEvent)
            found.setdefault(event.task_id, []).append(type(event))
        assert found == {
            running.id: [Submitted, Started, Text, Spent, Ended],
            queued.id: [Submitted, Queued, Ended],
        }
        numbers = [event.number for event in events[1:]]
        assert numbers == list(range(1, len(numbers) + 1))

    run(main())


def test_a_slow_reader_gets_every_event_from_the_store(durable: OpenPool) -> None:
    is_followed = asyncio.Event()

    async def talk(agent: str, task: str, emit: OnEvent) -> TaskResult:
        emit(Text("0"))
        await is_followed.wait()
        for number in range(1, 3000):  # more at once than are kept for a reader
            emit(Text(str(number)))
        return make_result("done")

    async def main() -> None:
        async with durable(talk) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "talk"))
            texts: list[str] = []
            async for event in pool.task_events(handle.id):
                if isinstance(event, Text):
                    texts.append(event.text)
                    is_followed.set()
            assert texts == [str(number) for number in range(3000)]

    run(main())


# The end


def test_a_closed_pool_leaves_queued_tasks_in_the_store(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate, max_workers=1) as pool:
            running = await pool.submit(TaskRequest("reviewer", "running"))
            queued = await pool.submit(TaskRequest("reviewer", "queued"))
            waiting = asyncio.create_task(queued.result())
            await wait_until(lambda: gate.begun)
            gate.open("running")
            pool._engine.refuse_more()
            with pytest.raises(PoolClosed, match="is stored"):
                await waiting
            await running.result()
        async with durable() as pool:
            assert (await (await pool.attach(queued.id)).result()).text == "reviewer did queued"

    run(main())


def test_a_draining_pool_starts_nothing_and_keeps_new_tasks(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate, max_workers=1) as pool:
            await pool.submit(TaskRequest("reviewer", "running"))
            await wait_until(lambda: gate.begun)
            draining = asyncio.create_task(pool.drain())
            await asyncio.sleep(0)
            kept = await pool.submit(TaskRequest("reviewer", "kept"))
            gate.open()
            await draining
            assert (await pool.task(kept.id)).state == "queued"
        assert gate.begun == ["running"]
        async with durable() as pool:
            await (await pool.attach(kept.id)).result()

    run(main())


def test_a_drain_in_the_moment_of_a_free_place_starts_nothing(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        draining: list[asyncio.Task[None]] = []

        def drain_at_the_end(event: TaskEvent) -> None:
            # Before the pool takes the next task, and with its first step before that task's.
            if isinstance(event, Ended):
                draining.append(asyncio.create_task(pool.drain()))

        async with durable(gate, max_workers=1) as pool:
            first = TaskRequest("reviewer", "running")
            running = await pool.submit(first, on_event=drain_at_the_end)
            kept = await pool.submit(TaskRequest("reviewer", "kept"))
            gate.open()
            await running.result()
            await draining[0]
            for _ in range(20):
                await asyncio.sleep(0)
            assert (await pool.task(kept.id)).state == "queued"
        assert gate.begun == ["running"]

    run(main())


def test_a_task_that_runs_when_the_pool_closes_is_interrupted(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    async def main() -> None:
        inner = pool_project.faulty({"at": "prompt", "do": "hang"}, close_timeout=0.2)
        path = tmp_path / "tasks.db"
        async with DurablePool(inner, Store(path), inner.settings) as pool:
            events: list[TaskEvent] = []
            handle = await pool.submit(TaskRequest("tester", "hang"), on_event=events.append)
            await wait_until(lambda: any(isinstance(one, Started) for one in events))
        with pytest.raises(TaskInterrupted):
            await handle.result()
        assert isinstance(events[-1], Ended)
        store = Store(path)
        await store.open()
        record = await store.load(handle.id)
        await store.close()
        assert record is not None
        assert record.state == "interrupted"

    run(main())


def test_a_real_pool_runs_durable_tasks_and_names_their_worker(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    async def main() -> None:
        inner = pool_project.faulty()
        async with DurablePool(inner, Store(tmp_path / "tasks.db"), inner.settings) as pool:
            events: list[Event] = []
            pool.subscribe(events.append)
            result = await pool.invoke("tester", "quince")
            [record] = await pool.tasks()
            assert result.text == "echo: quince"
            assert (record.worker, record.pid) == (result.worker, result.pid)
            assert record.project == str(inner.settings.project_dir)
            of_task = [one for one in events if isinstance(one, BaseTaskEvent)]
            assert {one.task_id for one in of_task} == {record.id}
            assert sum(isinstance(one, Ended) for one in of_task) == 1
            assert await pool.warmup("tester")

    run(main())
