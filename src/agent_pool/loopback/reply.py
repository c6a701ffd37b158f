"""What a script may answer: content blocks, a whole reply, a failure, a cut connection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias, cast

from agent_pool.errors import ConfigError
from agent_pool.loopback.cache import Usage


@dataclass(frozen=True, slots=True)
class Text:
    """A block of text."""

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ConfigError(f"Text holds {type(self.text).__name__}: give it a str")


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call of one of the client's tools; `id` is made up when it is left empty."""

    name: str
    input: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        try:
            json.dumps(dict(self.input))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"ToolUse {self.name!r}: its input is no JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection is aborted: at this place of a reply, or instead of any reply at all."""


@dataclass(frozen=True, slots=True)
class StreamError:
    """An SSE `error` event at this place of a reply, which ends it.

    A reply that is not streamed becomes a `Failure` of this type and message instead.
    """

    type: str = "overloaded_error"
    message: str = "Overloaded"


Content: TypeAlias = Text | ToolUse | Cut | StreamError


@dataclass(frozen=True, slots=True)
class Reply:
    """One assistant message.

    Attributes:
        content: its blocks, in order; a str stands for one `Text`. What follows a `Cut` or a
            `StreamError` is not sent, and the block before it is left unfinished.
        delay: seconds before the first byte.
        pace: seconds between deltas. With 0 every block is one delta and the whole stream one
            write; above 0 blocks are cut into deltas of `chunk` characters.
        chunk: characters per delta when `pace` is above 0.
        stop_reason: None derives it: `tool_use` when there is a tool call, else `end_turn`.
        usage: fields of `Usage` that replace what was counted, e.g. ``{"output_tokens": 500}``.
    """

    content: str | Content | Iterable[str | Content] = ()
    delay: float = 0.0
    pace: float = 0.0
    chunk: int = 20
    stop_reason: str | None = None
    usage: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content", tuple(_as_items(self.content)))
        _at_least("delay", self.delay, 0)
        _at_least("pace", self.pace, 0)
        _at_least("chunk", self.chunk, 1)
        if unknown := set(self.usage) - {of.name for of in fields(Usage)}:
            raise ConfigError(f"Reply.usage: {sorted(unknown)} are not fields of Usage")

    @property
    def blocks(self) -> tuple[Text | ToolUse, ...]:
        """The blocks that are sent: those before the first fault."""
        return self._split()[0]

    @property
    def fault(self) -> Cut | StreamError | None:
        """What ends the reply early, None when nothing does."""
        return self._split()[1]

    def _split(self) -> tuple[tuple[Text | ToolUse, ...], Cut | StreamError | None]:
        sent: list[Text | ToolUse] = []
        for item in cast(tuple[Content, ...], self.content):
            if isinstance(item, Cut | StreamError):
                return tuple(sent), item
            sent.append(item)
        return tuple(sent), None


@dataclass(frozen=True, slots=True)
class Failure:
    """An error response in the API's own shape.

    Attributes:
        status: the HTTP status, 400 to 599.
        type: the API's name for it; "" derives it from the status (`rate_limit_error` for 429,
            `overloaded_error` for 529, and so on).
        message: the text for the user; "" gives the type again.
        retry_after: seconds for the `retry-after` header, None for no such header.
        headers: further response headers.
        delay: seconds before the response.
    """

    status: int
    type: str = ""
    message: str = ""
    retry_after: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0

    def __post_init__(self) -> None:
        _at_least("delay", self.delay, 0)
        if not 400 <= self.status <= 599:
            raise ConfigError(f"Failure.status is {self.status}: an error's is 400 to 599")


Outcome: TypeAlias = Reply | Failure | Cut
Answer: TypeAlias = Outcome | str | Content | Iterable[str | Content]


def as_outcome(answer: Answer) -> Outcome:
    """What a script returned, in its full form; raises ConfigError for what is no answer."""
    return answer if isinstance(answer, Reply | Failure | Cut) else Reply(answer)


def _as_items(content: str | Content | Iterable[str | Content]) -> Iterator[Content]:
    if isinstance(content, str | Text | ToolUse | Cut | StreamError):
        content = (content,)
    elif not isinstance(content, Iterable):
        raise _no_content(content)
    for item in content:
        if not isinstance(item, str | Text | ToolUse | Cut | StreamError):
            raise _no_content(item)
        yield Text(item) if isinstance(item, str) else item


def _no_content(item: object) -> ConfigError:
    return ConfigError(
        f"{type(item).__name__} is no content of a reply: use str, Text, ToolUse, Cut or "
        "StreamError, or a list of them"
    )


def _at_least(name: str, value: float, lowest: float) -> None:
    if not value >= lowest:
        raise ConfigError(f"{name} is {value}: it must be at least {lowest}")
