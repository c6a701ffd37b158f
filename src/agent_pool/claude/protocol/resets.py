"""The CLI's answers to the two ways to make it forget: `/clear`, and taking the prompt back."""

from __future__ import annotations

from typing import Final

from agent_pool.claude.protocol.frames import Frame, mapping_of, text_of

COMPACTIONS: Final = frozenset({"compact_boundary", "microcompact_boundary"})
"""Frames of `system` by which the CLI reports that it replaced a part of the conversation."""


def clear_problem(frame: Frame) -> str:
    """Return the fault in the `result` frame of `/clear`; empty for a correct one."""
    if frame.get("is_error") or frame.get("subtype") != "success":
        return f"/clear failed: {frame.get('subtype')}"
    # 2.1.330 names the command that answered; older versions have no such field.
    if frame.get("local_command", "clear") != "clear":
        return f"/clear was taken for {frame['local_command']!r}"
    if frame.get("result"):
        # 2.0.0 to 2.1.116 answer "Unknown slash command" and the like, and forget nothing.
        return f"/clear was answered with text: {str(frame['result'])[:100]!r}"
    return ""


def rewind_problem(body: Frame, target: str) -> str:
    """Return the fault in the answer to `rewind_conversation`; empty for a correct one.

    Args:
        body: the `response` of the answer.
        target: the stamp of the prompt that had to be taken back.
    """
    if body.get("subtype") != "success":
        return text_of(body, "error") or "an error"
    answer = mapping_of(body, "response")
    if answer.get("rewound") is not True:
        # 2.1.332 refuses an unknown target, and one with a later prompt behind it.
        return text_of(answer, "error") or "no reason given"
    if answer.get("targetMessageUuid") != target:
        return "it took back another prompt"
    # Something is left before the prompt, so it was not the first one.
    if answer.get("precedingAssistantUuid", "") is not None:
        return "an earlier answer is left"
    return ""
