"""What happened in one turn, beside its result: words, models, errors, refused tools."""

from __future__ import annotations

from typing import Final

from agent_pool.claude.protocol.frames import Frame, mapping_of, text_of
from agent_pool.claude.protocol.words import TurnWords, is_written_by_cli
from agent_pool.models import DeniedTool, ModelFallback

_NO_FRAME: Final[Frame] = {}
_FALLBACKS: Final = ("model_refusal_fallback", "model_fallback")
_LONGEST_REASON: Final = 500
"""Characters of a tool's output that are kept as the reason of its refusal."""


class TurnRecord:
    """The notes of one turn, made from its frames.

    Attributes:
        words: what the main agent has said.
        error: the last `assistant` frame that the CLI wrote itself; empty without one.
        blocked: how a hook stopped the prompt, in the CLI's words; empty if none did.
        fallback: the model that answered instead of another one; None without.
    """

    def __init__(self) -> None:
        self.words = TurnWords()
        self.error = _NO_FRAME
        self.blocked = ""
        self.fallback: ModelFallback | None = None
        self._calls: set[str] = set()
        self._errors: dict[str, str] = {}

    def note_assistant(self, frame: Frame) -> None:
        """Note a message of the main agent or of a sub-agent."""
        self.words.count(frame)
        if is_written_by_cli(frame):
            self.error = frame

    def note_system(self, frame: Frame) -> str:
        """Note a `system` frame; return the words of the agent that it takes back."""
        subtype = text_of(frame, "subtype")
        outcome = mapping_of(frame, "prompt_submit_outcome")
        if outcome:
            self.blocked = text_of(outcome, "kind")
        if subtype in _FALLBACKS:
            self.fallback = ModelFallback(
                original=text_of(frame, "original_model"),
                model=text_of(frame, "fallback_model"),
                reason=text_of(frame, "trigger"),
            )
        if subtype in ("model_refusal_fallback", "model_refusal_no_fallback"):
            return self.words.take_back(frame)
        return ""

    def note_call(self, call_id: str) -> None:
        """Note the call of a tool, by the main agent or by a sub-agent."""
        self._calls.add(call_id)

    def note_failed_call(self, call_id: str, text: str) -> None:
        """Note the output of a tool that failed; for a refused one it is the reason."""
        self._errors[call_id] = text[:_LONGEST_REASON]

    def denied(self, result: Frame) -> tuple[DeniedTool, ...]:
        """Return the tools that a `result` frame names as refused in this turn."""
        entries = result.get("permission_denials")
        listed = entries if isinstance(entries, list) else []
        denials = [entry for entry in listed if isinstance(entry, dict)]
        return tuple(
            DeniedTool(
                tool=text_of(entry, "tool_name"),
                input=mapping_of(entry, "tool_input"),
                reason=self._errors.get(text_of(entry, "tool_use_id"), ""),
            )
            for entry in denials
            # The list can hold those of earlier turns of the process.
            if text_of(entry, "tool_use_id") in self._calls
        )
