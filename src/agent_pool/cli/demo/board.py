"""The demo's tasks as they run, on a console: a changing table on a terminal, else lines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent_pool.cli.output import one_line, seconds


@dataclass(slots=True)
class Row:
    """One task on the board."""

    title: str
    doing: str = "waiting"
    began: float = field(default_factory=time.perf_counter)
    took: float | None = None

    def tell(self, doing: str) -> None:
        """Show what happens now."""
        self.doing = doing

    def cells(self) -> tuple[Text, Text, Text]:
        """Title, what happens or came of it, time."""
        running = self.took is None
        took = time.perf_counter() - self.began if self.took is None else self.took
        return (
            Text(self.title),
            Text(one_line(self.doing, 60), style="dim" if running else ""),
            Text(seconds(took), style="dim" if running else "green"),
        )


class Board:
    """Shows phases, one after another, each with its rows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[Row] = []

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """A group of rows; on a terminal they change until it ends."""
        self._rows = []
        self._console.print(Text(title, style="bold"))
        if not self._console.is_terminal:
            yield
        else:
            with Live(get_renderable=self._table, console=self._console, refresh_per_second=12):
                yield
        self._console.print()

    def add(self, title: str) -> Row:
        """A new row."""
        row = Row(title)
        self._rows.append(row)
        return row

    def finish(self, row: Row, said: str, took: float) -> None:
        """Show what came of it."""
        row.doing, row.took = said, took
        if not self._console.is_terminal:
            self._console.print("  " + "  ".join(cell.plain for cell in row.cells()))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for row in self._rows:
            table.add_row("", *row.cells())
        return table
