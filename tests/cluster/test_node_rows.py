"""The node of a task and a worker: stored, shown in every list, and only if one is named."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, RenderableType
from textual.widgets import DataTable

from agent_pool import (
    NodeInfo,
    PoolStats,
    PoolStatus,
    TaskAPI,
    TaskRecord,
    TaskRequest,
    TaskResult,
    WorkerInfo,
)
from agent_pool.api import OnEvent
from agent_pool.cli.pools import format_pools
from agent_pool.cli.tasks import print_tasks
from agent_pool.cli.top_app import TopApp
from agent_pool.cli.top_rows import tasks_listing, workers_listing
from agent_pool.daemon.callers import identify_peer
from agent_pool.daemon.dashboard.now import NowView
from agent_pool.daemon.dashboard.rendering import render_task_cells, render_worker_cells
from agent_pool.daemon.metrics import metrics_text
from agent_pool.events import Started
from agent_pool.mcp.results import workers_result
from agent_pool.settings import Settings
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.fake_pool import FakePool, make_result, make_stats, make_worker
from support.waiting import run

NODES = (
    NodeInfo("blue", "ready", size=4, running=1, version="2.1.332"),
    NodeInfo("red", "left_out", "there is no folder /srv/shop", size=4),
)
PROBLEM = "Ray's head 10.0.0.1:6379 does not answer"


class NodePool(FakePool):
    """A pool that runs every task on one node, and has a worker of the same name on two.

    Args:
        node: the node's name; empty for a pool on this machine alone.
    """

    def __init__(self, node: str) -> None:
        super().__init__(self._run_there)
        self.end = asyncio.Event()
        self._node = node
        names = (node, "red") if node else ("",)
        self.worker_infos = [make_worker(worker="worker-1", node=name) for name in names]

    async def stats(self) -> PoolStats:
        return make_stats(
            nodes=NODES if self._node else (), cluster_problem=PROBLEM if self._node else ""
        )

    async def _run_there(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        emit(Started("worker-1", 42, 0.0, node=self._node, agent=agent))
        await self.end.wait()
        return make_result("done", agent=agent, node=self._node)


@asynccontextmanager
async def running_task(folder: Path, node: str) -> AsyncIterator[tuple[TaskAPI, TaskRecord]]:
    """Open a pool with a store, and start a task; it ends with the context."""
    inner = NodePool(node)
    async with DurablePool(inner, Store(folder / "tasks.db"), Settings(project_dir=folder)) as pool:
        handle = await pool.submit(TaskRequest("reviewer", "one"))
        async for event in pool.task_events(handle.id):
            if isinstance(event, Started):
                break
        yield pool, await pool.task(handle.id)
        inner.end.set()
        await handle.result()


def lines_of(shown: RenderableType) -> str:
    """Return what is printed in a pipe."""
    out = StringIO()
    Console(file=out, force_terminal=False, width=200).print(shown)
    return out.getvalue()


def test_the_node_of_a_task_is_kept_in_the_store(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_task(tmp_path, "blue") as (_, record):
            assert record.node == "blue"
        settings = Settings(project_dir=tmp_path)
        async with DurablePool(FakePool(), Store(tmp_path / "tasks.db"), settings) as pool:
            [kept] = await pool.tasks()
            assert (kept.state, kept.node) == ("succeeded", "blue")
            assert kept.result is not None
            assert kept.result.node == "blue"
            events = [event async for event in pool.task_events(kept.id)]
            assert [one.node for one in events if isinstance(one, Started)] == ["blue"]

    run(main())


@pytest.mark.parametrize("node", ["blue", ""])
def test_lists_of_tasks_have_a_node_only_if_one_is_named(
    tmp_path: Path, node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> list[TaskRecord]:
        async with running_task(tmp_path, node) as (pool, _):
            return await pool.tasks()

    records = run(main())
    out = StringIO()
    print_tasks(records, Console(file=out, force_terminal=True, width=200), limit=50)
    print_tasks(records, Console(file=out, force_terminal=False, width=200), limit=50)
    listed = out.getvalue() + lines_of(tasks_listing(records))
    assert listed.lower().count("node") == (3 if node else 0)
    assert listed.count("blue") == (3 if node else 0)


@pytest.mark.parametrize("node", ["blue", ""])
def test_lists_of_workers_have_a_node_only_if_one_is_named(node: str) -> None:
    workers = NodePool(node).worker_infos
    stats = make_stats(nodes=NODES if node else (), cluster_problem=PROBLEM if node else "")
    pool = PoolStatus(1, "agent-pool", "/srv/shop", "0.1", tuple(workers), stats)
    shown = lines_of(format_pools([pool])) + lines_of(workers_listing(workers))
    rows = [json.loads(line.strip("[],\n")) for line in text_of(workers).splitlines()]
    assert [row.get("node") for row in rows] == (["blue", "red"] if node else [None])
    if node:
        assert shown.lower().count("\tnode\t") == 2
        assert "worker-1\tblue\t" in shown
        assert "blue: 1 of 4 tasks running, Claude Code 2.1.332" in shown
        assert "red: left out: there is no folder /srv/shop" in shown
        assert PROBLEM in shown
    else:
        assert "node" not in shown.lower()


def text_of(workers: list[WorkerInfo]) -> str:
    """Return the workers as the MCP tool `list` gives them."""
    [content] = workers_result(workers).content
    assert content.type == "text"
    return content.text


def test_top_gets_a_column_for_nodes_once_one_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_task(tmp_path, "blue") as (pool, _):
            app = TopApp(pool)
            async with app.run_test(size=(120, 40)) as pilot:
                async with asyncio.timeout(15):
                    while not app.query_one("#workers", DataTable).row_count:
                        await pilot.pause(0.05)
                for name, count in (("#tasks", 1), ("#workers", 2)):
                    table = app.query_one(name, DataTable)
                    assert [key.value for key in table.columns][-1] == "node"
                    assert table.row_count == count
                    assert str(table.get_row_at(0)[-1]) == "blue"

    run(main())


def test_the_dashboard_shows_workers_of_one_name_on_two_nodes(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_task(tmp_path, "blue") as (pool, record):
            view = NowView(
                pool, Settings(project_dir=tmp_path), render_task_cells, render_worker_cells
            )
            shown = await view.snapshot()
            assert shown["workers"]["order"] == ("blue-worker-1", "red-worker-1")
            rows = shown["workers"]["rows"]
            assert ">worker-1" in rows["red-worker-1"]
            assert "red</span>" in rows["red-worker-1"]
            assert "blue</span>" in shown["tasks"]["rows"][record.id]
            assert "there is no folder /srv/shop" in shown["figures"]["nodes"]
            assert shown["figures"]["nodes"].startswith(f"{PROBLEM} · blue: ")

    run(main())


@pytest.mark.parametrize("node", ["blue", ""])
def test_metrics_have_figures_of_nodes_only_if_there_are_some(tmp_path: Path, node: str) -> None:
    async def main() -> str:
        async with running_task(tmp_path, node) as (pool, _):
            return (await metrics_text(pool)).decode()

    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(run(main()))
        for sample in family.samples
        if "node" in sample.name
    }
    if not node:
        assert samples == {}
        return
    assert samples["agent_pool_nodes", "ready"] == 1
    assert samples["agent_pool_nodes", "left_out"] == 1
    assert samples["agent_pool_nodes", "lost"] == 0
    assert samples["agent_pool_node_running", "blue"] == 1
    assert samples["agent_pool_node_size", "red"] == 4
    assert samples["agent_pool_node_worker_memory_bytes", "red"] == 190_000_000


@pytest.mark.parametrize(("node", "worker"), [("blue", ""), ("", "worker-1")])
def test_a_worker_elsewhere_is_not_taken_for_a_process_here(
    tmp_path: Path, node: str, worker: str
) -> None:
    """Each machine counts its processes on its own, so two have the same number."""

    async def main() -> None:
        inner = FakePool()
        inner.worker_infos = [make_worker(worker="worker-1", node=node, pid=os.getpid())]
        settings = Settings(project_dir=tmp_path)
        async with DurablePool(inner, Store(tmp_path / "tasks.db"), settings) as pool:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                address = listener.getsockname()
                with socket.create_connection(address), listener.accept()[0] as accepted:
                    peer = await identify_peer(accepted, pool)
            assert (peer.worker, peer.is_nested) == (worker, bool(worker))

    run(main())
