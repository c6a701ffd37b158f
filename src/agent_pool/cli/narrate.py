"""What an agent does, in words, while it does it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.status import Status

from agent_pool import (
    Queued,
    Retry,
    Started,
    TaskEvent,
    TaskResult,
    Text,
    ToolOutput,
    ToolUse,
    Usage,
)
from agent_pool.cli.output import count, one_line, seconds

_TELLING: Final = ("command", "file_path", "path", "pattern", "url", "query", "description")
"""Of a tool's input, what says most about the call."""


def describe_call(call: ToolUse) -> str:
    """A tool call on one line: ``Bash: git diff``."""
    for key in _TELLING:
        if (value := call.input.get(key)) and isinstance(value, str):
            return one_line(f"{call.name}: {value}")
    return one_line(call.name)


def describe_wait(queued: Queued) -> str:
    """What a task waits for."""
    if queued.paused:
        return f"the API refused work and is left alone for {seconds(queued.paused)}"
    return f"waiting for a worker, number {queued.position} in the queue"


def describe_refusal(retry: Retry) -> str:
    """A request that the API refused, and when the CLI tries again."""
    refused = f"the API refused: {retry.status} {retry.error}"
    if not retry.status:
        refused = f"the API cannot be reached: {retry.error}"
    return one_line(f"{refused}; again in {seconds(retry.delay)}")


def doing(event: TaskEvent) -> str:
    """What goes on now that this has happened; empty for the result."""
    match event:
        case Queued():
            return describe_wait(event)
        case Started() | ToolOutput():
            return "thinking"
        case Text():
            return one_line(event.text)
        case ToolUse():
            return describe_call(event)
        case Retry():
            return describe_refusal(event)
    return ""


def spent(usage: Usage, cost_usd: float) -> str:
    """Tokens and their price."""
    return (
        f"tokens {usage.input_tokens:,} in, {usage.output_tokens:,} out, "
        f"{usage.cache_write_tokens:,} written to cache, {usage.cache_read_tokens:,} read from it, "
        f"${cost_usd:.4f}"
    )


def summary(result: TaskResult) -> str:
    """What a task took, on one line."""
    return (
        f"{result.agent}: {seconds(result.duration)}, {count(result.turns, 'turn')}, "
        f"{spent(result.usage, result.cost_usd)}"
    )


class Narrator:
    """Tells one task's events on a console: a line each, and on a terminal what goes on now.

    The agent's last words are left out: they are the answer, which goes to stdout. Used as a
    context manager; the changing line is gone when it ends.
    """

    def __init__(self, agent: str, console: Console) -> None:
        self._agent = agent
        self._console = console
        self._said = ""
        self._status = Status("", console=console) if console.is_terminal else None
        self._doing = "waiting for a worker"
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        if self._status is not None:
            self._show(self._doing)
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
    def silence(self) -> Iterator[None]:
        """Nothing moves on the terminal meanwhile: somebody is asked something there."""
        if self._status is not None:
            self._status.stop()
        yield
        if self._status is not None:
            self._status.start()

    def tell(self, event: TaskEvent) -> None:
        """Say what happened."""
        match event:
            case Started():
                self._line(f"{event.worker} (process {event.pid}) has the task")
            case Text():
                self._speak()
                self._said = event.text
            case ToolUse():
                self._speak()
                self._line(f"→ {describe_call(event)}")
            case Retry():
                self._line(describe_refusal(event))
            case ToolOutput() if event.is_error:
                self._line(f"← failed: {one_line(event.text)}")
        self._show(doing(event))

    def _speak(self) -> None:
        """Tell what was said last, now that it proved not to be the answer."""
        if self._said.strip():
            self._line(f"“{one_line(self._said)}”")
        self._said = ""

    def _line(self, text: str) -> None:
        self._console.print(f"  {text}", style="dim")

    def _show(self, doing: str) -> None:
        if self._status is not None:
            self._status.update(f"{self._agent}: {doing}")
