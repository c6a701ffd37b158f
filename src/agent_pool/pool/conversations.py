"""Follow-ups: a worker that stays leased between tasks, so that its context is still there.

A conversation has a name and belongs to one agent. Its tasks run one after another, in the order
in which they came. It ends when it is ended, when nobody has used it for `conversation_idle`, when
the agent is edited or reset, and when one of its tasks does not end well: what the context holds
then is unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from agent_pool.claude.worker import Worker
from agent_pool.errors import TooManyRequests
from agent_pool.pool.actions import AgentRef
from agent_pool.pool.result import Queued
from agent_pool.pool.supervisor import Supervisor
from agent_pool.settings import Settings

Key = tuple[str, str]


class Conversation:
    """One of them; `worker` is None until its first task has got one."""

    def __init__(self, ref: AgentRef) -> None:
        self.ref = ref
        self.worker: Worker | None = None
        self.is_busy = False
        self.has_ended = False
        self.tasks = 0
        self.last_used = time.monotonic()
        self.waiting: deque[asyncio.Future[None]] = deque()


class Conversations:
    """The conversations of a pool, by agent and name."""

    def __init__(self, supervisor: Supervisor, settings: Settings) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._open: dict[Key, Conversation] = {}

    async def take(
        self, ref: AgentRef, name: str, on_queued: Callable[[Queued], None]
    ) -> Conversation:
        """The conversation, for one task; with a worker and nobody else using it.

        Raises:
            TooManyRequests: `max_conversations` are open, and this would be another one.
            PoolTimeout, ...: as `Supervisor.acquire`.
        """
        conversation = await self._wait_for_turn(ref, name)
        if conversation.worker is None:
            try:
                conversation.worker = await self._supervisor.acquire(ref, on_queued)
            except BaseException:
                self._end(ref.name, name, conversation)
                raise
        return conversation

    def give_back(self, name: str, conversation: Conversation, *, intact: bool) -> None:
        """The task has ended; unless its context is `intact`, so has the conversation."""
        conversation.last_used = time.monotonic()
        conversation.tasks += 1
        conversation.is_busy = False
        if not intact or conversation.has_ended:
            self._end(conversation.ref.name, name, conversation)
        self._wake_next(conversation)

    def end(self, agent: str, name: str) -> bool:
        """End a conversation, after the task that it runs, if any; whether there was one."""
        conversation = self._open.get((agent, name))
        if conversation is None:
            return False
        conversation.has_ended = True
        if not conversation.is_busy:
            self._end(agent, name, conversation)
        return True

    def expire(self) -> None:
        """End those that nobody has used for `conversation_idle`, and those whose worker died."""
        now = time.monotonic()
        for (agent, name), conversation in list(self._open.items()):
            is_old = now - conversation.last_used >= self._settings.conversation_idle
            is_dead = conversation.worker is not None and conversation.worker.is_gone
            if not conversation.is_busy and (is_old or is_dead):
                self._end(agent, name, conversation)

    def end_all(self) -> None:
        """Give all idle ones back, because the pool closes."""
        for agent, name in list(self._open):
            self.end(agent, name)

    async def _wait_for_turn(self, ref: AgentRef, name: str) -> Conversation:
        while True:
            self._forget_if_outdated(ref, name)
            conversation = self._open.get((ref.name, name)) or self._begin(ref, name)
            if not conversation.is_busy:
                conversation.is_busy = True
                return conversation
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            conversation.waiting.append(turn)
            try:
                async with asyncio.timeout(self._settings.acquire_timeout):
                    await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._wake_next(conversation)
                else:
                    conversation.waiting.remove(turn)
                raise

    def _forget_if_outdated(self, ref: AgentRef, name: str) -> None:
        found = self._open.get((ref.name, name))
        if found is None or found.is_busy:
            return
        if found.ref != ref or (found.worker is not None and found.worker.is_gone):
            self._end(ref.name, name, found)

    def _begin(self, ref: AgentRef, name: str) -> Conversation:
        if len(self._open) >= self._settings.max_conversations:
            names = ", ".join(f"{agent}/{known}" for agent, known in sorted(self._open))
            raise TooManyRequests(
                f"{len(self._open)} conversations are open (setting max_conversations), so "
                f"{ref.name}/{name} cannot begin; end one of them first: {names}"
            )
        conversation = self._open[ref.name, name] = Conversation(ref)
        return conversation

    def _end(self, agent: str, name: str, conversation: Conversation) -> None:
        if self._open.get((agent, name)) is conversation:
            del self._open[agent, name]
        conversation.has_ended = True
        conversation.is_busy = False
        worker, conversation.worker = conversation.worker, None
        if worker is not None:
            self._supervisor.give_back(worker)
        while conversation.waiting:
            self._wake_next(conversation)

    def _wake_next(self, conversation: Conversation) -> None:
        while conversation.waiting:
            turn = conversation.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
