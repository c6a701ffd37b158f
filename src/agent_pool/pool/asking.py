"""Permission requests of a task: put to its caller, whose time is not the task's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agent_pool.claude.questions import Asker, Denied
from agent_pool.pool.result import PermissionRequest

Permit = Callable[[PermissionRequest], Awaitable[bool | Denied]]
"""Decides: true, false, or `Denied` with a reason that the agent reads."""


class Clock:
    """The bound of a task's time, which stands still while anything is asked."""

    def __init__(self, bound: asyncio.Timeout) -> None:
        self._bound = bound
        self._asked: set[object] = set()
        self._left = 0.0
        self._has_ended = False

    def stop(self, question: object) -> None:
        """A question is open from now on."""
        now = asyncio.get_running_loop().time()
        if not self._asked and self._can_be_set and (when := self._bound.when()) is not None:
            self._left = when - now
            self._bound.reschedule(None)
        self._asked.add(question)

    def go_on(self, question: object) -> None:
        """A question is not open any more; again is no fault."""
        was_open = question in self._asked
        self._asked.discard(question)
        if was_open and not self._asked and self._can_be_set:
            self._bound.reschedule(asyncio.get_running_loop().time() + self._left)

    def end(self) -> None:
        """The task has ended; questions may end later."""
        self._has_ended = True

    @property
    def _can_be_set(self) -> bool:
        return not self._has_ended and not self._bound.expired()


def asker(agent: str, permit: Permit | None, patience: float, clock: Clock) -> Asker | None:
    """Puts what an agent asks to `permit`, and denies it after `patience` seconds."""
    if permit is None:
        return None

    async def ask(asked: Mapping[str, Any]) -> bool | Denied:
        question = object()
        clock.stop(question)
        # Whoever does not heed being cancelled must not hold the task's time for ever.
        end = asyncio.get_running_loop().call_later(patience, clock.go_on, question)
        try:
            async with asyncio.timeout(patience) as bound:
                return await permit(_request(agent, asked))
        except TimeoutError:
            if not bound.expired():
                raise
            return Denied(
                f"This is not permitted: nobody answered within {patience:g} s "
                "(setting permission_timeout)."
            )
        finally:
            end.cancel()
            clock.go_on(question)

    return ask


def _request(agent: str, asked: Mapping[str, Any]) -> PermissionRequest:
    given = asked.get("input")
    return PermissionRequest(
        agent=agent,
        tool=str(asked.get("tool_name", "")),
        input=given if isinstance(given, dict) else {},
        description=str(asked.get("description") or ""),
    )
