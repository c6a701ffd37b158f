"""The signals of a session to its worker, beside the events of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_pool.claude.protocol.results import TurnResult
from agent_pool.errors import RemoteProtocolError
from agent_pool.events import Retry, Spent, Text, ToolOutput, ToolUse, Withdrawn
from agent_pool.models import RateLimits


@dataclass(frozen=True, slots=True)
class Initialized:
    """The process answered `initialize` and accepts prompts now."""


@dataclass(frozen=True, slots=True)
class InitializeFailed:
    """The process refused `initialize`."""

    error: str


@dataclass(frozen=True, slots=True)
class Configured:
    """The process has the role that it was asked to take, or has loaded its roles again.

    Also the answer to a claim, see `Session.refused_claim`.
    """


@dataclass(frozen=True, slots=True)
class ConfigureFailed:
    """The process refused a role; it must not serve again."""

    error: str


@dataclass(frozen=True, slots=True)
class RoleMissed:
    """The turn that began is not that of the role; its answer must not reach the caller."""

    problem: str


@dataclass(frozen=True, slots=True)
class ToolsMissing:
    """No tool that the role names exists; the turn must not go on."""

    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """The prompt that was sent has its result."""

    result: TurnResult


@dataclass(frozen=True, slots=True)
class StrayFinished:
    """A result came that no prompt of ours had asked for."""


@dataclass(frozen=True, slots=True)
class ResetFinished:
    """`/clear` or a rewind was acknowledged in every way that this version offers."""


@dataclass(frozen=True, slots=True)
class ResetFailed:
    """The answer to `/clear` shows no reset; the process must not serve again."""

    reason: str


@dataclass(frozen=True, slots=True)
class RewindRefused:
    """The CLI did not take the prompt back; the conversation is as it was before."""

    reason: str


@dataclass(frozen=True, slots=True)
class BecameIdle:
    """The CLI reports that the turn is over and that it owes nothing more."""


@dataclass(frozen=True, slots=True)
class CanUseTool:
    """The process asks its host for permission to use a tool, and waits for the answer."""

    request_id: str
    tool: str
    input: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class UnknownRequest:
    """The process asks its host for something else, and waits for the answer."""

    request_id: str
    subtype: str


@dataclass(frozen=True, slots=True)
class ProtocolBroken:
    """The process wrote bytes that the protocol does not allow; the session is BROKEN."""

    error: RemoteProtocolError


@dataclass(frozen=True, slots=True)
class StartHookBegan:
    """A SessionStart hook has begun; the process waits for its end."""

    hook_id: str
    name: str


@dataclass(frozen=True, slots=True)
class StartHookEnded:
    """A SessionStart hook has ended; `has_words` if it said something to the agent."""

    hook_id: str
    has_words: bool


@dataclass(frozen=True, slots=True)
class RateLimitsReported:
    """The API reported how much of the account's limits is used."""

    limits: RateLimits


@dataclass(frozen=True, slots=True)
class UsageGrew:
    """The API has answered, and the turn goes on: `Session.ask_usage` asks what it has used."""


TurnEvent = Text | Withdrawn | ToolUse | ToolOutput | Retry | Spent
"""The events of a turn, as they come from the CLI."""

Signal = (
    TurnEvent
    | Initialized
    | InitializeFailed
    | Configured
    | ConfigureFailed
    | RoleMissed
    | ToolsMissing
    | TurnFinished
    | StrayFinished
    | ResetFinished
    | ResetFailed
    | RewindRefused
    | BecameIdle
    | CanUseTool
    | UnknownRequest
    | RateLimitsReported
    | StartHookBegan
    | StartHookEnded
    | UsageGrew
    | ProtocolBroken
)
