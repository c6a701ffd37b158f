"""What a task may be, and how a worker's answer becomes a result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, Final

from agent_pool.claude.events import Retrying, Said, ToolAnswered, ToolCalled
from agent_pool.claude.worker import Worker
from agent_pool.errors import AgentNotFound, ConfigError
from agent_pool.pool.result import Retry, TaskEvent, TaskResult, Text, ToolOutput, ToolUse

log = logging.getLogger("agent_pool")

MOST_SECONDS: Final = 1e9
"""Some thirty years: more is no number of seconds that anybody means."""

TurnEvent = Said | ToolCalled | ToolAnswered | Retrying


def check_arguments(agent: str, task: str, timeout: float | None, conversation: str | None) -> None:
    """Refuse a call that cannot be made, whatever is defined.

    Raises:
        AgentNotFound, ConfigError: see the others.
    """
    check_name(agent)
    check_task(task)
    check_timeout(timeout)
    check_conversation(conversation)


def check_task(task: str) -> None:
    """Refuse what cannot be sent as it is.

    Raises:
        ConfigError: the task is no text, is blank, or cannot be written as UTF-8.
    """
    if not isinstance(task, str):
        raise ConfigError(f"a task is text, found {type(task).__name__}")
    if not task.replace("\ufeff", "").strip():  # what the CLI takes for blank
        raise ConfigError("the task is empty; say what the agent should do")
    try:
        task.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"the task holds half a surrogate pair at character {error.start}, which is no text; "
            "remove it or decode the source again"
        ) from None


def check_name(agent: str) -> None:
    """Refuse what cannot be an agent's name.

    Raises:
        AgentNotFound: it is no text.
    """
    if not isinstance(agent, str):
        raise AgentNotFound(f"an agent's name is text, found {agent!r}")


def check_timeout(timeout: float | None) -> None:
    """Refuse what is no time to wait.

    Raises:
        ConfigError: it is neither None nor a finite number above 0.
    """
    if timeout is None:
        return
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout <= MOST_SECONDS:
        raise ConfigError(f"timeout: expected seconds above 0, found {timeout!r}")


def check_conversation(name: str | None) -> None:
    """Refuse what cannot be a conversation's name.

    Raises:
        ConfigError: it is no text, or blank.
    """
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise ConfigError(f"conversation: expected a name, found {name!r}")


def listener(on_event: Callable[[TaskEvent], None] | None) -> Callable[[TaskEvent], None]:
    """A caller's listener whose faults are logged: they must not end the worker."""

    def tell(event: TaskEvent) -> None:
        try:
            if on_event is not None:
                on_event(event)
        except Exception:
            log.exception("on_event failed for %s", type(event).__name__)

    return tell


async def streamed(
    invoke: Callable[..., Coroutine[Any, Any, TaskResult]],
) -> AsyncGenerator[TaskEvent, None]:
    """The events of a task as they come, then its result; the task ends with the iteration."""
    events: asyncio.Queue[TaskEvent | None] = asyncio.Queue()
    running = asyncio.create_task(invoke(on_event=events.put_nowait))
    running.add_done_callback(lambda _: events.put_nowait(None))
    try:
        while (event := await events.get()) is not None:
            yield event
        yield await running
    finally:
        running.cancel()
        await asyncio.wait([running])


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
