"""The way of a task from each interface to the CLI's stdin, and of its answer back.

docs/architecture.md lists the functions on these ways; the tests trace them and compare.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from unittest import mock

import pytest

from agent_pool.mcp.server import build_server
from support import fake_cli
from support.call_chains import CallChains, Chain
from support.cli_runner import invoke as run_command_line
from support.mcp_client import connected, text_of
from support.pools import PoolProject, assert_serves

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"

MAX_DOWN = 20
MAX_UP = 15

WATCHED = frozenset(
    {
        "Scheduler.request",
        "Session.prompt",
        "ChildProcess.write",
        "read_result",
        "Worker._finish_turn",
        "EventBus.publish",
        "_Handle.result",
        "task_result",
        "print_result",
    }
)


def trace_library(project: PoolProject) -> CallChains:
    async def main() -> CallChains:
        async with project.faulty() as pool:
            await assert_serves(pool)
            chains = CallChains(WATCHED)
            with chains.recording():
                assert (await pool.invoke("tester", "medlar")).text == "echo: medlar"
            return chains

    return asyncio.run(main())


def trace_mcp(project: PoolProject) -> CallChains:
    async def main() -> CallChains:
        async with project.faulty() as pool, connected(build_server(pool), "legacy") as client:
            await assert_serves(pool)
            chains = CallChains(WATCHED)
            with chains.recording():
                result = await client.call_tool("invoke", {"agent": "tester", "task": "medlar"})
            assert "echo: medlar" in text_of(result)
            return chains

    return asyncio.run(main())


def trace_command_line(project: PoolProject) -> CallChains:
    fake_cli.install(project.fake, version="2.1.330")
    chains = CallChains(WATCHED)
    environ = project.fake_environment()
    with mock.patch.dict(os.environ, environ, clear=True), chains.recording():
        done = run_command_line("run", "tester", "medlar", "--project", str(project.root))
    assert "echo: medlar" in done.output, done.output
    return chains


TRACES: dict[str, Callable[[PoolProject], CallChains]] = {
    "library": trace_library,
    "MCP": trace_mcp,
    "command line": trace_command_line,
}


@pytest.fixture(params=TRACES)
def trip(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, CallChains]:
    return request.param, TRACES[request.param](PoolProject(tmp_path))


def way_down(chains: CallChains) -> Chain:
    """Return the functions that lead from the interface to the bytes on the CLI's stdin."""
    return merged(
        chains.first("Scheduler.request"),
        chains.first("Worker.turn", "Session.prompt"),
        chains.first("Worker.turn", "ChildProcess.write"),
    )


def way_up(chains: CallChains) -> Chain:
    """Return the functions that the answer meets for the first time on its way back."""
    shown = [name for name in ("task_result", "print_result") if chains.calls(name)]
    whole = merged(
        chains.first("read_result"),
        chains.first("Worker._finish_turn"),
        chains.first("RunningTask.end", "EventBus.publish"),
        chains.first("_Handle.result"),
        *map(chains.first, shown),
    )
    down = set(way_down(chains))
    return tuple(function for function in whole if function not in down)


def merged(*chains: Chain) -> Chain:
    return tuple(dict.fromkeys(function for chain in chains for function in chain))


def rooms(way: Chain) -> list[str]:
    return [room for room, _ in groupby(function.split("/")[0] for function in way)]


def documented(*headings: str) -> Chain:
    """Return the functions that the page lists in the tables under these headings, in order."""
    sections = re.split(r"^#+ (.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    tables = dict(zip(sections[1::2], sections[2::2], strict=True))
    return tuple(
        function
        for heading in headings
        for function in re.findall(r"^\| `(\S+ \S+)` \|", tables[heading], re.MULTILINE)
    )


def test_the_page_lists_the_functions_that_carry_a_task_down(
    trip: tuple[str, CallChains],
) -> None:
    face, chains = trip
    first = [] if face == "library" else [f"Down, from the {face}"]
    assert way_down(chains) == documented(*first, "Down, in the pool")


def test_the_page_lists_the_functions_that_carry_the_answer_up(
    trip: tuple[str, CallChains],
) -> None:
    face, chains = trip
    last = [] if face == "library" else [f"Up, to the {face}"]
    assert way_up(chains) == documented("Up, in the pool", *last)


def test_a_task_goes_through_few_functions_each_way(trip: tuple[str, CallChains]) -> None:
    _, chains = trip
    assert len(way_down(chains)) <= MAX_DOWN
    assert len(way_up(chains)) <= MAX_UP


def test_a_task_enters_no_part_of_the_package_twice(trip: tuple[str, CallChains]) -> None:
    _, chains = trip
    for way in (way_down(chains), way_up(chains)):
        assert len(rooms(way)) == len(set(rooms(way))), rooms(way)
