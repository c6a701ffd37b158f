"""The progress of a task in words, and its display on a console."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.status import Status
from rich.text import Text as RichText

from agent_pool import (
    Ended,
    PermissionAnswered,
    PermissionAsked,
    Queued,
    Retry,
    Spent,
    Started,
    Submitted,
    TaskEvent,
    TaskResult,
    Text,
    ToolOutput,
    ToolUse,
    Usage,
    Withdrawn,
)
from agent_pool.text import clock_text, count, one_line, printable, seconds_text
from agent_pool.views.activity import (
    STARTING,
    describe_activity,
    describe_retry,
    describe_tool_call,
    describe_wait,
)

_WIDTH: Final = 80
_STEP_WIDTH: Final = 200


def describe_step(event: TaskEvent) -> str:
    """Return what happened, on one line, as progress and logs show it."""
    match event:
        case Submitted():
            return "submitted"
        case Queued():
            return describe_wait(event)
        case Started():
            place = f" on {event.node}" if event.node else ""
            return f"{event.worker}{place} (process {event.pid}) has the task"
        case Text():
            return f"“{one_line(event.text, _STEP_WIDTH)}”"
        case ToolUse():
            return f"→ {describe_tool_call(event)}"
        case ToolOutput():
            kind = "failed: " if event.is_error else ""
            return f"← {kind}{one_line(event.text, _STEP_WIDTH)}"
        case Ended():
            return describe_end(event)
        case _:
            return _describe_incident(event)


def _describe_incident(
    event: Withdrawn | Retry | Spent | PermissionAsked | PermissionAnswered,
) -> str:
    match event:
        case Withdrawn():
            return "the answer so far was withdrawn; the agent begins again"
        case Retry():
            return describe_retry(event)
        case Spent():
            return usage_text(event.usage, event.cost_usd)
        case PermissionAsked():
            return f"asks for permission to use {one_line(event.request.tool, _WIDTH)}"
        case PermissionAnswered():
            return _describe_answer(event)


def _describe_answer(event: PermissionAnswered) -> str:
    if event.allowed:
        return "the permission was given"
    why = f": {one_line(event.reason, _STEP_WIDTH)}" if event.reason else ""
    return f"the permission was denied{why}"


def describe_end(ended: Ended) -> str:
    """Return how a task ended, on one line: its figures, or its failure."""
    if ended.error is not None:
        return one_line(f"{ended.error.code}: {ended.error.message}", _STEP_WIDTH)
    if ended.result is None:
        return "ended"
    if ended.result.is_error:
        return one_line(f"failed ({ended.failure}): {ended.result.text}", _STEP_WIDTH)
    return f"succeeded; {result_text(ended.result)}"


def usage_text(usage: Usage, cost_usd: float) -> str:
    """Return tokens and their price in words."""
    return (
        f"{usage.prompt_tokens:,} tokens sent ({usage.cache_write_tokens:,} written to the cache, "
        f"{usage.cache_read_tokens:,} read from it), {usage.output_tokens:,} received, "
        f"${cost_usd:.4f}"
    )


def result_text(result: TaskResult) -> str:
    """Return a task's time, turns, tokens and cost on one line."""
    return (
        f"{result.agent}: {seconds_text(result.duration)}, {count(result.turns, 'turn')}, "
        f"{usage_text(result.usage, result.cost_usd)}"
    )


class StatusLine:
    """The line that changes while a task runs; its clock runs between the events too.

    Attributes:
        activity: what the task does now.
    """

    def __init__(self, agent: str) -> None:
        self.activity = STARTING
        self._agent = agent
        self._began = time.monotonic()

    def __rich__(self) -> RichText:
        # In whole seconds, and before the activity, which is cut in a narrow terminal.
        clock = clock_text(time.monotonic() - self._began)
        line = f"{self._agent}, {clock}: {self.activity}"
        return RichText(printable(line), no_wrap=True, overflow="ellipsis")


class TaskProgress:
    """Shows one task's events on a console: a line each, and on a terminal a changing line.

    The agent's last words are left out: they are the answer, which goes to stdout. Used as a
    context manager; at its end the changing line is removed.
    """

    def __init__(self, agent: str, console: Console) -> None:
        self._console = console
        self._held_text = ""
        self._line = StatusLine(agent)
        self._status = Status(self._line, console=console) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the changing line while the terminal shows a question to a person."""
        if self._status is not None:
            self._status.stop()
        yield
        if self._status is not None:
            self._status.start()

    def update(self, event: TaskEvent) -> None:
        """Show an event."""
        match event:
            case Started() | Retry():
                self._print_line(describe_step(event))
            case Text():
                self._print_held_text()
                self._held_text = event.text
            case Withdrawn():
                self._held_text = ""
                self._print_line(describe_step(event))
            case ToolUse():
                self._print_held_text()
                self._print_line(describe_step(event))
            case ToolOutput() if event.is_error:
                self._print_line(f"← failed: {one_line(event.text, _WIDTH)}")
        if (activity := describe_activity(event)) is not None:
            self._show(activity)

    def _print_held_text(self) -> None:
        # Text is printed only when another event follows it. The last one is the answer.
        if self._held_text.strip():
            self._print_line(f"“{one_line(self._held_text, _WIDTH)}”")
        self._held_text = ""

    def _print_line(self, text: str) -> None:
        self._console.print(f"  {text}", style="dim")

    def _show(self, activity: str) -> None:
        self._line.activity = activity
