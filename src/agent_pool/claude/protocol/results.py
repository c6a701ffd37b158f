"""The result of a turn, read from the CLI's `result` frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from agent_pool.claude.protocol.endings import failure_code, failure_text
from agent_pool.claude.protocol.frames import (
    Frame,
    mapping_of,
    number_of,
    text_of,
    whole_number_of,
)
from agent_pool.claude.protocol.turn_record import TurnRecord
from agent_pool.errors import PromptBlocked
from agent_pool.models import NO_USAGE, DeniedTool, ModelFallback, Usage

_USAGE_KEYS: Final = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cache_write_tokens": "cacheCreationInputTokens",
    "cache_read_tokens": "cacheReadInputTokens",
}


@dataclass(frozen=True, slots=True)
class Spend:
    """Tokens, and their cost in US dollars by the CLI's list prices."""

    usage: Usage = NO_USAGE
    cost_usd: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(self.usage + other.usage, self.cost_usd + other.cost_usd)

    def since(self, earlier: Spend) -> Spend:
        """Return how much these running totals grew since `earlier`.

        If one of them is smaller than before, the CLI has started to count again. Then the totals
        themselves are the growth.
        """
        usage, cost = self.usage - earlier.usage, self.cost_usd - earlier.cost_usd
        counts = (
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_write_tokens,
            usage.cache_read_tokens,
        )
        return self if min(*counts, cost) < 0 else Spend(usage, cost)


@dataclass(frozen=True, slots=True)
class TurnResult:
    """How a turn ended.

    Attributes:
        text: what the agent said since its last tool call; the error's text if there is an error.
        is_error: there is no complete answer.
        subtype: how it ended in the CLI's words: ``success``, ``error_max_turns``, ….
        turns: steps of the main agent, as the CLI counts them.
        spend: tokens and cost of this turn alone.
        session_id: the CLI's id of the conversation.
        structured: the answer as a Python value, if a schema was given.
        api_status: the HTTP status of the API's last error; 0 without an error.
        code: of the failure; empty for a complete answer.
        partial: what the agent had said when the turn failed; empty for a complete answer.
        stop_reason: why the model stopped, in the API's words.
        terminal_reason: why the turn ended, in the CLI's words.
        models: the models that answered.
        requests: how many requests the API answered with a message.
        fallback: the model that answered instead of another one.
        denied: the tools that were refused.
    """

    text: str
    is_error: bool
    subtype: str
    turns: int
    spend: Spend
    session_id: str
    structured: Any = None
    api_status: int = 0
    code: str = ""
    partial: str = ""
    stop_reason: str = ""
    terminal_reason: str = ""
    models: tuple[str, ...] = ()
    requests: int = 0
    fallback: ModelFallback | None = None
    denied: tuple[DeniedTool, ...] = ()


def read_result(frame: Frame, spend: Spend, record: TurnRecord | None = None) -> TurnResult:
    """Read a `result` frame.

    Args:
        frame: the frame.
        spend: the tokens and the cost of its turn.
        record: what happened in the turn.
    """
    record = record or TurnRecord()
    code = failure_code(frame, error=record.error, blocked=record.blocked)
    return TurnResult(
        text=_failure_text(frame, code) if code else record.words.answer or _result_text(frame),
        is_error=bool(code),
        code=code,
        partial=record.words.all if code else "",
        stop_reason=text_of(frame, "stop_reason"),
        terminal_reason=text_of(frame, "terminal_reason"),
        models=tuple(record.words.models),
        requests=record.words.requests,
        fallback=record.fallback,
        denied=record.denied(frame),
        subtype=text_of(frame, "subtype"),
        turns=whole_number_of(frame, "num_turns"),
        spend=spend,
        session_id=text_of(frame, "session_id"),
        structured=frame.get("structured_output"),
        api_status=whole_number_of(frame, "api_error_status"),
    )


def running_totals(frame: Frame) -> Spend:
    """Read the totals of a `result` frame: all turns since the process started or was cleared."""
    # `usage` of the same frame leaves out the sub-agents (2.1.330).
    return Spend(_usage_of_models(frame, "modelUsage"), number_of(frame, "total_cost_usd"))


def usage_totals(answer: Frame) -> Spend:
    """Read the totals of an answer to `get_usage`: those that a `result` would have now."""
    session = mapping_of(answer, "session")
    return Spend(_usage_of_models(session, "model_usage"), number_of(session, "total_cost_usd"))


def _usage_of_models(frame: Frame, name: str) -> Usage:
    entries = mapping_of(frame, name).values()
    return sum((_model_usage(entry) for entry in entries if isinstance(entry, dict)), NO_USAGE)


def _model_usage(entry: Frame) -> Usage:
    return Usage(**{ours: int(number_of(entry, theirs)) for ours, theirs in _USAGE_KEYS.items()})


def _failure_text(frame: Frame, code: str) -> str:
    # A turn that the CLI calls a success has the agent's words instead of an error's text.
    is_success = text_of(frame, "subtype") == "success" and not frame.get("is_error")
    if is_success and code != PromptBlocked.code:
        return failure_text(frame, code)
    return _result_text(frame)


def _result_text(frame: Frame) -> str:
    text = frame.get("result")
    if isinstance(text, str):
        return text
    # A turn that ended by a limit has no `result` but a list of `errors` (seen on 2.1.330).
    errors = frame.get("errors")
    return "\n".join(map(str, errors)) if isinstance(errors, list) else ""
