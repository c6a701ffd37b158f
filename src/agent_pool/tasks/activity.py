"""What a task does now, on one line for lists."""

from __future__ import annotations

from typing import Final

from agent_pool.events import (
    PermissionAnswered,
    PermissionAsked,
    Queued,
    Retry,
    Started,
    Text,
    ToolOutput,
    ToolUse,
    Withdrawn,
)
from agent_pool.events import TaskEvent as _TaskEvent
from agent_pool.text import one_line, seconds_text

WAITING: Final = "waiting for a worker"
_WIDTH: Final = 80
_DESCRIPTIVE: Final = ("command", "file_path", "path", "pattern", "url", "query", "description")
"""The fields of a tool's input that describe the call best, the best first."""


def activity_line(event: _TaskEvent) -> str | None:
    """Return what a task does after an event; None if it does the same as before."""
    match event:
        case Queued():
            return one_line(_waiting(event), _WIDTH)
        case Started() | ToolOutput() | Withdrawn() | PermissionAnswered():
            return "thinking"
        case Text():
            return one_line(event.text, _WIDTH) or None
        case ToolUse():
            return one_line(_tool_call(event), _WIDTH)
        case Retry():
            seconds = seconds_text(event.delay)
            return one_line(f"the API refused: {event.error}; again in {seconds}", _WIDTH)
        case PermissionAsked():
            return one_line(f"asks for permission to use {event.request.tool}", _WIDTH)
        case _:
            return None


def _waiting(event: Queued) -> str:
    if event.paused:
        return f"{event.reason or 'the API refused work'}; waits {seconds_text(event.paused)}"
    return "starting a process" if event.starting else WAITING


def _tool_call(call: ToolUse) -> str:
    found = (call.input.get(key) for key in _DESCRIPTIVE)
    value = next((one for one in found if isinstance(one, str) and one), "")
    return f"{call.name}: {value}" if value else call.name
