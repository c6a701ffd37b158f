"""The limits of the account, in words for people, and the time until one is reset."""

from __future__ import annotations

import time
from typing import Final

from agent_pool.models import RateLimits

_NAMES: Final = {"five_hour": "five-hour limit", "seven_day": "seven-day limit"}
LONGEST_HOLD_SECONDS: Final = 8 * 24 * 3600.0
"""A week and a day: a longer time until a reset is not believed."""
BELIEVED_SECONDS: Final = 60.0
"""Seconds after which every request that was sent before a hold has the headers of its answer."""
_DAY_SECONDS: Final = 24 * 3600.0


def held_seconds(limits: RateLimits, now: float | None = None) -> float:
    """Return the seconds until requests are accepted again; 0 if they are accepted now.

    Args:
        limits: what the CLI reported.
        now: seconds since 1970; None for the present.
    """
    if not limits.is_rejected or limits.resets_at is None:
        return 0.0
    left = limits.resets_at - (time.time() if now is None else now)
    return min(max(left, 0.0), LONGEST_HOLD_SECONDS)


def ends_hold(hold: RateLimits, later: RateLimits, seconds: float) -> bool:
    """Check whether a later report shows that the limit of a hold is lifted before its reset.

    An answer that was under way when the limit was met reports its older state, so that a report
    soon after the hold began counts only if it is about the next window or about paid requests.

    Args:
        hold: the report by which the hold began.
        later: a report after it.
        seconds: how long the hold has lasted.
    """
    if later.is_rejected:
        return False
    windows = {"five_hour": later.five_hour, "seven_day": later.seven_day}
    window = windows.get(hold.kind)
    reset = window.resets_at if window and window.resets_at else 0.0
    is_next_window = hold.resets_at is not None and reset > hold.resets_at
    return later.is_using_overage or is_next_window or seconds >= BELIEVED_SECONDS


def describe_limits(limits: RateLimits, now: float | None = None) -> str:
    """Return the limit that comes first, in words; empty while the account is far from each."""
    if limits.status == "allowed":
        return ""
    name = _NAMES.get(limits.kind, f"limit {limits.kind}" if limits.kind else "limit")
    used = "is used up" if limits.is_rejected else f"is used to {limits.utilization:.0%}"
    reset = f"; it is reset {_clock(limits.resets_at, now)}" if limits.resets_at else ""
    return f"the account's {name} {used}{reset}"


def _clock(moment: float, now: float | None) -> str:
    present = time.time() if now is None else now
    is_far = abs(moment - present) > _DAY_SECONDS / 2
    return time.strftime("on %d %b at %H:%M" if is_far else "at %H:%M", time.localtime(moment))
