"""What an agent asks permission for, put to whoever can decide it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

log = logging.getLogger("agent_pool")

Asker = Callable[[Mapping[str, Any]], Awaitable[bool]]


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
        question.add_done_callback(self._open.discard)

    def withdraw(self) -> None:
        """The turn has ended: nobody needs an answer any more."""
        self.asker = None
        for question in self._open:
            question.cancel()

    async def _decide(
        self, request: Mapping[str, Any], reply: Callable[[Mapping[str, Any]], None]
    ) -> None:
        try:
            allowed = self.asker is not None and await self.asker(request)
        except Exception:
            log.exception("asking for a permission failed; it is denied")
            allowed = False
        given = request.get("input")
        if allowed:
            reply({"behavior": "allow", "updatedInput": given if isinstance(given, dict) else {}})
        else:
            reply({"behavior": "deny", "message": "The person in charge has not permitted this."})
