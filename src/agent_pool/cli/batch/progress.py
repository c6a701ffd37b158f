"""The progress of a batch: the running tasks on a terminal, otherwise a line for each end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent_pool import Ended, Outcome, TaskEvent, TaskResult
from agent_pool.cli.batch.lines import BatchLine
from agent_pool.cli.progress import result_text
from agent_pool.text import one_line, seconds_text
from agent_pool.views.activity import describe_activity

_ACTIVITY_WIDTH: Final = 60
_TITLE_WIDTH: Final = 40
_FAILURE_WIDTH: Final = 200


@dataclass(slots=True)
class _Row:
    title: str
    activity: str = ""
    started: float = field(default_factory=time.monotonic)


class BatchProgress:
    """Shows tasks as they run and end; used as a context manager.

    Args:
        total: how many tasks are to be run.
        console: the console that shows them.
        live: show the running tasks in a table that changes; only for a terminal.

    Attributes:
        done: tasks that have succeeded.
        failed: tasks that have failed.
    """

    def __init__(self, total: int, console: Console, *, live: bool) -> None:
        self.done = self.failed = 0
        self._total = total
        self._console = console
        self._started = time.monotonic()
        self._rows: dict[int, _Row] = {}
        self._live: Live | None = None
        if live:
            self._live = Live(
                get_renderable=self._render,
                console=console,
                transient=True,
                redirect_stdout=False,  # the results go there
                redirect_stderr=False,
            )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started

    def update(self, line: BatchLine, event: TaskEvent) -> None:
        """Show an event of a task."""
        if isinstance(event, Ended):
            self._rows.pop(line.number, None)
            return
        row = self._rows.setdefault(line.number, _Row(_title(line)))
        if (activity := describe_activity(event)) is not None:
            row.activity = one_line(activity, _ACTIVITY_WIDTH)

    def end(self, line: BatchLine, outcome: Outcome) -> None:
        """Count a task that has ended, and print how it ended."""
        if isinstance(outcome, TaskResult) and not outcome.is_error:
            self.done += 1
            text = result_text(outcome)
        else:
            self.failed += 1
            reason = outcome.text if isinstance(outcome, TaskResult) else str(outcome)
            text = one_line(f"{line.agent}: failed: {reason}", _FAILURE_WIDTH)
        ended = f"{self.done + self.failed}/{self._total}"
        self._console.print(Text(f"  {ended} {_place(line)} {text}", style="dim"))

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        # A copy, because rich calls this in a thread of its own while events change the rows.
        for row in list(self._rows.values()):
            seconds = seconds_text(now - row.started)
            table.add_row("", Text(row.title), Text(row.activity), Text(seconds))
        ended = self.done + self.failed
        line = f"  {ended} of {self._total}, {self.failed} failed, {seconds_text(self.seconds)}"
        return Group(table, ProgressBar(self._total, ended, width=_ACTIVITY_WIDTH), Text(line))


def _place(line: BatchLine) -> str:
    if line.id is None:
        return f"line {line.number}"
    return one_line(f"{line.id} (line {line.number})", _TITLE_WIDTH)


def _title(line: BatchLine) -> str:
    return one_line(f"{_place(line)} {line.agent}", _TITLE_WIDTH)
