"""Tasks on real Ray nodes on this machine, with the real CLI and the offline model on each."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agent_pool import (
    AgentNotFound,
    Denied,
    Event,
    PermissionRequest,
    Started,
    TaskCancelled,
    TaskInterrupted,
    TaskRequest,
    TaskResult,
    WorkerReady,
)
from agent_pool.cluster.node_link import LOSS_SECONDS
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store
from support.model_scripts import Gate, bash, echo_task, tool
from support.planted_daemons import PlantedDaemon
from support.process_checks import kill_all
from support.ray_grid import RayGrid, until_none
from support.waiting import wait_until

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

NOTICED_SECONDS = LOSS_SECONDS + 0.5
"""In this time the loss of a node is noticed, with half a second for a busy machine."""


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayGrid]:
    """Return a pool on two nodes."""
    grid = RayGrid(tmp_path_factory.mktemp("grid"), "one", "two")
    yield grid
    grid.close()


@pytest.fixture(autouse=True)
def plain_script(grid: RayGrid) -> Iterator[None]:
    """Let the model answer with the task again after each test."""
    yield
    grid.script.step = echo_task


def test_tasks_run_on_both_nodes_at_the_same_time(grid: RayGrid) -> None:
    async def main() -> None:
        grid.script.step = gate = Gate(echo_task)
        events: list[Event] = []
        unsubscribe = grid.pool.subscribe(events.append)
        handles = [
            await grid.pool.submit(TaskRequest("tester", f"quince {number}")) for number in range(4)
        ]
        await wait_until(lambda: sum(isinstance(event, Started) for event in events) == 4)
        workers = await grid.pool.workers()
        gate.open()
        results = [await handle.result() for handle in handles]
        unsubscribe()
        assert [one.text for one in results] == [f"echo: quince {number}" for number in range(4)]
        assert sorted(one.node for one in results) == ["one", "one", "two", "two"]
        assert sorted(one.node for one in workers) == ["one", "one", "two", "two"]
        assert {one.node for one in events if isinstance(one, Started)} == {"one", "two"}
        assert {one.node for one in events if isinstance(one, WorkerReady)} == {"one", "two"}
        nodes = (await grid.pool.stats()).nodes
        assert [(one.node, one.state, one.size) for one in nodes] == [
            ("one", "ready", 2),
            ("two", "ready", 2),
        ]
        assert [one.version for one in nodes] == ["2.1.332", "2.1.332"]

    grid.run(main())


def test_a_batch_and_questions_about_an_agent_are_answered_by_nodes(grid: RayGrid) -> None:
    grid.project.agent("clerk", "Count exactly.", tools="Read")

    async def main() -> None:
        before = await grid.pool.agents_version()
        outcomes = await grid.pool.map(("clerk", f"item {number}") for number in range(6))
        results = [one for one in outcomes if isinstance(one, TaskResult)]
        assert [one.text for one in results] == [f"echo: item {number}" for number in range(6)]
        assert {one.node for one in results} == {"one", "two"}

        assert "clerk" in [one.name for one in (await grid.pool.agents()).usable]
        assert await grid.pool.agents_version() == before
        spec = await grid.pool.launch_spec("clerk")
        assert "Count exactly." in spec.prompt
        assert "Read" in (await grid.pool.prompt_size("clerk")).tools
        assert (await grid.pool.warmup("clerk")).agent == "clerk"
        for call in (grid.pool.reset, grid.pool.warmup, grid.pool.launch_spec):
            with pytest.raises(AgentNotFound, match="nobody"):
                await call("nobody")

        talk = TaskRequest("clerk", "remember", conversation="talk")
        await (await grid.pool.submit(talk)).result()
        assert await grid.pool.end_conversation("clerk", "talk")
        assert not await grid.pool.end_conversation("clerk", "talk")

        assert await grid.pool.reset("clerk") >= 1
        while any(one.agent == "clerk" for one in await grid.pool.workers()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    grid.run(main())


def test_cancelling_a_task_interrupts_its_worker_on_the_node(grid: RayGrid) -> None:
    async def main() -> None:
        daemon = PlantedDaemon()
        grid.script.step = lambda _: bash(f"{daemon.command}; exec sleep 1000")
        async with grid.running_on("two") as handle:
            await wait_until(daemon.processes)
            assert await grid.pool.cancel(handle.id)
            with pytest.raises(TaskCancelled):
                await handle.result()
            await wait_until(lambda: not daemon.processes())

    grid.run(main())


def test_the_caller_decides_permissions_of_an_agent_on_a_node(grid: RayGrid) -> None:
    grid.project.agent("asker", permissionMode="default", tools="Bash")

    async def main() -> None:
        asked: list[PermissionRequest] = []

        async def decide(request: PermissionRequest) -> bool | Denied:
            asked.append(request)
            return Denied("Not on this machine.")

        def step(request: object) -> object:
            results = getattr(request, "tool_results")  # noqa: B009
            return echo_task(request) if results else tool("Bash", command="touch /nonexistent/x")  # type: ignore[arg-type]

        grid.script.step = step
        result = await grid.pool.invoke("asker", "try", on_permission=decide)
        assert [one.tool for one in asked] == ["Bash"]
        assert "Not on this machine." in result.text

    grid.run(main())


def test_a_node_works_in_the_copy_of_the_project_that_ray_makes(
    grid: RayGrid, tmp_path: Path
) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(grid.project.root, folder)
    (folder / "stock.txt").write_text("12 quinces")
    grid.script.step = lambda one: (
        echo_task(one) if one.tool_results else bash("cat stock.txt; pwd")
    )

    async def main() -> None:
        pool = grid.make_pool(project_source="working_dir", project_dir=folder, prewarm=("tester",))
        async with pool:
            # Each node has its first worker before the first task.
            while len(workers := await pool.workers()) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            result = await pool.invoke("tester", "show")
        assert {(one.node, one.project) for one in workers} == {
            ("one", str(folder)),
            ("two", str(folder)),
        }
        assert result.text.startswith("tool: 12 quinces")
        assert str(folder) not in result.text

    grid.run(main(), 100)


def test_the_tasks_of_a_conversation_stay_on_their_node(grid: RayGrid) -> None:
    async def main() -> None:
        first = await grid.pool.invoke("tester", "first", conversation="talk")
        # The other node has an idle worker, so a task without a conversation could go there.
        others = [await grid.pool.invoke("tester", "between") for _ in range(2)]
        second = await grid.pool.invoke("tester", "second", conversation="talk")
        assert others[0].text == "echo: between"
        assert (first.node, first.pid, first.place) == (second.node, second.pid, 1)
        assert second.place == 2
        assert await grid.pool.end_conversation("tester", "talk")
        assert not await grid.pool.end_conversation("tester", "talk")

    grid.run(main())


def test_only_the_variables_that_are_named_reach_the_nodes(grid: RayGrid) -> None:
    async def main() -> None:
        shown = "echo $TEST_RAY_NODE/$TEST_MARK/${ANTHROPIC_BASE_URL:+url}"
        grid.script.step = lambda one: echo_task(one) if one.tool_results else bash(shown)
        result = await grid.pool.invoke("tester", "show")
        assert result.text == f"tool: {result.node}//url"

    grid.run(main())


def test_a_stopped_actor_is_lost_in_time_and_its_tasks_are_ended(grid: RayGrid) -> None:
    async def main() -> None:
        daemon = PlantedDaemon()
        grid.script.step = lambda _: bash(f"{daemon.command}; exec sleep 1000")
        async with grid.running_on("two") as handle:
            await wait_until(daemon.processes)
            agents = grid.nodes.agents("two")
            assert agents != []
            stopped = time.monotonic()
            for actor in grid.nodes.actors("two"):
                actor.suspend()
            with pytest.raises(TaskInterrupted, match="node two was lost"):
                await handle.result()
            # Nothing of the task is left when its caller is told: it can run again now.
            assert daemon.processes() == []
            assert not any(psutil.pid_exists(one.pid) for one in agents)
            assert time.monotonic() - stopped < NOTICED_SECONDS
        grid.script.step = echo_task
        await grid.until_ready("two")
        assert (await grid.pool.invoke("tester", "again")).text == "echo: again"

    grid.run(main())


def test_an_idempotent_task_of_a_dead_node_runs_on_another(grid: RayGrid, tmp_path: Path) -> None:
    async def main() -> None:
        grid.nodes.add("three")
        daemon = PlantedDaemon()
        await grid.until_ready("three")
        grid.script.step = lambda _: bash(f"{daemon.command}; exec sleep 1000")
        durable = DurablePool(grid.shared_pool(), Store(tmp_path / "tasks.db"), grid.pool.settings)
        async with (
            durable,
            grid.running_on("three", durable, idempotent=True) as again,
            grid.running_on("three", durable) as once,
        ):
            await wait_until(lambda: len(daemon.processes()) >= 2)
            left = grid.nodes.agents("three")
            killed = time.monotonic()
            grid.nodes.kill("three")
            grid.script.step = echo_task
            with pytest.raises(TaskInterrupted, match="node three was lost"):
                await once.result()
            assert time.monotonic() - killed < NOTICED_SECONDS
            result = await again.result()
            assert (result.text, result.node != "three") == ("echo: hang", True)
            assert (await durable.task(again.id)).attempts == 2
            assert (await durable.task(once.id)).state == "interrupted"
            assert (await durable.task(once.id)).node == "three"
            await until_none(left)
            await wait_until(lambda: not daemon.processes())
        info = await grid.node("three")
        assert info is not None
        assert info.state == "lost"

    grid.run(main())


def kill_by_ray(grid: RayGrid) -> None:
    for link in grid.pool._members.links():
        link._actor.kill()


KILLS: dict[str, Callable[[RayGrid], None]] = {
    "ray.kill": kill_by_ray,
    "SIGKILL": lambda grid: kill_all([*grid.nodes.actors("one"), *grid.nodes.actors("two")]),
}


@pytest.mark.parametrize("way", KILLS)
def test_nothing_is_left_on_a_node_whose_actor_is_killed(grid: RayGrid, way: str) -> None:
    async def main() -> None:
        daemon = PlantedDaemon()
        grid.script.step = lambda _: bash(f"{daemon.command}; exec sleep 1000")
        handle = await grid.pool.submit(TaskRequest("tester", "hang"))
        await wait_until(daemon.processes)
        agents = [*grid.nodes.agents("one"), *grid.nodes.agents("two")]
        killed = time.monotonic()
        KILLS[way](grid)
        with pytest.raises(TaskInterrupted):
            await handle.result()
        assert time.monotonic() - killed < NOTICED_SECONDS
        assert daemon.processes() == []
        await until_none(agents)
        grid.script.step = echo_task
        await grid.until_ready("one", "two")

    grid.run(main())


def test_nothing_is_left_on_nodes_whose_driver_is_killed(grid: RayGrid) -> None:
    async def main() -> None:
        daemon = PlantedDaemon()
        grid.script.step = lambda _: bash(f"{daemon.command}; exec sleep 1000")
        before = {one.pid for name in ("one", "two") for one in grid.nodes.actors(name)}
        driver = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", DRIVER, json.dumps(grid.values())),
            env={**grid.environ, "ANTHROPIC_BASE_URL": grid.api.url, "PYTHONPATH": PYTHONPATH},
        )
        try:
            await wait_until(daemon.processes, 40)
            actors = [one for name in ("one", "two") for one in grid.nodes.actors(name)]
            new = [one for one in actors if one.pid not in before]
            assert new != []
        finally:
            driver.kill()
            await driver.wait()
        await until_none(new)
        await wait_until(lambda: not daemon.processes())

    grid.run(main())


def test_a_drained_node_finishes_its_task_and_gets_no_more(grid: RayGrid) -> None:
    async def main() -> None:
        grid.script.step = gate = Gate(echo_task)
        async with grid.running_on("two", task="last") as handle:
            agents = grid.nodes.agents("two")
            assert grid.pool.drain_node("two")
            assert not grid.pool.drain_node("two")
            draining = await grid.node("two")
            assert draining is not None
            assert draining.state == "draining"
            gate.open()
            result = await handle.result()
            assert (result.text, result.node) == ("echo: last", "two")
            assert (await grid.pool.invoke("tester", "next")).node == "one"
            await until_none(agents)
            assert await grid.node("two") is None

    grid.run(main())


def test_a_node_that_ray_drains_finishes_its_task_and_gets_no_more(grid: RayGrid) -> None:
    async def main() -> None:
        grid.nodes.add("four")
        await grid.until_ready("four")
        grid.script.step = gate = Gate(echo_task)
        async with grid.running_on("four", task="last") as handle:
            [link] = [one for one in grid.pool._members.links() if one.node.name == "four"]
            await asyncio.to_thread(grid.nodes.drain, link.node.id)
            assert (await grid.until_state("four", "draining")).reason == "Ray drains it"
            gate.open()
            result = await handle.result()
            assert (result.text, result.node) == ("echo: last", "four")
            assert (await grid.pool.invoke("tester", "next")).node == "one"
            while await grid.node("four") is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    grid.run(main())


PYTHONPATH = os.pathsep.join(sys.path)
DRIVER = """
import asyncio, json, sys
from agent_pool.cluster.ray_pool import RayPool


async def main():
    async with RayPool(**json.loads(sys.argv[1])) as pool:
        await pool.invoke("tester", "hang")


asyncio.run(main())
"""
"""A program with a pool on the same nodes."""
