"""What a task may be, and how a worker's answer becomes a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_pool.claude.events import Retrying, Said, ToolAnswered, ToolCalled
from agent_pool.claude.worker import Worker
from agent_pool.errors import ConfigError
from agent_pool.pool.result import Retry, TaskEvent, TaskResult, Text, ToolOutput, ToolUse

TurnEvent = Said | ToolCalled | ToolAnswered | Retrying


def check_task(task: str) -> None:
    """Refuse what cannot be sent as it is.

    Raises:
        ConfigError: the task is no text, is blank, or cannot be written as UTF-8.
    """
    if not isinstance(task, str):
        raise ConfigError(f"a task is text, found {type(task).__name__}")
    if not task.strip():
        raise ConfigError("the task is empty; say what the agent should do")
    try:
        task.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"the task holds half a surrogate pair at character {error.start}, which is no text; "
            "remove it or decode the source again"
        ) from None


def to_public(event: TurnEvent) -> TaskEvent:
    """A worker's event as callers see it."""
    match event:
        case Said(text):
            return Text(text)
        case ToolCalled(id, name, given):
            return ToolUse(id, name, given)
        case ToolAnswered(id, text, is_error):
            return ToolOutput(id, text, is_error)
        case Retrying(status, error, attempt, delay):
            return Retry(status, error, attempt, delay)


def make_result(
    frame: Mapping[str, Any], worker: Worker, agent: str, *, duration: float, waited: float
) -> TaskResult:
    """The answer of a worker, with what it took."""
    subtype = str(frame.get("subtype", ""))
    return TaskResult(
        text=_text_of(frame),
        is_error=bool(frame.get("is_error")) or subtype != "success",
        subtype=subtype,
        agent=agent,
        duration=duration,
        waited=waited,
        turns=_whole(frame.get("num_turns")),
        usage=worker.last_turn.usage,
        cost_usd=worker.last_turn.cost_usd,
        session_id=str(frame.get("session_id", "")),
        worker=worker.name,
        pid=worker.pid or 0,
        structured=frame.get("structured_output"),
    )


def _text_of(frame: Mapping[str, Any]) -> str:
    text = frame.get("result")
    if isinstance(text, str):
        return text
    errors = frame.get("errors")
    return "\n".join(map(str, errors)) if isinstance(errors, list) else ""


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
