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
from dataclasses import dataclass, field

from agent_pool.claude.worker import Worker
from agent_pool.errors import ConfigError, PoolClosed, PoolTimeout, TooManyRequests
from agent_pool.pool.actions import AgentRef, WorkerState
from agent_pool.pool.result import Queued
from agent_pool.pool.supervisor import Supervisor
from agent_pool.settings import Settings

Key = tuple[str, str]
Tell = Callable[[Queued], None]


@dataclass(eq=False)
class Waiter:
    """A task that waits for the one before it; its `turn` is whether the conversation goes on."""

    turn: asyncio.Future[bool]
    tell: Tell
    since: float = field(default_factory=lambda: time.monotonic())


class Conversation:
    """One of them; `worker` is None until its first task has got one."""

    def __init__(self, ref: AgentRef, key: Key) -> None:
        self.ref = ref
        self.key = key
        self.worker: Worker | None = None
        self.is_busy = False
        self.has_ended = False
        self.tasks = 0
        self.last_used = time.monotonic()
        self.waiting: deque[Waiter] = deque()


class Conversations:
    """The conversations of a pool, by agent and name."""

    def __init__(self, supervisor: Supervisor, settings: Settings) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._open: dict[Key, Conversation] = {}

    async def take(self, ref: AgentRef, name: str, on_queued: Tell) -> Conversation:
        """The conversation, for one task; with a worker and nobody else using it.

        Raises:
            ConfigError: it answers in another form than this task would.
            TooManyRequests: `max_conversations` are open, and this would be another one; or
                `max_waiting` callers wait.
            PoolTimeout, ...: as `Supervisor.acquire`.
        """
        conversation = await self._own(ref, name, on_queued)
        if conversation.worker is None:
            try:
                conversation.worker = await self._supervisor.acquire(ref, on_queued)
            except BaseException:
                self._end(conversation)
                raise
        return conversation

    def give_back(self, conversation: Conversation, *, intact: bool) -> None:
        """The task has ended; unless its context is `intact`, so has the conversation."""
        conversation.last_used = time.monotonic()
        conversation.tasks += 1
        if conversation.has_ended or not intact:
            self._end(conversation)
        else:
            _pass_on(conversation)

    def end(self, agent: str, name: str) -> bool:
        """End a conversation, after the task that it runs, if any; whether there was one."""
        conversation = self._open.get((agent, name))
        if conversation is None:
            return False
        conversation.has_ended = True
        if not conversation.is_busy:
            self._end(conversation)
        return True

    @property
    def waiting(self) -> int:
        """How many tasks wait for the one before them."""
        return sum(len(one.waiting) for one in self._open.values())

    def tick(self) -> None:
        """End those that nobody has used for `conversation_idle`, and those whose worker went;
        tell who waits."""
        now = time.monotonic()
        for conversation in list(self._open.values()):
            is_old = now - conversation.last_used >= self._settings.conversation_idle
            if not conversation.is_busy and (is_old or not self._has_its_worker(conversation)):
                self._end(conversation)
            for place, waiter in enumerate(conversation.waiting, start=1):
                waiter.tell(Queued(conversation.key[0], place, now - waiter.since))

    def end_all(self) -> None:
        """Give all idle ones back and refuse who waits, because the pool closes."""
        for conversation in list(self._open.values()):
            _dismiss(conversation)
            self.end(*conversation.key)

    async def _own(self, ref: AgentRef, name: str, on_queued: Tell) -> Conversation:
        """The conversation, for this caller alone until it gives it back."""
        agent = self._supervisor.definitions.agent(ref)
        key = (agent.name if agent else ref.name, name)
        while True:
            conversation = self._open.get(key) or self._begin(ref, key)
            _refuse_another_form(conversation, ref)
            if not conversation.is_busy:
                conversation.is_busy = True
            elif not await self._wait(conversation, on_queued):
                continue
            if conversation.ref == ref and self._has_its_worker(conversation):
                return conversation
            self._end(conversation)

    def _begin(self, ref: AgentRef, key: Key) -> Conversation:
        if self._supervisor.core.is_closed:
            raise PoolClosed(f"the pool was closed, and with it the conversation {'/'.join(key)}")
        if len(self._open) >= self._settings.max_conversations:
            names = ", ".join("/".join(known) for known in sorted(self._open))
            raise TooManyRequests(
                f"{len(self._open)} conversations are open (setting max_conversations), so "
                f"{'/'.join(key)} cannot begin; end one of them first: {names}"
            )
        conversation = self._open[key] = Conversation(ref, key)
        return conversation

    async def _wait(self, conversation: Conversation, on_queued: Tell) -> bool:
        """Wait for the task before; whether the conversation goes on with this one."""
        self._refuse_if_crowded(conversation)
        bound = self._settings.acquire_timeout
        waiter = Waiter(asyncio.get_running_loop().create_future(), on_queued)
        conversation.waiting.append(waiter)
        on_queued(Queued(conversation.key[0], len(conversation.waiting)))
        try:
            async with asyncio.timeout(bound):
                return await waiter.turn
        except BaseException as error:
            _leave(conversation, waiter)
            if not isinstance(error, TimeoutError):
                raise
            raise PoolTimeout(
                f"the conversation {'/'.join(conversation.key)} was in use for {bound:g} s "
                "(setting acquire_timeout); try later, or begin another one"
            ) from None

    def _refuse_if_crowded(self, conversation: Conversation) -> None:
        if self._supervisor.core.is_closed:
            raise PoolClosed("the pool is closed; open a new one")
        if self.waiting >= self._settings.max_waiting:
            raise TooManyRequests(
                f"{self.waiting} tasks of conversations are waiting already (setting max_waiting), "
                f"so this one of {'/'.join(conversation.key)} was not queued; try again later"
            )

    def _has_its_worker(self, conversation: Conversation) -> bool:
        """Whether its worker, if it has one yet, still serves it."""
        worker = conversation.worker
        if worker is None:
            return True
        record = self._supervisor.core.workers.get(worker.name)
        is_leased = record is not None and record.state is WorkerState.LEASED
        return is_leased and not worker.is_gone

    def _end(self, conversation: Conversation) -> None:
        if self._open.get(conversation.key) is conversation:
            del self._open[conversation.key]
        conversation.has_ended = True
        conversation.is_busy = False
        worker, conversation.worker = conversation.worker, None
        if worker is not None:
            self._supervisor.give_back(worker, max(1, conversation.tasks))
        _dismiss(conversation)


def _refuse_another_form(conversation: Conversation, ref: AgentRef) -> None:
    """A process keeps the schema with which it began."""
    if conversation.ref.name != ref.name:
        raise ConfigError(
            f"the conversation {'/'.join(conversation.key)} began with another schema, or with "
            "none, and goes on with that only; use another name, or end it first"
        )


def _pass_on(conversation: Conversation) -> None:
    """Let the next that waits have it; it stays busy meanwhile, so that nobody comes between."""
    while conversation.waiting:
        turn = conversation.waiting.popleft().turn
        if not turn.done():
            turn.set_result(True)
            return
    conversation.is_busy = False


def _dismiss(conversation: Conversation) -> None:
    """Tell all who wait that it has ended."""
    while conversation.waiting:
        turn = conversation.waiting.popleft().turn
        if not turn.done():
            turn.set_result(False)


def _leave(conversation: Conversation, waiter: Waiter) -> None:
    """A caller waits no longer; the conversation may have come to it meanwhile."""
    if waiter in conversation.waiting:
        conversation.waiting.remove(waiter)
    elif waiter.turn.done() and not waiter.turn.cancelled() and waiter.turn.result():
        _pass_on(conversation)
