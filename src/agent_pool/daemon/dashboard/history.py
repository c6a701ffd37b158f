"""The page of ended tasks: its filter, its pictures and its failures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import PurePath
from typing import Final, get_args

from agent_pool.models import DayTotal, TaskFilter, TaskState

DAYS_SHOWN: Final = 30
BARS_SHOWN: Final = 12
"""The most bars of a picture that has one for each agent or project."""

_BAR_WIDTH: Final = 14
_BAR_STEP: Final = 18
_HEIGHT: Final = 110
_ROW_HEIGHT: Final = 20
_LABEL_WIDTH: Final = 150
_LONGEST: Final = 160

ReadTotals = Callable[[TaskFilter], Awaitable[list[DayTotal]]]
"""Returns the sums of the tasks that a filter means, by day, project and agent."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart.

    Attributes:
        title: what it shows.
        svg: the chart; all text in it is escaped.
    """

    title: str
    svg: str


def read_query(query: Mapping[str, str]) -> dict[str, str]:
    """Return the fields of the filter that a query has, without the page."""
    names = ("agent", "project", "state", "text", "since", "until")
    return {name: query[name] for name in names if query.get(name)}


def read_filter(query: Mapping[str, str]) -> TaskFilter:
    """Return the filter of a query; a value that cannot be read counts as not given."""
    state = query.get("state", "")
    states: tuple[TaskState, ...] = tuple(one for one in get_args(TaskState) if one == state)
    before = query.get("before", "")
    return TaskFilter(
        states=states,
        agent=query.get("agent", ""),
        project=query.get("project", ""),
        since=_day(query.get("since", "")),
        until=_day(query.get("until", ""), days=1),
        text=query.get("text", ""),
        before=int(before)
        if before.isascii() and before.isdecimal() and len(before) < 18
        else None,
    )


def _day(text: str, *, days: int = 0) -> float | None:
    """Return the beginning of a day such as ``2026-11-27``, or of the day that many days later."""
    with suppress(ValueError, OverflowError):
        found = time.strptime(text, "%Y-%m-%d")
        return time.mktime((found.tm_year, found.tm_mon, found.tm_mday + days, 0, 0, 0, 0, 0, -1))
    return None


def pictures_of(totals: Iterable[DayTotal]) -> list[Picture]:
    """Return the cost and the tokens by day, and the cost by agent and by project."""
    found = list(totals)
    if not found:
        return []
    cost, tokens, agents, projects = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for one in found:
        cost[one.day] += one.cost_usd  # type: ignore[assignment]  # a Counter adds floats as well
        tokens[one.day] += one.usage.prompt_tokens + one.usage.output_tokens
        agents[one.agent] += one.cost_usd  # type: ignore[assignment]
        projects[PurePath(one.project).name] += one.cost_usd  # type: ignore[assignment]
    days = sorted(cost)[-DAYS_SHOWN:]
    return [
        Picture("cost by day", _columns([(day, cost[day], f"${cost[day]:,.2f}") for day in days])),
        Picture(
            "tokens by day", _columns([(day, tokens[day], f"{tokens[day]:,}") for day in days])
        ),
        Picture("cost by agent", _rows(agents)),
        Picture("cost by project", _rows(projects)),
    ]


def failures_of(totals: Iterable[DayTotal]) -> list[tuple[str, int]]:
    """Return how many tasks failed, by the code of their failure, the most frequent first."""
    counted = Counter[str]()
    for one in totals:
        counted.update(one.failed)
    return counted.most_common()


def _columns(bars: list[tuple[str, float, str]]) -> str:
    """Draw a column for each day; its name and value are its title."""
    largest = max((value for _, value, _ in bars), default=0) or 1
    drawn = []
    for place, (name, value, words) in enumerate(bars):
        height = max(1, round(value / largest * _HEIGHT))
        title = f"<title>{escape(name)}: {escape(words)}</title>"
        drawn.append(
            f'<rect class="bar" x="{place * _BAR_STEP}" y="{_HEIGHT - height}" '
            f'width="{_BAR_WIDTH}" height="{height}">{title}</rect>'
        )
    first, last = (bars[0][0], bars[-1][0]) if bars else ("", "")
    span = first if first == last else f"{first} to {last}"
    drawn.append(f'<text x="0" y="{_HEIGHT + 16}">{escape(span)}</text>')
    width = max(_LABEL_WIDTH, len(bars) * _BAR_STEP)
    return _svg(width, _HEIGHT + 22, f"{span}", drawn)


def _rows(values: Mapping[str, float]) -> str:
    """Draw a bar for each name, the largest first."""
    shown = sorted(values.items(), key=lambda one: -one[1])[:BARS_SHOWN]
    largest = max((value for _, value in shown), default=0) or 1
    drawn = []
    for place, (name, value) in enumerate(shown):
        top = place * _ROW_HEIGHT
        length = max(1, round(value / largest * _LONGEST))
        label = escape(name if len(name) <= 22 else f"{name[:21]}…")
        drawn += [
            f'<text x="0" y="{top + 13}">{label}</text>',
            f'<rect class="bar" x="{_LABEL_WIDTH}" y="{top + 3}" width="{length}" height="13"/>',
            f'<text x="{_LABEL_WIDTH + length + 5}" y="{top + 13}">${value:,.2f}</text>',
        ]
    names = ", ".join(f"{name}: ${value:,.2f}" for name, value in shown)
    return _svg(_LABEL_WIDTH + _LONGEST + 70, max(1, len(shown)) * _ROW_HEIGHT, names, drawn)


def _svg(width: int, height: int, label: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
