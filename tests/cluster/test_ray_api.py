"""Calls of Ray that do not return, as those to a head that is gone; Ray itself is not started."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from agent_pool.cluster import ray_api
from agent_pool.cluster.node import NodeActor
from agent_pool.cluster.node_link import NodeLink
from agent_pool.cluster.ray_api import RayCluster, RayNode
from agent_pool.errors import DaemonUnavailable
from support.waiting import run

ray = pytest.importorskip("ray")


class HangingRay:
    """Calls that hang until the end of the test.

    Attributes:
        calls: the names of the calls, as they came.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.end = threading.Event()

    def init(self, **_: object) -> None:
        self._hang("init")

    def nodes(self) -> list[object]:
        self._hang("nodes")
        return []

    def shutdown(self) -> None:
        self._hang("shutdown")

    def _hang(self, name: str) -> None:
        self.calls.append(name)
        self.end.wait()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingRay]:
    made = HangingRay()
    for name in ("CONNECT_TIMEOUT", "NODES_TIMEOUT", "LEAVE_TIMEOUT"):
        monkeypatch.setattr(ray_api, name, 0.05)
    yield made
    made.end.set()


def test_a_cluster_that_does_not_answer_is_an_error_in_time(
    hanging: HangingRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", hanging.init)
    with pytest.raises(DaemonUnavailable, match=r"did not answer within .* s; start a node"):
        run(RayCluster("192.0.2.1:6379").connect())
    assert hanging.calls == ["init"]


def test_looks_at_a_dead_head_use_one_thread_and_end_in_time(hanging: HangingRay) -> None:
    async def main() -> None:
        cluster = RayCluster("192.0.2.1:6379")
        cluster._ray = hanging
        for _ in range(3):
            with pytest.raises(DaemonUnavailable, match="does not answer"):
                await cluster.nodes()
        assert hanging.calls == ["nodes"]
        await cluster.disconnect()
        assert hanging.calls == ["nodes", "shutdown"]

    run(main())
    # The end of a process waits for every other thread.
    left = [one for one in threading.enumerate() if one.name == "agent-pool ray"]
    assert len(left) >= 2
    assert all(one.daemon for one in left)


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
        node = RayNode("id", "blue", {"CPU": 2.0})
        link = NodeLink(FullRay(), node, "1", None)  # type: ignore[arg-type]
        assert not link.call("submit", "t1")

    asyncio.run(main())
