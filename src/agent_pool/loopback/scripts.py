"""Ready-made scripts: what the model says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from agent_pool.loopback.reply import Answer, ToolUse
from agent_pool.loopback.request import Request, text_of

Script: TypeAlias = Callable[[Request], Answer | Awaitable[Answer]]


def echo(request: Request) -> Answer:
    """Say the task back, or the tools' results when the last message holds some."""
    if request.tool_results:
        return "tool: " + "\n".join(text_of(result) for result in request.tool_results)
    return f"echo: {request.last_user_text}"


def sequence(answers: Iterable[Answer]) -> Script:
    """One answer after another; the last one repeats. Side requests are echoed.

    Raises ValueError when there is none.
    """
    waiting = list(answers)
    if not waiting:
        raise ValueError("sequence() needs at least one answer")

    def script(request: Request) -> Answer:
        if request.is_side:
            return echo(request)
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return script


def calling(*calls: ToolUse, then: Script = echo) -> Script:
    """Call the tools, all in one message; once their results are there, go on with `then`."""

    def script(request: Request) -> Answer | Awaitable[Answer]:
        return then(request) if request.tool_results or request.is_side else list(calls)

    return script
