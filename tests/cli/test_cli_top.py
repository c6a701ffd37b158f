"""`agent-pool top`, driven by Textual's own pilot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from textual.geometry import Region
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from agent_pool import (
    PoolStatus,
    SilentPool,
    TaskAPI,
    TaskFilter,
    TaskRecord,
    TaskRequest,
    TaskResult,
)
from agent_pool.api import OnEvent
from agent_pool.cli.pools import DaemonFigures, FoundPools
from agent_pool.cli.top_app import TaskScreen, TopApp
from agent_pool.cli.top_rows import look, tasks_listing, workers_listing
from agent_pool.events import Started, Text, ToolUse
from agent_pool.settings import Settings
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from agent_pool.views.rows import STALLED_SECONDS
from agent_pool.views.stalled import StepAges
from support.fake_pool import FakePool, make_result, make_stats, make_worker
from support.waiting import run

TIMEOUT = 15.0


class HeldTask:
    """A task that runs until its end is set, or it is cancelled."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def run(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        """Use a tool and wait."""
        emit(Started("worker-1", 42, 0.0, agent=agent))
        emit(ToolUse("1", "Bash", {"command": f"echo {task}"}, agent=agent))
        emit(Text("I think\x1b[2J about it.", agent=agent))
        await self.end.wait()
        return make_result("done", agent=agent)


@asynccontextmanager
async def durable(inner: FakePool, folder: Path) -> AsyncIterator[TaskAPI]:
    settings = Settings(project_dir=folder)
    async with DurablePool(inner, Store(folder / "tasks.db"), settings) as pool:
        yield pool


async def shown(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    """Wait until the screen shows something."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await pilot.pause(0.05)


async def no_pools() -> tuple[FoundPools, None]:
    return [], None


def table_of(app: TopApp) -> DataTable[object]:
    return app.query_one("#tasks", DataTable)


def words_of(app: TopApp) -> str:
    table = table_of(app)
    return "\n".join(" ".join(map(str, table.get_row(key))) for key in table.rows)


def test_top_shows_a_running_task_and_its_workers(tmp_path: Path) -> None:
    async def main() -> None:
        held, inner = HeldTask(), None
        inner = FakePool(held.run)
        inner.worker_infos = [make_worker(worker="worker-1", agent="reviewer")]
        async with durable(inner, tmp_path) as pool:
            await pool.submit(TaskRequest("reviewer", "one"))
            app = TopApp(pool, no_pools)
            async with app.run_test(size=(120, 40)) as pilot:
                await shown(pilot, lambda: "running" in words_of(app))
                assert "reviewer" in words_of(app)
                workers = app.query_one("#workers", DataTable)
                assert str(workers.get_row_at(0)[0]) == "worker-1"
            held.end.set()

    run(main())


@pytest.mark.parametrize(("width", "has_all"), [(60, False), (80, False), (120, True)])
def test_a_narrow_window_leaves_out_columns_and_shows_the_step(
    tmp_path: Path, width: int, has_all: bool
) -> None:
    async def main() -> None:
        held = HeldTask()
        async with durable(FakePool(held.run), tmp_path) as pool:
            await pool.submit(TaskRequest("reviewer", "one"))
            app = TopApp(pool, no_pools)
            async with app.run_test(size=(width, 24)) as pilot:
                await shown(pilot, lambda: "I think" in words_of(app))
                names = [column.value for column in table_of(app).columns]
                assert ("project" in names) is has_all
                assert ("tokens" in names) is has_all
                columns = list(table_of(app).columns.values())
                step = sum(one.get_render_width(table_of(app)) for one in columns[:-1])
                assert step + len("I think") <= width
                right = [
                    str(key.value)
                    for key, one in table_of(app).columns.items()
                    if one.label.justify == "right"
                ]
                assert right == [
                    name for name in names if name in ("time", "tokens", "context", "cost")
                ]
            held.end.set()

    run(main())


def test_a_task_is_cancelled_after_a_yes_and_not_after_a_no(tmp_path: Path) -> None:
    async def main() -> None:
        held = HeldTask()
        async with durable(FakePool(held.run), tmp_path) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "one"))
            app = TopApp(pool, no_pools)
            async with app.run_test(size=(120, 40)) as pilot:
                await shown(pilot, lambda: table_of(app).row_count == 1)
                await pilot.press("c", "n")
                assert not (await pool.task(handle.id)).has_ended
                await pilot.press("c", "y")
                await shown(pilot, lambda: "cancelled" in words_of(app))
            assert (await pool.task(handle.id)).state == "cancelled"

    run(main())


def test_enter_shows_the_steps_of_a_task_without_control_characters(tmp_path: Path) -> None:
    async def main() -> None:
        held = HeldTask()
        async with durable(FakePool(held.run), tmp_path) as pool:
            await pool.submit(TaskRequest("reviewer", "one"))
            app = TopApp(pool, no_pools)
            async with app.run_test(size=(120, 40)) as pilot:
                await shown(pilot, lambda: table_of(app).row_count == 1)
                await pilot.press("enter")
                await shown(pilot, lambda: isinstance(app.screen, TaskScreen))

                def text() -> str:
                    return "\n".join(str(one.render()) for one in app.screen.query(Static))

                await shown(pilot, lambda: "about it." in text())
                assert "Bash: echo one" in text()
                assert "\x1b" not in text()
            held.end.set()

    run(main())


def test_the_filter_shows_only_tasks_with_its_text(tmp_path: Path) -> None:
    async def main() -> None:
        async with durable(FakePool(), tmp_path) as pool:
            for task in ("apples", "pears"):
                await (await pool.submit(TaskRequest("reviewer", task))).result()
            app = TopApp(pool, no_pools)
            async with app.run_test(size=(120, 40)) as pilot:
                await shown(pilot, lambda: table_of(app).row_count == 2)
                await pilot.press("slash", *"pears", "enter")
                await shown(pilot, lambda: table_of(app).row_count == 1)
                assert "pears" in words_of(app)

    run(main())


def test_top_once_prints_tasks_and_workers_as_lines(tmp_path: Path) -> None:
    async def main() -> None:
        inner = FakePool()
        async with durable(inner, tmp_path) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "apples"))
            await handle.result()
            listing = tasks_listing(await pool.tasks())
            lines = "".join(segment.text for segment in listing._tabbed()).splitlines()
            assert lines[0].startswith("task\tstate\tagent")
            assert lines[1].startswith(f"{handle.id}\tdone\treviewer")
            workers = workers_listing([make_worker(worker="worker-1", agent="")])
            assert "worker-1" in "".join(segment.text for segment in workers._tabbed())

    run(main())


def test_a_task_that_ends_during_a_look_is_shown_once(tmp_path: Path) -> None:
    async def main() -> None:
        held = HeldTask()
        async with durable(FakePool(held.run), tmp_path) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "one"))
            first = pool.tasks

            async def tasks(wanted: TaskFilter | None = None) -> list[TaskRecord]:
                found = await first(wanted)
                held.end.set()
                await handle.result()
                return found

            vars(pool)["tasks"] = tasks
            assert [one.state for one in await look(pool)] == ["succeeded"]

    run(main())


def test_a_task_whose_step_stands_still_is_stalled(tmp_path: Path) -> None:
    async def main() -> None:
        held = HeldTask()
        async with durable(FakePool(held.run), tmp_path) as pool:
            handle = await pool.submit(TaskRequest("reviewer", "one"))
            async for event in pool.task_events(handle.id):
                if isinstance(event, Text):
                    break
            ages, record = StepAges(), await pool.task(handle.id)
            assert not ages.is_stalled(record, 1.0)
            assert not ages.is_stalled(record, STALLED_SECONDS)
            assert ages.is_stalled(record, STALLED_SECONDS + 1.0)
            moved = replace(record, line="another step")
            assert not ages.is_stalled(moved, STALLED_SECONDS + 2.0)
            ages.forget_others([])
            assert not ages.is_stalled(moved, 9 * STALLED_SECONDS)
            held.end.set()

    run(main())


POOL = PoolStatus(4710, "other.py", "/srv/shop", "0.1.0", (make_worker(),), make_stats())


@pytest.mark.parametrize("has_daemon", [True, False])
def test_top_shows_the_pools_of_other_programs(tmp_path: Path, has_daemon: bool) -> None:
    async def find_pools() -> tuple[FoundPools, DaemonFigures | None]:
        return [POOL, SilentPool("/tmp/agent-pool-1", "it did not answer")], None

    def text(app: TopApp, name: str) -> str:
        lines = app.query_one(name, Static).render_lines(Region(0, 0, 110, 30))
        return "\n".join(strip.text for strip in lines)

    async def main() -> None:
        async with durable(FakePool(), tmp_path) as pool:
            app = TopApp(pool if has_daemon else None, find_pools)
            async with app.run_test(size=(120, 40)) as pilot:
                await shown(pilot, lambda: "other.py" in text(app, "#others"))
                assert "reviewer-1" in text(app, "#others")
                assert "it did not answer" in text(app, "#others")
                assert "1 pool, 1 worker," in text(app, "#sum")
                assert table_of(app).display is has_daemon
                await pilot.press("c", "enter", "ctrl+c")
            assert app.return_code == 0

    run(main())
