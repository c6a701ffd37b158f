"""A node in a network of its own that is cut off from the daemon in mid-task."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent_pool import TaskInterrupted
from agent_pool.cluster.node_link import LOSS_SECONDS
from support.cut_network import CutNetwork
from support.model_scripts import bash, echo_task
from support.planted_daemons import PlantedDaemon
from support.process_checks import is_alive
from support.ray_grid import RayGrid
from support.waiting import wait_until

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

NOTICED_SECONDS = LOSS_SECONDS + 0.5


@pytest.fixture
def network() -> Iterator[CutNetwork]:
    with (
        tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp") as short,
        CutNetwork(Path(short)) as made,
    ):
        yield made


@pytest.fixture
def grid(network: CutNetwork, tmp_path: Path) -> Iterator[RayGrid]:
    """Return a pool on a node here, and on the node `far` in the other network."""
    made = RayGrid(tmp_path, "here", host=network.here)
    try:
        network.forward(urlsplit(made.api.url).port or 0)
        made.nodes.add_far("far", network.there, network.inside)
        made.run(made.until_ready("far"))
        yield made
    finally:
        made.close()


def test_a_node_that_is_cut_off_ends_its_task_and_comes_back(
    network: CutNetwork, grid: RayGrid
) -> None:
    async def main() -> None:
        daemon = PlantedDaemon()
        grid.script.step = lambda _: bash(f"{daemon.command}; exec sleep 1000")
        async with grid.running_on("far") as handle:
            await wait_until(daemon.processes)
            left = grid.nodes.own("far")
            cut = time.monotonic()
            network.cut()
            with pytest.raises(TaskInterrupted, match="node far was lost"):
                await handle.result()
            # The node has ended it by itself: nothing reaches it.
            assert daemon.processes() == []
            assert not any(is_alive(one.pid) for one in left)
            assert time.monotonic() - cut < NOTICED_SECONDS
        found = await grid.node("far")
        assert found is not None
        assert found.state == "lost"
        network.join()
        grid.script.step = echo_task
        await grid.until_ready("far")
        async with grid.running_on("far", task="again") as handle:
            assert (await handle.result()).text == "echo: again"

    grid.run(main(), 120)
