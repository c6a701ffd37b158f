"""Whose turn it is in a conversation, to the moment, with a supervisor that is only a stand-in."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from agent_pool import Settings
from agent_pool.pool.actions import AgentRef, WorkerState
from agent_pool.pool.conversations import Conversation, Conversations
from agent_pool.pool.result import Queued
from support import run

REF = AgentRef("a", "1", "f")


class StandIn:
    """Gives one worker after another."""

    def __init__(self) -> None:
        self.given_back: list[str] = []
        self.definitions = SimpleNamespace(agent=lambda ref: None)
        self.core = SimpleNamespace(is_closed=False, workers={})

    async def acquire(self, ref: AgentRef, on_queued: Any) -> Any:
        name = f"worker-{len(self.core.workers) + 1}"
        self.core.workers[name] = SimpleNamespace(state=WorkerState.LEASED)
        return SimpleNamespace(name=name, is_gone=False)

    def give_back(self, worker: Any, tasks: int) -> None:
        self.given_back.append(worker.name)


class Talk:
    """A conversation with one caller in it, and others who wait.

    Attributes:
        queued: what those who wait were told.
    """

    def __init__(self, waiting: int) -> None:
        self.supervisor = StandIn()
        self.all = Conversations(self.supervisor, Settings())  # type: ignore[arg-type]
        self.queued: list[Queued] = []
        self._count = waiting

    async def begin(self) -> None:
        self.first = await self.take()
        self.waiting = [asyncio.ensure_future(self.take()) for _ in range(self._count)]
        await asyncio.sleep(0)

    async def take(self) -> Conversation:
        return await self.all.take(REF, "c", self.queued.append)


def test_one_who_leaves_in_the_moment_of_its_turn_passes_it_on() -> None:
    async def main() -> None:
        talk = Talk(waiting=2)
        await talk.begin()
        talk.all.give_back(talk.first, intact=True)
        talk.waiting[0].cancel()
        assert await talk.waiting[1] is talk.first
        assert talk.waiting[0].cancelled()

    run(main())


def test_one_who_leaves_as_the_conversation_ends_is_only_cancelled() -> None:
    async def main() -> None:
        talk = Talk(waiting=1)
        await talk.begin()
        talk.waiting[0].cancel()
        talk.all.give_back(talk.first, intact=False)
        assert await asyncio.gather(*talk.waiting, return_exceptions=True) != []
        assert talk.waiting[0].cancelled()
        assert talk.supervisor.given_back == ["worker-1"]

    run(main())


def test_who_comes_as_it_is_handed_over_does_not_come_between() -> None:
    async def main() -> None:
        talk = Talk(waiting=1)
        await talk.begin()
        talk.all.give_back(talk.first, intact=True)
        late = asyncio.ensure_future(talk.take())
        assert await talk.waiting[0] is talk.first
        assert not late.done()
        talk.all.give_back(talk.first, intact=True)
        assert await late is talk.first

    run(main())


def test_those_who_wait_are_told_where_they_stand() -> None:
    async def main() -> None:
        talk = Talk(waiting=2)
        await talk.begin()
        assert [(one.agent, one.position) for one in talk.queued] == [("a", 1), ("a", 2)]
        talk.all.tick()
        assert [one.position for one in talk.queued[2:]] == [1, 2]
        for waiting in talk.waiting:
            waiting.cancel()

    run(main())


def test_a_worker_that_is_being_stopped_serves_no_conversation() -> None:
    async def main() -> None:
        talk = Talk(waiting=0)
        await talk.begin()
        talk.all.give_back(talk.first, intact=True)
        talk.supervisor.core.workers["worker-1"].state = WorkerState.STOPPING
        second = await talk.take()
        assert (second.worker.name, second.tasks) == ("worker-2", 0)  # type: ignore[union-attr]

    run(main())
