"""Draws the time per task, and the memory over many tasks, into an SVG file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.comparison import METHOD_LABELS
from benchmarks.report import milliseconds
from benchmarks.results import BenchmarkResult, MethodResult

COLOURS: Final = dict(
    zip(
        METHOD_LABELS,
        ("#7f7f7f", "#1b7837", "#7fbf7b", "#b2182b", "#ef8a62", "#2166ac"),
        strict=True,
    )
)
_WIDTH_INCHES: Final = 8.0
_CHART_INCHES: Final = 3.5
_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "agent-pool",  # a random salt would change every id in the file
    "svg.fonttype": "none",  # text stays text, so that the file is small and can be searched
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_NO_METADATA: Final = {"Date": None, "Creator": None}

_Chart = Callable[[Axes, Mapping[str, MethodResult]], None]


def write_plot(result: BenchmarkResult, path: Path) -> None:
    """Write the charts into an SVG file; the same result gives the same bytes."""
    with mpl.rc_context(_STYLE):
        _draw(result).savefig(path, format="svg", metadata=_NO_METADATA)


def _draw(result: BenchmarkResult) -> Figure:
    charts: list[tuple[_Chart, dict[str, MethodResult]]] = [
        (_draw_times, {name: of for name, of in result.methods.items() if of.times}),
        (_draw_memory, {name: of for name, of in result.methods.items() if of.memory}),
    ]
    charts = [(draw, methods) for draw, methods in charts if methods]
    height = _CHART_INCHES * max(1, len(charts))
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)  # measures the text for the layout without a display
    for place, (draw, methods) in enumerate(charts, 1):
        draw(figure.add_subplot(len(charts), 1, place), methods)
    return figure


def _draw_times(axes: Axes, methods: Mapping[str, MethodResult]) -> None:
    axes.set_title("Time for a task without the model: median, line to the 90th percentile")
    for row, (name, method) in enumerate(methods.items()):
        spread = method.spread
        assert spread is not None, "only methods with timed tasks are drawn"
        (bar,) = axes.barh(row, spread.median * 1000, color=COLOURS[name], height=0.6)
        bar.set_gid(f"time-{name}")
        axes.plot([spread.median * 1000, spread.p90 * 1000], [row, row], color="#222222")
        axes.annotate(
            milliseconds(spread.median),
            (spread.p90 * 1000, row),
            xytext=(6, 0),
            textcoords="offset points",
            verticalalignment="center",
        )
    axes.set_yticks(range(len(methods)), [_label(name) for name in methods])
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.margins(x=0.12)
    axes.set_xlim(left=0)


def _draw_memory(axes: Axes, methods: Mapping[str, MethodResult]) -> None:
    axes.set_title("Memory of all processes of a method while task number … runs")
    for name, method in methods.items():
        numbers = sorted(method.memory)
        sizes = [method.memory[number].peak / 2**20 for number in numbers]
        (line,) = axes.plot(numbers, sizes, marker="o", color=COLOURS[name], label=_label(name))
        line.set_gid(f"memory-{name}")
    axes.set_xscale("log")
    numbers = sorted({number for method in methods.values() for number in method.memory})
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("task")
    axes.set_ylabel("MiB")
    axes.grid(axis="y", color="#dddddd")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False)


def _label(name: str) -> str:
    return METHOD_LABELS[name].replace("`", "")
