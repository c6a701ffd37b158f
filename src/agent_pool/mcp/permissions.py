"""What an agent asks permission for, as a question to a person, and what the answer means."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Final

from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult

from agent_pool import Denied, PermissionRequest
from agent_pool.mcp.text import one_line

SHOWN: Final = 4000
"""Characters of a tool's input that a person sees."""

_ONCE: Final = "allow once"
_TASK: Final = "allow everything in this task"
_DENY: Final = "deny"
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "decision": {"type": "string", "title": "Decision", "enum": [_ONCE, _TASK, _DENY]}
    },
    "required": ["decision"],
}


class Verdict(StrEnum):
    """How a permission request ended."""

    ONCE = "allowed once"
    TASK = "allowed for the task"
    DENIED = "denied by the person"
    CLOSED = "the question was closed without an answer"
    UNANSWERED = "nobody answered in time"
    TOO_OFTEN = "asked too often"
    CANNOT_ASK = "the client cannot ask"


_REASONS: Final = {
    Verdict.CLOSED: f"The person in charge has not permitted this: {Verdict.CLOSED}.",
    Verdict.TOO_OFTEN: "This is not permitted: you have asked too often during this task.",
    Verdict.CANNOT_ASK: "This is not permitted: nobody can be asked, as the client cannot ask.",
}
"""What the agent reads, where it is not that the person said no."""

Ask = Callable[[PermissionRequest], Awaitable[Verdict]]


class Permissions:
    """What one task's agent may do.

    How long a person may think is the pool's to bound; it cancels what it does not wait for.

    Attributes:
        refused: the tools that it was denied, each with the reason.
    """

    def __init__(self, ask: Ask | None) -> None:
        self._ask = ask
        self._permits_all = False
        self.refused: list[tuple[str, Verdict]] = []

    async def permit(self, request: PermissionRequest) -> bool | Denied:
        """Whether the agent may, and if not, why; the pool's `on_permission`."""
        if self._permits_all:
            return True
        try:
            verdict = await self._ask(request) if self._ask else Verdict.CANNOT_ASK
        except asyncio.CancelledError:
            self.refused.append((request.tool, Verdict.UNANSWERED))
            raise
        if verdict in (Verdict.ONCE, Verdict.TASK):
            self._permits_all = verdict is Verdict.TASK
            return True
        self.refused.append((request.tool, verdict))
        return Denied(_REASONS.get(verdict, ""))


def form(request: PermissionRequest) -> ElicitRequestFormParams:
    """The request as a form with one choice."""
    return ElicitRequestFormParams(message=_message(request), requested_schema=_SCHEMA)


def question(request: PermissionRequest) -> ElicitRequest:
    """The form as something to ask the client for."""
    return ElicitRequest(params=form(request))


def _message(request: PermissionRequest) -> str:
    given = one_line(json.dumps(dict(request.input), ensure_ascii=False))
    if len(given) > SHOWN:
        given = f"{given[:SHOWN]}… and {len(given) - SHOWN} characters that are not shown"
    about = f" ({one_line(request.description, 200)})" if request.description else ""
    agent, tool = one_line(request.agent, 100), one_line(request.tool, 100)
    return f"The agent {agent} asks for permission to use {tool}{about}:\n{given}"


def verdict_of(answer: ElicitResult) -> Verdict:
    """What the person decided; anything but a clear permission is none."""
    if answer.action == "cancel":
        return Verdict.CLOSED
    chosen = (answer.content or {}).get("decision") if answer.action == "accept" else _DENY
    return {_ONCE: Verdict.ONCE, _TASK: Verdict.TASK}.get(str(chosen), Verdict.DENIED)
