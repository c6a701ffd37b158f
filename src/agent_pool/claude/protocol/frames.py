"""Reading fields of frames: each reader returns the type that it names, for any content."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agent_pool.events import Retry
from agent_pool.models import RateLimits, RateWindow

Frame = Mapping[str, Any]


def text_of(frame: Frame, name: str) -> str:
    """Return the text of a field; empty if it holds no text."""
    value = frame.get(name)
    return value if isinstance(value, str) else ""


def number_of(frame: Frame, name: str) -> float:
    """Return the finite number of a field; 0 if it holds no such number."""
    value = frame.get(name)
    try:
        found = float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:  # JSON allows integers that no float can hold
        return 0.0
    # `json.loads` accepts NaN and Infinity, which our own JSON must not contain.
    return found if math.isfinite(found) else 0.0


def whole_number_of(frame: Frame, name: str) -> int:
    """Return the whole number of a field; 0 if it holds no such number."""
    value = frame.get(name)
    # For Python, true and false are integers too.
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def mapping_of(frame: Frame, name: str) -> dict[str, Any]:
    """Return the object of a field; empty if it holds no object."""
    value = frame.get(name)
    return value if isinstance(value, dict) else {}


def texts_of(frame: Frame, name: str) -> list[str]:
    """Return the texts of a list; empty if the field holds no list."""
    value = frame.get(name)
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def pays_by_subscription(account: Frame) -> bool:
    """Return whether an account, as `initialize` reports it, is a subscription, not a key."""
    # An API key wins over a token in the environment. A bearer token of ANTHROPIC_AUTH_TOKEN, an
    # apiKeyHelper and the clouds pay for tokens, although `system/init` says `none` for them
    # (2.1.332).
    if text_of(account, "apiKeySource"):
        return False
    by_token = text_of(account, "tokenSource").startswith(("CLAUDE_CODE_OAUTH_TOKEN", "claude.ai"))
    return by_token or bool(text_of(account, "subscriptionType"))


def retry_of(frame: Frame) -> Retry:
    """Read an `api_retry` frame: a request that the API refused."""
    return Retry(
        status=int(number_of(frame, "error_status")),
        error=text_of(frame, "error"),
        attempt=int(number_of(frame, "attempt")),
        delay=number_of(frame, "retry_delay_ms") / 1000,
    )


def rate_limits_of(frame: Frame) -> RateLimits:
    """Read a `rate_limit_event` frame: how much of the account's limits is used."""
    info = mapping_of(frame, "rate_limit_info")
    windows = mapping_of(info, "unifiedWindows")
    five_hour, seven_day = _window_of(windows, "five_hour"), _window_of(windows, "seven_day")
    kind = text_of(info, "rateLimitType")
    first = {"five_hour": five_hour, "seven_day": seven_day}.get(kind)
    # The utilization of the limit itself comes only with a warning (2.1.332).
    known = number_of(info, "utilization") or (first.utilization if first else 0.0)
    return RateLimits(
        status=text_of(info, "status"),
        kind=kind,
        utilization=known,
        resets_at=number_of(info, "resetsAt") or None,
        five_hour=five_hour,
        seven_day=seven_day,
        is_using_overage=info.get("isUsingOverage") is True,
    )


def _window_of(windows: Frame, name: str) -> RateWindow | None:
    window = windows.get(name)
    if not isinstance(window, dict):
        return None
    return RateWindow(
        utilization=number_of(window, "utilization"),
        resets_at=number_of(window, "resetsAt") or None,
        status=text_of(window, "status"),
    )


def stamps_of(frame: Frame) -> list[str]:
    """Return the uuids of the prompts that a frame belongs to; empty if it names no prompt."""
    # 2.1.229 names one prompt (`user_message_uuid`); from 2.1.260 on there is a list as well.
    many = frame.get("user_message_uuids")
    stamps = [stamp for stamp in many if isinstance(stamp, str)] if isinstance(many, list) else []
    one = frame.get("user_message_uuid")
    return [*stamps, one] if isinstance(one, str) else stamps


def blocks_of(frame: Frame) -> list[dict[str, Any]]:
    """Return the content blocks of a message frame; plain text becomes one text block."""
    message = frame.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []


def flat_text(content: object) -> str:
    """Return the text of a tool's output, which is text or a list of blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (block.get("text") for block in content if isinstance(block, dict))
    return "\n".join(text for text in texts if isinstance(text, str))


def plugin_folders(frame: Frame) -> tuple[str, ...]:
    """Return the folders of the plugins that a `system/init` frame names, without built-in ones."""
    plugins = frame.get("plugins")
    entries = plugins if isinstance(plugins, list) else []
    folders = [text_of(entry, "path") for entry in entries if isinstance(entry, dict)]
    return tuple(folder for folder in folders if folder not in ("", "builtin"))
