"""How a turn ended: the code of its failure, read from the CLI's own words for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent_pool.claude.protocol.frames import Frame, text_of, whole_number_of
from agent_pool.errors import (
    AnswerUnfinished,
    ApiFailed,
    ApiOverloaded,
    BudgetReached,
    ContextLimitReached,
    ModelRefused,
    ModelUnavailable,
    NoCredit,
    OutputLimitReached,
    PromptBlocked,
    PromptTooLong,
    RateLimited,
    RequestTooLarge,
    SignInRefused,
    StoppedByHook,
    StructureMissing,
    TaskFailed,
    TurnLimitReached,
    UsageLimitReached,
)

_COMPLETE_REASONS: Final = frozenset({"", "end_turn", "stop_sequence", "tool_use"})
"""Stop reasons of the API after which the answer is complete. `tool_use` is that of a structured
answer, and of a turn that a hook ended; the terminal reason tells them apart (2.1.332)."""

_COMPLETE_ENDS: Final = frozenset({"", "completed", "stop_hook_prevented"})
"""Terminal reasons of the CLI after which the answer is complete (2.1.332)."""

_BY_SUBTYPE: Final[Mapping[str, type[TaskFailed]]] = {
    "error_max_turns": TurnLimitReached,
    "error_max_budget_usd": BudgetReached,
    "error_max_structured_output_retries": StructureMissing,
}
_BY_STOP_REASON: Final[Mapping[str, type[TaskFailed]]] = {
    "max_tokens": OutputLimitReached,
    "model_context_window_exceeded": ContextLimitReached,
    "refusal": ModelRefused,
}
_BY_END: Final[Mapping[str, type[TaskFailed]]] = {
    "prompt_too_long": PromptTooLong,
    "blocking_limit": ContextLimitReached,
    "rapid_refill_breaker": ContextLimitReached,
    "hook_stopped": StoppedByHook,
    "budget_exhausted": BudgetReached,
    "max_turns": TurnLimitReached,
    "structured_output_retry_exhausted": StructureMissing,
}
_BY_API_ERROR: Final[Mapping[str, type[TaskFailed]]] = {
    "max_output_tokens": OutputLimitReached,
    "usage_limit_reached": UsageLimitReached,
}
_BY_ERROR: Final[Mapping[str, type[TaskFailed]]] = {
    **dict.fromkeys(("authentication_failed", "authentication_error"), SignInRefused),
    **dict.fromkeys(("oauth_org_not_allowed", "account_on_hold"), SignInRefused),
    **dict.fromkeys(("verification_required", "cloud_credential_error"), SignInRefused),
    "billing_error": NoCredit,
    "rate_limit": RateLimited,
    "overloaded": ApiOverloaded,
    "model_not_found": ModelUnavailable,
    "max_output_tokens": OutputLimitReached,
}
"""By the CLI's kind of an error, which stands in the `assistant` frame that it wrote (2.1.332)."""
_BY_STATUS: Final[Mapping[int, type[TaskFailed]]] = {
    401: SignInRefused,
    402: NoCredit,
    403: SignInRefused,
    413: RequestTooLarge,
    429: RateLimited,
    529: ApiOverloaded,
}
_BY_TEXT: Final[Mapping[str, type[TaskFailed]]] = {
    "Prompt is too long": PromptTooLong,
    "Request too large": RequestTooLarge,
    "Credit balance is too low": NoCredit,
    "Invalid API key": SignInRefused,
    "Not logged in": SignInRefused,
    "output token maximum": OutputLimitReached,
}
"""For versions that report no more than the text of the error."""


def failure_code(frame: Frame, *, error: Frame, blocked: str) -> str:
    """Return the code of a turn's failure; empty for a complete answer.

    Args:
        frame: the `result` frame.
        error: the last `assistant` frame that the CLI wrote itself in this turn; empty without.
        blocked: how a hook stopped the prompt, in the CLI's words; empty if none did.
    """
    subtype = text_of(frame, "subtype")
    if blocked or _never_reached_a_model(frame):
        return PromptBlocked.code
    if frame.get("is_error") or subtype != "success":
        return _error_kind(frame, subtype, error).code
    kind = _incomplete_kind(text_of(frame, "stop_reason"), text_of(frame, "terminal_reason"))
    return "" if kind is None else kind.code


def failure_text(frame: Frame, code: str) -> str:
    """Return why an answer is not complete, for a turn that the CLI calls a success."""
    reason = text_of(frame, "stop_reason")
    end = text_of(frame, "terminal_reason")
    if code == StoppedByHook.code:
        return "a hook ended the turn before the answer was complete (hook_stopped)"
    if end not in _COMPLETE_ENDS:
        return f"the turn ended before the answer was complete (terminal reason {end!r})"
    return f"the model stopped before its answer was complete (stop reason {reason!r})"


def _never_reached_a_model(frame: Frame) -> bool:
    # Versions without `prompt_submit_outcome` show a blocked prompt by a turn of no steps alone.
    is_success = frame.get("subtype") == "success" and not frame.get("is_error")
    steps = frame.get("num_turns")
    no_steps = steps == 0 and not isinstance(steps, bool)
    return is_success and no_steps and "local_command" not in frame


def _incomplete_kind(stop_reason: str, end: str) -> type[TaskFailed] | None:
    if stop_reason not in _COMPLETE_REASONS:
        # `pause_turn` is one of them: the CLI does not go on after it (2.1.332).
        return _BY_STOP_REASON.get(stop_reason, AnswerUnfinished)
    return None if end in _COMPLETE_ENDS else _BY_END.get(end, AnswerUnfinished)


def _error_kind(frame: Frame, subtype: str, error: Frame) -> type[TaskFailed]:
    status = whole_number_of(frame, "api_error_status")
    api_error = text_of(frame, "api_error") or text_of(error, "api_error")
    candidates = (
        _BY_SUBTYPE.get(subtype),
        ContextLimitReached if _filled_context(error) else None,
        _BY_API_ERROR.get(api_error),
        _BY_END.get(text_of(frame, "terminal_reason")),
        _BY_STOP_REASON.get(text_of(frame, "stop_reason")),
        _BY_ERROR.get(text_of(error, "error")),
        _BY_STATUS.get(status),
        ApiFailed if status >= 500 or text_of(error, "error") == "server_error" else None,
        _kind_by_text(text_of(frame, "result")),
    )
    return next((kind for kind in candidates if kind is not None), TaskFailed)


def _filled_context(error: Frame) -> bool:
    # The CLI calls both limits `max_output_tokens`; its parameters tell which it was (2.1.332).
    parameters = error.get("api_error_params")
    return isinstance(parameters, dict) and parameters.get("cut") == "context_window"


def _kind_by_text(text: str) -> type[TaskFailed] | None:
    return next((kind for part, kind in _BY_TEXT.items() if part in text), None)
