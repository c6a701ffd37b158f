"""One process has the MCP servers of its present agent, and nothing of another agent's."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.model_scripts import as_text, bash, tool
from support.ping_servers import SERVER, configure, server, servers_of
from support.pool_harness import PoolHarness, TaskOutcome
from support.process_checks import is_alive
from support.stream_json_cli import stream_json_cli
from support.waiting import wait_until

AGENTS = {
    "plain": {"tools": "Read"},
    "one": {"tools": "Read, mcp__alpha"},
    "other": {"tools": "Read, mcp__beta__ping"},
    "both": {"tools": "Read, mcp__alpha, mcp__beta"},
    "words": {"tools": "mcp__own"},
    "everything": {"mcpServers": "[alpha]", "disallowedTools": "Agent"},
}
SERVERS = {
    "plain": set[str](),
    "one": {"alpha"},
    "other": {"beta"},
    "both": {"alpha", "beta"},
    "words": {"own"},
    "everything": {"alpha"},
}
WORDS = (
    "${WORD_OF_ME} ${NOT_SET:-default} ${NOT_SET:-} ${WORD_OF_ME:-d} $WORD_OF_ME ${NOT_SET} "
    "${NOT_SET:-${WORD_OF_ME}} ${NOT-SET} ${ WORD_OF_ME } ${}"
)
CONFIGURED = {
    "alpha": server(WORD="a"),
    "beta": server(WORD="b"),
    "own": {**server(WORD=WORDS), "command": "${PYTHON_OF_ME:-none}"},
}
VARIABLES = {"WORD_OF_ME": "of me", "PYTHON_OF_ME": sys.executable}
FORKING = """
import runpy, subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
quiet = subprocess.DEVNULL
child = subprocess.Popen(sleep, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
open(sys.argv[2], "w").write(str(child.pid))
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""A server that starts a process of its own, which does not end with it."""


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    """Open a pool with one worker, and agents that differ in their servers."""
    harness = open_harness(max_size=1, max_workers=1, environ=VARIABLES)
    harness.project.trust()
    for name, fields in AGENTS.items():
        harness.project.agent(name, f"You are the {name}.", description=f"Is {name}.", **fields)
    configure(harness.project.root / ".mcp.json", **CONFIGURED)
    return harness


def ping_task(harness: PoolHarness, *servers: str) -> str:
    """Return a task that calls the tool of each server; the answers are in the last request."""
    return harness.plan(*(tool(f"mcp__{one}__ping") for one in servers), "done")


def pids_of(outcome: TaskOutcome) -> list[int]:
    """Return the process ids of the servers that a task has called, in their order."""
    said = as_text(outcome.requests[-1]).split("pid ")[1:]
    return [int(part.split()[0]) for part in said]


def test_one_process_has_the_servers_of_its_present_agent(harness: PoolHarness) -> None:
    async def main() -> None:
        processes = set()
        for name in ("plain", "one", "other", "both", "one", "everything", "words", "both"):
            outcome = await harness.ask(harness.plan(), agent=name)
            # An agent with all tools gets those of servers by name only, to be loaded when needed.
            text = as_text(outcome.requests[0])
            assert {one for one in CONFIGURED if f"mcp__{one}__ping" in text} == SERVERS[name]
            assert ("mcp__beta__pong" in text) == (name == "both")
            processes.add(outcome.pid)
        assert len(processes) == 1
        workers = await harness.pool.workers()
        assert len({worker.profile for worker in workers}) == len(workers) == 1

    harness.run(main())


def test_a_server_runs_on_while_agents_use_it_and_then_ends(harness: PoolHarness) -> None:
    async def main() -> None:
        (first,) = pids_of(await harness.ask(ping_task(harness, "alpha"), agent="one"))
        alpha, beta = pids_of(await harness.ask(ping_task(harness, "alpha", "beta"), agent="both"))
        assert alpha == first
        (left,) = pids_of(await harness.ask(ping_task(harness, "beta"), agent="other"))
        assert (left, is_alive(alpha)) == (beta, False)
        await harness.ask(harness.plan(), agent="plain")
        assert not is_alive(beta)

    harness.run(main())


def test_a_tool_of_an_earlier_agents_server_cannot_be_called(harness: PoolHarness) -> None:
    async def main() -> None:
        await harness.ask(ping_task(harness, "alpha"), agent="one")
        outcome = await harness.ask(ping_task(harness, "alpha"), agent="other")
        assert "No such tool available: mcp__alpha__ping" in as_text(outcome.requests[-1])

    harness.run(main())


def test_what_a_server_started_ends_with_the_server(harness: PoolHarness, tmp_path: Path) -> None:
    started = tmp_path / "pid"
    forking = {"command": sys.executable, "args": ["-c", FORKING, str(SERVER), str(started)]}
    harness.project.agent(
        "forker", tools="mcp__forking", mcpServers=json.dumps([{"forking": forking}])
    )

    async def main() -> None:
        await harness.ask(ping_task(harness, "forking"), agent="forker")
        pid = int(started.read_text())
        await harness.wait_until_idle()
        assert is_alive(pid)  # it belongs to the server, not to the task
        await harness.ask(harness.plan(), agent="plain")
        assert not is_alive(pid)

    harness.run(main())


def test_an_edited_server_is_started_anew_in_the_same_process(harness: PoolHarness) -> None:
    async def main() -> None:
        before = await harness.ask(ping_task(harness, "alpha"), agent="one")
        path = harness.project.root / ".mcp.json"
        configure(path, **{**CONFIGURED, "alpha": server(WORD="edited")})
        after = await harness.ask(ping_task(harness, "alpha"), agent="one")
        assert "edited" in as_text(after.requests[-1])
        assert (after.pid, pids_of(after) == pids_of(before)) == (before.pid, False)

    harness.run(main())


def test_a_server_that_does_not_start_is_named_and_costs_its_tools_alone(
    harness: PoolHarness, caplog: pytest.LogCaptureFixture
) -> None:
    servers = [{"broken": {"command": "/nonexistent/server"}}, {"works": server()}]
    harness.project.agent(
        "hopeful", tools="mcp__broken, mcp__works", mcpServers=json.dumps(servers)
    )

    async def main() -> None:
        with caplog.at_level(logging.WARNING, "agent_pool"):
            outcome = await harness.ask(ping_task(harness, "works"), agent="hopeful")
        assert servers_of(outcome.requests[0]) == {"works"}
        (warning,) = [one for one in caplog.messages if "broken" in one]
        assert "'hopeful'" in warning
        assert "the MCP server broken did not start" in warning

    harness.run(main())


@pytest.mark.long
def test_a_server_has_the_variables_and_requests_of_claude_itself(
    harness: PoolHarness,
) -> None:
    file = harness.project.root / ".mcp.json"

    async def main() -> None:
        task = ping_task(harness, "own")
        pooled = await harness.ask(task, agent="words")
        async with LoopbackAPI(ping_once) as api:
            started = stream_json_cli(
                harness.project.root,
                api.url,
                *("--agent", "words", f"--mcp-config={file}"),
                HOME=str(harness.project.home),
                CLAUDE_CONFIG_DIR=str(harness.project.home / ".claude"),
                WORD_OF_ME=VARIABLES["WORD_OF_ME"],
                PYTHON_OF_ME=VARIABLES["PYTHON_OF_ME"],
            )
            async with started as cli:
                await cli.initialize()
                await cli.prompt(task, client_composed=True)
            first, native = api.requests[0], api.requests[-1]
        assert pooled.requests[0].body["tools"] == first.body["tools"]
        assert pooled.requests[0].body["system"][1:] == first.body["system"][1:]
        assert word_in(as_text(pooled.requests[-1])) == word_in(as_text(native)) != ""

    harness.run(main())


def ping_once(request: ModelRequest) -> Any:
    is_first = all(message["role"] != "assistant" for message in request.messages)
    return tool("mcp__own__ping") if is_first else "done"


def word_in(text: str) -> str:
    return text.partition(" word ")[2].partition('"')[0]


@pytest.mark.long
def test_a_spare_of_no_project_takes_an_agent_with_a_server(
    open_harness: Callable[..., PoolHarness], tmp_path: Path
) -> None:
    harness = open_harness(max_workers=2, spares=1)
    harness.project.trust()
    configure(harness.project.root / ".mcp.json", alpha=server())
    harness.project.agent("one", tools="mcp__alpha")

    async def main() -> None:
        await harness.ask(harness.plan())
        spare = await harness.parked_spare()
        gate = tmp_path / "gate"
        waiting = bash(f"until [ -e {gate} ]; do sleep 0.02; done")
        busy = asyncio.create_task(harness.ask(harness.plan(waiting, "done")))
        await wait_until(lambda: bool(harness.processes("until [ -e")))
        outcome = await harness.ask(ping_task(harness, "alpha"), agent="one")
        gate.touch()
        await busy
        (pid,) = pids_of(outcome)
        assert outcome.pid == spare.pid
        assert psutil.Process(pid).cwd() == str(harness.project.root.resolve())

    harness.run(main())


def test_the_server_of_a_plugin_is_not_started_for_an_agent(
    open_harness: Callable[..., PoolHarness], tmp_path: Path
) -> None:
    plugin = tmp_path / "plugin"
    (plugin / ".claude-plugin").mkdir(parents=True)
    (plugin / ".claude-plugin" / "plugin.json").write_text('{"name": "pinger"}')
    configure(plugin / ".mcp.json", pings=server())
    (plugin / "agents").mkdir()
    (plugin / "agents" / "of-it.md").write_text("---\nname: of-it\ndescription: d\n---\nx\n")
    harness = open_harness(max_workers=1, environ={"CLAUDE_CODE_PLUGIN_DIRS": str(plugin)})

    async def main() -> None:
        outcome = await harness.ask(harness.plan())
        assert "pinger:of-it" in as_text(outcome.requests[0])  # the plugin itself is loaded
        assert "mcp__" not in as_text(outcome.requests[0])
        assert not [p for p in harness.processes("python") if SERVER.name in " ".join(p.cmdline())]

    harness.run(main())
