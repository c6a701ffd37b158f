"""Many tasks side by side: which may run at once, which in order, and how each ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from agent_pool.agents import Catalog
from agent_pool.errors import AgentPoolError, ConfigError, ContextLost
from agent_pool.pool.result import TaskResult

Call = tuple[str, str] | Mapping[str, Any]
"""An ``(agent, task)`` pair, or a mapping with `agent`, `task` and, where wanted, `OPTIONS`."""

Outcome = TaskResult | AgentPoolError
"""How a call ended: its result, or the error that `AgentPool.invoke` raised."""

NEEDED: Final = ("agent", "task")
OPTIONS: Final = ("timeout", "conversation", "schema")
"""What a call may have for itself, as `AgentPool.invoke` takes it; None counts as not given."""


def check_calls(calls: Iterable[Call]) -> list[dict[str, Any]]:
    """The calls as arguments of `AgentPool.invoke`.

    Raises:
        ConfigError: the message names the first entry that is no call.
    """
    try:
        found = list(calls)
    except TypeError:
        raise ConfigError("calls: expected (agent, task) pairs or mappings") from None
    return [_arguments(place, call) for place, call in enumerate(found)]


def _arguments(place: int, call: object) -> dict[str, Any]:
    if isinstance(call, Mapping):
        return _named(place, call)
    if isinstance(call, list | tuple) and len(call) == len(NEEDED):
        return dict(zip(NEEDED, call, strict=True))
    raise ConfigError(f"calls: entry {place} is no (agent, task) pair and no mapping: {call!r}")


def _named(place: int, call: Mapping[Any, Any]) -> dict[str, Any]:
    if missing := [name for name in NEEDED if name not in call]:
        raise ConfigError(f"calls: entry {place} has no {' and no '.join(missing)}")
    if unknown := [str(name) for name in call if name not in NEEDED + OPTIONS]:
        raise ConfigError(
            f"calls: entry {place}: {', '.join(unknown)}: not known; there is "
            f"{', '.join(NEEDED + OPTIONS)}"
        )
    return {name: call[name] for name in call if name in NEEDED or call[name] is not None}


class Many:
    """The calls of one `AgentPool.map`.

    Those of one conversation run in their order, and when one does not end well, the later ones
    are not begun.

    Args:
        calls: what `check_calls` gave.
        run: runs the call at a place.
        on_end: called with a place and how its call ended.
        catalog: knows which names are one agent's.
    """

    def __init__(
        self,
        calls: Sequence[Mapping[str, Any]],
        run: Callable[[int], Awaitable[TaskResult]],
        on_end: Callable[[int, Outcome], None] | None,
        catalog: Catalog,
    ) -> None:
        self._calls = calls
        self._run = run
        self._on_end = on_end
        self._catalog = catalog
        self._outcomes: dict[int, Outcome] = {}

    async def run(self, *, at_once: int, per_agent: int) -> list[Outcome]:
        """Run all; so many at once, and so many of one agent, at the most.

        An exception that is no outcome ends the others and is raised.
        """
        room = asyncio.Semaphore(at_once)
        try:
            async with asyncio.TaskGroup() as group:
                for threads in self._threads().values():
                    waiting = iter(threads)
                    for _ in threads[:per_agent]:
                        group.create_task(self._run_from(waiting, room))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [self._outcomes[place] for place in range(len(self._calls))]

    def _threads(self) -> dict[str, list[list[int]]]:
        """For each agent its calls, by places: those of a conversation together, others alone."""
        threads: dict[str, dict[object, list[int]]] = {}
        for place, call in enumerate(self._calls):
            name = call.get("conversation")
            key = place if name is None else str(name)
            threads.setdefault(self._agent_of(call), {}).setdefault(key, []).append(place)
        return {agent: list(of_agent.values()) for agent, of_agent in threads.items()}

    def _agent_of(self, call: Mapping[str, Any]) -> str:
        """By its own name, which is not always that of its file."""
        try:
            return self._catalog.find(call["agent"]).name
        except AgentPoolError:  # as the call itself will say
            return str(call["agent"])

    async def _run_from(self, waiting: Iterator[list[int]], room: asyncio.Semaphore) -> None:
        for places in waiting:
            async with room:
                await self._run_in_order(places)

    async def _run_in_order(self, places: Sequence[int]) -> None:
        for number, place in enumerate(places, 1):
            outcome: Outcome
            try:
                outcome = await self._run(place)
            except AgentPoolError as error:
                outcome = error
            self._end(place, outcome)
            if not isinstance(outcome, TaskResult) or outcome.is_error:
                self._give_up(places[number:], place)
                return

    def _give_up(self, places: Sequence[int], failed: int) -> None:
        for place in places:
            name = self._calls[place]["conversation"]
            why = (
                f"not begun: call {failed} of the conversation {name!r} did not end well, and its "
                "context is gone"
            )
            self._end(place, ContextLost(why))

    def _end(self, place: int, outcome: Outcome) -> None:
        self._outcomes[place] = outcome
        if self._on_end is not None:
            self._on_end(place, outcome)
