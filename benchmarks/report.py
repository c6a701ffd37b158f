"""The tables on the console, in a form that can be pasted into Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from rich import box
from rich.table import Table

from benchmarks.comparison import METHOD_LABELS, PAIR
from benchmarks.results import (
    BenchmarkResult,
    MemoryUse,
    MethodResult,
    PairedComparison,
    TimeSpread,
    TokenCounts,
    TokenUse,
)

T = TypeVar("T")

EMPTY: Final = "-"


@dataclass(frozen=True, slots=True)
class RatioTarget:
    """The bound for the ratio of one method's time to another's: an upper or a lower bound."""

    one: str
    other: str
    bound: float
    at_most: bool = True

    @property
    def label(self) -> str:
        """Return the names of the two methods."""
        return f"{METHOD_LABELS[self.one]} / {METHOD_LABELS[self.other]}"

    @property
    def text(self) -> str:
        """Return the target in words."""
        return f"{'at most' if self.at_most else 'at least'} {self.bound:.2f}"

    def is_met(self, ratio: float) -> bool:
        """Check a ratio against the bound."""
        return ratio <= self.bound if self.at_most else ratio >= self.bound


ACCEPTANCE: Final = RatioTarget(*PAIR, 1.10)
"""The project's acceptance figure. It is measured on pairs, unlike the other ratios."""
TARGETS: Final = (
    RatioTarget("mcp", "bare", 1.3),
    RatioTarget("claude-p", "pool", 8, at_most=False),
    RatioTarget("sdk", "pool", 8, at_most=False),
)


def tables(result: BenchmarkResult) -> Iterator[Table]:
    """Build all tables that have at least one row."""
    methods = result.methods
    for table in (
        _table("Machine", ["", ""], result.machine.items()),
        _table("Acceptance: a pooled task beside a bare warm turn", _PAIRED, _acceptance(result)),
        _table("Time for a task", _TIMES, _method_rows(methods, _times)),
        _table("Other ratios", _RATIOS, _ratios(result)),
        _by_number("Tasks a second, by how many at once", methods, "per_second", "{:.1f}".format),
        _by_number("Memory around task number, peak / after it", methods, "memory", _memory),
        _by_number("Processes while task number runs", methods, "memory", _processes),
        _by_number("Tokens written / read for so many tasks", methods, "tokens", _sent),
        _by_number("The same without the attribution header", methods, "tokens", _without_header),
        _by_number("The session's own part of these", _with_session(methods), "tokens", _session),
        _table("Start of the MCP server", _STARTS, _starts(result)),
    ):
        if table.row_count:
            yield table


_PAIRED: Final = ["", "median", "fastest", "p90", "processor time"]
_TIMES: Final = ["", "median", "p90", "fastest", "processor time", "ready in", "timed"]
_RATIOS: Final = ["", "median", "fastest", "processor time", "target", "met"]
_STARTS: Final = ["", "median", "fastest", "p90", "memory"]


def _table(title: str, headings: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.MARKDOWN)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def milliseconds(seconds: float | None) -> str:
    """Format a time, always in milliseconds, so that a column can be compared."""
    return EMPTY if seconds is None else f"{seconds * 1000:,.0f} ms"


def mebibytes(size: int) -> str:
    """Format a number of bytes."""
    return f"{size / 2**20:,.0f} MiB"


def _ratio(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.2f}"


def _met(is_met: bool) -> str:
    return "yes" if is_met else "no"


def _acceptance(result: BenchmarkResult) -> Iterator[list[str]]:
    if found := result.paired(*PAIR):
        for name, spread in zip(PAIR, (found.one, found.other), strict=True):
            yield [METHOD_LABELS[name], *_spread(spread), milliseconds(result.methods[name].cpu)]
        yield [
            "ratio",
            _ratio(found.ratio.median),
            _ratio(found.ratio.fastest),
            _ratio(found.one.p90 / found.other.p90),
            _ratio(found.ratio.cpu),
        ]
        yield ["95 % interval", f"{found.low:.2f} to {found.high:.2f}", "", "", ""]
        yield ["target", ACCEPTANCE.text, "", "", ""]
        yield ["met", _met(ACCEPTANCE.is_met(found.ratio.median)), "", "", ""]


def _spread(spread: TimeSpread) -> list[str]:
    return [*map(milliseconds, (spread.median, spread.fastest, spread.p90))]


def _method_rows(
    methods: Mapping[str, MethodResult], cells: Callable[[MethodResult], list[str]]
) -> Iterator[list[str]]:
    for name, method in methods.items():
        row = cells(method)
        if method.problem:
            row[-1] = method.problem
        yield [METHOD_LABELS[name], *row]


def _times(method: MethodResult) -> list[str]:
    spread = method.spread
    times = [spread.median, spread.p90, spread.fastest] if spread else [None] * 3
    figures = [*times, method.cpu, method.ready]
    return [*map(milliseconds, figures), str(len(method.times))]


def _ratios(result: BenchmarkResult) -> Iterator[list[str]]:
    for target in TARGETS:
        if found := result.ratio(target.one, target.other):
            ratios = map(_ratio, (found.median, found.fastest, found.cpu))
            yield [target.label, *ratios, target.text, _met(target.is_met(found.median))]


def _by_number(
    title: str, methods: Mapping[str, MethodResult], field: str, cell: Callable[[T], str]
) -> Table:
    """Build a table with a column for each number in a field of the results."""
    found: dict[str, dict[int, T]] = {
        name: getattr(method, field) for name, method in methods.items()
    }
    numbers = sorted({number for values in found.values() for number in values})
    rows = (
        [METHOD_LABELS[name], *(cell(of[n]) if n in of else EMPTY for n in numbers)]
        for name, of in found.items()
        if of
    )
    return _table(title, ["", *map(str, numbers)], rows)


def _memory(memory: MemoryUse) -> str:
    return f"{memory.peak / 2**20:,.0f} / {mebibytes(memory.after)}"


def _processes(memory: MemoryUse) -> str:
    return str(memory.processes)


def _sent(use: TokenUse) -> str:
    return _counts(use.sent)


def _without_header(use: TokenUse) -> str:
    return _counts(use.without_header)


def _session(use: TokenUse) -> str:
    return _counts(use.session)


def _counts(counts: TokenCounts) -> str:
    return f"{counts.written:,} / {counts.read:,}"


def _with_session(methods: Mapping[str, MethodResult]) -> dict[str, MethodResult]:
    """Return the methods in which a session around the agent uses tokens, too."""
    return {
        name: method
        for name, method in methods.items()
        if any(use.session != TokenCounts() for use in method.tokens.values())
    }


def _starts(result: BenchmarkResult) -> Iterator[list[str]]:
    for name, start in result.starts.items():
        yield [name, *_spread(start.seconds), mebibytes(start.memory) if start.memory else EMPTY]


def legend(result: BenchmarkResult) -> str:
    """Explain the tables, and say how noisy the machine was and whether the target is met."""
    lines = [
        "The model is a program on this machine that answers at once: a time is everything but the "
        "model. One task of each method was timed in each round. The clean-up after a task counts "
        "in its processor time, not in its time. Memory is resident memory of all processes of a "
        "method, including the program that asks for the tasks. For the native Agent tool, a task "
        "lasts from the tool's call to its result."
    ]
    if noise := result.noise:
        lines.append(
            f"Noise: the same piece of work took {milliseconds(noise.fastest)} at best, "
            f"{milliseconds(noise.median)} in the median and {milliseconds(noise.p90)} at the 90th "
            "percentile."
        )
    lines.append(f"The run took {result.duration:.0f} s.")
    if found := result.paired(*PAIR):
        lines.append(_verdict(found))
    return "\n".join(lines)


def _verdict(found: PairedComparison) -> str:
    ratio = found.ratio.median
    verdict = (
        f"Acceptance: a pooled task takes {ratio:.2f} times as long as a bare warm turn "
        f"(medians of {found.pairs} pairs in alternation; 95 % interval {found.low:.2f} to "
        f"{found.high:.2f}). Target: {ACCEPTANCE.text}. Met: {_met(ACCEPTANCE.is_met(ratio))}."
    )
    if found.low <= ACCEPTANCE.bound <= found.high:
        verdict += " The interval includes the target, so measure again with more --pairs."
    return verdict
