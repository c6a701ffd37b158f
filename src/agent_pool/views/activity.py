"""What a task does now, on one line: for lists, progress and the status of a stored task."""

from __future__ import annotations

from typing import Final

from agent_pool.events import (
    Ended,
    PermissionAnswered,
    PermissionAsked,
    Queued,
    Retry,
    Spent,
    Started,
    Submitted,
    TaskEvent,
    Text,
    ToolOutput,
    ToolUse,
    Withdrawn,
)
from agent_pool.text import one_line, seconds_text

WAITING: Final = "waiting for a worker"
STARTING: Final = "starting a process"
ACTIVITY_WIDTH: Final = 80
"""Characters of a line."""

_DESCRIPTIVE_INPUTS: Final = (
    *("command", "file_path", "notebook_path", "path", "pattern", "url", "query"),
    *("description", "skill", "prompt", "title", "name"),
)
"""The fields of a tool's input that describe the call best, the best first."""


def describe_tool_call(call: ToolUse, width: int = ACTIVITY_WIDTH) -> str:
    """Return a tool call on one line: ``Bash: git diff``."""
    for key in _DESCRIPTIVE_INPUTS:
        value = call.input.get(key)
        if isinstance(value, str) and value.strip():
            return one_line(f"{call.name}: {value}", width)
    return one_line(call.name, width)


def describe_wait(queued: Queued) -> str:
    """Return why a task waits: a pause with its seconds, a start, or its place in the queue."""
    if queued.paused:
        why = queued.reason or "the API refused work"
        return f"{why}, so no task is started for the next {seconds_text(queued.paused)}"
    if queued.starting:
        return STARTING
    return f"{WAITING}, number {queued.position} in the queue"


def describe_retry(retry: Retry) -> str:
    """Return why the API refused a request, and when the CLI tries again."""
    refused = f"the API refused: {retry.status} {retry.error}"
    if not retry.status:
        refused = f"the API cannot be reached: {retry.error}"
    return one_line(f"{refused}; again in {seconds_text(retry.delay)}", ACTIVITY_WIDTH)


def describe_activity(event: TaskEvent) -> str | None:
    """Return what a task does after this event; empty after its end, None if it does the same."""
    match event:
        case Submitted():
            return WAITING
        case Queued():
            return describe_wait(event)
        case Started() | ToolOutput() | Withdrawn() | PermissionAnswered():
            return "thinking"
        case Text():
            return one_line(event.text, ACTIVITY_WIDTH)
        case ToolUse():
            return describe_tool_call(event)
        case Retry():
            return describe_retry(event)
        case PermissionAsked():
            return one_line(f"asks for permission to use {event.request.tool}", ACTIVITY_WIDTH)
        case Spent():
            return None
        case Ended():
            return ""
