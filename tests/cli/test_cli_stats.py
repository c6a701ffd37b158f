"""`agent-pool stats`: its tables, its JSON, and --watch."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent_pool import (
    AgentStats,
    PoolStats,
    PoolStatus,
    ReuseStats,
    SilentPool,
    Usage,
    WorkerInfo,
    running_pools,
)
from agent_pool.cli import stats as module
from agent_pool.cli.output import console
from agent_pool.cli.pools import format_pools, pools_as_json, reuse_text
from support.cli_runner import command, invoke
from support.environment import UNREACHABLE_URL
from support.pools import PoolProject
from support.project import TempProject
from support.terminals import run_on_terminal, terminal, until_closed, until_shown
from support.waiting import run

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
    memory="lean",
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
    reuse=ReuseStats(tasks=2, starts=2, starting=1.0),
)
POOL = PoolStatus(4710, "agent-pool", "/srv/shop", "0.1.0", (WORKER,), STATS)
SILENT = SilentPool("/tmp/agent-pool-1", "it did not answer within 2 s")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a folder for temporary files whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def environment(project: TempProject, place: Path) -> dict[str, str]:
    return {**project.environment(UNREACHABLE_URL), "TMPDIR": str(place), "TERM": "xterm"}


def shown(*found: PoolStatus | SilentPool) -> str:
    screen = console()
    with screen.capture() as capture:
        screen.print(format_pools(found))
    return capture.get()


def row(text: str, beginning: str) -> str:
    """Return the only line that begins with this word, its cells one space apart."""
    (cells,) = [line.split() for line in text.splitlines() if line.split()[:1] == [beginning]]
    return " ".join(cells)


# The report


def test_a_pool_is_shown_with_workers_agents_and_saved_time() -> None:
    text = shown(POOL)
    first = "agent-pool, pid 4710, in /srv/shop, up 2 min 5 s; processes started: 2"
    assert text.splitlines()[0] == first
    expected = "worker-1 tester idle 61.0 s 4711 3 200 MiB lean $0.2500"
    assert row(text, "worker-1") == expected
    assert row(text, "tester") == "tester 3 2 100 30 60 20 60% $0.2500"
    saved = "2 of 3 tasks ran on a used process; 2 measured starts took 500 ms on average: "
    assert saved + "1.0 s of starting saved" in text
    assert text.splitlines()[-1] == (
        "1 pool, 1 worker, 200 MiB, 3 tasks, 2 failed, hit rate 60%, $0.2500"
    )


def test_sums_cover_all_agents_of_a_pool_and_all_pools() -> None:
    other = replace(TESTER, agent="other", usage=Usage(100, 0, 0, 0), failed={})
    two = replace(POOL, pid=1, stats=replace(STATS, agents=(other, TESTER)))
    text = shown(POOL, two)
    assert row(text, "all") == "all 6 2 200 30 60 20 30% $0.5000"
    assert text.splitlines()[-1] == (
        "2 pools, 2 workers, 400 MiB, 9 tasks, 4 failed, hit rate 40%, $0.7500"
    )


def test_agents_of_other_projects_are_shown_with_their_project() -> None:
    away = replace(TESTER, project="/srv/other")
    worker = replace(WORKER, worker="worker-2", project="/srv/other")
    home = replace(TESTER, project="/srv/shop")
    stats = replace(STATS, agents=(home, away))
    lines = shown(replace(POOL, workers=(WORKER, worker), stats=stats)).splitlines()
    assert [line.split()[:3] for line in lines if line.split()[:1] == ["tester"]] == [
        ["tester", "3", "2"],
        ["tester", "in", "/srv/other"],
    ]
    assert row("\n".join(lines), "worker-2").startswith("worker-2 tester in /srv/other idle ")


def test_waiting_tasks_refusals_notes_and_silent_pools_are_shown() -> None:
    busy = replace(STATS, waiting=2, paused=30.0)
    worker = replace(WORKER, agent="", note="the API refuses: 429")
    text = shown(replace(POOL, stats=busy, workers=(worker,)), SILENT)
    assert "2 tasks waiting for a worker; the API refused work" in text
    assert "(spare)" in text
    assert "idle, the API refuses: 429" in text
    assert "/tmp/agent-pool-1: it did not answer within 2 s" in text


def test_without_a_measured_start_no_saved_time_is_shown() -> None:
    text = reuse_text(replace(STATS, reuse=ReuseStats(tasks=2)))
    assert text == "2 of 3 tasks ran on a used process; no start of a process was measured"


def test_control_characters_in_names_are_shown_as_escapes() -> None:
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
    assert text.count("a\\x1b[2Jb") == 5


def test_the_json_object_holds_pools_silent_pools_and_totals() -> None:
    printed = json.loads(json.dumps(pools_as_json([SILENT, POOL])))
    (pool,) = printed["pools"]
    assert (pool["pid"], pool["project"]) == (4710, "/srv/shop")
    assert pool["workers"][0]["rss"] == 200 * 2**20
    assert pool["stats"]["reuse"]["seconds_saved"] == 1.0
    assert printed["silent"] == [{"folder": "/tmp/agent-pool-1", "reason": SILENT.reason}]
    assert (printed["total"]["tasks"], printed["total"]["cache_hit_rate"]) == (3, 0.6)


# The command


def test_stats_reports_that_no_pool_is_running(place: Path) -> None:
    done = invoke("stats")
    assert (done.exit_code, done.stdout) == (0, "No pool of yours is running here.\n")
    done = invoke("stats", "--json")
    assert (done.exit_code, json.loads(done.stdout)["pools"]) == (0, [])


def test_stats_shows_the_pools_of_other_programs(pool_project: PoolProject, place: Path) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            await pool.invoke("tester", "one")
            found = await printed_stats(pool_project, place)
            assert [(one["pid"], one["stats"]["total"]["tasks"]) for one in found["pools"]] == [
                (os.getpid(), 1)
            ]
            await pool.invoke("tester", "two")
            assert (await printed_stats(pool_project, place))["total"]["tasks"] == 2

    run(main())


async def printed_stats(project: TempProject, place: Path) -> Any:
    """Run `stats --json` in a process of its own, and return the object that it prints."""
    process = await asyncio.create_subprocess_exec(
        *command("stats", "--json"),
        env=environment(project, place),
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


def test_the_mcp_server_is_listed_as_a_running_pool(project: TempProject, place: Path) -> None:
    async def main() -> None:
        async with running_server(project, place) as server:
            (pool,) = await wait_for_pools()
            assert isinstance(pool, PoolStatus)
            assert (pool.pid, pool.program) == (server.pid, "agent_pool")
            assert pool.project == str(project.root)
            assert server.stdin is not None
            server.stdin.close()
            assert await server.wait() == 0
            assert await running_pools() == []

    run(main())


@asynccontextmanager
async def running_server(
    project: TempProject, place: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the MCP server; kill it at the end if it still runs."""
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


async def wait_for_pools() -> list[PoolStatus | SilentPool]:
    """Wait until there are running pools, and return them."""
    async with asyncio.timeout(20):
        while not (found := await running_pools()):
            pass
    return found


# --watch


def test_watch_refreshes_the_screen_until_ctrl_c(pool_project: PoolProject, place: Path) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            await pool.invoke("tester", "one")
            with terminal(command("stats", "--watch"), environment(pool_project, place)) as (
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


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--watch"], "needs a terminal"), (["--watch", "--json"], "choose one")],
)
def test_watch_needs_a_terminal_and_refuses_json(arguments: list[str], reason: str) -> None:
    done = invoke("stats", *arguments)
    assert done.exit_code == 2
    assert reason in done.stderr


def test_an_error_during_watch_ends_it_with_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    monkeypatch.setattr(module, "console", lambda: Console(force_terminal=True))
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/place")
    done = invoke("stats", "--watch")
    assert done.exit_code == 3
    assert "correct TMPDIR" in done.stderr


@pytest.mark.parametrize("columns", [60, 80])
def test_stats_fit_the_terminal_and_break_no_name(
    pool_project: PoolProject, place: Path, columns: int
) -> None:
    name = "code-reviewer-for-the-backend-services"
    pool_project.agent(name)

    async def main() -> list[str]:
        async with pool_project.faulty() as pool:
            await pool.invoke(name, "one")
            done = await asyncio.to_thread(
                run_on_terminal,
                command("stats"),
                environment(pool_project, place),
                pool_project.root,
                columns,
            )
        assert done.code == 0
        return done.lines

    lines = run(main())
    words = [word for line in lines for word in line.split()]
    assert words.count(name) == 2
    assert [line for line in lines if len(line) > columns and len(line.split()) > 2] == []
    assert [line for line in lines if line != line.rstrip()] == []
    assert any("Tokens sent" in line for line in lines)
