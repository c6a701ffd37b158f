"""A store that goes from one pool to the next while tasks run: an upgrade of the daemon."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from agent_pool import (
    Ended,
    PoolClosed,
    StoreFailed,
    TaskCancelled,
    TaskFilter,
    TaskInterrupted,
    TaskRequest,
    Text,
)
from agent_pool.tasks import engine, service
from agent_pool.tasks.store import StoredTask
from support.durable_pools import OpenPool, TaskGate, crash
from support.waiting import run, wait_until


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pools look often at what the other one does."""
    for module in (engine, service):
        monkeypatch.setattr(module, "KEEPER_SECONDS", 0.02)


def test_the_next_owner_runs_new_tasks_while_the_former_finishes_its_own(
    durable: OpenPool,
) -> None:
    async def main() -> None:
        old_gate, new_gate = TaskGate(), TaskGate()
        async with durable(old_gate, max_workers=1) as old:
            running = await old.submit(TaskRequest("reviewer", "one"))
            queued = await old.submit(TaskRequest("reviewer", "two"))
            await wait_until(lambda: old_gate.has_begun("one"))
            await old.hand_over()
            with pytest.raises(PoolClosed):
                await queued.result()
            with pytest.raises(PoolClosed):
                await old.submit(TaskRequest("reviewer", "three"))
            async with durable(new_gate) as new:
                await wait_until(lambda: new_gate.has_begun("two"))
                assert (await new.task(running.id)).state == "running"
                attached = asyncio.create_task((await new.attach(running.id)).result())
                seen: list[object] = []

                async def follow() -> None:
                    seen.extend([event async for event in new.task_events(running.id)])

                following = asyncio.create_task(follow())
                new_gate.open()
                assert (await (await new.attach(queued.id)).result()).text == "two done"
                old_gate.open("one")
                assert (await running.result()).text == "one done"
                assert (await attached).text == "one done"
                await following
                assert [event.text for event in seen if isinstance(event, Text)] == [
                    "working on one"
                ]
                assert isinstance(seen[-1], Ended)
                records = await new.tasks(TaskFilter(states=("succeeded",)))
                assert {(one.request.task, one.attempts) for one in records} == {
                    ("one", 1),
                    ("two", 1),
                }
                await old.drain()
        assert old_gate.begun == ["one"]
        assert new_gate.begun == ["two"]

    run(main())


def test_a_kept_task_is_interrupted_when_its_owner_is_killed(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        old = durable(gate)
        await old.open()
        lost = await old.submit(TaskRequest("reviewer", "one"))
        again = await old.submit(TaskRequest("reviewer", "two", idempotent=True))
        await wait_until(lambda: gate.has_begun("one") and gate.has_begun("two"))
        await old.hand_over()
        async with durable() as new:
            handle = await new.attach(lost.id)
            assert not (await new.task(lost.id)).has_ended
            await crash(old)
            with pytest.raises(TaskInterrupted):
                await handle.result()
            assert (await (await new.attach(again.id)).result()).text == "reviewer did two"
            assert (await new.task(again.id)).attempts == 2

    run(main())


def test_a_kept_task_is_cancelled_by_a_client_of_the_next_owner(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate) as old:
            running = await old.submit(TaskRequest("reviewer", "one"))
            await wait_until(lambda: gate.has_begun("one"))
            await old.hand_over()
            async with durable() as new:
                assert await new.cancel(running.id)
                with pytest.raises(TaskCancelled):
                    await running.result()
                with suppress(TaskCancelled):
                    await (await new.attach(running.id)).result()
                assert (await new.task(running.id)).state == "cancelled"
                assert not await new.cancel(running.id)

    run(main())


def test_a_key_of_a_kept_task_gives_that_task(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate) as old:
            request = TaskRequest("reviewer", "one", idempotency_key="k")
            running = await old.submit(request)
            await wait_until(lambda: gate.has_begun("one"))
            await old.hand_over()
            async with durable() as new:
                same = await new.submit(request)
                assert same.id == running.id
                gate.open()
                assert (await same.result()).text == "one done"

    run(main())


def test_a_task_of_a_conversation_that_is_kept_elsewhere_is_not_run_without_it(
    durable: OpenPool,
) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate, max_workers=1) as old:
            first = await old.submit(TaskRequest("reviewer", "one", conversation="c"))
            second = await old.submit(TaskRequest("reviewer", "two", conversation="c"))
            await wait_until(lambda: gate.has_begun("one"))
            await old.hand_over()
            async with durable() as new:
                record = await new.task(second.id)
                assert record.failure == "context_lost"
                gate.open()
                await first.result()

    run(main())


def test_no_task_is_accepted_while_the_store_is_handed_over(durable: OpenPool) -> None:
    async def main() -> None:
        gate = TaskGate()
        async with durable(gate) as old:
            running = await old.submit(TaskRequest("reviewer", "one"))
            await wait_until(lambda: gate.has_begun("one"))
            handing = asyncio.create_task(old.hand_over())
            await asyncio.sleep(0)  # it has begun, and waits for the disk
            assert not handing.done()
            with pytest.raises(PoolClosed):
                await old.submit(TaskRequest("reviewer", "two"))
            await handing
            async with durable() as new:
                assert [one.id for one in await new.tasks()] == [running.id]
                gate.open()
                assert (await running.result()).text == "one done"

    run(main())


def test_kept_tasks_are_taken_over_although_a_read_of_the_store_fails(
    durable: OpenPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        gate = TaskGate()
        old = durable(gate)
        await old.open()
        lost = await old.submit(TaskRequest("reviewer", "one"))
        await wait_until(lambda: gate.has_begun("one"))
        await old.hand_over()
        async with durable() as new:
            read = new._store.open_among
            failed: list[list[int]] = []

            async def fail_once(numbers: list[int]) -> list[StoredTask]:
                if not failed:
                    failed.append(numbers)
                    raise StoreFailed("the disk does not answer")
                return await read(numbers)

            monkeypatch.setattr(new._store, "open_among", fail_once)
            await crash(old)
            with pytest.raises(TaskInterrupted):
                await (await new.attach(lost.id)).result()
            assert failed

    run(main())
