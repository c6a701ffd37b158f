"""The order of a conversation's callers, step by step, with a fake supervisor."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from agent_pool import Queued, Settings
from agent_pool.models import AgentKey
from agent_pool.pool.conversations import Conversation, Conversations
from agent_pool.pool.scheduler import AgentSpec, WorkerState
from support.waiting import run

SPEC = AgentSpec(AgentKey("/project", "a"), "1", "profile")


class FakeSupervisor:
    """Gives one worker after another.

    Attributes:
        released: the names of the workers whose lease has ended.
    """

    def __init__(self) -> None:
        self.released: list[str] = []
        self.scheduler = SimpleNamespace(is_closed=False, workers={})

    async def acquire(self, spec: AgentSpec, on_queued: object) -> Any:
        name = f"worker-{len(self.scheduler.workers) + 1}"
        self.scheduler.workers[name] = SimpleNamespace(state=WorkerState.LEASED)
        return SimpleNamespace(name=name, has_ended=False)

    def release(self, worker: Any, tasks: int) -> None:
        self.released.append(worker.name)


class OpenConversation:
    """A conversation with one caller in it, and others that wait.

    Attributes:
        queued: the events of the callers that wait.
    """

    def __init__(self, waiting: int) -> None:
        self.supervisor = FakeSupervisor()
        self.all = Conversations(cast(Any, self.supervisor), Settings())
        self.queued: list[Queued] = []
        self._count = waiting

    async def begin(self) -> None:
        self.first = await self.acquire()
        self.waiting = [asyncio.ensure_future(self.acquire()) for _ in range(self._count)]
        await asyncio.sleep(0)

    async def acquire(self) -> Conversation:
        return await self.all.acquire(SPEC, "c", self.queued.append)


def test_a_caller_that_leaves_at_its_turn_passes_it_on() -> None:
    async def main() -> None:
        talk = OpenConversation(waiting=2)
        await talk.begin()
        talk.all.release(talk.first, is_intact=True)
        talk.waiting[0].cancel()
        assert await talk.waiting[1] is talk.first
        assert talk.waiting[0].cancelled()

    run(main())


def test_a_caller_leaving_as_the_conversation_ends_is_just_cancelled() -> None:
    async def main() -> None:
        talk = OpenConversation(waiting=1)
        await talk.begin()
        talk.waiting[0].cancel()
        talk.all.release(talk.first, is_intact=False)
        assert await asyncio.gather(*talk.waiting, return_exceptions=True) != []
        assert talk.waiting[0].cancelled()
        assert talk.supervisor.released == ["worker-1"]

    run(main())


def test_a_new_caller_does_not_overtake_a_waiting_caller() -> None:
    async def main() -> None:
        talk = OpenConversation(waiting=1)
        await talk.begin()
        talk.all.release(talk.first, is_intact=True)
        late = asyncio.ensure_future(talk.acquire())
        assert await talk.waiting[0] is talk.first
        assert not late.done()
        talk.all.release(talk.first, is_intact=True)
        assert await late is talk.first

    run(main())


def test_waiting_callers_learn_their_place_in_the_queue() -> None:
    async def main() -> None:
        talk = OpenConversation(waiting=2)
        await talk.begin()
        assert [event.position for event in talk.queued] == [1, 2]
        talk.all.tick()
        assert [event.position for event in talk.queued[2:]] == [1, 2]
        for waiting in talk.waiting:
            waiting.cancel()

    run(main())


def test_a_stopping_worker_serves_no_conversation() -> None:
    async def main() -> None:
        talk = OpenConversation(waiting=0)
        await talk.begin()
        talk.all.release(talk.first, is_intact=True)
        talk.supervisor.scheduler.workers["worker-1"].state = WorkerState.STOPPING
        second = await talk.acquire()
        assert (second.worker.name, second.tasks) == ("worker-2", 0)  # type: ignore[union-attr]

    run(main())
