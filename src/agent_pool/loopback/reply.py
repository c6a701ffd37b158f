"""The answers of a script: content blocks, a whole reply, an error, a dropped connection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, cast

from agent_pool.errors import ConfigError
from agent_pool.loopback.usage import ApiUsage


@dataclass(frozen=True, slots=True)
class TextBlock:
    """A block of text. Raises ConfigError if `text` is not a str."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ConfigError(f"TextBlock.text must be a str, not {type(self.text).__name__}")


@dataclass(frozen=True, slots=True)
class ToolUseBlock:
    """A call of one of the client's tools. Raises ConfigError if `input` is not JSON.

    Attributes:
        name: the tool's name.
        input: its arguments.
        id: the call's id; "" takes a new one.
    """

    name: str
    input: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        try:
            json.dumps(dict(self.input))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"ToolUseBlock {self.name!r}: its input cannot be written as JSON: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class DroppedConnection:
    """A connection that the server aborts: at this place of a reply, or before any response."""


@dataclass(frozen=True, slots=True)
class StreamError:
    """An SSE `error` event at this place of a reply, which ends the stream.

    If the client does not stream, it gets an `ErrorResponse` of this type and message instead.
    """

    type: str = "overloaded_error"
    message: str = "Overloaded"


ReplyItem: TypeAlias = TextBlock | ToolUseBlock | DroppedConnection | StreamError


@dataclass(frozen=True, slots=True)
class ModelReply:
    """One assistant message. Raises ConfigError for a wrong value.

    Attributes:
        content: its blocks, in order; a str is short for one `TextBlock`. The part after a
            `DroppedConnection` or a `StreamError` is not sent, and the block before it stays
            unfinished.
        delay: seconds before the first byte.
        delta_interval: seconds before each delta of a stream. With 0 each block is one delta, and
            the whole stream is one write.
        delta_size: characters per delta if `delta_interval` is above 0.
        stop_reason: None takes `tool_use` if there is a tool call, else `end_turn`.
        stop_details: more about the stop, as the API sends it with a refusal; None sends none.
        model: the model that answers; "" takes that of the request.
        headers: more response headers, e.g. those of the rate limits.
        usage: fields of `ApiUsage` that replace the counted ones, e.g. ``{"output_tokens": 500}``.
    """

    content: str | ReplyItem | Iterable[str | ReplyItem] = ()
    delay: float = 0.0
    delta_interval: float = 0.0
    delta_size: int = 20
    stop_reason: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    stop_details: Mapping[str, Any] | None = None
    model: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The class is frozen; this is the way to set a field of it.
        object.__setattr__(self, "content", tuple(_iter_items(self.content)))
        _check_minimum("delay", self.delay, 0)
        _check_minimum("delta_interval", self.delta_interval, 0)
        _check_minimum("delta_size", self.delta_size, 1)
        if unknown := set(self.usage) - {each.name for each in fields(ApiUsage)}:
            raise ConfigError(f"ModelReply.usage: {sorted(unknown)} are not fields of ApiUsage")

    @property
    def blocks(self) -> tuple[TextBlock | ToolUseBlock, ...]:
        """Return the blocks that are sent: those before the first fault."""
        return self._split()[0]

    @property
    def fault(self) -> DroppedConnection | StreamError | None:
        """Return the item that ends the reply early; None if the reply is sent to its end."""
        return self._split()[1]

    def _split(
        self,
    ) -> tuple[tuple[TextBlock | ToolUseBlock, ...], DroppedConnection | StreamError | None]:
        sent: list[TextBlock | ToolUseBlock] = []
        for item in cast(tuple[ReplyItem, ...], self.content):
            if isinstance(item, DroppedConnection | StreamError):
                return tuple(sent), item
            sent.append(item)
        return tuple(sent), None


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """An HTTP error with the API's error object. Raises ConfigError for a wrong value.

    Attributes:
        status: the HTTP status, 400 to 599.
        type: the API's error type; "" takes the one for the status (`rate_limit_error` for 429,
            `overloaded_error` for 529, and so on).
        message: the text for the user; "" takes the type.
        retry_after: seconds for the `retry-after` header; None sends no such header.
        headers: more response headers.
        delay: seconds before the response.
    """

    status: int
    type: str = ""
    message: str = ""
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0

    def __post_init__(self) -> None:
        _check_minimum("delay", self.delay, 0)
        if not 400 <= self.status <= 599:
            raise ConfigError(f"ErrorResponse.status is {self.status}: it must be 400 to 599")


ApiResponse: TypeAlias = ModelReply | ErrorResponse | DroppedConnection
ScriptAnswer: TypeAlias = ApiResponse | str | ReplyItem | Iterable[str | ReplyItem]


def to_response(answer: ScriptAnswer) -> ApiResponse:
    """Convert the answer of a script to a response; content becomes a `ModelReply`.

    Raises:
        ConfigError: the value, or an item of the list, is not a possible answer.
    """
    if isinstance(answer, ModelReply | ErrorResponse | DroppedConnection):
        return answer
    return ModelReply(answer)


def _iter_items(content: str | ReplyItem | Iterable[str | ReplyItem]) -> Iterator[ReplyItem]:
    # A str is an iterable too, and would else become one block for each character.
    if isinstance(content, str | TextBlock | ToolUseBlock | DroppedConnection | StreamError):
        content = (content,)
    elif not isinstance(content, Iterable):
        raise _content_error(content)
    for item in content:
        if not isinstance(item, str | TextBlock | ToolUseBlock | DroppedConnection | StreamError):
            raise _content_error(item)
        yield TextBlock(item) if isinstance(item, str) else item


def _content_error(content: object) -> ConfigError:
    return ConfigError(
        f"a reply cannot contain {type(content).__name__}: use str, TextBlock, ToolUseBlock, "
        "DroppedConnection or StreamError, or a list of them"
    )


def _check_minimum(name: str, value: float, minimum: float) -> None:
    # Not `value < minimum`, which is false for NaN.
    if not value >= minimum:
        raise ConfigError(f"{name} is {value}: it must be at least {minimum}")
