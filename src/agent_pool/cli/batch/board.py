"""What a batch does, on a console: the running calls on a terminal, else a line for each end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agent_pool import AgentPoolError, TaskEvent, TaskResult
from agent_pool.cli.batch.calls import Call
from agent_pool.cli.narrate import doing, summary
from agent_pool.cli.output import one_line, seconds

_WIDTH = 60


@dataclass(slots=True)
class _Row:
    title: str
    doing: str = ""
    began: float = field(default_factory=time.monotonic)


class Board:
    """Shows calls as they run and end; used as a context manager.

    Args:
        total: how many are to be run.
        console: where.
        live: whether what changes may be shown.
    """

    def __init__(self, total: int, console: Console, *, live: bool) -> None:
        self.done = self.failed = 0
        self._total = total
        self._console = console
        self._began = time.monotonic()
        self._rows: dict[int, _Row] = {}
        self._live: Live | None = None
        if live:
            self._live = Live(
                get_renderable=self._picture,
                console=console,
                transient=True,
                redirect_stdout=False,  # there go the results
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
    def took(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def tell(self, call: Call, event: TaskEvent) -> None:
        """Show what a call does now."""
        row = self._rows.setdefault(call.line, _Row(_title(call)))
        row.doing = one_line(doing(event), _WIDTH)

    def end(self, call: Call, outcome: TaskResult | AgentPoolError) -> None:
        """Show how a call ended."""
        self._rows.pop(call.line, None)
        if isinstance(outcome, TaskResult) and not outcome.is_error:
            self.done += 1
            told = summary(outcome)
        else:
            self.failed += 1
            why = outcome.text if isinstance(outcome, TaskResult) else str(outcome)
            told = one_line(f"{call.agent}: failed: {why}", 200)
        ended = f"{self.done + self.failed}/{self._total}"
        self._console.print(Text(f"  {ended} {_place(call)} {told}", style="dim"))

    def _picture(self) -> Group:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for row in list(self._rows.values()):
            table.add_row("", Text(row.title), Text(row.doing), Text(seconds(now - row.began)))
        ended = self.done + self.failed
        line = f"  {ended} of {self._total}, {self.failed} failed, {seconds(self.took)}"
        return Group(table, ProgressBar(self._total, ended, width=_WIDTH), Text(line))


def _place(call: Call) -> str:
    return f"line {call.line}" if call.id is None else one_line(f"{call.id} (line {call.line})", 40)


def _title(call: Call) -> str:
    return one_line(f"{_place(call)} {call.agent}", 40)
