"""MCP tools, servers and hooks that an agent must not have; beside them those that it has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_pool import ConfigError, PermissionRequest
from support.model_scripts import as_text, bash, tool
from support.ping_servers import configure, server, servers_of
from support.pool_harness import PoolHarness
from support.project import TempProject
from support.variants import later
from support.waiting import wait_until

Define = Callable[..., str]


@pytest.fixture(scope="module")
def ambient(harness: PoolHarness) -> TempProject:
    """Configure a server for the project; return the project."""
    configure(harness.project.root / ".mcp.json", shared=server())
    return harness.project


@pytest.mark.parametrize(
    ("tools", "servers", "offered"),
    [
        ("Read, mcp__shared__ping", "[]", {"ping"}),
        ("Read, mcp__shared__ping", "[shared]", {"ping"}),
        later("mcp__shared__ping, mcp__shared__pong", "[shared]", {"ping", "pong"}),
        ("mcp__shared", "[]", {"ping", "pong"}),
        later("mcp__shared__*", "[]", {"ping", "pong"}),
        ("Read", "[shared]", set()),
        later("[]", "[shared]", set()),
    ],
)
def test_an_agent_has_only_the_tools_of_servers_that_it_names(
    harness: PoolHarness,
    define: Define,
    ambient: TempProject,
    tools: str,
    servers: str,
    offered: set[str],
) -> None:
    agent = define(tools=tools, **({} if servers == "[]" else {"mcpServers": servers}))
    for name in ("ping", "pong"):
        said = harness.run(harness.ask(harness.plan(tool(f"mcp__shared__{name}")), agent))
        found = {one.rpartition("__")[2] for one in said.requests[0].tools if "mcp__" in one}
        assert found == offered
        assert ("tool: pid" in said.text) == (name in offered)
        assert ("No such tool available" in said.text) == (name not in offered)
        assert ("Read" in said.requests[0].tools) == ("Read" in tools)
        harness.run(harness.wait_until_idle())  # the second task comes after a reset


def test_a_limited_agent_keeps_its_own_system_prompt(
    harness: PoolHarness, define: Define, ambient: TempProject
) -> None:
    agent = define("You are the limited one.", tools="mcp__shared__ping")
    plain = define("You are the limited one.", tools="Read")
    asked = [harness.run(harness.ask(harness.plan(), one)).requests[0] for one in (agent, plain)]
    limited, other = (one.body["system"][1:] for one in asked)
    assert limited == other


@pytest.mark.parametrize(
    ("named", "answers"),
    [
        ("Bogus, Other", False),
        later("Bogus, mcp__nowhere__ping", False),
        ("mcp__shared__nope", False),
        later("mcp__shared__p*", False),
        ("Bogus, Read", True),
        later("mcp__shared__nope, Bogus, Read", True),
        ("Bogus, mcp__shared__ping", True),
    ],
)
def test_an_agent_of_whose_list_no_tool_exists_is_refused(
    harness: PoolHarness, define: Define, ambient: TempProject, named: str, answers: bool
) -> None:
    agent = define(tools=named)
    asking = harness.ask(harness.plan("done"), agent)
    if answers:
        assert harness.run(asking).text == "done"
        return
    tools = ", ".join(sorted(named.split(", ")))
    said = re.escape(f"agent {agent!r}: no tool of its list exists: {tools}. Correct the field")
    with pytest.raises(ConfigError, match=said):
        harness.run(asking)


def test_a_refused_agent_leaves_its_worker_to_other_agents(
    harness: PoolHarness, define: Define
) -> None:
    before = harness.run(harness.ask(harness.plan(), define(tools="Read"))).pid
    with pytest.raises(ConfigError):
        harness.run(harness.ask(harness.plan(), define(tools="Bogus")))
    outcome = harness.run(harness.ask(harness.plan("right"), define(tools="Read")))
    assert (outcome.text, outcome.pid) == ("right", before)


def test_an_agent_can_give_up_all_tools_of_its_list(harness: PoolHarness, define: Define) -> None:
    agent = define(tools="Bash", disallowedTools="Bash")
    assert harness.run(harness.ask(harness.plan("done"), agent)).text == "done"


PLACES = {
    "user": ("home/.claude/settings.json", "disabledMcpjsonServers"),
    "project": ("project/.claude/settings.json", "disabledMcpjsonServers"),
    "local": ("project/.claude/settings.local.json", "disabledMcpjsonServers"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_disabled_server_of_the_project_is_not_started(
    harness: PoolHarness, define: Define, place: str
) -> None:
    project = harness.project
    mcp_file = project.root / ".mcp.json"
    before = mcp_file.read_text() if mcp_file.exists() else "{}"
    configure(mcp_file, off=server(), on=server())
    path, key = PLACES[place]
    settings = project.root.parent / path
    settings.write_text(json.dumps({key: ["off"]}))
    agent = define(tools="mcp__off, mcp__on", mcpServers="[off, on]")
    try:
        said = harness.run(harness.ask(harness.plan(), agent))
        (info,) = [one for one in harness.run(harness.pool.agents()).agents if one.name == agent]
    finally:
        settings.unlink()
        mcp_file.write_text(before)
    assert servers_of(said.requests[0]) == {"on"}
    warning = f"the MCP server off is left out: it is disabled in {settings}"
    assert info.warnings == {"mcpServers": warning}


# Trust


def test_programs_of_a_project_agent_start_only_in_a_trusted_folder(
    open_harness: Callable[..., PoolHarness], tmp_path: Path
) -> None:
    harness = open_harness(reset="clear", max_workers=4, max_size=1)
    project = harness.project
    fields = {
        "description": "Tests.",
        "tools": "Bash, mcp__own",
        "mcpServers": json.dumps([{"own": server()}]),
    }
    mine = project.home / ".claude" / "agents" / "mine.md"
    mine.parent.mkdir(parents=True)

    def write(name: str) -> Path:
        hook = {"type": "command", "command": f"touch {tmp_path}/{name}.hook"}
        hooks = {"PreToolUse": [{"hooks": [hook]}]}
        return project.agent(name, hooks=json.dumps(hooks), **fields)

    def work(agent: str) -> tuple[bool, set[str]]:
        said = harness.run(harness.ask(harness.plan(bash("true")), agent))
        harness.run(harness.wait_until_idle())
        hook_file = tmp_path / f"{agent}.hook"
        ran = hook_file.exists()
        hook_file.unlink(missing_ok=True)
        return ran, servers_of(said.requests[0])

    def warnings(agent: str) -> dict[str, str]:
        agents = harness.run(harness.pool.agents()).agents
        return dict(next(one.warnings for one in agents if one.name == agent))

    def change_trust(*, accepted: bool) -> None:
        # A running CLI writes its state file too, and would undo a change of another program.
        for agent in ("theirs", "mine"):
            harness.run(harness.pool.reset(agent))
        harness.run(wait_until(lambda: not harness.processes("stream-json")))
        project.trust(accepted=accepted)

    write("theirs")
    write("mine").rename(mine)
    assert work("theirs") == (False, set())
    assert {"hooks", "mcpServers"} == set(warnings("theirs"))
    assert f"nobody has trusted the folder {project.root.resolve()}" in warnings("theirs")["hooks"]
    # The user's own agents start their programs everywhere.
    assert work("mine") == (True, {"own"})
    assert warnings("mine") == {}

    change_trust(accepted=True)
    assert work("theirs") == (True, {"own"})
    assert warnings("theirs") == {}
    change_trust(accepted=False)
    assert work("theirs") == (False, set())


def test_a_permission_ceiling_bounds_the_rules_of_a_definition(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="clear", permission_ceiling="ask")
    harness.project.agent("one", tools="Read, Bash(touch *)")
    asked: list[str] = []

    async def refuse(request: PermissionRequest) -> bool:
        asked.append(request.tool)
        return False

    made = harness.project.root / "made"
    plan = harness.plan(bash(f"touch {made}"), "done")
    harness.run(harness.ask(plan, "one", on_permission=refuse))
    assert (asked, made.exists()) == (["Bash"], False)
    (info,) = [one for one in harness.run(harness.pool.agents()).agents if one.name == "one"]
    assert "rules of Bash(touch *) allow nothing without asking" in info.warnings["tools"]
    assert "permission_ceiling allows no more than ask" in info.warnings["tools"]


def test_a_permission_ceiling_stops_programs_of_every_agent_file(
    open_harness: Callable[..., PoolHarness], tmp_path: Path
) -> None:
    harness = open_harness(reset="clear", permission_ceiling="acceptEdits")
    harness.project.trust()
    hooks = {"UserPromptSubmit": [{"hooks": [{"type": "command", "command": "touch hooked"}]}]}
    servers = json.dumps([{"own": server()}])
    path = harness.project.agent("one", hooks=json.dumps(hooks), mcpServers=servers)
    mine = harness.project.home / ".claude" / "agents"
    mine.mkdir(parents=True)
    (mine / "two.md").write_text(path.read_text().replace("name: one", "name: two"))
    for agent in ("one", "two"):
        said = harness.run(harness.ask(harness.plan("done"), agent))
        assert "mcp__own" not in as_text(said.requests[0])
        launch = harness.run(harness.pool.launch_spec(agent))
        assert "touch hooked" not in " ".join(launch.argv)
    assert not (harness.project.root / "hooked").exists()
    for info in harness.run(harness.pool.agents()).agents:
        if info.name in ("one", "two"):
            assert "permission_ceiling allows no more than acceptEdits" in info.warnings["hooks"]
            assert "its own MCP servers are left out" in info.warnings["mcpServers"]
