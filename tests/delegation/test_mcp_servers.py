"""MCP servers of agents: which ones a worker starts, how long they live, what stays secret."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from agent_pool import ConfigError
from support.model_scripts import as_text, tool
from support.ping_servers import SERVER, configure, server, servers_of
from support.pool_harness import PoolHarness
from support.process_checks import is_alive
from support.project import TempProject
from support.waiting import wait_until

Define = Callable[..., str]
SECRET = "s3cret-of-the-server"


@pytest.fixture(scope="module")
def ambient(harness: PoolHarness) -> TempProject:
    """Configure servers for the project and for the user; return the project."""
    pool_project = harness.project
    configure(
        pool_project.root / ".mcp.json",
        shared=server(WORD="of-the-project"),
        ours={"command": "${PYTHON}", "args": [str(SERVER)]},
    )
    configure(
        pool_project.home / ".claude" / ".claude.json",
        shared=server(WORD="of-the-user"),
        **{"my server": server(WORD="of-me")},
    )
    return pool_project


def ping(harness: PoolHarness, agent: str, server: str) -> dict[str, str]:
    """Call the server's tool; return the pid and the word in its answer."""
    said = harness.run(harness.ask(harness.plan(tool(f"mcp__{server}__ping")), agent)).text.split()
    assert said[:2] == ["tool:", "pid"], said
    return {"pid": said[2], "word": " ".join(said[4:])}


def test_a_server_in_the_definition_serves_its_agent(harness: PoolHarness, define: Define) -> None:
    inline = json.dumps([{"own": server(WORD="inline")}])
    agent = define(tools="Read, mcp__own", mcpServers=inline)
    request = harness.run(harness.ask(harness.plan(), agent)).requests[0]
    assert {"mcp__own__ping", "mcp__own__pong", "Read"} <= set(request.tools)
    assert ping(harness, agent, "own")["word"] == "inline"


def test_a_server_survives_the_reset_and_dies_with_its_worker(
    harness: PoolHarness, define: Define
) -> None:
    agent = define(tools="mcp__own__*", mcpServers=json.dumps([{"own": server()}]))
    pids = set()
    for _ in range(3):
        pids.add(int(ping(harness, agent, "own")["pid"]))
        harness.run(harness.wait_until_idle())
    (pid,) = pids
    assert is_alive(pid)
    harness.run(harness.pool.reset(agent))
    harness.run(wait_until(lambda: not is_alive(pid)))


def test_a_project_server_comes_before_a_user_server(
    harness: PoolHarness, define: Define, ambient: TempProject
) -> None:
    agent = define(tools="mcp__shared, mcp__my_server", mcpServers="[shared, my server]")
    request = harness.run(harness.ask(harness.plan(), agent)).requests[0]
    assert servers_of(request) == {"shared", "my_server"}
    assert ping(harness, agent, "shared")["word"] == "of-the-project"
    assert ping(harness, agent, "my_server")["word"] == "of-me"


def test_naming_a_tool_also_starts_its_server(
    harness: PoolHarness, define: Define, ambient: TempProject
) -> None:
    agent = define(tools="Read, mcp__my_server__ping")
    request = harness.run(harness.ask(harness.plan(), agent)).requests[0]
    assert servers_of(request) == {"my_server"}


def test_servers_not_named_by_an_agent_are_not_started(
    harness: PoolHarness, define: Define, ambient: TempProject
) -> None:
    # The description of the tool Agent has the tools of all agents, those of other tests too.
    agent = define(disallowedTools="Agent", mcpServers=json.dumps([{"own": server()}]))
    ping(
        harness, agent, "own"
    )  # which waits until its own server is there; the others start with it
    said = harness.run(harness.ask(harness.plan(), agent))
    started = [p for p in psutil.Process(said.pid).children(recursive=True) if is_server(p)]
    assert len(started) == 1
    assert "mcp__shared" not in as_text(
        said.requests[0]
    )  # not among the tools that are offered later, either


def is_server(process: psutil.Process) -> bool:
    return str(SERVER) in process.cmdline()


def test_an_unknown_server_is_an_error_that_names_the_files(
    harness: PoolHarness, define: Define, ambient: TempProject
) -> None:
    agent = define(mcpServers="[shard]")
    with pytest.raises(ConfigError, match="did you mean shared") as raised:
        harness.run(harness.ask(harness.plan(), agent))
    for path in (ambient.root / ".mcp.json", ambient.home / ".claude" / ".claude.json"):
        assert str(path) in str(raised.value)


def test_inherit_mcp_adds_all_servers_except_the_pools_own(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="clear", inherit="mcp", environ={"PYTHON": sys.executable})
    own = {"command": "/nowhere/agent-pool"}
    servers = {"ours": {"command": "${PYTHON}", "args": [str(SERVER)]}, "agent-pool": own}
    configure(harness.project.root / ".mcp.json", **servers)
    harness.project.agent("tester", description="Tests.", tools="[]")
    request = harness.run(harness.ask(harness.plan())).requests[0]
    assert servers_of(request) == {"ours"}
    assert ping(harness, "tester", "ours")["pid"].isdigit()


def test_the_environment_of_a_server_is_never_shown(harness: PoolHarness, define: Define) -> None:
    agent = define(tools="mcp__own__*", mcpServers=json.dumps([{"own": server(WORD=SECRET)}]))
    assert ping(harness, agent, "own")["word"] == SECRET
    launch = harness.run(harness.pool.launch_spec(agent))
    shown = [*launch.argv, *launch.env.values(), launch.prompt]
    shown += [str(worker) for worker in harness.run(harness.pool.workers())]
    shown += [" ".join(process.cmdline()) for process in harness.project.processes()]
    assert [text for text in shown if SECRET in text] == []
    assert not any("--mcp-config" in text for text in shown)


@pytest.mark.parametrize(
    ("servers", "problem"),
    [
        ({"bad": "a string"}, "'bad' is a str, not a mapping"),
        ({"bad": {"command": "x", "env": ["A=1"]}}, "`env` of the MCP server 'bad'"),
    ],
)
def test_a_wrongly_configured_server_is_an_error(
    harness: PoolHarness, define: Define, servers: dict[str, Any], problem: str
) -> None:
    path = harness.project.root / ".mcp.json"
    before = path.read_text() if path.exists() else "{}"
    configure(path, **servers)
    with pytest.raises(ConfigError, match=problem):
        harness.run(harness.ask(harness.plan(), define(mcpServers="[bad]")))
    path.write_text(before)


def test_a_broken_configuration_fails_only_agents_that_need_it(
    harness: PoolHarness, define: Define
) -> None:
    path = harness.project.root / ".mcp.json"
    before = path.read_text() if path.exists() else "{}"
    path.write_text("{")
    with pytest.raises(ConfigError, match=str(path)):
        harness.run(harness.ask(harness.plan(), define(mcpServers="[bad]")))
    assert harness.run(harness.ask(harness.plan(), "tester")).text.startswith("echo")
    path.write_text(before)
