"""Rows for people: a table where it fits, else a block for each row; tabs in a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from agent_pool.text import one_line, printable

_GAP: Final = "  "
_INDENT: Final = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a listing.

    Attributes:
        heading: its name; in a block it stands before the value.
        right: align it right, as numbers are.
        is_prose: a block shows it as a paragraph of its own, without its name.
        least: a table shortens its cells to the room that is left, at least to this many
            characters, so it is the last column; None for cells that are never shortened.
    """

    heading: str
    right: bool = False
    is_prose: bool = False
    least: int | None = None


class Listing:
    """Rows whose first cell is a name; no word is broken, and no cell is cut but those of `least`.

    Without a terminal each row is one line, its cells are separated by tabs, and no blank is added:
    programs can split it. On a terminal that is too narrow for the table, each row is a block: its
    name, and below it the values with the names of their columns; empty values are left out.

    Args:
        columns: the columns.
    """

    def __init__(self, *columns: Column) -> None:
        self._columns = columns
        self._rows: list[tuple[Sequence[str], str]] = []

    def add(self, *cells: str, style: str = "cyan") -> None:
        """Add a row; `style` is that of its first cell."""
        self._rows.append(([one_line(cell) for cell in cells], style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal:
            yield from self._tabbed()
            return
        widths = [max(map(cell_len, cells)) for cells in zip(*self._all_cells(), strict=True)]
        if self._fit(widths, options.max_width):
            yield from self._table(widths)
        else:
            yield from self._blocks(options.max_width)

    def _fit(self, widths: list[int], room: int) -> bool:
        """Return whether a table fits; shorten the last column for it if that is allowed."""
        over = sum(widths) + len(_GAP) * (len(widths) - 1) - room
        least = self._columns[-1].least
        if over > 0 and least is not None and widths[-1] - over >= least:
            widths[-1] -= over
            over = 0
        return over <= 0

    def _all_cells(self) -> Iterator[Sequence[str]]:
        yield [column.heading for column in self._columns]
        yield from (cells for cells, _ in self._rows)

    def _tabbed(self) -> Iterator[Segment]:
        # Not as Text, in which rich makes blanks of the tabs.
        for cells in self._all_cells():
            yield Segment("\t".join(cells))
            yield Segment.line()

    def _table(self, widths: Sequence[int]) -> Iterator[Text]:
        headings, *_ = self._all_cells()
        yield self._table_line(headings, widths, "bold", "bold")
        for cells, style in self._rows:
            yield self._table_line(cells, widths, style, "bold" if style == "bold" else "")

    def _table_line(
        self, cells: Sequence[str], widths: Sequence[int], first: str, style: str
    ) -> Text:
        line = Text(style=style, no_wrap=True)
        for place, (whole, width) in enumerate(zip(cells, widths, strict=True)):
            cell = whole if cell_len(whole) <= width else f"{set_cell_size(whole, width - 1)}…"
            blanks = " " * (width - cell_len(cell))
            text = f"{blanks}{cell}" if self._columns[place].right else f"{cell}{blanks}"
            line.append(f"{_GAP if place else ''}{text}", style="" if place else first)
        line.rstrip()
        return line

    def _blocks(self, width: int) -> Iterator[Text]:
        for cells, style in self._rows:
            yield Text(cells[0], style=f"bold {style}", overflow="ignore", no_wrap=True)
            named = list(zip(self._columns, cells, strict=True))[1:]
            prose = [cell for column, cell in named if column.is_prose and cell]
            pairs = [
                f"{column.heading}: {cell}"
                for column, cell in named
                if cell and not column.is_prose
            ]
            room = width - len(_INDENT)
            for line in (*wrap(" ".join(prose), room), *_fill(pairs, room)):
                yield unbroken(f"{_INDENT}{line}")


class Paragraph:
    """A text whose lines end between words; without a terminal it is one line.

    Args:
        text: the text.
        style: its style.
        bold: how many of its first characters are bold.
    """

    def __init__(self, text: str, style: str = "", *, bold: int = 0) -> None:
        self._text = text
        self._style = style
        self._bold = bold

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not console.is_terminal:
            yield unbroken(self._text, self._style)
            return
        first, *rest = wrap(self._text, options.max_width - len(_INDENT)) or [""]
        line = unbroken(first, self._style)
        line.stylize("bold", 0, self._bold)
        yield line
        yield from (unbroken(f"{_INDENT}{more}", self._style) for more in rest)


def unbroken(line: str, style: str = "") -> Text:
    """Return a line that rich prints as it is, however long; the terminal wraps it."""
    # A path that the terminal wraps is copied as a whole; one that rich folds gets line feeds.
    return Text(printable(line), style=style, no_wrap=True, overflow="ignore")


def wrap(text: str, width: int) -> list[str]:
    """Return the words of a text in lines of at most `width` cells; no word is broken.

    A word that is longer than a line has one of its own. Words end at white space only, so that
    names with dashes stay whole.
    """
    return _join(text.split(), " ", width)


def _fill(pairs: Sequence[str], width: int) -> list[str]:
    """Return pairs of a name and a value in lines; one that is longer than a line is wrapped."""
    lines = _join(pairs, _GAP, width)
    return [
        part for line in lines for part in (wrap(line, width) if cell_len(line) > width else [line])
    ]


def _join(parts: Sequence[str], between: str, width: int) -> list[str]:
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1]) + len(between) + cell_len(part) <= width:
            lines[-1] += between + part
        else:
            lines.append(part)
    return lines
