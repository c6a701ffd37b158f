"""The tasks and workers as they are now, rendered once for all open pages.

The view looks at the pool only while a page is open, at most once a second, and each page gets
only the rows that have changed since its last update.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from agent_pool.api import TaskAPI
from agent_pool.errors import AgentPoolError
from agent_pool.events import Event, WorkerRetired
from agent_pool.models import ENDED_STATES, OPEN_STATES, TaskFilter, TaskState
from agent_pool.settings import Settings
from agent_pool.text import one_line
from agent_pool.views.rows import (
    TaskRow,
    WorkerRow,
    node_text,
    ordered,
    task_row,
    worker_row,
)
from agent_pool.views.stalled import StepAges

log = logging.getLogger("agent_pool")

GAP_SECONDS: Final = 1.0
"""Seconds between two looks at the pool, at least."""
BEAT_SECONDS: Final = 2.0
"""Seconds between two looks, at most: the memory of workers changes without an event."""
SHOWN_OPEN: Final = 500
SHOWN_ENDED: Final = 50
"""The most rows of open tasks and of ended ones; there are as many more of tasks that run."""
BUSY_STATES: Final[tuple[TaskState, ...]] = ("running", "input_required")

RETIRED_WIDTH: Final = 300
"""Characters of the words about retired workers."""

RenderTask = Callable[[TaskRow], str]
RenderWorker = Callable[[WorkerRow], str]


Row = TypeVar("Row", TaskRow, WorkerRow)


@dataclass(slots=True)
class _Rows(Generic[Row]):
    """Rendered rows; each has the number of the look at which it last changed.

    Attributes:
        render: returns the HTML of a row.
    """

    render: Callable[[Row], str]
    html: dict[str, tuple[int, str]] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    _rows: dict[str, Row] = field(default_factory=dict)

    def take(self, number: int, rows: Iterable[Row]) -> None:
        """Replace the rows by those of a look; only those that changed are rendered."""
        before, known = self.html, self._rows
        self._rows = {row.id: row for row in rows}
        self.html = {
            key: before[key] if known.get(key) == row else (number, self.render(row))
            for key, row in self._rows.items()
        }
        self.order = tuple(self._rows)

    def since(self, number: int) -> dict[str, Any]:
        """Return all ids in order, and the rows that changed after the look with this number."""
        changed = {key: html for key, (at, html) in self.html.items() if at > number}
        return {"order": self.order, "rows": changed}


class NowView:
    """What the page "now" shows.

    Args:
        pool: the pool.
        settings: its settings.
        render_task, render_worker: return the HTML of a row.
    """

    def __init__(
        self,
        pool: TaskAPI,
        settings: Settings,
        render_task: RenderTask,
        render_worker: RenderWorker,
    ) -> None:
        self._pool = pool
        self._settings = settings
        # A page that was open before a restart must not take numbers of this process for its own.
        self._boot = secrets.token_hex(4)
        self._number = 0
        self._tasks, self._workers = _Rows(render_task), _Rows(render_worker)
        self._figures: dict[str, str] = {}
        self._retired: WorkerRetired | None = None
        self._ages = StepAges()
        self._pages = 0
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._looked = asyncio.Condition()

    async def snapshot(self) -> dict[str, Any]:
        """Return everything for a page that opens; look first unless another page is open."""
        if self._looking is None or not self._number:
            await self._look()
        return self._update(0)

    async def updates(self, after: str = "") -> AsyncGenerator[dict[str, Any], None]:
        """Yield an update whenever something has changed, until the page is closed.

        Args:
            after: the id of the last update that the page has; empty for everything.
        """
        boot, _, number = after.partition("-")
        known = int(number[:15]) if boot == self._boot and number.isdecimal() else 0
        self._enter()
        try:
            while True:
                if known < self._number:
                    update = self._update(known)
                    known = self._number
                    yield update
                async with self._looked:
                    await self._looked.wait()
        finally:
            self._leave()

    def _update(self, known: int) -> dict[str, Any]:
        return {
            "id": f"{self._boot}-{self._number}",
            "tasks": self._tasks.since(known),
            "workers": self._workers.since(known),
            "figures": self._figures,
        }

    def _enter(self) -> None:
        self._pages += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_on(), name="dashboard")

    def _leave(self) -> None:
        self._pages -= 1
        if not self._pages and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look_on(self) -> None:
        unsubscribe = self._pool.subscribe(self._note)
        try:
            while True:
                self._changed.clear()
                # The pool can be closing, or its disk be full: the page shows the last state.
                try:
                    await self._look()
                except AgentPoolError as error:
                    log.info("the dashboard cannot be brought up to date: %s", error)
                except Exception:
                    # The pages would stand still, and nobody would know why.
                    log.exception("the dashboard cannot be brought up to date because of a bug")
                async with self._looked:
                    self._looked.notify_all()
                await asyncio.sleep(GAP_SECONDS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_SECONDS - GAP_SECONDS):
                        await self._changed.wait()
        finally:
            unsubscribe()

    def _note(self, event: Event) -> None:
        if isinstance(event, WorkerRetired):
            self._retired = event
        self._changed.set()

    async def _look(self) -> None:
        opened = await self._pool.tasks(TaskFilter(states=OPEN_STATES, limit=SHOWN_OPEN))
        is_full = len(opened) == SHOWN_OPEN
        if is_full:  # the newest can be tasks that wait alone
            opened += await self._pool.tasks(TaskFilter(states=BUSY_STATES, limit=SHOWN_OPEN))
        ended = await self._pool.tasks(TaskFilter(states=ENDED_STATES, limit=SHOWN_ENDED))
        workers = await self._pool.workers()
        stats = await self._pool.stats()
        # A task that ends between the two is in both, and the later record is the right one.
        found = {one.id: one for one in [*opened, *ended]}
        states = Counter(one.state for one in found.values())
        running, queued = sum(states[one] for one in BUSY_STATES), states["queued"]
        now = time.monotonic()
        rows = ordered(
            task_row(one, is_stalled=self._ages.is_stalled(one, now)) for one in found.values()
        )
        self._ages.forget_others(opened)
        number = self._number + 1
        self._tasks.take(number, rows)
        self._workers.take(number, (worker_row(one, self._settings.max_rss) for one in workers))
        total = stats.total
        figures = {
            "running": str(running),
            "queued": f"{max(queued, stats.waiting if is_full else 0):,}",
            "asking": str(states["input_required"]),
            "workers": str(len(workers)),
            "memory": f"{sum(one.rss for one in workers) / 2**20:,.0f} MiB",
            "cost": f"${total.cost_usd:,.2f}",
            "paused": stats.pause_reason if stats.paused else "",
            "nodes": " · ".join(
                filter(None, (stats.cluster_problem, *map(node_text, stats.nodes)))
            ),
            "retired": _retired_words(stats.retired, self._retired),
        }
        if figures != self._figures or number in self._numbers():
            self._figures = figures
            self._number = number

    def _numbers(self) -> set[int]:
        changed = {at for at, _ in self._tasks.html.values()}
        return changed | {at for at, _ in self._workers.html.values()}


def _retired_words(by_reason: Mapping[str, int], last: WorkerRetired | None) -> str:
    """Return how many workers were retired and why, and which one was the last."""
    if not by_reason:
        return ""
    reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(by_reason.items()))
    words = f"Retired since the start: {reasons}."
    if last is not None:
        agent = f" ({last.agent})" if last.agent else ""
        taints = f": {', '.join(last.taints)}" if last.taints else ""
        words += f" The last one: {last.worker}{agent}, {last.reason}{taints}."
    return one_line(words, RETIRED_WIDTH)
