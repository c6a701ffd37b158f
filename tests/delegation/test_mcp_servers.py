"""MCP servers of agents: which ones a worker starts, how long they live, what stays secret."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool import ConfigError
from agent_pool.loopback import Request
from isolation.lab import Lab, flat, tool
from pool_world import is_alive, until
from support import Project

Define = Callable[..., str]
SECRET = "s3cret-of-the-server"
SERVER = Path(__file__).parent / "server.py"


def server(**env: str) -> dict[str, Any]:
    return {"command": sys.executable, "args": [str(SERVER)], "env": env}


def configure(path: Path, **servers: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"mcpServers": servers}))


@pytest.fixture(scope="module")
def ambient(lab: Lab) -> Project:
    """A project and a user who have configured servers."""
    world = lab.world
    configure(
        world.root / ".mcp.json",
        shared=server(WORD="of-the-project"),
        ours={"command": "${PYTHON}", "args": [str(SERVER)]},
    )
    configure(
        world.home / ".claude" / ".claude.json",
        shared=server(WORD="of-the-user"),
        **{"my server": server(WORD="of-me")},
    )
    return world


def servers_of(request: Request) -> set[str]:
    return {name.split("__")[1] for name in request.tools if name.startswith("mcp__")}


def ping(lab: Lab, agent: str, server: str) -> dict[str, str]:
    """What the server's tool says of itself."""
    said = lab.run(lab.ask(lab.plan(tool(f"mcp__{server}__ping")), agent)).text.split()
    assert said[:2] == ["tool:", "pid"], said
    return {"pid": said[2], "word": " ".join(said[4:])}


def test_a_server_in_the_definition_serves_its_agent(lab: Lab, define: Define) -> None:
    inline = json.dumps([{"own": server(WORD="inline")}])
    agent = define(tools="Read", mcpServers=inline)
    request = lab.run(lab.ask(lab.plan(), agent)).requests[0]
    assert {"mcp__own__ping", "mcp__own__pong", "Read"} <= set(request.tools)
    assert ping(lab, agent, "own")["word"] == "inline"


def test_a_server_survives_the_reset_and_dies_with_its_worker(lab: Lab, define: Define) -> None:
    agent = define(tools="[]", mcpServers=json.dumps([{"own": server()}]))
    pids = set()
    for _ in range(3):
        pids.add(int(ping(lab, agent, "own")["pid"]))
        lab.run(lab.settled())
    (pid,) = pids
    assert is_alive(pid)
    lab.run(lab.pool.reset(agent))
    lab.run(until(lambda: not is_alive(pid)))


def test_servers_are_found_by_name_the_projects_before_the_users(
    lab: Lab, define: Define, ambient: Project
) -> None:
    agent = define(tools="[]", mcpServers="[shared, my server]")
    request = lab.run(lab.ask(lab.plan(), agent)).requests[0]
    assert servers_of(request) == {"shared", "my_server"}
    assert ping(lab, agent, "shared")["word"] == "of-the-project"
    assert ping(lab, agent, "my_server")["word"] == "of-me"


def test_a_server_is_named_by_a_tool_of_it_too(lab: Lab, define: Define, ambient: Project) -> None:
    agent = define(tools="Read, mcp__my_server__ping")
    request = lab.run(lab.ask(lab.plan(), agent)).requests[0]
    assert servers_of(request) == {"my_server"}


def test_servers_that_an_agent_does_not_name_stay_out(
    lab: Lab, define: Define, ambient: Project
) -> None:
    agent = define(mcpServers=json.dumps([{"own": server()}]))
    ping(lab, agent, "own")  # which waits until its own server is there; the others start with it
    said = lab.run(lab.ask(lab.plan(), agent))
    started = [p for p in psutil.Process(said.pid).children(recursive=True) if is_server(p)]
    assert len(started) == 1
    assert "mcp__shared" not in flat(said.requests[0])  # nor among the tools offered later


def is_server(process: psutil.Process) -> bool:
    return str(SERVER) in process.cmdline()


def test_a_name_that_is_configured_nowhere_is_an_error_that_says_where_it_was_looked_for(
    lab: Lab, define: Define, ambient: Project
) -> None:
    agent = define(mcpServers="[shard]")
    with pytest.raises(ConfigError, match="did you mean shared") as raised:
        lab.run(lab.ask(lab.plan(), agent))
    for path in (ambient.root / ".mcp.json", ambient.home / ".claude" / ".claude.json"):
        assert str(path) in str(raised.value)


def test_all_servers_but_the_pools_own_are_inherited_where_the_settings_say_so(
    labs: Callable[..., Lab],
) -> None:
    lab = labs(reset="clear", inherit="mcp", environ={"PYTHON": sys.executable})
    own = {"command": "/nowhere/agent-pool"}
    servers = {"ours": {"command": "${PYTHON}", "args": [str(SERVER)]}, "agent-pool": own}
    configure(lab.world.root / ".mcp.json", **servers)
    lab.world.agent("tester", description="Tests.", tools="[]")
    request = lab.run(lab.ask(lab.plan())).requests[0]
    assert servers_of(request) == {"ours"}
    assert ping(lab, "tester", "ours")["pid"].isdigit()


def test_what_a_server_is_told_in_its_environment_is_shown_nowhere(
    lab: Lab, define: Define
) -> None:
    agent = define(tools="[]", mcpServers=json.dumps([{"own": server(WORD=SECRET)}]))
    assert ping(lab, agent, "own")["word"] == SECRET
    launch = lab.run(lab.pool.launch(agent))
    shown = [*launch.argv, *launch.shown_env().values(), launch.prompt]
    shown += [str(worker) for worker in lab.run(lab.pool.list())]
    shown += [" ".join(process.cmdline()) for process in lab.world.processes()]
    assert [text for text in shown if SECRET in text] == []
    files = [path for p in lab.world.processes() for path in _configs(p)]
    assert files
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


def _configs(process: psutil.Process) -> list[Path]:
    """The files that a worker was told its servers by."""
    flag = "--mcp-config="
    return [Path(a.removeprefix(flag)) for a in process.cmdline() if a.startswith(flag)]


@pytest.mark.parametrize(
    ("servers", "problem"),
    [
        ({"bad": "a string"}, "'bad' is a str, not a mapping"),
        ({"bad": {"command": "x", "env": ["A=1"]}}, "`env` of the MCP server 'bad'"),
    ],
)
def test_a_server_that_is_configured_wrongly_is_an_error(
    lab: Lab, define: Define, servers: dict[str, Any], problem: str
) -> None:
    path = lab.world.root / ".mcp.json"
    before = path.read_text() if path.exists() else "{}"
    configure(path, **servers)
    with pytest.raises(ConfigError, match=problem):
        lab.run(lab.ask(lab.plan(), define(mcpServers="[bad]")))
    path.write_text(before)


def test_a_configuration_that_is_no_json_breaks_only_who_needs_it(lab: Lab, define: Define) -> None:
    path = lab.world.root / ".mcp.json"
    before = path.read_text() if path.exists() else "{}"
    path.write_text("{")
    with pytest.raises(ConfigError, match=str(path)):
        lab.run(lab.ask(lab.plan(), define(mcpServers="[bad]")))
    assert lab.run(lab.ask(lab.plan(), "tester")).text.startswith("echo")
    path.write_text(before)
