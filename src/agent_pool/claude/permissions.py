"""The permission requests of one turn, put to a decider that can answer them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from agent_pool.claude.protocol.signals import CanUseTool
from agent_pool.models import Denied

log = logging.getLogger("agent_pool")

_DENIED: Final = "The person in charge has not permitted this."
_NO_DECIDER: Final = "This is not permitted: there is no person here to ask for permission."
_DECIDER_FAILED: Final = "This is not permitted: asking for permission failed."

Decider = Callable[[CanUseTool], Awaitable[bool | Denied]]
"""Decides one request: True, False, or `Denied` with a reason that the agent reads."""

Reply = Callable[[CanUseTool, Denied | None], None]
"""Sends a decision to the CLI: `None` permits the call, `Denied` holds the reason."""


class PermissionRequests:
    """The open permission requests of one turn.

    Attributes:
        decider: decides each request; without one every request is denied.
    """

    def __init__(self) -> None:
        self.decider: Decider | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def are_open(self) -> bool:
        """Return whether a decision is awaited."""
        return bool(self._open)

    def add(self, asked: CanUseTool, reply: Reply) -> None:
        """Have a request decided, and send the decision by `reply`."""
        # A task of its own: the worker's output must be read while a person decides.
        task = asyncio.get_running_loop().create_task(self._decide(asked, reply))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    def withdraw(self) -> None:
        """Cancel all open requests, because the turn has ended."""
        self.decider = None
        # Emptied before the cancellation: `_decide` sees by it that its request was withdrawn.
        withdrawn, self._open = self._open, set()
        for task in withdrawn:
            task.cancel()

    async def _decide(self, asked: CanUseTool, reply: Reply) -> None:
        answer: bool | Denied
        try:
            answer = await self.decider(asked) if self.decider else Denied(_NO_DECIDER)
        except Exception:  # the CLI waits for an answer, and so does its turn
            log.exception("the decision on a permission request failed; the request is denied")
            answer = Denied(_DECIDER_FAILED)
        if asyncio.current_task() not in self._open:
            return  # withdrawn, by a decider that ignored its cancellation
        if answer is True:  # only True: another true value can be a "no" in other words
            reply(asked, None)
        else:
            reason = answer.reason if isinstance(answer, Denied) else ""
            reply(asked, Denied(str(reason) or _DENIED))
