"""The screens of `agent-pool top`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import ClassVar, Final

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Resize
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Footer, Header, Input, Static

from agent_pool import (
    AgentPoolError,
    Event,
    RemotePool,
    Spent,
    TaskAPI,
    TaskRecord,
    WorkerInfo,
)
from agent_pool.cli.pools import (
    DaemonFigures,
    FoundPools,
    find_pools,
    format_others,
    format_sum,
)
from agent_pool.cli.top_rows import cells, look
from agent_pool.text import clock_text, mebibytes, one_line, printable
from agent_pool.views.rows import ordered, task_row
from agent_pool.views.stalled import StepAges
from agent_pool.views.steps import TaskStep, step_of

GAP_SECONDS: Final = 0.5
BEAT_SECONDS: Final = 1.0
"""Seconds between two looks at the daemon: at least, and at most."""
POOLS_SECONDS: Final = 1.0
"""Seconds between two looks at the pools of other programs."""

_TASK_COLUMNS: Final = (
    *("state", "agent", "project", "time", "tokens", "context", "cost", "step"),
)
_WORKER_COLUMNS: Final = ("worker", "state", "agent", "memory", "tasks", "age")
_NODE: Final = "node"
"""The last column of both tables once a machine is named: a pool on one machine has no names."""
_NUMBERS: Final = frozenset(("time", "tokens", "context", "cost", "memory", "tasks", "age"))
_ONLY_WIDE: Final = frozenset(("project", "tokens", "context"))
"""Columns that a window narrower than `WIDE` leaves out, so that it shows the step."""
WIDE: Final = 90

FindPools = Callable[[], Awaitable[tuple[FoundPools, DaemonFigures | None]]]

_STYLES: Final = {
    "asks": "bold yellow",
    "stalled": "yellow",
    "failed": "red",
    "running": "cyan",
    "queued": "dim",
    "done": "green",
    "cancelled": "dim",
}


def _heading(name: str) -> Text:
    return _cell(name, name)


def _cell(column: str, value: str) -> Text:
    """Return a value for a column; numbers stand at the right."""
    return Text(one_line(value), justify="right" if column in _NUMBERS else "left")


def _columns(table: DataTable[Text]) -> tuple[str, ...]:
    """Return the names of a table's columns."""
    return tuple(key.value or "" for key in table.columns)


def _set_columns(table: DataTable[Text], names: tuple[str, ...]) -> None:
    """Give a table these columns; it loses its rows if it had others."""
    if names != _columns(table):
        table.clear(columns=True)
        for name in names:
            table.add_column(_heading(name), key=name)


async def run_top(daemon: RemotePool | TaskAPI | None) -> None:
    """Show the screens until the person ends them.

    Args:
        daemon: the pool of the daemon, not open yet; None if there is none.

    Raises:
        ConfigError: the pools of other programs cannot be found here.
    """
    await find_pools()  # before the screen changes, so that the error can be read
    with suppress(asyncio.CancelledError):  # Ctrl-C is the normal end
        if daemon is None:
            await TopApp(None, find_pools).run_async()
        else:
            async with daemon as pool:
                await TopApp(pool, find_pools).run_async()


class TaskTable(DataTable[Text]):
    """A table whose key for the chosen row is in the footer."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "steps")]


class TopApp(App[None]):
    """Tasks above, workers below, then the pools of other programs.

    Args:
        pool: where tasks and workers are; None if no daemon runs.
        find_pools: returns the running pools, and which of them is the daemon.
    """

    TITLE = "agent-pool top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #tasks { height: 2fr; }
    #workers { height: 1fr; border-top: solid $primary; }
    #pools { height: auto; max-height: 40%; border-top: solid $primary; display: none; }
    #pools.shown { display: block; }
    #sum { height: 1; padding: 0 1; }
    .alone #tasks, .alone #workers { display: none; }
    .alone #pools { height: 1fr; max-height: 100%; }
    #problem { height: auto; color: $error; padding: 0 1; }
    #filter { display: none; }
    #filter.shown { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "steps"),
        Binding("c", "cancel", "cancel"),
        Binding("slash", "filter", "filter"),
        Binding("p", "pause", "pause"),
        Binding("q", "quit", "end"),
        Binding("ctrl+c", "quit", "end", show=False, priority=True),
    ]

    def __init__(self, pool: TaskAPI | None, find_pools: FindPools = find_pools) -> None:
        super().__init__()
        self.pool = pool
        self._find_pools = find_pools
        self._ages = StepAges()
        self.records: list[TaskRecord] = []
        self._text = ""
        self._is_paused = False
        self._has_nodes = False
        self._changed = asyncio.Event()

    def compose(self) -> ComposeResult:
        yield Header()
        yield Static("", id="problem")
        yield Input(placeholder="show tasks with this text; Enter to apply", id="filter")
        yield TaskTable(id="tasks", cursor_type="row", zebra_stripes=True)
        yield DataTable(id="workers", cursor_type="none", show_cursor=False)
        yield VerticalScroll(Static("", id="others"), id="pools")
        yield Static("", id="sum")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look at the daemon, and at the pools of other programs."""
        self._refresh_pools()
        if self.pool is None:
            self.screen.add_class("alone")
            return
        self._task_table.focus()
        self._refresh_rows(self.pool)

    def on_resize(self, event: Resize) -> None:
        """Choose the columns that the window has room for."""
        self._choose_columns()
        self._show_tasks()

    def _choose_columns(self) -> None:
        names = tuple(
            name for name in _TASK_COLUMNS if self.size.width >= WIDE or name not in _ONLY_WIDE
        )
        nodes = (_NODE,) if self._has_nodes else ()
        _set_columns(self._task_table, (*names, *nodes))
        _set_columns(self._worker_table, (*_WORKER_COLUMNS, *nodes))

    @property
    def _task_table(self) -> DataTable[Text]:
        return self.query_one("#tasks", DataTable)

    @property
    def _worker_table(self) -> DataTable[Text]:
        return self.query_one("#workers", DataTable)

    @work(exclusive=True)
    async def _refresh_rows(self, pool: TaskAPI) -> None:
        unsubscribe = pool.subscribe(self._note)
        try:
            while True:
                self._changed.clear()
                await self._look(pool)
                await asyncio.sleep(GAP_SECONDS)
                try:
                    async with asyncio.timeout(BEAT_SECONDS - GAP_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    pass
        finally:
            unsubscribe()

    def _note(self, event: Event) -> None:
        self._changed.set()

    @work(group="pools", exclusive=True)
    async def _refresh_pools(self) -> None:
        while True:
            if not self._is_paused:
                await self._look_at_pools()
            await asyncio.sleep(POOLS_SECONDS)

    async def _look_at_pools(self) -> None:
        try:
            found, daemon = await self._find_pools()
        except AgentPoolError as error:
            self._say(str(error))
            return
        others = format_others(found, daemon)
        if others is None and self.pool is None:
            others = Text("No pool of yours is running here.")
        self.query_one("#others", Static).update(others or "")
        self.query_one("#pools", VerticalScroll).set_class(others is not None, "shown")
        self.query_one("#sum", Static).update(format_sum(found))

    async def _look(self, pool: TaskAPI) -> None:
        if self._is_paused:
            return
        try:
            self.records = await look(pool, self._text)
            workers = await pool.workers()
        except AgentPoolError as error:
            self._say(str(error))
            return
        self._say("")
        named = [one.node for one in self.records] + [one.node for one in workers]
        # Once there, the column stays: it must not come and go under a person's eyes.
        self._has_nodes = self._has_nodes or any(named)
        self._choose_columns()
        self._show_tasks()
        self._show_workers(workers)

    def _say(self, words: str) -> None:
        self.query_one("#problem", Static).update(Text(one_line(words)))

    def _show_tasks(self) -> None:
        table, now = self._task_table, time.time()
        chosen = self.chosen_id()
        table.clear()
        clock = time.monotonic()
        for row in ordered(
            task_row(one, is_stalled=self._ages.is_stalled(one, clock)) for one in self.records
        ):
            style = _STYLES[row.group]
            values = dict(zip(_TASK_COLUMNS, cells(row, now), strict=True)) | {_NODE: row.node}
            shown = [_cell(name, values[name]) for name in _columns(table)]
            shown[0].stylize(style)
            table.add_row(*shown, key=row.id)
        # The rows change their places, and the person has chosen a task and not a place.
        if chosen is not None and any(key.value == chosen for key in table.rows):
            table.move_cursor(row=table.get_row_index(chosen), animate=False)
        self._ages.forget_others(self.records)
        running = sum(record.state in ("running", "input_required") for record in self.records)
        queued = sum(record.state == "queued" for record in self.records)
        self.sub_title = f"{running} running, {queued} queued" + (
            ", paused" if self._is_paused else ""
        )

    def _show_workers(self, workers: list[WorkerInfo]) -> None:
        table = self._worker_table
        table.clear()
        for one in workers:
            values = (one.worker, one.state, one.agent or "spare", mebibytes(one.rss))
            rest = (str(one.tasks), clock_text(one.uptime), one.node)
            # The last value has no column while no machine is named.
            cells_of = zip(_columns(table), (*values, *rest), strict=False)
            table.add_row(*(_cell(name, value) for name, value in cells_of))

    def chosen_id(self) -> str | None:
        """Return the id of the chosen task; None if there is none."""
        table = self._task_table
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    @on(DataTable.RowSelected, "#tasks")
    def action_open(self) -> None:
        """Show the steps of the chosen task."""
        if self.pool is not None and (task_id := self.chosen_id()) is not None:
            self.push_screen(TaskScreen(self.pool, task_id))

    def action_cancel(self) -> None:
        """Ask, then cancel the chosen task."""
        if self.pool is not None and (task_id := self.chosen_id()) is not None:
            self._cancel(self.pool, task_id)

    @work
    async def _cancel(self, pool: TaskAPI, task_id: str) -> None:
        if not await self.push_screen_wait(ConfirmScreen(f"Cancel the task {task_id}? (y/n)")):
            return
        try:
            was_open = await pool.cancel(task_id)
            self.notify(f"{task_id} " + ("is cancelled" if was_open else "had ended"))
        except AgentPoolError as error:
            self.notify(one_line(str(error)), severity="error")
        self._changed.set()

    def action_filter(self) -> None:
        """Show the field for a text."""
        field = self.query_one("#filter", Input)
        field.add_class("shown")
        field.focus()

    @on(Input.Submitted, "#filter")
    def apply_filter(self, event: Input.Submitted) -> None:
        """Show only tasks with the text; an empty text shows all."""
        self._text = event.value.strip()
        self.query_one("#filter", Input).set_class(bool(self._text), "shown")
        self._task_table.focus()
        self._changed.set()

    def action_pause(self) -> None:
        """Stop to refresh, or go on."""
        self._is_paused = not self._is_paused
        self._show_tasks()


class ConfirmScreen(ModalScreen[bool]):
    """A question with yes and no.

    Args:
        question: what to ask.
    """

    CSS = """
    ConfirmScreen { align: center middle; }
    Static { width: auto; padding: 1 3; border: thick $warning; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        yield Static(Text(printable(self._question)))

    def action_answer(self, answer: bool) -> None:
        """Close the question with its answer."""
        self.dismiss(answer)


class TaskScreen(Screen[None]):
    """The steps of one task, as they come.

    Args:
        pool: where the task is.
        task_id: its id.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "app.pop_screen", "back")]

    def __init__(self, pool: TaskAPI, task_id: str) -> None:
        super().__init__()
        self._pool = pool
        self._task_id = task_id

    def compose(self) -> ComposeResult:
        yield Header()
        yield VerticalScroll(id="steps")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read the steps."""
        self.title = self._task_id
        self._read_steps()

    @work(exclusive=True)
    async def _read_steps(self) -> None:
        place = self.query_one("#steps", VerticalScroll)
        try:
            record = await self._pool.task(self._task_id)
            await place.mount(Static(Text(printable(record.request.task), style="bold")))
            figures: Spent | None = None
            async for event in self._pool.task_events(self._task_id):
                step = step_of(event, figures)
                figures = event if isinstance(event, Spent) else figures
                if step is not None:
                    await place.mount(Static(_step_text(step)))
                    place.scroll_end(animate=False)
        except AgentPoolError as error:
            await place.mount(Static(Text(one_line(str(error)), style="red")))


def _step_text(step: TaskStep) -> Text:
    style = {"error": "red", "tool": "cyan", "output": "dim", "note": "dim"}.get(step.kind, "")
    if step.kind == "text" and step.body is not None:
        return Text(printable(step.body))
    return Text(
        f"{time.strftime('%H:%M:%S', time.localtime(step.time))}  {step.title}", style=style
    )
