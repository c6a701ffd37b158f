"""The figures as a picture: time per task and memory over tasks, in SVG made by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

from agent_pool.cli.bench.figures import Figures, Result
from agent_pool.cli.bench.measure import NAMES

COLOURS: Final = dict(
    zip(NAMES, ("#7f7f7f", "#1b7837", "#7fbf7b", "#b2182b", "#ef8a62", "#2166ac"), strict=True)
)
_WIDTH: Final = 760
_LEFT: Final = 190
_SPAN: Final = 470
_ROW: Final = 26
_CHART: Final = 240


def plot(result: Result) -> str:
    """An SVG document: the median times with a line to their 90th percentile, then memory."""
    timed = {name: of for name, of in result.ways.items() if of.times}
    measured = {name: of for name, of in result.ways.items() if of.memory}
    parts: list[str] = []
    height = 10
    if timed:
        parts += _times(timed, height)
        height += 50 + _ROW * len(timed)
    if measured:
        parts += _memory(measured, height)
        height += 80 + _CHART + _ROW * math.ceil(len(measured) / 3)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}" font-family="sans-serif" font-size="13">',
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _times(ways: Mapping[str, Figures], top: float) -> Iterator[str]:
    yield _text(10, top + 14, "Time for a task besides the model: median, and 90th percentile")
    longest = max(of.p90 or 0.0 for of in ways.values()) or 1.0
    for number, (name, of) in enumerate(ways.items()):
        y = top + 36 + _ROW * number
        median, p90 = of.median or 0.0, of.p90 or 0.0
        end, reach = (_LEFT + _SPAN * value / longest for value in (median, p90))
        yield _text(_LEFT - 10, y + 13, NAMES[name], "end")
        size = f'width="{end - _LEFT:.1f}" height="16"'
        yield f'<rect x="{_LEFT}" y="{y:.1f}" {size} fill="{COLOURS[name]}"/>'
        yield _line(end, y + 8, reach, y + 8, "#222222")
        yield _text(reach + 6, y + 13, f"{median * 1000:,.0f} ms")


@dataclass(frozen=True, slots=True)
class _Axes:
    """Places in the chart of memory; the number of tasks grows by factors."""

    floor: float
    last: int
    most: float

    def x(self, number: int) -> float:
        return _LEFT + _SPAN * math.log(number) / (math.log(self.last) or 1.0)

    def y(self, size: float) -> float:
        return self.floor - _CHART * size / self.most


def _memory(ways: Mapping[str, Figures], top: float) -> Iterator[str]:
    yield _text(10, top + 14, "Memory of all processes of a way while task number … runs")
    numbers = sorted({number for of in ways.values() for number in of.memory})
    most = max(memory.busy for of in ways.values() for memory in of.memory.values())
    axes = _Axes(floor=top + 40 + _CHART, last=numbers[-1], most=most * 1.05)
    yield from _grid(axes, numbers)
    for place, (name, of) in enumerate(ways.items()):
        points = [(axes.x(number), axes.y(of.memory[number].busy)) for number in sorted(of.memory)]
        yield from _curve(points, COLOURS[name])
        x, y = 30 + 245 * (place % 3), axes.floor + 48 + _ROW * (place // 3)
        yield _line(x, y - 4, x + 24, y - 4, COLOURS[name], 3)
        yield _text(x + 32, y, NAMES[name])


def _grid(axes: _Axes, numbers: Iterable[int]) -> Iterator[str]:
    step = 10 ** math.floor(math.log10(axes.most / 2**20)) * 2**20
    step = step if axes.most >= 4 * step else step / 2
    for count in range(int(axes.most / step) + 1):
        y = axes.y(count * step)
        yield _line(_LEFT, y, _LEFT + _SPAN, y, "#dddddd")
        yield _text(_LEFT - 10, y + 4, f"{count * step / 2**20:,.0f} MB", "end")
    for number in numbers:
        yield _text(axes.x(number), axes.floor + 18, str(number), "middle")


def _curve(points: list[tuple[float, float]], colour: str) -> Iterator[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    shown = escape(text.replace("`", ""))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222222">{shown}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"/>'
