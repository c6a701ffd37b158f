"""What an agent asks permission for, put to whoever can decide it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

log = logging.getLogger("agent_pool")

DENIED: Final = "The person in charge has not permitted this."
NOBODY: Final = "This is not permitted: nobody can be asked for permission here."
FAULT: Final = "This is not permitted: asking for permission failed."


@dataclass(frozen=True, slots=True)
class Denied:
    """No, as an answer to what an agent asks permission for; false as a condition.

    Attributes:
        reason: what the agent reads; empty for the usual words.
    """

    reason: str = ""

    def __bool__(self) -> Literal[False]:
        return False


Asker = Callable[[Mapping[str, Any]], Awaitable[bool | Denied]]


class Questions:
    """The open permission requests of one turn.

    Attributes:
        asker: decides; without one everything is denied.
    """

    def __init__(self) -> None:
        self.asker: Asker | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def are_open(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._open)

    def ask(self, request: Mapping[str, Any], reply: Callable[[Mapping[str, Any]], None]) -> None:
        """Have a request decided, and the decision replied in the CLI's form."""
        question = asyncio.get_running_loop().create_task(self._decide(request, reply))
        self._open.add(question)
        question.add_done_callback(lambda done: self._open.discard(done))

    def withdraw(self) -> None:
        """The turn has ended: nobody needs an answer any more."""
        self.asker = None
        withdrawn, self._open = self._open, set()
        for question in withdrawn:
            question.cancel()

    async def _decide(
        self, request: Mapping[str, Any], reply: Callable[[Mapping[str, Any]], None]
    ) -> None:
        answer: bool | Denied
        try:
            answer = await self.asker(request) if self.asker else Denied(NOBODY)
        except Exception:
            log.exception("asking for a permission failed; it is denied")
            answer = Denied(FAULT)
        given = request.get("input")
        if asyncio.current_task() not in self._open:  # withdrawn, and it did not heed that
            return
        if answer is True:  # nothing else, lest a no in other words is taken for a yes
            reply({"behavior": "allow", "updatedInput": given if isinstance(given, dict) else {}})
        else:
            reason = answer.reason if isinstance(answer, Denied) else ""
            reply({"behavior": "deny", "message": str(reason) or DENIED})
