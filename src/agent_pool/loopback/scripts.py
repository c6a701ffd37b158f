"""Scripts, which decide the model's answers, and three ready-made ones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from agent_pool.loopback.reply import ScriptAnswer, ToolUseBlock
from agent_pool.loopback.request import ModelRequest, get_result_text

Script: TypeAlias = Callable[[ModelRequest], ScriptAnswer | Awaitable[ScriptAnswer]]


def echo(request: ModelRequest) -> ScriptAnswer:
    """Repeat the task, or the tools' results if the last message has some."""
    if request.tool_results:
        return "tool: " + "\n".join(get_result_text(result) for result in request.tool_results)
    return f"echo: {request.last_user_text}"


def sequence(answers: Iterable[ScriptAnswer]) -> Script:
    """Make a script that gives one answer after another, and repeats the last one.

    Raises:
        ValueError: there is no answer.
    """
    remaining = list(answers)
    if not remaining:
        raise ValueError("sequence() needs at least one answer")

    def script(request: ModelRequest) -> ScriptAnswer:
        # Claude Code decides when it asks for a title; such a request must not use up an answer.
        if request.is_side:
            return echo(request)
        return remaining.pop(0) if len(remaining) > 1 else remaining[0]

    return script


def call_tools(*calls: ToolUseBlock, then: Script = echo) -> Script:
    """Make a script that calls the tools, all in one message, and uses `then` for the results.

    A side request gets the answer of `then` too.
    """

    def script(request: ModelRequest) -> ScriptAnswer | Awaitable[ScriptAnswer]:
        return then(request) if request.tool_results or request.is_side else list(calls)

    return script
