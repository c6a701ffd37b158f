"""Tasks of a durable pool: accepted, run, found again, cancelled, tried again."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent_pool import (
    ConfigError,
    Ended,
    Spent,
    Started,
    Submitted,
    TaskCancelled,
    TaskEvent,
    TaskFilter,
    TaskInterrupted,
    TaskNotEnded,
    TaskNotFound,
    TaskRequest,
    Text,
    TooManyRequests,
    Usage,
)
from support.durable_pools import OpenPool, TaskGate, crash
from support.waiting import run, wait_until


def test_an_accepted_task_is_found_with_its_answer(durable: OpenPool) -> None:
    async def main() -> None:
        async with durable() as pool:
            handle = await pool.submit(TaskRequest("reviewer", "look"))
            result = await handle.result()
            record = await pool.task(handle.id)
        assert result.text == "reviewer did look"
        assert (record.state, record.attempts) == ("succeeded", 1)
        assert record.result is not None
        assert record.result.text == result.text
        async with durable() as pool:
            again = await pool.task(handle.id)
            assert (again.state, again.result) == ("succeeded", result)
            assert await (await pool.attach(handle.id)).result() == result

    run(main())


def test_a_task_that_ran_at_the_end_is_interrupted(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        pool = durable(gate)
        await pool.open()
        handle = await pool.submit(TaskRequest("reviewer", "long"))
        await wait_until(lambda: gate.begun)
        await crash(pool)
        async with durable() as pool:
            record = await pool.task(handle.id)
            assert record.state == "interrupted"
            with pytest.raises(TaskInterrupted, match="agent-pool retry"):
                await (await pool.attach(handle.id)).result()
            again = await pool.retry(handle.id)
            assert (await again.result()).text == "reviewer did long"
            record = await pool.task(handle.id)
            assert (record.state, record.attempts) == ("succeeded", 2)

    run(main())


def test_a_task_that_can_run_again_is_queued_again(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        pool = durable(gate)
        await pool.open()
        handle = await pool.submit(TaskRequest("reviewer", "long", idempotent=True))
        await wait_until(lambda: gate.begun)
        await crash(pool)
        async with durable() as pool:
            result = await (await pool.attach(handle.id)).result()
            record = await pool.task(handle.id)
        assert result.text == "reviewer did long"
        assert (record.state, record.attempts) == ("succeeded", 2)

    run(main())


def test_queued_tasks_begin_when_the_store_is_opened_again(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        pool = durable(gate, max_workers=1)
        await pool.open()
        first = await pool.submit(TaskRequest("reviewer", "first"))
        second = await pool.submit(TaskRequest("reviewer", "second"))
        assert (await pool.task(second.id)).state == "queued"
        await crash(pool)
        async with durable() as pool:
            assert (await (await pool.attach(second.id)).result()).text == "reviewer did second"
            assert (await pool.task(first.id)).state == "interrupted"

    run(main())


def test_the_highest_priority_begins_first(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate, max_workers=1) as pool:
            tasks = {"running": 0, "low": -1, "normal": 0, "high": 5}
            handles = [
                await pool.submit(TaskRequest("reviewer", name, priority=priority))
                for name, priority in tasks.items()
            ]
            gate.open()
            for handle in handles:
                await handle.result()
        assert gate.begun == ["running", "high", "normal", "low"]

    run(main())


def test_a_second_request_with_the_same_key_is_one_task(durable: OpenPool) -> None:
    async def main() -> None:
        request = TaskRequest("reviewer", "once", idempotency_key="k")
        async with durable() as pool:
            first, second = await asyncio.gather(pool.submit(request), pool.submit(request))
            assert first.id == second.id
            await first.result()
            third = await pool.submit(request)
            assert third.id == first.id
            assert (await third.result()).text == "reviewer did once"
            with pytest.raises(ConfigError, match="belongs to another task"):
                await pool.submit(TaskRequest("reviewer", "other", idempotency_key="k"))
            assert len(await pool.tasks()) == 1

    run(main())


def test_too_many_waiting_tasks_are_refused_with_numbers(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate, max_workers=1, max_queued=2) as pool:
            for number in range(3):
                await pool.submit(TaskRequest("reviewer", f"task {number}"))
            with pytest.raises(TooManyRequests, match="2 tasks wait already"):
                await pool.submit(TaskRequest("reviewer", "one more"))
            gate.open()

    run(main())


def test_cancelling_a_parent_cancels_its_open_children(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate, max_workers=2) as pool:
            parent = await pool.submit(TaskRequest("reviewer", "parent"))
            child = await pool.submit(TaskRequest("reviewer", "child", parent=parent.id))
            grandchild = await pool.submit(TaskRequest("reviewer", "grandchild", parent=child.id))
            other = await pool.submit(TaskRequest("reviewer", "other"))
            assert await pool.cancel(parent.id)
            for handle in (parent, child, grandchild):
                with pytest.raises(TaskCancelled):
                    await handle.result()
                assert (await pool.task(handle.id)).state == "cancelled"
            assert not await pool.cancel(parent.id)
            with pytest.raises(TaskCancelled, match="its parent"):
                await pool.submit(TaskRequest("reviewer", "late", parent=parent.id))
            gate.open()
            await other.result()

    run(main())


def test_a_cancelled_caller_of_invoke_cancels_its_task(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate) as pool:
            call = asyncio.create_task(pool.invoke("reviewer", "long"))
            await wait_until(lambda: gate.begun)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            [record] = await pool.tasks()
            assert record.state == "cancelled"

    run(main())


def test_a_cancelled_wait_for_a_result_leaves_the_task_running(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "long"))
            waiting = asyncio.create_task(handle.result())
            await wait_until(lambda: gate.begun)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert (await pool.task(handle.id)).state == "running"
            gate.open()
            assert (await handle.result()).text == "long done"

    run(main())


def test_the_record_of_a_running_task_shows_its_step_and_tokens(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "long"))
            await wait_until(lambda: gate.begun)
            record = await pool.task(handle.id)
            assert (record.state, record.line) == ("running", "working on long")
            assert (record.worker, record.pid) == ("worker-1", 4711)
            assert (record.usage, record.cost_usd) == (Usage(10, 5, 0, 0), 0.01)
            gate.open()
            await handle.result()
            record = await pool.task(handle.id)
            assert (record.usage, record.cost_usd) == (Usage(20, 10, 0, 0), 0.02)

    run(main())


def test_events_are_read_from_the_store_and_then_live(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        seen: list[TaskEvent] = []
        async with durable(gate) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "long"))
            await wait_until(lambda: gate.begun)

            async def read() -> None:
                seen.extend([event async for event in pool.task_events(handle.id)])

            reader = asyncio.create_task(read())
            gate.open()
            await reader
            late = [event async for event in pool.task_events(handle.id, after=2)]
        kinds = [type(event) for event in seen]
        assert kinds == [Submitted, Started, Text, Spent, Ended]
        assert [event.number for event in seen] == [1, 2, 3, 4, 5]
        assert late == seen[2:]
        assert {event.task_id for event in seen} == {handle.id}

    run(main())


def test_secrets_of_a_request_are_removed_at_its_end(durable: OpenPool, tmp_path: Path) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate, max_workers=1) as pool:
            await pool.submit(TaskRequest("reviewer", "first"))
            handle = await pool.submit(TaskRequest("reviewer", "x", env={"TOKEN": "s3cret-word"}))
            record = await pool.task(handle.id)
            assert record.request.env == {"TOKEN": "…"}
            gate.open()
            await handle.result()
            assert "s3cret-word" not in str([one.as_json() for one in await pool.tasks()])

    run(main())
    for path in tmp_path.glob("tasks.db*"):
        assert b"s3cret-word" not in path.read_bytes()


def test_ended_secrets_leave_the_log_of_an_idle_pool(durable: OpenPool, tmp_path: Path) -> None:
    def has_secret() -> bool:
        return any(b"s3cret-word" in path.read_bytes() for path in tmp_path.glob("tasks.db*"))

    async def main() -> None:
        gate = TaskGate()
        async with durable(gate) as pool:
            # The log is emptied once after the start.
            await wait_until(lambda: pool._store._database._erase_at is None)
            handle = await pool.submit(TaskRequest("reviewer", "x", env={"TOKEN": "s3cret-word"}))
            assert has_secret()  # a restart would need it
            gate.open()
            await handle.result()
            await wait_until(lambda: not has_secret())

    run(main())


def test_a_task_does_not_begin_before_it_is_on_the_disk(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate) as pool:
            disk = threading.Event()
            pool._store._database.post(lambda _: disk.wait())
            submitting = asyncio.create_task(pool.submit(TaskRequest("reviewer", "x")))
            await wait_until(lambda: pool._engine._live)
            for _ in range(20):  # more steps of the loop than a task needs to begin
                await asyncio.sleep(0)
            assert not gate.begun
            disk.set()
            await submitting
            await wait_until(lambda: gate.begun)
            gate.open()

    run(main())


def test_an_unknown_task_is_not_found(durable: OpenPool) -> None:
    async def main() -> None:
        async with durable() as pool:
            for call in (pool.task, pool.attach, pool.retry):
                with pytest.raises(TaskNotFound):
                    await call("reviewer-nothing")

    run(main())


def test_only_ended_tasks_without_success_can_be_retried(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "long"))
            with pytest.raises(TaskNotEnded):
                await pool.retry(handle.id)
            gate.open()
            await handle.result()
            with pytest.raises(ConfigError, match="has succeeded"):
                await pool.retry(handle.id)

    run(main())


def test_a_filter_finds_tasks_by_state_agent_and_text(durable: OpenPool) -> None:
    async def main() -> None:
        async with durable() as pool:
            for agent, task in (("a", "one"), ("b", "50% of _two_"), ("a", "three")):
                await pool.invoke(agent, task)

            async def found(**fields: Any) -> list[str]:
                return [one.request.task for one in await pool.tasks(TaskFilter(**fields))]

            assert await found() == ["three", "50% of _two_", "one"]
            assert await found(agent="a") == ["three", "one"]
            assert await found(text="0% OF _t") == ["50% of _two_"]
            assert await found(text="a did three") == ["three"]
            assert await found(states=("failed", "queued")) == []
            assert await found(states=("succeeded",), limit=2) == ["three", "50% of _two_"]
            assert await found(before=2) == ["one"]

    run(main())
