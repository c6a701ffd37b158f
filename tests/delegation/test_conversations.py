"""Follow-ups: what a conversation keeps, and when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from agent_pool import (
    ConfigError,
    PoolClosed,
    PoolTimeout,
    Queued,
    TaskTimeout,
    TooManyRequests,
    WorkerDied,
)
from agent_pool.loopback import Failure, Reply
from isolation.lab import Gate, Lab, Said, flat
from pool_world import until

OF_THE_FIRST = "not said"
"""A follow-up's plan begins where the conversation is: after the answer to its first task."""
FORM = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
def name(lab: Lab) -> Iterator[str]:
    """The name of a conversation that is ended after the test."""
    name = lab.word("talk")
    yield name

    async def end() -> None:
        lab.pool.end_conversation("tester", name)

    lab.run(end())


async def say(lab: Lab, name: str, *steps: Any, agent: str = "tester", **options: Any) -> Said:
    return await lab.ask(lab.plan(*(steps or ("yes",))), agent, conversation=name, **options)


def told_before(said: Said) -> int:
    """How many answers the model was reminded of."""
    return sum(message["role"] == "assistant" for message in said.requests[-1].messages)


def test_the_context_is_kept_until_the_conversation_ends(lab: Lab, name: str) -> None:
    async def main() -> None:
        canary = lab.word("canary")
        first = await say(lab, name, Reply(canary))
        second = await say(lab, name)
        assert (first.result.conversation, first.result.place) == (name, 1)
        assert (second.result.conversation, second.result.place) == (name, 2)
        assert canary in flat(second.requests[-1])
        assert second.pid == first.pid
        assert lab.pool.end_conversation("tester", name) is True
        assert lab.pool.end_conversation("tester", name) is False
        await lab.settled()
        third = await say(lab, name)
        assert (third.result.place, told_before(third)) == (1, 0)
        assert canary not in flat(third.requests[-1])

    lab.run(main())


def test_conversations_and_other_tasks_do_not_mix(labs: Callable[..., Lab]) -> None:
    lab = labs(reset="clear", max_size=3)

    async def main() -> None:
        canaries = {name: lab.word("canary") for name in ("one", "two")}
        for name, canary in canaries.items():
            await say(lab, name, Reply(canary))
        alone = await lab.ask(lab.plan("x"))
        assert not any(canary in flat(alone.requests[-1]) for canary in canaries.values())
        assert (alone.result.conversation, alone.result.place) == (None, 1)
        for name, other in (("one", "two"), ("two", "one")):
            heard = flat((await say(lab, name)).requests[-1])
            assert canaries[name] in heard
            assert canaries[other] not in heard

    lab.run(main())


def test_tasks_of_one_conversation_run_one_after_another_in_their_order(
    lab: Lab, name: str
) -> None:
    async def main() -> None:
        gate = Gate()
        queued: list[int] = []

        def note(event: object) -> None:
            if isinstance(event, Queued):
                queued.append(event.position)

        running = [asyncio.ensure_future(say(lab, name, gate))]
        await gate.reached.wait()
        for _ in range(3):
            running.append(asyncio.ensure_future(say(lab, name, on_event=note)))
            await asyncio.sleep(0)
        assert lab.pool.stats().waiting == 3
        (before,) = [one for one in await lab.pool.list() if one.state == "leased"]
        gate.open()
        said = await asyncio.gather(*running)
        (after,) = [one for one in await lab.pool.list() if one.worker == before.worker]
        assert after.tasks - before.tasks == 4
        assert [one.result.place for one in said] == [1, 2, 3, 4]
        assert [told_before(one) for one in said] == [0, 1, 2, 3]
        assert queued[:3] == [1, 2, 3]

    lab.run(main())


def test_who_comes_when_it_is_handed_over_does_not_come_between(lab: Lab, name: str) -> None:
    async def main() -> None:
        gate = Gate()
        first = asyncio.ensure_future(say(lab, name, gate))
        await gate.reached.wait()
        second = asyncio.ensure_future(say(lab, name))
        await asyncio.sleep(0)
        late: list[asyncio.Future[Said]] = []
        first.add_done_callback(lambda _: late.append(asyncio.ensure_future(say(lab, name))))
        gate.open()
        assert (await second).result.place == 2
        assert (await late[0]).result.place == 3

    lab.run(main())


def test_a_caller_that_leaves_the_queue_leaves_the_others_their_turn(lab: Lab, name: str) -> None:
    async def main() -> None:
        gate = Gate()
        first = asyncio.ensure_future(say(lab, name, gate))
        await gate.reached.wait()
        left, stays = (asyncio.ensure_future(say(lab, name)) for _ in range(2))
        await asyncio.sleep(0)
        left.cancel()
        gate.open()
        assert (await first).result.place == 1
        assert (await stays).result.place == 2
        assert left.cancelled()

    lab.run(main())


def test_a_caller_that_waits_too_long_is_told_so(labs: Callable[..., Lab]) -> None:
    lab = labs(reset="clear", acquire_timeout=4, max_waiting=1)

    async def main() -> None:
        gate = Gate()
        first = asyncio.ensure_future(say(lab, "c", gate))
        await gate.reached.wait()
        second = asyncio.ensure_future(say(lab, "c"))
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests, match="max_waiting"):
            await say(lab, "c")
        with pytest.raises(PoolTimeout, match="tester/c was in use for 4 s"):
            await second
        gate.open()
        assert (await first).result.place == 1

    lab.run(main())


def test_a_task_that_reports_an_error_ends_its_conversation(lab: Lab, name: str) -> None:
    async def main() -> None:
        await say(lab, name)
        assert (await say(lab, name, OF_THE_FIRST, Failure(400, message="no"))).result.is_error
        assert (await say(lab, name)).result.place == 1

    lab.run(main())


def test_a_task_that_takes_too_long_ends_its_conversation(lab: Lab, name: str) -> None:
    async def main() -> None:
        await say(lab, name)
        with pytest.raises(TaskTimeout):
            await say(lab, name, OF_THE_FIRST, Reply("late", delay=60), timeout=0.5)
        assert (await say(lab, name)).result.place == 1

    lab.run(main())


def test_an_edited_agent_begins_anew(lab: Lab, name: str) -> None:
    async def main() -> None:
        agent = lab.word("agent")
        lab.world.agent(agent, "You were.", description="d")
        await say(lab, name, agent=agent)
        lab.world.agent(agent, "You are.", description="d")
        said = await say(lab, name, agent=agent)
        assert said.result.place == 1
        assert said.requests[-1].system_text.endswith("You are.")
        lab.pool.end_conversation(agent, name)

    lab.run(main())


def test_a_worker_that_dies_between_two_tasks_takes_the_conversation_along(
    lab: Lab, name: str
) -> None:
    async def main() -> None:
        process = psutil.Process((await say(lab, name)).pid)
        process.kill()
        await until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
        try:
            place = (await say(lab, name)).result.place
        except WorkerDied:  # it was asked before its end was seen
            place = (await say(lab, name)).result.place
        assert place == 1

    lab.run(main())


def test_a_reset_of_the_agent_ends_its_conversations(lab: Lab, name: str) -> None:
    async def main() -> None:
        await say(lab, name)
        assert await lab.pool.reset("tester") >= 1
        assert (await say(lab, name)).result.place == 1

    lab.run(main())


def test_nobody_may_hold_more_than_max_conversations(labs: Callable[..., Lab]) -> None:
    lab = labs(reset="clear", max_conversations=1)

    async def main() -> None:
        await say(lab, "one")
        with pytest.raises(TooManyRequests, match=r"tester/two cannot begin.*tester/one"):
            await say(lab, "two")
        lab.pool.end_conversation("tester", "one")
        assert (await say(lab, "two")).result.place == 1

    lab.run(main())


def test_a_conversation_that_nobody_uses_expires(labs: Callable[..., Lab]) -> None:
    lab = labs(reset="clear", conversation_idle=0.1)

    async def main() -> None:
        await say(lab, "c")
        await lab.settled()  # its worker is idle only when it has been given back
        assert lab.pool.end_conversation("tester", "c") is False
        assert (await say(lab, "c")).result.place == 1

    lab.run(main())


def test_ending_one_that_runs_lets_its_task_end(lab: Lab, name: str) -> None:
    async def main() -> None:
        gate = Gate()
        first = asyncio.ensure_future(say(lab, name, gate))
        await gate.reached.wait()
        second = asyncio.ensure_future(say(lab, name))
        await asyncio.sleep(0)
        assert lab.pool.end_conversation("tester", name) is True
        gate.open()
        assert [(await one).result.place for one in (first, second)] == [1, 1]

    lab.run(main())


def test_a_conversation_keeps_to_its_form(lab: Lab, name: str) -> None:
    async def main() -> None:
        await say(lab, name)
        with pytest.raises(ConfigError, match="began with another schema, or with none"):
            await say(lab, name, schema=FORM)
        assert (await say(lab, name)).result.place == 2
        assert lab.pool.end_conversation("tester", name) is True

    lab.run(main())


def test_closing_the_pool_ends_conversations_and_refuses_who_waits_for_one(
    labs: Callable[..., Lab],
) -> None:
    lab = labs(reset="clear")

    async def main() -> None:
        gate = Gate()
        await say(lab, "idle")
        running = asyncio.ensure_future(say(lab, "busy", gate))
        await gate.reached.wait()
        waiting = asyncio.ensure_future(say(lab, "busy"))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(lab.pool.close())
        with pytest.raises(PoolClosed):
            await waiting
        gate.open()
        assert (await running).result.place == 1
        await closing
        with pytest.raises(PoolClosed):
            await say(lab, "busy")
        assert lab.world.processes() == []

    lab.run(main())
