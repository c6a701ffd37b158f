"""Conversations: a worker that stays leased between tasks, so that its context is still there.

A conversation has a name and belongs to one agent of one project. Its tasks run one after another,
in the order in which they came. It ends when it is ended, when it was unused for
`conversation_idle`, when the agent is edited or reset, and when one of its tasks does not succeed:
the content of the context is unknown then.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from agent_pool.claude.worker import Worker
from agent_pool.errors import ConfigError, PoolClosed, PoolTimeout, TooManyRequests
from agent_pool.events import Queued
from agent_pool.pool.scheduler import AgentSpec, WorkerState
from agent_pool.pool.supervisor import Supervisor
from agent_pool.pool.waiters import QueueListener
from agent_pool.settings import Settings


@dataclass(frozen=True, slots=True)
class ConversationKey:
    """The key of a conversation: project, agent and name."""

    project: str
    agent: str
    name: str

    def __str__(self) -> str:
        return f"{self.agent}/{self.name}"


# Compared by identity: `_leave` must remove this turn and not an equal one.
@dataclass(eq=False)
class _Turn:
    """A task that waits for the one before it; `granted` is False if the conversation ended."""

    granted: asyncio.Future[bool]
    on_queued: QueueListener
    since: float = field(default_factory=lambda: time.monotonic())


class Conversation:
    """One conversation; `worker` is `None` until its first task has a worker."""

    def __init__(self, spec: AgentSpec, key: ConversationKey) -> None:
        self.spec = spec
        self.key = key
        self.worker: Worker | None = None
        self.is_busy = False
        self.has_ended = False
        self.tasks = 0
        self.last_used = time.monotonic()
        self.turns: deque[_Turn] = deque()


class Conversations:
    """The open conversations of a pool."""

    def __init__(self, supervisor: Supervisor, settings: Settings) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._open: dict[ConversationKey, Conversation] = {}

    async def acquire(self, spec: AgentSpec, name: str, on_queued: QueueListener) -> Conversation:
        """Return the conversation with a worker, for one task alone.

        Raises:
            ConfigError: it began with another schema or other options than this task has.
            TooManyRequests: `max_conversations` are open and this would be another one, or
                `max_waiting` tasks of conversations wait.
            PoolTimeout, ...: as `Supervisor.acquire`.
        """
        conversation = await self._reserve(spec, name, on_queued)
        if conversation.worker is None:
            try:
                conversation.worker = await self._supervisor.acquire(spec, on_queued)
            except BaseException:
                # A cancelled caller too: without it the conversation would stay busy for ever.
                self._end(conversation)
                raise
        return conversation

    def release(self, conversation: Conversation, *, is_intact: bool) -> None:
        """Give the conversation to its next task; end it if its context is not intact."""
        conversation.last_used = time.monotonic()
        conversation.tasks += 1
        if conversation.has_ended or not is_intact:
            self._end(conversation)
        else:
            _grant_next(conversation)

    def end(self, key: ConversationKey) -> bool:
        """End a conversation, after the task that it runs; return whether there was one."""
        conversation = self._open.get(key)
        if conversation is None:
            return False
        conversation.has_ended = True
        # A running task keeps its worker; `release` ends the conversation after it.
        if not conversation.is_busy:
            self._end(conversation)
        return True

    @property
    def waiting(self) -> int:
        """Return how many tasks wait for the one before them."""
        return sum(len(conversation.turns) for conversation in self._open.values())

    def tick(self) -> None:
        """End unused conversations and those whose worker has gone; report to waiting tasks."""
        now = time.monotonic()
        for conversation in list(self._open.values()):
            is_old = now - conversation.last_used >= self._settings.conversation_idle
            if not conversation.is_busy and (is_old or not self._has_worker(conversation)):
                self._end(conversation)
            for place, turn in enumerate(conversation.turns, start=1):
                turn.on_queued(Queued(place, now - turn.since))

    def end_all(self) -> None:
        """Release all idle conversations and refuse waiting tasks, because the pool closes."""
        for conversation in list(self._open.values()):
            # First, so that no waiting task is granted the conversation at its end.
            _dismiss_all(conversation)
            self.end(conversation.key)

    async def _reserve(self, spec: AgentSpec, name: str, on_queued: QueueListener) -> Conversation:
        """Return the conversation, reserved for this caller until it is released."""
        key = ConversationKey(spec.key.project, spec.key.name, name)
        while True:
            conversation = self._open.get(key) or self._begin(spec, key)
            _refuse_other_schema(conversation, spec)
            # There is no await since the look-up, so no other task can reserve it in between.
            if not conversation.is_busy:
                conversation.is_busy = True
            elif not await self._wait(conversation, on_queued):
                # It has ended. Another task can have begun a new one of this name by now.
                continue
            if conversation.spec == spec and self._has_worker(conversation):
                return conversation
            self._end(conversation)  # the agent was edited or reset: begin anew

    def _begin(self, spec: AgentSpec, key: ConversationKey) -> Conversation:
        if self._supervisor.scheduler.is_closed:
            raise PoolClosed(f"the pool was closed, and with it the conversation {key}")
        if len(self._open) >= self._settings.max_conversations:
            names = ", ".join(sorted(map(str, self._open)))
            raise TooManyRequests(
                f"{len(self._open)} conversations are open (setting max_conversations), so {key} "
                f"cannot begin; end one of them first: {names}"
            )
        conversation = self._open[key] = Conversation(spec, key)
        return conversation

    async def _wait(self, conversation: Conversation, on_queued: QueueListener) -> bool:
        """Wait for the task before; return False if the conversation ended instead."""
        self._refuse_if_crowded(conversation)
        bound = self._settings.acquire_timeout
        turn = _Turn(asyncio.get_running_loop().create_future(), on_queued)
        conversation.turns.append(turn)
        on_queued(Queued(len(conversation.turns)))
        try:
            async with asyncio.timeout(bound):
                return await turn.granted
        except BaseException as error:
            _leave(conversation, turn)
            # The future itself never raises it, so a TimeoutError means that the bound passed.
            if not isinstance(error, TimeoutError):
                raise
            raise PoolTimeout(
                f"the conversation {conversation.key} was in use for {bound:g} s (setting "
                "acquire_timeout); try later, or begin another one"
            ) from None

    def _refuse_if_crowded(self, conversation: Conversation) -> None:
        if self._supervisor.scheduler.is_closed:
            raise PoolClosed("the pool is closed; open a new one")
        if self.waiting >= self._settings.max_waiting:
            raise TooManyRequests(
                f"{self.waiting} tasks of conversations are waiting already (setting max_waiting), "
                f"so this one of {conversation.key} was not queued; try again later"
            )

    def _has_worker(self, conversation: Conversation) -> bool:
        """Check whether its worker still serves it; also true before it has one."""
        worker = conversation.worker
        if worker is None:
            return True
        record = self._supervisor.scheduler.workers.get(worker.name)
        # The process can end some moments before the scheduler retires its worker.
        is_leased = record is not None and record.state is WorkerState.LEASED
        return is_leased and not worker.has_ended

    def _end(self, conversation: Conversation) -> None:
        # A new conversation can have this name already.
        if self._open.get(conversation.key) is conversation:
            del self._open[conversation.key]
        conversation.has_ended = True
        conversation.is_busy = False
        # Taken out first: a second call must not release the worker again.
        worker, conversation.worker = conversation.worker, None
        if worker is not None:
            self._supervisor.release(worker, max(1, conversation.tasks))
        # They look again in `_reserve`, and the first of them begins a new conversation.
        _dismiss_all(conversation)


def _refuse_other_schema(conversation: Conversation, spec: AgentSpec) -> None:
    # A process keeps the schema and the options with which it was started.
    if conversation.spec.key != spec.key:
        raise ConfigError(
            f"the conversation {conversation.key} began with another schema, or with none, or with "
            "other options (model, effort, permission_mode, env), and can only go on as it began; "
            "use another name, or end it first"
        )


def _grant_next(conversation: Conversation) -> None:
    # It stays busy until the next task runs, so that no other caller comes between.
    while conversation.turns:
        granted = conversation.turns.popleft().granted
        if not granted.done():
            granted.set_result(True)
            return
    conversation.is_busy = False


def _dismiss_all(conversation: Conversation) -> None:
    while conversation.turns:
        granted = conversation.turns.popleft().granted
        if not granted.done():
            granted.set_result(False)


def _leave(conversation: Conversation, turn: _Turn) -> None:
    if turn in conversation.turns:
        conversation.turns.remove(turn)
    elif turn.granted.done() and not turn.granted.cancelled() and turn.granted.result():
        # It was granted in the same loop step as the cancellation: pass it on.
        _grant_next(conversation)
