"""The daemon on real Ray nodes: commands, rows, projects and variables, with the real CLI."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent_pool import (
    ConfigError,
    Queued,
    RemotePool,
    Started,
    TaskInterrupted,
    TaskRequest,
    ToolOutput,
    connect,
)
from agent_pool.loopback import LoopbackAPI
from support.daemons import DaemonProject, wait_gone
from support.model_scripts import Gate, bash, echo_task
from support.planted_daemons import PlantedDaemon
from support.ray_grid import Script, until_none
from support.ray_nodes import RayNodes
from support.repositories import git, make_repository
from support.waiting import blocking_wait, bounded, wait_until

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

T = TypeVar("T")
TOKEN, OTHER = "sesame-1f6b", "secret-77aa"


class NodedDaemon:
    """A daemon on a cluster: `blue` is complete, `red` cannot fetch, `grey` is not signed in.

    The head does no work. The project is a checkout of a git remote.
    """

    def __init__(self, folder: Path, short: Path) -> None:
        self.folder = folder
        self.project = DaemonProject(folder, short)
        self.root = self.project.root
        make_repository(self.root)
        git(folder, "init", "--quiet", "--bare", "--initial-branch=main", "remote.git")
        git(self.root, "remote", "add", "origin", str(folder / "remote.git"))
        git(self.root, "push", "--quiet", "origin", "main")
        self.script = Script()
        self._runner = asyncio.Runner()
        self.nodes: RayNodes | None = None
        try:
            self.run(self._open())
        except BaseException:
            self.close()
            raise

    async def _open(self) -> None:
        self.api = LoopbackAPI(self.script)
        await self.api.__aenter__()
        self.nodes = nodes = RayNodes(self.project.environment(self.api.url))
        await asyncio.to_thread(nodes.start, "head", cpus=0)
        self.project.configure(
            ray=nodes.address, ray_workers=1, project_source="git", ray_env="TEAM_*"
        )
        broken = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "url./nowhere/.insteadOf"}
        broken["GIT_CONFIG_VALUE_0"] = f"{self.folder}/"
        # Not the cache of the other nodes: they are on this machine too.
        broken["XDG_CACHE_HOME"] = str(self.folder / "red")
        kinds = {"blue": {}, "red": broken, "grey": {"ANTHROPIC_API_KEY": ""}}
        for name, more in kinds.items():
            nodes.add(name, 2, **more)
            # One after the other: of nodes of one machine that start at once, some fail (2.60).
            await asyncio.to_thread(nodes.wait_for, name)
        async with self.pool() as pool:
            for name, state in (("blue", "ready"), ("red", "ready"), ("grey", "left_out")):
                await self._until(pool, name, state)

    async def _until(self, pool: RemotePool, name: str, state: str) -> None:
        async def states() -> set[tuple[str, str]]:
            return {(one.node, one.state) for one in (await pool.stats()).nodes}

        while (name, state) not in await states():  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.05)

    def environ(self) -> dict[str, str]:
        """Return the environment of clients, and of the daemon."""
        return self.project.daemon_environment(self.api.url, TEAM_TOKEN=TOKEN, OTHER_TOKEN=OTHER)

    def pool(self) -> RemotePool:
        """Return the daemon's pool; the daemon is started if it does not run."""
        return connect(self.root, environ=self.environ())

    async def command(self, *arguments: str) -> str:
        """Run an agent-pool command; return what it prints."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "agent_pool", *arguments],
            env=self.environ(),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return str(done.stdout + done.stderr)

    def run(self, main: Coroutine[Any, Any, T], bound: float = 60.0) -> T:
        return self._runner.run(bounded(main, bound))

    def close(self) -> None:
        """End the daemon, the nodes and the model."""
        try:
            self.project.command("stop", "--now", environ=self.environ())
        finally:
            if self.nodes is not None:
                self.nodes.stop()
            self.project.end()
            # Last: it waits for its connections, which end with the workers.
            self.run(self.api.__aexit__(None, None, None))
            self._runner.close()


@pytest.fixture(scope="module")
def noded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodedDaemon]:
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp") as short:
        made = NodedDaemon(tmp_path_factory.mktemp("noded"), Path(short))
        yield made
        made.close()


@asynccontextmanager
async def held_task(noded: NodedDaemon, pool: RemotePool) -> Any:
    """Run a task on `blue` until the end of the context; yield its handle."""
    noded.script.step = gate = Gate(echo_task)
    handle = await pool.submit(TaskRequest("tester", "first"))
    async for event in pool.task_events(handle.id):
        if isinstance(event, Started):
            break
    yield handle
    gate.open()
    await handle.result()


def test_every_row_names_the_node_and_doctor_the_reason(noded: NodedDaemon) -> None:
    async def main() -> None:
        async with noded.pool() as pool:
            async with held_task(noded, pool) as handle:
                record = await pool.task(handle.id)
                top = await noded.command("top", "--once")
                stats = await noded.command("stats")
                listed = await noded.command("tasks")
            assert (record.node, record.worker) == ("blue", "worker-1")
            assert f"{handle.id}\tblue\trunning" in top
            assert "worker-1\tblue\t" in top
            assert "grey: left out, Claude Code 2." in stats
            assert listed.splitlines()[0].endswith("\tNode")
            result = await handle.result()
            assert (result.node, result.worker) == ("blue", "worker-1")
            doctor = await noded.command("doctor", "--quick")
            [grey] = [line for line in doctor.splitlines() if "grey" in line]
            assert grey.startswith("warning\tNodes\t")
            assert "is not signed in" in grey
            assert "head" not in doctor.partition("Nodes")[2]

    noded.run(main())


def test_a_project_that_no_node_has_is_an_error_with_all_reasons(
    noded: NodedDaemon, tmp_path: Path
) -> None:
    root = tmp_path / "unknown"
    root.mkdir()
    (root / ".claude").symlink_to(noded.root / ".claude")
    make_repository(root)
    git(root, "remote", "add", "origin", "/nowhere/else.git")
    git(root, "update-ref", "refs/remotes/origin/main", "HEAD")

    async def main() -> None:
        async with noded.pool() as pool:
            with pytest.raises(ConfigError) as raised:
                await pool.invoke("tester", "hello", project=str(root))
        words = str(raised.value)
        assert f"no node has the project {root}" in words
        assert "blue: " in words
        assert "red: " in words
        assert "/nowhere/else.git" in words

    noded.run(main())


def test_a_task_goes_on_from_a_node_without_its_project(noded: NodedDaemon, tmp_path: Path) -> None:
    # Of its own: it is not known yet that `red` lacks it.
    git(tmp_path, "clone", "--quiet", str(noded.folder / "remote.git"), "shop")
    project = str(tmp_path / "shop")
    refused = f"node red cannot have a task of {project}: "

    async def main() -> None:
        async with noded.pool() as pool:
            async with held_task(noded, pool):
                # `blue` is full, so `red` gets this one.
                waiting = [await pool.submit(TaskRequest("tester", "second", project))]
                async for event in pool.task_events(waiting[0].id):
                    if isinstance(event, Queued) and event.reason.startswith("node red: "):
                        break
                # `red` is not asked again for each task.
                next_task = TaskRequest("tester", "next", project)
                waiting += [await pool.submit(next_task) for _ in range(2)]
                async for event in pool.task_events(waiting[-1].id):
                    if isinstance(event, Queued):
                        break
            assert {(await one.result()).node for one in waiting} == {"blue"}
        assert noded.project.log().count(refused) == 1

    noded.run(main())


def test_only_listed_variables_reach_a_node_and_no_file_of_ray(noded: NodedDaemon) -> None:
    async def main() -> None:
        def step(request: Any) -> Any:
            if request.tool_results:
                return "done"
            return bash("echo [$TEAM_TOKEN] [$OTHER_TOKEN]")

        noded.script.step = step
        async with noded.pool() as pool:
            events = [event async for event in pool.stream("tester", "variables")]
        outputs = [event.text for event in events if isinstance(event, ToolOutput)]
        assert outputs == [f"[{TOKEN}] []"]
        assert noded.nodes is not None
        assert files_with(noded.nodes.folder, TOKEN) == []

    noded.run(main())


def files_with(folder: Path, text: str) -> list[Path]:
    """Return the files of a Ray session, its logs among them, that have a text."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and text.encode() in path.read_bytes()
    ]


def test_a_daemon_connects_to_a_head_that_was_started_again(noded: NodedDaemon) -> None:
    nodes = noded.nodes
    assert nodes is not None

    async def main() -> None:
        daemon = PlantedDaemon()
        noded.script.step = lambda _: bash(f"{daemon.command}; exec sleep 1000")
        pid = noded.project.status()["pid"]
        async with noded.pool() as pool:
            hang = await pool.submit(TaskRequest("tester", "hang"))
            await wait_until(daemon.processes)
            left = nodes.own("blue")
            nodes.kill("head")
            while not (problem := (await pool.stats()).cluster_problem):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert nodes.address in problem
            assert problem in await noded.command("stats")
            assert (await pool.task(hang.id)).state == "running"
            noded.script.step = echo_task
            # A second head is refused on a machine that has a node of the first one (2.60).
            for name in ("blue", "red", "grey"):
                nodes.kill(name)
            # It can be given to one of these nodes before their loss is noticed.
            queued = await pool.submit(TaskRequest("tester", "later", idempotent=True))
            with pytest.raises(TaskInterrupted):
                await hang.result()
            assert daemon.processes() == []
            await until_none(left)
            await asyncio.to_thread(nodes.start_head, "head", 0)
            nodes.add("blue", 2)
            result = await queued.result()
            assert (result.text, result.node) == ("echo: later", "blue")
            assert (await pool.stats()).cluster_problem == ""
        assert noded.project.status()["pid"] == pid

    noded.run(main(), 120)


def test_a_command_drains_a_node_of_the_daemon(noded: NodedDaemon) -> None:
    async def main() -> None:
        assert "no machine 'green' that gets tasks" in await noded.command(
            "daemon", "drain-node", "green"
        )
        async with noded.pool() as pool:
            async with held_task(noded, pool) as handle:
                assert (await noded.command("daemon", "drain-node", "blue")).startswith("blue: ")
                assert {(one.node, one.state) for one in (await pool.stats()).nodes} >= {
                    ("blue", "draining")
                }
            assert (await handle.result()).node == "blue"
            while "blue" in {one.node for one in (await pool.stats()).nodes}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    noded.run(main())


def test_a_daemon_ends_although_its_cluster_has_ended(noded: NodedDaemon) -> None:
    """The last test of this module: it ends the nodes."""
    assert noded.nodes is not None
    daemon = noded.project.status()["pid"]
    before = noded.project.log().count("head does not answer")
    noded.nodes.stop()
    # Then a call to Ray waits for a head that does not come back.
    blocking_wait(lambda: noded.project.log().count("head does not answer") > before)
    noded.project.command("stop", "--now", environ=noded.environ())
    wait_gone(daemon)
