"""Permission requests as forms for a person, and the meaning of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any, Final

from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult

from agent_pool import Denied, PermissionRequest
from agent_pool.text import one_line, printable, whole_characters

MAX_INPUT_SHOWN: Final = 4000
"""Characters of a tool's input that a person sees."""

_ONCE: Final = "allow once"
_TASK: Final = "allow everything in this task"
_DENY: Final = "deny"
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        # With the default, accepting the form permits the call, and declining it denies it.
        "decision": {
            "type": "string",
            "title": "Decision",
            "enum": [_ONCE, _TASK, _DENY],
            "default": _ONCE,
        }
    },
    "required": ["decision"],
}


class Decision(StrEnum):
    """How a permission request ended."""

    ONCE = "allowed once"
    TASK = "allowed for the task"
    DENIED = "denied by the person"
    CLOSED = "the question was closed without an answer"
    UNANSWERED = "no answer came in time"
    TOO_OFTEN = "asked too often"
    CANNOT_ASK = "the client cannot ask"


_REASONS: Final = {
    Decision.CLOSED: f"The person in charge has not permitted this: {Decision.CLOSED}.",
    Decision.TOO_OFTEN: "This is not permitted: you have asked too often during this task.",
    Decision.CANNOT_ASK: "This is not permitted: no person can be asked, as the client cannot ask.",
}
"""What the agent reads if the reason is not a person's own "no"."""

AskPerson = Callable[[PermissionRequest], Awaitable[Decision]]
"""Puts a permission request to a person."""


class TaskPermissions:
    """The permissions of one task.

    The pool bounds how long a person can think, and cancels the question after that.

    Args:
        ask: puts a request to a person; None if that is impossible.

    Attributes:
        refused: the tools that the agent was denied, each with the reason.
    """

    def __init__(self, ask: AskPerson | None) -> None:
        self._ask = ask
        self._permits_all = False
        self.refused: list[tuple[str, Decision]] = []

    async def decide(self, request: PermissionRequest) -> bool | Denied:
        """Decide a request of the agent; the pool's `on_permission`."""
        if self._permits_all:
            return True
        try:
            decision = await self._ask(request) if self._ask else Decision.CANNOT_ASK
        except asyncio.CancelledError:
            self.refused.append((request.tool, Decision.UNANSWERED))
            raise
        reply = reply_to(decision)
        if reply:
            self._permits_all = decision is Decision.TASK
        else:
            self.refused.append((request.tool, decision))
        return reply


def reply_to(decision: Decision) -> bool | Denied:
    """Return the reply to the agent's request."""
    if decision in (Decision.ONCE, Decision.TASK):
        return True
    return Denied(_REASONS.get(decision, ""))


def permission_form(request: PermissionRequest) -> ElicitRequestFormParams:
    """Return the request as a form with one choice."""
    return ElicitRequestFormParams(message=_message(request), requested_schema=_SCHEMA)


def permission_elicitation(request: PermissionRequest) -> ElicitRequest:
    """Return the form as an elicitation, which the client is asked to show."""
    return ElicitRequest(params=permission_form(request))


def _message(request: PermissionRequest) -> str:
    # A mark before each line: an input can hold lines that look like a part of this message.
    lines = whole_characters(_input_text(request.input)).splitlines()
    given = "\n".join(f"| {printable(line)}" for line in lines)
    if len(given) > MAX_INPUT_SHOWN:
        hidden = len(given) - MAX_INPUT_SHOWN
        given = f"{given[:MAX_INPUT_SHOWN]}… and {hidden} characters that are not shown"
    # Claude Code describes a Bash call by its command, which stands below.
    is_news = request.description and request.description != request.input.get("command")
    about = f" ({one_line(request.description, 200)})" if is_news else ""
    agent, tool = one_line(request.agent, 100), one_line(request.tool, 100)
    return f"The agent {agent} asks for permission to use {tool}{about}:\n{given}"


def _input_text(given: Mapping[str, Any]) -> str:
    """Return a tool's input as a person reads it: the command, then the other values by name."""
    command = given.get("command")
    if not isinstance(command, str):
        return "\n".join(f"{name}: {_value_text(value)}" for name, value in given.items())
    rest = {name: value for name, value in given.items() if name not in ("command", "description")}
    return "\n".join([command, *([_input_text(rest)] if rest else [])])


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def decision_of(answer: ElicitResult) -> Decision:
    """Return what the person decided; everything but a clear permission is a refusal."""
    if answer.action == "cancel":
        return Decision.CLOSED
    chosen = (answer.content or {}).get("decision") if answer.action == "accept" else _DENY
    return {_ONCE: Decision.ONCE, _TASK: Decision.TASK}.get(str(chosen), Decision.DENIED)
