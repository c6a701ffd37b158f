"""Moments on the command line: a duration from now, or an ISO time."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta
from datetime import time as time_of_day
from typing import Final

import click

from agent_pool.cli.command import parse_duration

_EXPECTED: Final = "expected a time such as 90, 30s, 5m, 2h, 1d, 18:30 or 2030-12-31T18:30"
_MAX_SECONDS: Final = 100 * 366 * 86400.0
"""About a hundred years: a longer duration is a mistake, and no date of Python's at its end."""


def parse_moment(value: str, *, now: float, past: bool) -> float:
    """Return the moment that a text means, in seconds since 1970.

    Args:
        value: a duration, with or without a unit; or an ISO date with or without a time, or a time
            of day, in local time if it names no time zone.
        now: seconds since 1970.
        past: a duration, and a time of day, mean the past, not the future.

    Raises:
        ValueError: it is none of these.
    """
    text = value.strip()
    if text[:1].isdigit() and not {"-", ":", "T"} & set(text):
        seconds = parse_duration(text)
        if not math.isfinite(seconds) or seconds > _MAX_SECONDS:
            raise ValueError(f"{value!r}: this is more than a hundred years")
        return now - seconds if past else now + seconds
    try:
        return _parse_iso(text, now, past=past)
    except (ValueError, OverflowError):
        raise ValueError(f"{value!r}: {_EXPECTED}") from None


def _parse_iso(text: str, now: float, *, past: bool) -> float:
    if ":" in text and "-" not in text and "T" not in text:
        clock = time_of_day.fromisoformat(text)
        today = datetime.fromtimestamp(now, clock.tzinfo)
        moment = datetime.combine(today.date(), clock)
        # By dates, because a day of a change of the clocks has 23 or 25 hours.
        if past and moment.timestamp() > now:
            moment -= timedelta(days=1)
        elif not past and moment.timestamp() <= now:
            moment += timedelta(days=1)
        return moment.timestamp()
    return datetime.fromisoformat(text).timestamp()


def read_future_option(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Return the value of an option as a moment from now on; None if it was not given."""
    now = time.time()
    moment = _read(value, now, past=False)
    if moment is not None and moment < now:
        raise click.BadParameter(f"{value!r}: this is in the past")
    return moment


def read_past_option(
    ctx: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Return the value of an option as a moment until now; None if it was not given."""
    return _read(value, time.time(), past=True)


def _read(value: str | None, now: float, *, past: bool) -> float | None:
    try:
        return None if value is None else parse_moment(value, now=now, past=past)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def moment_text(moment: float | None) -> str:
    """Return a moment as local ISO time in seconds; empty for None."""
    if moment is None:
        return ""
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


def clock_time(moment: float) -> str:
    """Return a moment as local time of its day."""
    return datetime.fromtimestamp(moment).strftime("%H:%M:%S")


def age_text(seconds: float) -> str:
    """Return how long ago something was, as one number: ``42 s``, ``5 min``, ``3 h``, ``12 d``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (size == 60 and seconds >= size):
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
