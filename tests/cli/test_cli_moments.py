"""Moments on the command line: durations from now, times of day, ISO times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from agent_pool.cli.moments import age_text, moment_text, parse_moment

NOW = datetime(2030, 6, 15, 12, 0, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let local time be two hours before UTC, without changes of the clocks."""
    monkeypatch.setenv("TZ", "XXX+2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(*when: int) -> float:
    year, month, day, *clock = when
    hour, minute, second = (*clock, 0, 0, 0)[:3]
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "future", "past"),
    [
        ("90", NOW + 90, NOW - 90),
        ("1.5h", NOW + 5400, NOW - 5400),
        (" 2d ", NOW + 172800, NOW - 172800),
        # It is 10:00 local time.
        ("18:30", at(2030, 6, 15, 20, 30), at(2030, 6, 14, 20, 30)),
        ("08:00", at(2030, 6, 16, 10), at(2030, 6, 15, 10)),
        ("18:30+00:00", at(2030, 6, 15, 18, 30), at(2030, 6, 14, 18, 30)),
        ("2030-12-31", at(2030, 12, 31, 2), at(2030, 12, 31, 2)),
        ("2030-12-31T18:30", at(2030, 12, 31, 20, 30), at(2030, 12, 31, 20, 30)),
        ("2030-12-31 18:30:15Z", at(2030, 12, 31, 18, 30, 15), at(2030, 12, 31, 18, 30, 15)),
    ],
)
def test_durations_times_and_dates_are_read_as_moments(
    text: str, future: float, past: float
) -> None:
    assert parse_moment(text, now=NOW, past=False) == future
    assert parse_moment(text, now=NOW, past=True) == past


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-5m", "0", "5 weeks", "25:00", "2030-13-01", "9" * 400, "4000000d", "nan", "inf"],
)
def test_a_text_that_is_no_moment_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a time|hundred years"):
        parse_moment(text, now=NOW, past=False)


def test_a_moment_is_shown_as_local_iso_time() -> None:
    assert moment_text(NOW) == "2030-06-15T10:00:00-02:00"
    assert moment_text(None) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (42, "42 s"),
        (60, "1 min"),
        (7100, "118 min"),
        (7300, "2 h"),
        (86400 * 12.2, "12 d"),
    ],
)
def test_an_age_is_one_number_with_its_unit(seconds: float, text: str) -> None:
    assert age_text(seconds) == text
