"""The events of a task as steps that a person reads."""

from __future__ import annotations

from dataclasses import dataclass
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
from agent_pool.models import NO_USAGE, Usage
from agent_pool.text import one_line, printable_json, seconds_text, whole_characters
from agent_pool.views.activity import describe_tool_call

TITLE_WIDTH: Final = 160
MAX_BODY: Final = 100_000
"""Characters of a step that are shown; the rest is in the export."""


@dataclass(frozen=True, slots=True)
class TaskStep:
    """One step.

    Attributes:
        number: of its event within the task.
        time: when, in seconds since 1970.
        kind: its class in the page: ``text``, ``tool``, ``output``, ``error`` or ``note``.
        title: one line.
        body: the whole content; None if the title says all.
        is_folded: the body is shown only when a person opens it.
    """

    number: int
    time: float
    kind: str
    title: str
    body: str | None = None
    is_folded: bool = False


def step_of(event: TaskEvent, before: Spent | None = None) -> TaskStep | None:
    """Return the step of an event; None for an event that is no step.

    Args:
        event: the event.
        before: the last event with figures before this one; None if there is none.
    """
    made = _tool_step(event) or _step(event, before)
    if made is None:
        return None
    kind, title, body, is_folded = made
    shown = None if body is None else whole_characters(body)[:MAX_BODY]
    return TaskStep(event.number, event.time, kind, one_line(title, TITLE_WIDTH), shown, is_folded)


_Parts = tuple[str, str, str | None, bool]


def _tool_step(event: TaskEvent) -> _Parts | None:
    match event:
        case Text():
            return "text", "said", event.text, False
        case ToolUse():
            return (
                "tool",
                describe_tool_call(event, TITLE_WIDTH),
                printable_json(dict(event.input), indent=2),
                True,
            )
        case ToolOutput(is_error=True):
            return "error", f"failed: {event.text}", event.text, True
        case ToolOutput():
            return "output", f"output: {event.text}", event.text, True
    return None


def _step(event: TaskEvent, before: Spent | None) -> _Parts | None:
    match event:
        case Submitted():
            return "note", "submitted", None, False
        case Started():
            place = f" on {event.node}" if event.node else ""
            return "note", f"{event.worker}{place} has it, process {event.pid}", None, False
        case Withdrawn():
            return "note", "the words so far were withdrawn", event.text, True
        case Retry():
            return "error", _retry_title(event), None, False
        case PermissionAsked():
            return "note", f"asks for permission to use {event.request.tool}", None, False
        case PermissionAnswered():
            answer = "allowed" if event.allowed else f"denied: {event.reason}"
            return "note", answer, None, False
        case Ended():
            return ("error" if event.failure else "note"), _end_title(event, before), None, False
        case Spent():
            return "note", _spent_title(event.usage, event.cost_usd, before), None, False
        case Queued():
            return None  # one for each change of its place would hide the others
    return None


def _retry_title(retry: Retry) -> str:
    what = f"refused: {retry.status} {retry.error}" if retry.status else "cannot be reached"
    return f"the API {what}; again in {seconds_text(retry.delay)}"


def _end_title(event: Ended, before: Spent | None) -> str:
    title = f"ended with {event.failure}" if event.failure else "done"
    if (result := event.result) is None or result.usage == NO_USAGE:
        return title
    return f"{title}; {_spent_title(result.usage, result.cost_usd, before)}"


def _spent_title(usage: Usage, cost_usd: float, before: Spent | None) -> str:
    """Return what the requests since the figures before have used, and all requests together."""
    # A task that is tried again begins at 0.
    if before is None or usage.prompt_tokens < before.usage.prompt_tokens:
        return f"used {_usage_words(usage, cost_usd)}"
    used = _usage_words(usage - before.usage, cost_usd - before.cost_usd)
    return f"used {used}; so far {usage.prompt_tokens + usage.output_tokens:,}, ${cost_usd:.4f}"


def _usage_words(usage: Usage, cost_usd: float) -> str:
    cached = f" ({usage.cache_read_tokens:,} from the cache)" if usage.cache_read_tokens else ""
    sent = f"{usage.prompt_tokens:,} tokens sent{cached}"
    return f"{sent}, {usage.output_tokens:,} received, ${cost_usd:.4f}"
