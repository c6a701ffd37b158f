"""The demo's progress on a console: a live table on a terminal, else a line for each task."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent_pool.text import one_line, seconds_text

_STATUS_WIDTH = 60
_REFRESHES_PER_SECOND = 12


@dataclass(slots=True)
class ProgressRow:
    """One task in the progress table.

    Attributes:
        status: the current step; the answer once the task has ended.
        started: the start on the clock of `time.perf_counter`.
        duration: seconds, None while the task runs.
    """

    title: str
    status: str = "waiting"
    started: float = field(default_factory=time.perf_counter)
    duration: float | None = None

    def show(self, status: str) -> None:
        """Show the current step."""
        self.status = status

    def cells(self) -> tuple[Text, Text, Text]:
        """Return title, status and time."""
        running = self.duration is None
        duration = time.perf_counter() - self.started if self.duration is None else self.duration
        return (
            Text(self.title),
            Text(one_line(self.status, _STATUS_WIDTH), style="dim" if running else ""),
            Text(seconds_text(duration), style="dim" if running else "green"),
        )


class DemoProgress:
    """Shows the phases of the demo, one after another, each with a row for every task."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[ProgressRow] = []

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Begin a phase; on a terminal its rows are redrawn until it ends."""
        self._rows = []
        self._console.print(Text(title, style="bold"))
        if not self._console.is_terminal:
            yield
        else:
            with Live(
                get_renderable=self._table,
                console=self._console,
                refresh_per_second=_REFRESHES_PER_SECOND,
            ):
                yield
        self._console.print()

    def add_row(self, title: str) -> ProgressRow:
        """Add a row to the current phase."""
        row = ProgressRow(title)
        self._rows.append(row)
        return row

    def finish_row(self, row: ProgressRow, answer: str, duration: float) -> None:
        """Show the answer and the seconds of a task that has ended."""
        row.status, row.duration = answer, duration
        if not self._console.is_terminal:
            self._console.print("  " + "  ".join(cell.plain for cell in row.cells()))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for row in self._rows:
            table.add_row("", *row.cells())
        return table
