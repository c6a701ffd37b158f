"""What a session reports: the frames of a Claude Code process, told as events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Initialized:
    """The process answered `initialize` and takes prompts now."""

    info: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class InitializeFailed:
    """The process refused `initialize`."""

    error: str


@dataclass(frozen=True, slots=True)
class Said:
    """The agent said something in the turn that was asked for."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The agent called a tool in the turn that was asked for."""

    id: str
    name: str
    input: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolAnswered:
    """A tool of the turn that was asked for has answered."""

    id: str
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Retrying:
    """The API refused a request of the turn; the CLI tries again by itself after `delay` s."""

    status: int
    error: str
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The result of the prompt that was sent; `frame` is the CLI's own, unabridged."""

    frame: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WasReset:
    """`/clear` was acknowledged in every way that this version offers."""

    session_id: str


@dataclass(frozen=True, slots=True)
class ResetFailed:
    """`/clear` was answered otherwise than by a reset; the process must not serve again."""

    why: str


@dataclass(frozen=True, slots=True)
class ControlAnswered:
    """The answer to one of our control requests other than `initialize`."""

    request_id: str
    error: str | None
    response: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ControlAsked:
    """The process asks its host something, e.g. for a permission; it waits for the answer."""

    request_id: str
    request: Mapping[str, Any]


Event = (
    Initialized
    | InitializeFailed
    | Said
    | ToolCalled
    | ToolAnswered
    | Retrying
    | TurnEnded
    | WasReset
    | ResetFailed
    | ControlAnswered
    | ControlAsked
)
