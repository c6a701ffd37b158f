"""Whatever a task starts and hides is found and ended, and nothing is looked for in vain."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool.claude.launch import NO_BACKGROUND
from agent_pool.claude.process_tree import KernelSearch, TreeRoot
from support.model_scripts import bash, tool
from support.ping_servers import SERVER
from support.planted_daemons import PlantedDaemon
from support.pool_harness import PoolHarness
from support.variants import later
from support.waiting import wait_until

RUNS = int(os.environ.get("PLANTED_RUNS", "1"))
"""How often each daemon is planted."""

PLANTING = """
import runpy, subprocess, sys
from pathlib import Path
import json
lines = sys.stdin
def planted():
    for line in lines:
        if json.loads(line).get("method") == "tools/call":
            command = Path(sys.argv[2]).read_text()
            subprocess.run(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, check=True)
        yield line
sys.stdin = planted()
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""An MCP server that runs a command of a file at each call of its tool."""


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    harness = open_harness(max_size=1)
    harness.project.trust()
    planting = {
        "command": sys.executable,
        "args": ["-c", PLANTING, str(SERVER), str(harness.project.root / "command")],
    }
    harness.project.agent(
        "served", tools="mcp__planting", mcpServers=json.dumps([{"planting": planting}])
    )
    return harness


@pytest.fixture
def hooks(harness: PoolHarness) -> Iterator[Callable[[str, str], None]]:
    """Return a function that writes a hook into the project's settings."""
    file = harness.project.root / ".claude" / "settings.json"

    def write(event: str, command: str) -> None:
        hook = {"hooks": [{"type": "command", "command": command}]}
        file.write_text(json.dumps({"hooks": {event: [hook]}}))

    yield write
    file.unlink()


async def ends_with_the_task(
    harness: PoolHarness, daemon: PlantedDaemon, task: str, agent: str = "tester"
) -> int:
    """Carry out a task that plants the daemon; return its worker's pid."""
    outcome = await harness.ask(task, agent=agent)
    await harness.wait_until_idle()
    await wait_until(lambda: daemon.stood.exists())  # a hook can run after the answer
    assert daemon.processes() == []
    return outcome.pid


@pytest.mark.parametrize("is_background", [False, later(True)], ids=["command", "background shell"])
def test_a_hidden_daemon_of_a_task_ends_with_the_task(
    open_harness: Callable[..., PoolHarness], tmp_path: Path, is_background: bool
) -> None:
    harness = open_harness(max_size=1, environ={NO_BACKGROUND: "" if is_background else "1"})
    more: dict[str, Any] = {"run_in_background": True} if is_background else {}

    async def main() -> None:
        pids = set()
        for _ in range(RUNS):
            daemon = PlantedDaemon(tmp_path)
            then = "; sleep 1000" if is_background else ""
            shell = bash(daemon.planting + then, **more)
            wait = bash(f"until [ -e {daemon.stood} ]; do sleep 0.01; done")
            task = harness.plan(shell, wait, "planted")
            pids.add(await ends_with_the_task(harness, daemon, task))
        # A background shell taints; a daemon alone does not.
        assert is_background or len(pids) == 1

    harness.run(main(), bound=60 + 5 * RUNS)


@pytest.mark.usefixtures("used_again")
def test_a_hidden_daemon_of_an_mcp_server_ends_and_the_server_stays(
    harness: PoolHarness, tmp_path: Path
) -> None:
    file = harness.project.root / "command"

    async def main() -> None:
        servers = set()
        for _ in range(RUNS):
            daemon = PlantedDaemon(tmp_path)
            file.write_text(daemon.planting)
            task = harness.plan(tool("mcp__planting__ping"), "planted")
            pid = await ends_with_the_task(harness, daemon, task, "served")
            servers |= {one.pid for one in psutil.Process(pid).children()} & {
                one.pid for one in harness.processes("runpy")
            }
        assert len(servers) == 1

    harness.run(main(), bound=60 + 5 * RUNS)


@pytest.mark.parametrize(
    "event",
    [
        "SessionStart",
        "Stop",
        later("SessionEnd"),
        later("UserPromptSubmit"),
    ],
)
def test_a_hidden_daemon_of_a_hook_ends_with_the_task_or_its_reset(
    harness: PoolHarness, hooks: Callable[[str, str], None], tmp_path: Path, event: str
) -> None:
    async def main() -> None:
        for _ in range(RUNS):
            daemon = PlantedDaemon(tmp_path)
            hooks(event, daemon.planting)
            await ends_with_the_task(harness, daemon, harness.plan("no tool"))

    harness.run(main(), bound=60 + 5 * RUNS)


@pytest.mark.usefixtures("used_again")
def test_a_daemon_that_starts_on_an_idle_worker_is_ended_soon(
    open_harness: Callable[..., PoolHarness], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("agent_pool.pool.supervisor.TICK_SECONDS", 0.05)
    harness = open_harness(max_size=1)

    async def main() -> None:
        daemon = PlantedDaemon(tmp_path)
        # Not called by a tool, so no look follows the task.
        monkeypatch.setattr("agent_pool.claude.worker.QUIET_TOOLS", frozenset({"Bash"}))
        await harness.ask(harness.plan(bash(daemon.planting), "planted"))
        await harness.wait_until_idle()
        await wait_until(lambda: not daemon.processes())

    harness.run(main())


@pytest.mark.usefixtures("used_again")
@pytest.mark.parametrize(
    ("name", "given", "looks"),
    [
        ("TodoWrite", {"todos": []}, False),
        ("WebFetch", {"url": "http://127.0.0.1:9", "prompt": "p"}, False),
        ("", {}, False),
        ("Bash", {"command": "true", "description": "d"}, True),
        ("Glob", {"pattern": "*"}, True),
    ],
)
def test_leftovers_are_sought_only_after_tools_that_start_processes(
    harness: PoolHarness,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    given: dict[str, Any],
    looks: bool,
) -> None:
    monkeypatch.setattr("agent_pool.pool.supervisor.REST_TICKS", 10**9)
    sought: list[int] = []
    seek = KernelSearch.leftovers

    def count(search: KernelSearch, root: TreeRoot) -> Any:
        sought.append(root.pid)
        return seek(search, root)

    monkeypatch.setattr(KernelSearch, "leftovers", count)

    async def main() -> None:
        await harness.ask(harness.plan())
        await harness.wait_until_idle()
        sought.clear()
        await harness.ask(harness.plan(*([tool(name, **given)] if name else []), "done"))
        await harness.wait_until_idle()
        assert bool(sought) == looks

    harness.run(main())


def test_the_environment_of_no_process_is_read_for_leftovers(
    harness: PoolHarness, tmp_path: Path
) -> None:
    opened: list[str] = []
    is_over = False

    def note(event: str, args: tuple[Any, ...]) -> None:
        # A hook for audits cannot be removed.
        if event == "open" and not is_over and isinstance(args[0], (str, bytes, Path)):
            opened.append(os.fsdecode(args[0]))

    async def main() -> None:
        daemon = PlantedDaemon(tmp_path)
        await ends_with_the_task(harness, daemon, harness.plan(bash(daemon.planting), "done"))
        opened.clear()
        again = PlantedDaemon(tmp_path)
        task = harness.plan(bash(again.planting), "done")
        await harness.ask(task)
        await wait_until(lambda: not again.processes())
        read = [path for path in opened if path.startswith("/proc/")]
        assert [path for path in read if path.endswith("/children")] != []
        assert [path for path in read if path.endswith("/environ")] == []

    sys.addaudithook(note)
    try:
        harness.run(main())
    finally:
        is_over = True
