"""Many tasks side by side: those that run at once, those in order, and the end of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from agent_pool.api import BatchItem
from agent_pool.errors import AgentPoolError, ConfigError, ContextLost
from agent_pool.models import Outcome, TaskRequest, TaskResult

_REQUIRED: Final = ("agent", "task")
_KNOWN: Final = tuple(TaskRequest.__dataclass_fields__)


def read_requests(items: Iterable[BatchItem], timeout: float | None) -> list[TaskRequest]:
    """Return the items as requests; `timeout` is for each that has no timeout of its own.

    Raises:
        ConfigError: an item is not a request; the message has its index.
    """
    try:
        found = list(items)
    except TypeError:
        raise ConfigError("requests: expected a list of (agent, task) pairs or mappings") from None
    return [_read_item(index, item, timeout) for index, item in enumerate(found)]


def _read_item(index: int, item: object, timeout: float | None) -> TaskRequest:
    if isinstance(item, TaskRequest):
        request = item
    elif isinstance(item, Mapping):
        request = _read_mapping(index, item)
    elif isinstance(item, list | tuple) and len(item) == len(_REQUIRED):
        request = TaskRequest(*item)
    else:
        raise ConfigError(
            f"requests: entry {index} is not an (agent, task) pair and not a mapping: {item!r}"
        )
    return request if request.timeout is not None else replace(request, timeout=timeout)


def _read_mapping(index: int, item: Mapping[Any, Any]) -> TaskRequest:
    if missing := [name for name in _REQUIRED if name not in item]:
        raise ConfigError(f"requests: entry {index} has no {' and no '.join(missing)}")
    if unknown := [str(name) for name in item if name not in _KNOWN]:
        raise ConfigError(
            f"requests: entry {index}: {', '.join(unknown)}: unknown; the known names are "
            f"{', '.join(_KNOWN)}"
        )
    # An optional key with `None` is the same as a missing key.
    return TaskRequest(
        **{name: item[name] for name in item if name in _REQUIRED or item[name] is not None}
    )


class Batch:
    """The tasks of one `PoolAPI.map`.

    Tasks of one conversation run in their order. If one of them does not succeed, the later ones
    are not started.

    Args:
        requests: the tasks.
        run: runs the task at an index.
        on_end: called with an index and how its task ended.
        agent_of: returns the agent that a request means: two names can mean one agent.
        on_skip: called with each request that is not run.
    """

    def __init__(
        self,
        requests: Sequence[TaskRequest],
        run: Callable[[int], Awaitable[TaskResult]],
        on_end: Callable[[int, Outcome], None] | None,
        agent_of: Callable[[TaskRequest], object],
        on_skip: Callable[[TaskRequest], None] = lambda request: None,
    ) -> None:
        self._requests = requests
        self._run_one = run
        self._on_end = on_end
        self._agent_of = agent_of
        self._on_skip = on_skip
        self._outcomes: dict[int, Outcome] = {}

    async def run(self, *, at_once: int, per_agent: int) -> list[Outcome]:
        """Run all tasks, at most `at_once` together and `per_agent` of one agent.

        An exception that is not an `AgentPoolError` ends the others and is raised.
        """
        room = asyncio.Semaphore(at_once)
        try:
            async with asyncio.TaskGroup() as group:
                for sequences in self._sequences().values():
                    waiting = iter(sequences)
                    # These loops share one iterator: each takes the next sequence when it is free.
                    for _ in sequences[:per_agent]:
                        group.create_task(self._run_sequences(waiting, room))
        except BaseExceptionGroup as errors:
            # The group cancels the other tasks, so the first exception is the cause.
            raise errors.exceptions[0] from None
        return [self._outcomes[index] for index in range(len(self._requests))]

    def _sequences(self) -> dict[object, list[list[int]]]:
        """Return the indexes by agent: those of a conversation together, each other one alone."""
        sequences: dict[object, dict[object, list[int]]] = {}
        for index, request in enumerate(self._requests):
            name = request.conversation
            # A number equals no name, so a single task never joins a conversation.
            key = index if name is None else str(name)
            of_agent = sequences.setdefault(self._agent_of(request), {})
            of_agent.setdefault(key, []).append(index)
        return {agent: list(of_agent.values()) for agent, of_agent in sequences.items()}

    async def _run_sequences(self, waiting: Iterator[list[int]], room: asyncio.Semaphore) -> None:
        for sequence in waiting:
            # Taken for each sequence, so that a long list of one agent lets other agents in
            # between.
            async with room:
                await self._run_in_order(sequence)

    async def _run_in_order(self, sequence: Sequence[int]) -> None:
        for number, index in enumerate(sequence, 1):
            outcome: Outcome
            try:
                outcome = await self._run_one(index)
            except AgentPoolError as error:
                outcome = error
            self._end(index, outcome)
            # The pool ends a conversation after such a task. The next one would begin without
            # context.
            if not isinstance(outcome, TaskResult) or outcome.is_error:
                self._skip(sequence[number:], index)
                return

    def _skip(self, indexes: Sequence[int], failed: int) -> None:
        for index in indexes:
            name = self._requests[index].conversation
            reason = (
                f"not started: task {failed + 1} of this batch, an earlier one of the conversation "
                f"{name!r}, did not succeed, so the context is lost"
            )
            self._on_skip(self._requests[index])
            self._end(index, ContextLost(reason))

    def _end(self, index: int, outcome: Outcome) -> None:
        self._outcomes[index] = outcome
        if self._on_end is not None:
            self._on_end(index, outcome)
