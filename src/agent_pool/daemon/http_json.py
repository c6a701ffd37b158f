"""JSON over HTTP: bodies and query parameters that are checked, and answers that are UTF-8."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from agent_pool.errors import (
    AgentNotFound,
    AgentPoolError,
    ConfigError,
    InternalError,
    NestingRefused,
    PoolError,
    TaskError,
    TaskNotEnded,
    TaskNotFound,
    TooManyRequests,
    WorkerError,
)
from agent_pool.models import TaskRequest, explain_problems

MAX_BODY: Final = 64 << 20
"""Bytes of a request's body; the API takes no more than 32 MiB for a task with its pictures."""
MAX_INTEGER: Final = 2**53
"""The largest whole number that every JSON parser reads exactly."""
MAX_WAIT: Final = 300.0
"""The most seconds of `wait`; a client asks again after that."""
_WHOLE: Final = re.compile(r"-?[0-9]{1,15}")
_STATUSES: Final[tuple[tuple[type[AgentPoolError], int], ...]] = (
    (AgentNotFound, 404),
    (TaskNotFound, 404),
    (ConfigError, 400),
    (TaskNotEnded, 409),
    (NestingRefused, 403),
    (TooManyRequests, 429),
    (PoolError, 503),
    (WorkerError, 503),
    (TaskError, 502),
)
"""The status of each class of errors, the first that fits; 500 for all others."""

T = TypeVar("T")


class HasEnded(PoolError):  # noqa: N818
    """The task has ended, so it cannot be cancelled."""

    code = "task_ended"


class BodyTooLarge(ConfigError):  # noqa: N818
    """The body of a request has more than `MAX_BODY` bytes."""

    code = "body_too_large"


class NoSuchRoute(ConfigError):  # noqa: N818
    """The interface has no such path, or not with this method.

    Attributes:
        status: 404 or 405.
    """

    code = "no_such_route"

    def __init__(self, message: str, *, status: int = 404) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class TaskBody:
    """The body of a request that submits or checks a task.

    Attributes:
        request: the task.
        environment: the variables of the client; the task gets those that differ from the daemon's.
        task_id: the id that the task gets, which no other task may have; None for a new one.
    """

    request: TaskRequest
    environment: dict[str, str] | None = None
    task_id: str | None = None


@dataclass(frozen=True)
class RetryBody:
    """How a task is to run again.

    Attributes:
        environment: all variables of the client, as for a new task.
    """

    environment: dict[str, str] = field(repr=False)


@dataclass(frozen=True)
class AnswerBody:
    """An answer to a request for permission.

    Attributes:
        key: that of the request, see `TaskQuestion`.
        allow: whether the agent may use the tool.
        reason: what the agent reads if it may not.
    """

    key: str
    allow: bool
    reason: str = ""


@dataclass(frozen=True)
class ConversationBody:
    """A conversation of an agent.

    Attributes:
        agent: the agent's name.
        conversation: the conversation's name.
        project: the folder of its project; None for the daemon's own.
    """

    agent: str
    conversation: str
    project: str | None = None


async def read_body(request: Request, kind: type[T]) -> T:
    """Return the body of a request as a value.

    Raises:
        ConfigError: it is not JSON, too large, or not what is expected; the message says where, and
            shows no value, because it can be a secret.
    """
    raw = await _read_bytes(request)
    try:
        _refuse_numbers(from_json(raw, allow_inf_nan=False))
    except ValueError as error:
        hint = "; half of a surrogate pair is not a character" if "escape" in str(error) else ""
        raise ConfigError(f"the body is not JSON that can be used: {error}{hint}") from None
    try:
        # Strict: a number in quotation marks is a mistake of the client.
        adapter = _body_adapter(cast(Any, kind))
        made: T = adapter.validate_json(raw, strict=True, extra="forbid")
    except ValidationError as error:
        raise ConfigError(f"the body is wrong: {explain_problems(error)}") from None
    return made


async def _read_bytes(request: Request) -> bytes:
    # Counted as it comes: the header with the length can be missing or wrong.
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise BodyTooLarge(f"the body has more than {MAX_BODY} bytes")
        parts.append(part)
    return b"".join(parts)


def _refuse_numbers(value: Any) -> None:
    """Refuse numbers that other JSON parsers and the store cannot hold.

    Raises:
        ValueError: there is one.
    """
    for number in _numbers(value):
        # `1e999` is valid JSON, and infinite as a float.
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError("a number is infinite")
        if isinstance(number, int) and abs(number) > MAX_INTEGER:
            raise ValueError(f"a whole number is larger than {MAX_INTEGER}")


def _numbers(value: Any) -> Iterator[float | int]:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case dict() as members:
                waiting += members.values()
            case list() as items:
                waiting += items
            case int() | float() as number:
                yield number


@cache
def _body_adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


# Query parameters


class Query:
    """The query parameters of a request.

    Args:
        given: the parameters.
        known: the names that the route has.

    Raises:
        ConfigError: there is another one, or one of them is given twice.
    """

    def __init__(self, given: QueryParams, known: Sequence[str], lists: Sequence[str] = ()) -> None:
        self._given = given
        for name in given:
            if name not in (*known, *lists):
                names = ", ".join((*known, *lists)) or "none"
                raise ConfigError(f"there is no parameter {name!r}; this route has: {names}")
            if name not in lists and len(given.getlist(name)) > 1:
                raise ConfigError(f"{name}: it is given more than once")

    def text(self, name: str) -> str | None:
        """Return a text; None if it is not given."""
        return self._given.get(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return the texts of a parameter that can be repeated."""
        return tuple(self._given.getlist(name))

    def whole(self, name: str, least: int = 0, most: int = MAX_INTEGER) -> int | None:
        """Return a whole number; None if it is not given.

        Raises:
            ConfigError: it is none, or out of bounds.
        """
        text = self._given.get(name)
        return None if text is None else read_whole(name, text, least, most)

    def number(self, name: str, most: float = float(MAX_INTEGER)) -> float | None:
        """Return a number from 0 on; None if it is not given.

        Raises:
            ConfigError: it is none, or out of bounds.
        """
        text = self._given.get(name)
        if text is None:
            return None
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        # Written so that NaN is refused: every comparison with it is false.
        if type(found) not in (int, float) or not 0 <= found <= most:
            raise ConfigError(f"{name}: expected a number from 0 to {most:.0f}, found {text!r:.80}")
        return float(found)

    def flag(self, name: str) -> bool:
        """Return whether a switch is on: ``1`` or ``true``; off without it.

        Raises:
            ConfigError: it has another value.
        """
        text = self._given.get(name, "0")
        if text not in ("0", "1", "false", "true"):
            raise ConfigError(f"{name}: expected 1 or 0, found {text!r:.80}")
        return text in ("1", "true")


def read_whole(name: str, text: str, least: int = 0, most: int = MAX_INTEGER) -> int:
    """Return the whole number of a text.

    Raises:
        ConfigError: it is none, or out of bounds.
    """
    if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
        raise ConfigError(
            f"{name}: expected a whole number from {least} to {most}, found {text!r:.80}"
        )
    return int(text)


# Answers


def dump_json(value: Mapping[str, Any]) -> str:
    """Return a value as JSON that UTF-8 can carry, on one line."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except ValueError:  # also UnicodeEncodeError: half of a surrogate pair, as an escape then
        return json.dumps(_without_nan(value), separators=(",", ":"))
    return text


def _without_nan(value: Any) -> Any:
    """Return JSON values with null for each number that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class JsonAnswer(Response):
    """An answer with a JSON object."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the object as UTF-8."""
        return dump_json(content).encode()


def error_answer(error: AgentPoolError) -> JsonAnswer:
    """Return the answer to a request that failed."""
    return JsonAnswer({"error": error.as_json()}, status_of(error))


def status_of(error: AgentPoolError) -> int:
    """Return the HTTP status of an error."""
    match error:
        case NoSuchRoute():
            return error.status
        case HasEnded():
            return 409
        case BodyTooLarge():
            return 413
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def unexpected_error() -> InternalError:
    """Return the error for an exception that is a bug; it has no details of the daemon."""
    return InternalError(
        "a bug in agent-pool stopped the request; the daemon's log (`agent-pool daemon logs`) has "
        "the traceback, please report it"
    )
