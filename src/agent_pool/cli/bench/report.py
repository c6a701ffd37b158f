"""The tables, ready to be pasted into Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from rich import box
from rich.table import Table

from agent_pool.cli.bench.figures import Accounts, Figures, Memory, Result, Tokens
from agent_pool.cli.bench.measure import NAMES
from agent_pool.cli.output import megabytes

T = TypeVar("T")

NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio should be: of the first way to the second, at most or at least."""

    one: str
    other: str
    bound: float
    at_most: bool = True

    @property
    def text(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.bound:g}"


TARGETS: Final = (
    Target("pool", "bare", 1.15),
    Target("mcp", "bare", 1.3),
    Target("claude-p", "pool", 8, at_most=False),
    Target("sdk", "pool", 8, at_most=False),
)


def tables(result: Result) -> Iterator[Table]:
    """All tables of a result, those without a row left out."""
    ways = result.ways
    for table in (
        _table("Machine", ["", ""], result.machine.items()),
        _table("Time for a task", _TIMES, _rows(ways, _times)),
        _table("Ratios", ["", "median", "least", "processor time", "target"], _ratios(result)),
        _per_number("Tasks a second, by how many at once", ways, "per_second", "{:.1f}".format),
        _per_number("Memory around task number, while it runs / after it", ways, "memory", _sizes),
        _per_number("Processes while task number runs", ways, "memory", _processes),
        _per_number("Tokens written / read for so many tasks", ways, "tokens", _sent),
        _per_number("The same without the attribution header", ways, "tokens", _headless),
        _per_number("The session's own part of these", _delegating(ways), "tokens", _beside),
        _table("Start of the MCP server", _STARTS, _starts(result)),
    ):
        if table.row_count:
            yield table


_TIMES: Final = ["", "median", "p90", "least", "processor time", "ready in", "timed"]
_STARTS: Final = ["", "median", "least", "p90", "memory"]


def _table(title: str, headings: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.MARKDOWN)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _rows(
    ways: Mapping[str, Figures], cells: Callable[[Figures], list[str]]
) -> Iterator[list[str]]:
    for name, figures in ways.items():
        row = cells(figures)
        if figures.problem:
            row[-1] = figures.problem
        yield [NAMES[name], *row]


def _times(figures: Figures) -> list[str]:
    times = [figures.median, figures.p90, figures.least, figures.cpu, figures.ready]
    return [*map(milliseconds, times), str(len(figures.times))]


def milliseconds(seconds: float | None) -> str:
    """A time, always in the same unit, so that it can be compared down a column."""
    return NOTHING if seconds is None else f"{seconds * 1000:,.0f} ms"


def _ratios(result: Result) -> Iterator[list[str]]:
    for target in TARGETS:
        if found := result.ratio(target.one, target.other):
            names = f"{NAMES[target.one]} / {NAMES[target.other]}"
            yield [names, *(f"{ratio:.2f}" for ratio in found), target.text]


def _per_number(
    title: str, ways: Mapping[str, Figures], field: str, cell: Callable[[T], str]
) -> Table:
    """A column for each number that anything was measured at."""
    found: dict[str, dict[int, T]] = {name: getattr(of, field) for name, of in ways.items()}
    numbers = sorted({number for values in found.values() for number in values})
    rows = (
        [NAMES[name], *(cell(of[number]) if number in of else NOTHING for number in numbers)]
        for name, of in found.items()
        if of
    )
    return _table(title, ["", *map(str, numbers)], rows)


def _sizes(memory: Memory) -> str:
    return f"{memory.busy / 2**20:,.0f} / {megabytes(memory.rest)}"


def _processes(memory: Memory) -> str:
    return str(memory.processes)


def _sent(accounts: Accounts) -> str:
    return f"{accounts.sent.written:,} / {accounts.sent.read:,}"


def _headless(accounts: Accounts) -> str:
    return f"{accounts.headless.written:,} / {accounts.headless.read:,}"


def _beside(accounts: Accounts) -> str:
    return f"{accounts.beside.written:,} / {accounts.beside.read:,}"


def _delegating(ways: Mapping[str, Figures]) -> dict[str, Figures]:
    """The ways whose tokens are not all the agent's."""
    return {
        name: of
        for name, of in ways.items()
        if any(accounts.beside != Tokens() for accounts in of.tokens.values())
    }


def _starts(result: Result) -> Iterator[list[str]]:
    for name, start in result.starts.items():
        spread = start.seconds
        times = map(milliseconds, (spread.median, spread.least, spread.p90))
        yield [name, *times, megabytes(start.memory) if start.memory else NOTHING]


def legend(result: Result) -> str:
    """What the tables mean, and how noisy the machine was."""
    lines = [
        "The model is a program on this machine that answers at once: times are everything but the "
        "model. Tasks of all ways were timed in turns; cleaning up after a task is not in its time "
        "but in its processor time. Memory is resident, of all processes of a way, the one that "
        "asks included. For the native Agent tool a task lasts from the tool's call to its result."
    ]
    if noise := result.noise:
        lines.append(
            f"Noise: work that always takes the same took {milliseconds(noise.least)} at best, "
            f"{milliseconds(noise.median)} in the median, {milliseconds(noise.p90)} at the 90th "
            "percentile."
        )
    lines.append(f"The run took {result.duration:.0f} s.")
    return "\n".join(lines)
