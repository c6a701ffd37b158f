"""The process that is connected to Ray, with a module in the place of Ray whose calls can hang."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path

import psutil
import pytest

from agent_pool.cluster import ray_api
from agent_pool.cluster.node import NodeActor
from agent_pool.cluster.node_link import NodeLink
from agent_pool.cluster.ray_api import CallFailed, CallRefused, RayCluster, RayNode
from agent_pool.errors import DaemonUnavailable
from support.waiting import WAIT_TIMEOUT, run

NODE = RayNode("id", "blue", {"CPU": 2.0})
ADDRESS = "192.0.2.1:6379"
FAKE_RAY = """
import os, threading


def _note(name):
    with open(os.environ["TEST_CALLS"], "a") as file:
        file.write(name + "\\n")
    if name in os.environ.get("TEST_HANGS", ""):
        threading.Event().wait()


def init(**_):
    _note("init")


def nodes():
    _note("nodes")
    return [{"NodeID": "id", "NodeManagerAddress": "host", "Alive": True}]


def shutdown():
    _note("shutdown")
"""


class FakeRay:
    """A module with the name of Ray for the process that uses it.

    Args:
        folder: for its files.
        patch: changes the environment of this process.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._calls = folder / "calls"
        self._patch = patch
        (folder / "ray.py").write_text(FAKE_RAY)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
        patch.setenv("TEST_CALLS", str(self._calls))

    def hang_in(self, name: str) -> None:
        """Let a call hang in processes that are started from now on."""
        self._patch.setenv("TEST_HANGS", name)

    def calls(self) -> list[str]:
        """Return the names of the calls, as they came."""
        return self._calls.read_text().split()


@pytest.fixture
def fake_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay(tmp_path, monkeypatch)


def driver_of(cluster: RayCluster) -> int:
    assert cluster._process is not None
    return cluster._process.pid


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_cluster_that_does_not_answer_is_an_error_in_time(
    fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_api, "CONNECT_TIMEOUT", 0.05)
    fake_ray.hang_in("init")

    async def main() -> None:
        cluster = RayCluster(ADDRESS)
        with pytest.raises(DaemonUnavailable, match=r"did not answer within .* s; start a node"):
            await cluster.connect()
        assert has_ended(driver_of(cluster))

    run(main())


def test_the_process_of_ray_gets_no_secret_but_those_of_ray(
    fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"ANTHROPIC_API_KEY": "x", "GITHUB_TOKEN": "x", "RAY_AUTH_TOKEN": "x", "OTHER": "x"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    async def main() -> None:
        cluster = RayCluster(ADDRESS)
        await cluster.connect()
        environ = psutil.Process(driver_of(cluster)).environ()
        assert given.keys() & environ.keys() == {"RAY_AUTH_TOKEN", "OTHER"}
        await cluster.disconnect()

    run(main())
    assert fake_ray.calls() != []


def test_looks_at_a_dead_head_make_one_call_and_end_in_time(
    fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ray.hang_in("nodes")

    async def main() -> None:
        cluster = RayCluster(ADDRESS)
        await cluster.connect()
        monkeypatch.setattr(ray_api, "NODES_TIMEOUT", 0.05)
        monkeypatch.setattr(ray_api, "LEAVE_TIMEOUT", 0.05)
        for _ in range(3):
            with pytest.raises(DaemonUnavailable, match="does not answer"):
                await cluster.nodes()
        assert cluster._link is not None
        assert len(cluster._link._waiting) == 1
        await cluster.disconnect()
        assert has_ended(driver_of(cluster))

    run(main())


def test_calls_fail_when_the_process_of_ray_ends_and_a_new_one_serves(
    fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ray.hang_in("nodes")

    async def main() -> None:
        cluster = RayCluster(ADDRESS)
        await cluster.connect()
        asked = asyncio.ensure_future(cluster.nodes())
        actor = cluster.start_actor(NODE, NodeActor, "blue")
        answer = actor.call("messages", 0, 0)
        os.kill(driver_of(cluster), signal.SIGKILL)
        with pytest.raises(CallFailed, match="has ended"):
            await answer
        with pytest.raises(DaemonUnavailable, match="has ended"):
            await asked
        with pytest.raises(DaemonUnavailable, match="has ended"):
            await cluster.nodes()
        with pytest.raises(CallRefused):
            actor.call("messages", 0, 0)
        actor.kill()
        await cluster.disconnect()
        fake_ray.hang_in("")
        # A path that counts from the folder of this process.
        folders = os.environ["PYTHONPATH"].split(os.pathsep)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.relpath, folders)))
        fresh = cluster.again()
        await fresh.connect()
        assert await fresh.nodes() == [RayNode("id", "host", {})]
        await fresh.disconnect()
        assert fake_ray.calls()[-1] == "shutdown"

    run(main())


def test_the_process_of_ray_ends_with_its_pool_although_ray_hangs(fake_ray: FakeRay) -> None:
    fake_ray.hang_in("init")
    ours, theirs = socket.socketpair()
    program = (
        "import sys; from agent_pool.cluster import ray_driver; ray_driver.LEAVE_SECONDS = -1.0; "
        "ray_driver.main()"
    )
    with (
        theirs,
        subprocess.Popen(
            [sys.executable, "-c", program, str(theirs.fileno()), ADDRESS],
            pass_fds=[theirs.fileno()],
        ) as driver,
    ):
        theirs.close()
        ours.close()
        assert driver.wait(WAIT_TIMEOUT) == 1


def test_a_task_that_a_node_cannot_read_ends_with_an_error() -> None:
    async def main() -> None:
        actor = NodeActor("blue")
        await actor.submit("t1", {"agent": "tester", "task": "x", "unknown": 1}, {}, {}, False)
        _, [(_, message)] = await actor.messages(0, 0)
        assert message["failed"] == "t1"
        assert "ProjectSource" in message["error"]["message"]

    run(main())


def test_a_call_that_ray_does_not_take_is_reported_to_its_caller() -> None:
    class FullRay:
        def start_actor(self, *_: object) -> FullRay:
            return self

        def call(self, method: str, *_: object) -> None:
            raise RuntimeError("the object store is full")

    async def main() -> None:
        link = NodeLink(FullRay(), NODE, "1", None)  # type: ignore[arg-type]
        assert not link.call("submit", "t1")

    asyncio.run(main())


def test_a_call_that_ray_refuses_later_is_reported_to_its_caller() -> None:
    class RefusingRay:
        def start_actor(self, *_: object) -> RefusingRay:
            return self

        def call(self, method: str, *_: object) -> Awaitable[None]:
            async def refuse() -> None:
                raise CallRefused("the object store is full")

            return refuse()

    async def main() -> None:
        link = NodeLink(RefusingRay(), NODE, "1", None)  # type: ignore[arg-type]
        refused = asyncio.Event()
        assert link.call("submit", "t1", on_refused=refused.set)
        await refused.wait()

    run(main())
