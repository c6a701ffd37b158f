"""`agent-pool stats`: what it shows of the pools that run, and how it watches them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent_pool import (
    AgentStats,
    PoolStats,
    PoolStatus,
    SilentPool,
    Usage,
    WorkerInfo,
    running_pools,
)
from agent_pool.cli import stats as module
from agent_pool.cli.stats import as_object, report, spared
from agent_pool.pool.books import Reuse
from cli_world import NOWHERE, command, invoke
from pool.conftest import world as world
from pool_world import PoolWorld
from support import Project, run

WORKER = WorkerInfo(
    worker="worker-1",
    agent="tester",
    description="Tests.",
    state="idle",
    pid=4711,
    tasks=3,
    rss=200 * 2**20,
    uptime=61.0,
    usage=Usage(10, 20, 30, 60),
    cost_usd=0.25,
)
TESTER = AgentStats(
    "tester", 3, {"cancelled": 1, "task_error": 1}, 6, 1, Usage(10, 20, 30, 60), 0.25
)
STATS = PoolStats(
    uptime=125.0,
    waiting=0,
    paused=0.0,
    workers={"idle": 1},
    spawned=2,
    resets=3,
    strays=0,
    retired={},
    agents=(TESTER,),
    reuse=Reuse(tasks=2, starts=2, starting=1.0),
)
POOL = PoolStatus(4710, "agent-pool", "/srv/shop", "0.1.0", (WORKER,), STATS)
SILENT = SilentPool(Path("/tmp/agent-pool-1"), "it did not answer within 2 s")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def environment(project: Project, place: Path) -> dict[str, str]:
    return {**project.environment(NOWHERE), "TMPDIR": str(place), "TERM": "xterm"}


def shown(*found: PoolStatus | SilentPool) -> str:
    screen = Console(width=200, markup=False, emoji=False, highlight=False)
    with screen.capture() as capture:
        screen.print(report(found))
    return capture.get()


def row(text: str, beginning: str) -> str:
    """The only line that begins with this word, its cells one blank apart."""
    (cells,) = [line.split() for line in text.splitlines() if line.split()[:1] == [beginning]]
    return " ".join(cells)


# What is shown


def test_a_pool_is_shown_with_its_workers_its_agents_and_what_it_saved() -> None:
    text = shown(POOL)
    first = "agent-pool, pid 4710, in /srv/shop, up 2 min 5 s; processes started: 2"
    assert text.splitlines()[0] == first
    expected = "worker-1 tester idle 61.0 s 4711 3 200 MB $0.2500"
    assert row(text, "worker-1") == expected
    assert row(text, "tester") == "tester 3 2 10 30 60 20 60% $0.2500"
    saved = "2 of 3 tasks ran on a used process; 2 measured starts took 500 ms on average: "
    assert saved + "1.0 s of starting saved" in text
    assert text.splitlines()[-1] == (
        "1 pool, 1 worker, 200 MB, 3 tasks, 2 failed, hit rate 60%, $0.2500"
    )


def test_the_sum_is_of_all_pools_and_of_all_agents() -> None:
    other = replace(TESTER, agent="other", usage=Usage(100, 0, 0, 0), failed={})
    two = replace(POOL, pid=1, stats=replace(STATS, agents=(other, TESTER)))
    text = shown(POOL, two)
    assert row(text, "all") == "all 6 2 110 30 60 20 30% $0.5000"
    assert text.splitlines()[-1] == (
        "2 pools, 2 workers, 400 MB, 9 tasks, 4 failed, hit rate 40%, $0.7500"
    )


def test_what_ails_a_pool_is_shown() -> None:
    busy = replace(STATS, waiting=2, paused=30.0)
    worker = replace(WORKER, agent="", note="the API refuses: 429")
    text = shown(replace(POOL, stats=busy, workers=(worker,)), SILENT)
    assert "2 tasks waiting for a worker; the API refused work" in text
    assert "(spare)" in text
    assert "idle, the API refuses: 429" in text
    assert "/tmp/agent-pool-1: it did not answer within 2 s" in text


def test_without_a_measured_start_no_saving_is_named() -> None:
    said = spared(replace(STATS, reuse=Reuse(tasks=2)))
    assert said == "  2 of 3 tasks ran on a used process; no start of a process was measured"


def test_names_cannot_steer_the_terminal() -> None:
    evil = "a\x1b[2Jb"
    agent = replace(TESTER, agent=evil)
    text = shown(
        replace(
            POOL,
            program=evil,
            project=evil,
            workers=(replace(WORKER, agent=evil, note=evil),),
            stats=replace(STATS, agents=(agent,)),
        )
    )
    assert "\x1b" not in text
    assert text.count("a[2Jb") == 5


def test_for_programs_there_are_the_pools_the_silent_ones_and_the_total() -> None:
    told = json.loads(json.dumps(as_object([SILENT, POOL])))
    (pool,) = told["pools"]
    assert (pool["pid"], pool["project"]) == (4710, "/srv/shop")
    assert pool["workers"][0]["rss"] == 200 * 2**20
    assert pool["stats"]["reuse"]["seconds_of_starting_saved"] == 1.0
    assert told["silent"] == [{"folder": "/tmp/agent-pool-1", "why": SILENT.why}]
    assert (told["total"]["tasks"], told["total"]["cache_hit_rate"]) == (3, 0.6)


# The command


def test_without_a_pool_it_says_so(place: Path) -> None:
    done = invoke("stats")
    assert (done.exit_code, done.stdout) == (0, "No pool of yours is running here.\n")
    done = invoke("stats", "--json")
    assert (done.exit_code, json.loads(done.stdout)["pools"]) == (0, [])


def test_the_pools_of_other_programs_are_asked(world: PoolWorld, place: Path) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            await pool.invoke("tester", "one")
            found = await told(world, place)
            assert [(one["pid"], one["stats"]["total"]["tasks"]) for one in found["pools"]] == [
                (os.getpid(), 1)
            ]
            await pool.invoke("tester", "two")
            assert (await told(world, place))["total"]["tasks"] == 2

    run(main())


async def told(project: Project, place: Path) -> Any:
    """What `stats --json` says in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *command("stats", "--json"),
        env=environment(project, place),
        stdout=subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(said)


def test_the_mcp_server_is_a_pool_too(project: Project, place: Path) -> None:
    async def main() -> None:
        async with serving(project, place) as server:
            (pool,) = await found_at_last()
            assert isinstance(pool, PoolStatus)
            assert (pool.pid, pool.program) == (server.pid, "agent_pool")
            assert pool.project == str(project.root)
            assert server.stdin is not None
            server.stdin.close()
            assert await server.wait() == 0
            assert await running_pools() == []

    run(main())


@asynccontextmanager
async def serving(project: Project, place: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The MCP server, killed at the end."""
    server = await asyncio.create_subprocess_exec(
        *command("serve"),
        env=environment(project, place),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield server
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()


async def found_at_last() -> list[PoolStatus | SilentPool]:
    """The running pools, as soon as there are any."""
    async with asyncio.timeout(20):
        while not (found := await running_pools()):
            pass
    return found


# --watch


@contextmanager
def terminal(
    arguments: list[str], env: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A program on a terminal of its own, and what shows its screen."""
    screen, inner = pty.openpty()
    process = subprocess.Popen(arguments, env=env, stdin=inner, stdout=inner, stderr=inner)
    os.close(inner)
    try:
        yield process, screen
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def until_shown(screen: int, text: bytes) -> None:
    """Read the screen until this stands there; the test's own time limit bounds it."""
    seen = b""
    while text not in seen:
        seen += os.read(screen, 4096)


def test_it_is_shown_anew_until_ctrl_c(world: PoolWorld, place: Path) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            await pool.invoke("tester", "one")
            with terminal(command("stats", "--watch"), environment(world, place)) as (
                process,
                screen,
            ):
                await asyncio.to_thread(until_shown, screen, b"1 task,")
                await pool.invoke("tester", "two")
                await asyncio.to_thread(until_shown, screen, b"2 tasks,")
                process.send_signal(signal.SIGINT)
                drain = asyncio.create_task(asyncio.to_thread(until_closed, screen))
                assert await asyncio.to_thread(process.wait) == 0
                await drain

    run(main())


def until_closed(screen: int) -> None:
    """Read the screen until nobody writes to it."""
    try:
        while os.read(screen, 4096):
            pass
    except OSError:  # how Linux says so
        pass


@pytest.mark.parametrize(
    ("arguments", "why"), [(["--watch"], "needs a terminal"), (["--watch", "--json"], "choose one")]
)
def test_watching_is_for_people_at_a_terminal(arguments: list[str], why: str) -> None:
    done = invoke("stats", *arguments)
    assert done.exit_code == 2
    assert why in done.stderr


def test_a_look_that_fails_ends_the_watch_with_its_error(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.setattr(module, "console", lambda: Console(force_terminal=True))
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/place")
    done = invoke("stats", "--watch")
    assert done.exit_code == 3
    assert "correct TMPDIR" in done.stderr
