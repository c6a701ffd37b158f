"""Conversations: the context that the next task gets, and the end of a conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool import (
    ConfigError,
    PoolClosed,
    PoolTimeout,
    Queued,
    TaskRequest,
    TaskTimeout,
    TooManyRequests,
    WorkerDied,
)
from agent_pool.loopback import ErrorResponse, ModelReply
from support.fake_cli import install
from support.model_scripts import Gate, as_text
from support.pool_harness import PoolHarness, TaskOutcome
from support.pools import wait_for_stats
from support.process_checks import wait_until_gone

OpenHarness = Callable[..., PoolHarness]

FIRST_ANSWER = "not used"
"""The first step of a follow-up's plan stands for the answer to the task before it."""
FORM = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
def name(harness: PoolHarness) -> Iterator[str]:
    """Return the name of a conversation; end it after the test."""
    name = harness.word("talk")
    yield name

    async def end() -> None:
        await harness.pool.end_conversation("tester", name)

    harness.run(end())


@pytest.fixture
def open_on_fake_cli(open_harness: OpenHarness, tmp_path: Path) -> OpenHarness:
    """Open pools on the fake CLI, for rules of conversations that the pool alone keeps."""
    return partial(open_harness, cli=install(tmp_path / "fake", model="api"), reset="clear")


async def say(
    harness: PoolHarness, name: str, *steps: Any, agent: str = "tester", **options: Any
) -> TaskOutcome:
    return await harness.ask(
        harness.plan(*(steps or ("yes",))), agent, conversation=name, **options
    )


async def until_waiting(harness: PoolHarness, count: int) -> None:
    """Wait until so many tasks wait for their turn."""
    await wait_for_stats(harness.pool, lambda stats: stats.waiting == count)


def earlier_answers(said: TaskOutcome) -> int:
    """Count the earlier answers in the last request to the model."""
    return sum(message["role"] == "assistant" for message in said.requests[-1].messages)


def test_the_context_is_kept_until_the_conversation_ends(harness: PoolHarness, name: str) -> None:
    async def main() -> None:
        canary = harness.word("canary")
        first = await say(harness, name, ModelReply(canary))
        second = await say(harness, name)
        assert (first.result.conversation, first.result.place) == (name, 1)
        assert (second.result.conversation, second.result.place) == (name, 2)
        assert canary in as_text(second.requests[-1])
        assert second.pid == first.pid
        assert await harness.pool.end_conversation("tester", name) is True
        assert await harness.pool.end_conversation("tester", name) is False
        await harness.wait_until_idle()
        third = await say(harness, name)
        assert (third.result.place, earlier_answers(third)) == (1, 0)
        assert canary not in as_text(third.requests[-1])

    harness.run(main())


def test_conversations_and_other_tasks_do_not_mix(open_harness: OpenHarness) -> None:
    harness = open_harness(reset="clear", max_size=3)

    async def main() -> None:
        canaries = {name: harness.word("canary") for name in ("one", "two")}
        for name, canary in canaries.items():
            await say(harness, name, ModelReply(canary))
        alone = await harness.ask(harness.plan("x"))
        assert not any(canary in as_text(alone.requests[-1]) for canary in canaries.values())
        assert (alone.result.conversation, alone.result.place) == (None, 1)
        for name, other in (("one", "two"), ("two", "one")):
            heard = as_text((await say(harness, name)).requests[-1])
            assert canaries[name] in heard
            assert canaries[other] not in heard

    harness.run(main())


def test_tasks_of_one_conversation_run_one_after_another(harness: PoolHarness, name: str) -> None:
    async def main() -> None:
        gate = Gate()
        queued: list[tuple[str, int]] = []

        def note(event: object) -> None:
            if isinstance(event, Queued):
                queued.append((event.agent, event.position))

        running = [asyncio.ensure_future(say(harness, name, gate))]
        await gate.reached.wait()
        for number in range(1, 4):
            running.append(asyncio.ensure_future(say(harness, name, on_event=note)))
            await until_waiting(harness, number)
        (before,) = [one for one in await harness.pool.workers() if one.state == "leased"]
        gate.open()
        said = await asyncio.gather(*running)
        (after,) = [one for one in await harness.pool.workers() if one.worker == before.worker]
        assert after.tasks - before.tasks == 4
        assert [one.result.place for one in said] == [1, 2, 3, 4]
        assert [earlier_answers(one) for one in said] == [0, 1, 2, 3]
        # A place is reported again each second, so only the first report of each is in order.
        assert list(dict.fromkeys(queued)) == [("tester", 1), ("tester", 2), ("tester", 3)]

    harness.run(main())


def test_a_new_caller_does_not_overtake_a_waiting_caller(harness: PoolHarness, name: str) -> None:
    async def main() -> None:
        gate = Gate()
        first = asyncio.ensure_future(say(harness, name, gate))
        await gate.reached.wait()
        second = asyncio.ensure_future(say(harness, name))
        await until_waiting(harness, 1)
        late: list[asyncio.Future[TaskOutcome]] = []
        first.add_done_callback(lambda _: late.append(asyncio.ensure_future(say(harness, name))))
        gate.open()
        assert (await second).result.place == 2
        assert (await late[0]).result.place == 3

    harness.run(main())


def test_a_caller_that_leaves_does_not_block_the_other_callers(
    harness: PoolHarness, name: str
) -> None:
    async def main() -> None:
        gate = Gate()
        first = asyncio.ensure_future(say(harness, name, gate))
        await gate.reached.wait()
        left, stays = (asyncio.ensure_future(say(harness, name)) for _ in range(2))
        await until_waiting(harness, 2)
        left.cancel()
        gate.open()
        assert (await first).result.place == 1
        assert (await stays).result.place == 2
        assert left.cancelled()

    harness.run(main())


def test_a_caller_that_waits_too_long_gets_a_timeout(
    open_on_fake_cli: OpenHarness,
) -> None:
    harness = open_on_fake_cli(acquire_timeout=4, max_waiting=1)

    async def main() -> None:
        gate = Gate()
        first = asyncio.ensure_future(say(harness, "c", gate))
        await gate.reached.wait()
        second = asyncio.ensure_future(say(harness, "c"))
        await until_waiting(harness, 1)
        with pytest.raises(TooManyRequests, match="max_waiting"):
            await say(harness, "c")
        with pytest.raises(PoolTimeout, match="tester/c was in use for 4 s"):
            await second
        gate.open()
        assert (await first).result.place == 1

    harness.run(main())


def test_a_task_that_reports_an_error_ends_its_conversation(
    harness: PoolHarness, name: str
) -> None:
    async def main() -> None:
        await say(harness, name)
        assert (
            await say(harness, name, FIRST_ANSWER, ErrorResponse(400, message="no"))
        ).result.is_error
        assert (await say(harness, name)).result.place == 1

    harness.run(main())


def test_a_task_that_takes_too_long_ends_its_conversation(harness: PoolHarness, name: str) -> None:
    async def main() -> None:
        await say(harness, name)
        with pytest.raises(TaskTimeout):
            await say(harness, name, FIRST_ANSWER, ModelReply("late", delay=60), timeout=0.5)
        assert (await say(harness, name)).result.place == 1

    harness.run(main())


def test_an_edited_agent_begins_a_new_conversation(harness: PoolHarness, name: str) -> None:
    async def main() -> None:
        agent = harness.word("agent")
        harness.project.agent(agent, "You were.", description="d")
        await say(harness, name, agent=agent)
        harness.project.agent(agent, "You are.", description="d")
        said = await say(harness, name, agent=agent)
        assert said.result.place == 1
        assert said.requests[-1].system_text.endswith("You are.")
        await harness.pool.end_conversation(agent, name)

    harness.run(main())


def test_the_death_of_its_worker_ends_a_conversation(harness: PoolHarness, name: str) -> None:
    async def main() -> None:
        process = psutil.Process((await say(harness, name)).pid)
        process.kill()
        await wait_until_gone([process])
        try:
            place = (await say(harness, name)).result.place
        except WorkerDied:  # it was given the task before the pool knew of its end
            place = (await say(harness, name)).result.place
        assert place == 1

    harness.run(main())


def test_a_reset_of_the_agent_ends_its_conversations(harness: PoolHarness, name: str) -> None:
    async def main() -> None:
        await say(harness, name)
        assert await harness.pool.reset("tester") >= 1
        assert (await say(harness, name)).result.place == 1

    harness.run(main())


def test_a_conversation_beyond_max_conversations_is_refused(
    open_on_fake_cli: OpenHarness,
) -> None:
    harness = open_on_fake_cli(max_conversations=1)

    async def main() -> None:
        await say(harness, "one")
        with pytest.raises(TooManyRequests, match=r"tester/two cannot begin.*tester/one"):
            await say(harness, "two")
        await harness.pool.end_conversation("tester", "one")
        assert (await say(harness, "two")).result.place == 1

    harness.run(main())


def test_an_unused_conversation_expires_after_conversation_idle(
    open_on_fake_cli: OpenHarness,
) -> None:
    harness = open_on_fake_cli(conversation_idle=0.1)

    async def main() -> None:
        await say(harness, "c")
        await harness.wait_until_idle()  # its worker is idle only after its release
        assert await harness.pool.end_conversation("tester", "c") is False
        assert (await say(harness, "c")).result.place == 1

    harness.run(main())


def test_ending_a_running_conversation_lets_its_task_finish(
    harness: PoolHarness, name: str
) -> None:
    async def main() -> None:
        gate = Gate()
        first = asyncio.ensure_future(say(harness, name, gate))
        await gate.reached.wait()
        second = asyncio.ensure_future(say(harness, name))
        await until_waiting(harness, 1)
        assert await harness.pool.end_conversation("tester", name) is True
        gate.open()
        assert [(await one).result.place for one in (first, second)] == [1, 1]

    harness.run(main())


def test_a_task_can_end_its_own_conversation(harness: PoolHarness, name: str) -> None:
    async def main() -> None:
        await say(harness, name)
        gate = Gate()
        request = TaskRequest(
            "tester", harness.plan(FIRST_ANSWER, gate), conversation=name, ends_conversation=True
        )
        last = await harness.pool.submit(request)
        await gate.reached.wait()
        next_one = asyncio.ensure_future(say(harness, name))
        await until_waiting(harness, 1)
        gate.open()
        assert (await last.result()).place == 2
        assert (await next_one).result.place == 1
        assert await harness.pool.end_conversation("tester", name) is True

    harness.run(main())


def test_a_conversation_refuses_a_task_with_another_schema(harness: PoolHarness, name: str) -> None:
    async def main() -> None:
        await say(harness, name)
        with pytest.raises(ConfigError, match="began with another schema, or with none"):
            await say(harness, name, schema=FORM)
        assert (await say(harness, name)).result.place == 2
        assert await harness.pool.end_conversation("tester", name) is True

    harness.run(main())


def test_closing_the_pool_ends_conversations_and_refuses_waiting_callers(
    open_on_fake_cli: OpenHarness,
) -> None:
    harness = open_on_fake_cli()

    async def main() -> None:
        gate = Gate()
        await say(harness, "idle")
        running = asyncio.ensure_future(say(harness, "busy", gate))
        await gate.reached.wait()
        waiting = asyncio.ensure_future(say(harness, "busy"))
        await until_waiting(harness, 1)
        closing = asyncio.ensure_future(harness.pool.close())
        with pytest.raises(PoolClosed):
            await waiting
        gate.open()
        assert (await running).result.place == 1
        await closing
        with pytest.raises(PoolClosed):
            await say(harness, "busy")
        assert harness.project.processes() == []

    harness.run(main())
