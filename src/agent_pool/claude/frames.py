"""Reading frames: whatever a field holds, these answer with the type that is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agent_pool.claude.events import Retrying

Frame = Mapping[str, Any]


def text_of(frame: Frame, name: str) -> str:
    """The text under a name, empty if there is none."""
    value = frame.get(name)
    return value if isinstance(value, str) else ""


def retrying(frame: Frame) -> Retrying:
    """What a frame says of a refused request."""
    return Retrying(
        status=int(number_of(frame, "error_status")),
        error=text_of(frame, "error"),
        attempt=int(number_of(frame, "attempt")),
        delay=number_of(frame, "retry_delay_ms") / 1000,
    )


def number_of(frame: Frame, name: str) -> float:
    """The finite number under a name, 0 if there is none."""
    value = frame.get(name)
    try:
        found = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:
        return 0.0
    return found if math.isfinite(found) else 0.0


def stamps_of(frame: Frame) -> list[str]:
    """The stamps of the prompts that a frame belongs to."""
    many = frame.get("user_message_uuids")
    stamps = [stamp for stamp in many if isinstance(stamp, str)] if isinstance(many, list) else []
    one = frame.get("user_message_uuid")
    return [*stamps, one] if isinstance(one, str) else stamps


def blocks_of(frame: Frame) -> list[dict[str, Any]]:
    """The content blocks of a message frame."""
    message = frame.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []


def flat_text(content: object) -> str:
    """The text of a tool's answer, which may be text or blocks of it."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (block.get("text") for block in content if isinstance(block, dict))
    return "\n".join(text for text in texts if isinstance(text, str))
