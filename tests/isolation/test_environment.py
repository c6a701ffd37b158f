"""What a worker and its commands inherit, told by the commands themselves; real CLI."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agent_pool
from agent_pool import AgentPool, ConfigError
from isolation.lab import Lab, bash, tool
from support import real_cli

PARENT = {
    "CLAUDECODE": "1",
    "CLAUDE_CODE_SESSION_ID": "parent",
    "CLAUDE_CODE_CHILD_SESSION": "parent",
    "CLAUDE_CODE_ENTRYPOINT": "parent",
    "CLAUDE_CODE_MESSAGING_SOCKET": "/parent",
    "CLAUDE_CODE_MESSAGING_TOKEN": "parent",
    "CLAUDE_CODE_CHILD_NOTES_DIR": "/parent",
    "CLAUDE_CODE_LAUNCHED_BY_SESSION_IDS": "parent",
    "CLAUDE_CODE_SESSION_ATTENDED": "parent",
    "CLAUDE_PID": "1",
    "CLAUDE_EFFORT": "parent",
    "AI_AGENT": "parent",
    "CLAUDE_ENV_FILE": "/parent",
    "CLAUDE_CODE_SSE_PORT": "9",
    "CLAUDE_PLUGIN_ROOT": "/parent",
}
"""What Claude Code tells those that it starts about the session they belong to."""

PROVIDER = {
    "ANTHROPIC_AUTH_TOKEN": "kept",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Kept: kept",
    "AWS_REGION": "kept",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "4000",
    "NODE_EXTRA_CA_CERTS": "/kept",
    "NO_PROXY": "127.0.0.1",
    "SOME_TOOL_OF_THE_PROJECT": "kept",
}
"""What a worker, or what it runs, may need."""

OWN = ("AGENT_POOL_COOKIE", "AGENT_POOL_DEPTH")


@pytest.fixture(scope="module")
def lab(labs: Callable[..., Lab]) -> Lab:
    settings = {"AGENT_POOL_MAX_SIZE": "1", "TASK_TIMEOUT_MS": "30000"}
    return labs(environ={**PARENT, **PROVIDER, **settings})


@pytest.fixture
def lab_with(tmp_path: Path, cache: Path) -> Iterator[Callable[..., Lab]]:
    """Opens one lab with these variables and settings."""
    opened: list[Lab] = []

    def open_lab(environ: dict[str, str], **settings: Any) -> Lab:
        lab = Lab(tmp_path / "lab", cache, environ=environ, **settings)
        opened.append(lab)
        lab.open()
        return lab

    yield open_lab
    for lab in opened:
        lab.close()


async def environments(lab: Lab) -> tuple[dict[str, str], dict[str, str]]:
    """Those of a command that an agent runs, and of the process that runs it."""
    command = r"echo; env; echo ---; tr '\0' '\n' < /proc/$PPID/environ"
    said = (await lab.ask(lab.plan(bash(command)))).text
    mine, _, parents = said.partition("---")
    return _variables(mine), _variables(parents)


def test_nothing_of_the_parent_session_reaches_a_worker_or_its_commands(lab: Lab) -> None:
    async def main() -> None:
        command, worker = await environments(lab)
        assert set(PARENT) & set(worker) == set()
        assert {name for name in PARENT if command.get(name) == PARENT[name]} <= {"CLAUDECODE"}
        assert "parent" not in " ".join([*command.values(), *worker.values()])

    lab.run(main())


def test_nothing_that_claude_code_sets_for_its_commands_comes_back_to_a_worker(
    lab: Lab, lab_with: Callable[..., Lab]
) -> None:
    async def main() -> None:
        command, worker = await environments(lab)
        added = {name for name in command if name not in worker and "CLAUDE" in name}
        del command["AGENT_POOL_COOKIE"]  # what bears it belongs to the worker, and ends with it
        assert {"CLAUDECODE", "CLAUDE_CODE_SESSION_ID", "CLAUDE_PID"} <= added
        launch = await AgentPool(
            environ={**lab.world.environment(lab.api.url), **command}, allow_nested=True
        ).launch("tester")
        assert added & set(launch.env) == set()

    lab.run(main())


def test_credentials_and_what_belongs_to_the_project_do_reach_them(lab: Lab) -> None:
    async def main() -> None:
        command, worker = await environments(lab)
        assert {name: worker.get(name) for name in PROVIDER} == PROVIDER
        assert command["SOME_TOOL_OF_THE_PROJECT"] == "kept"
        assert worker["ANTHROPIC_API_KEY"] == "dummy"
        assert worker["CLAUDE_CONFIG_DIR"] == str(lab.world.home / ".claude")
        assert lab.api.requests[-1].headers["x-kept"] == "kept"

    lab.run(main())


def test_of_the_pools_own_variables_only_cookie_and_depth_reach_them(lab: Lab) -> None:
    async def main() -> None:
        _, worker = await environments(lab)
        assert sorted(name for name in worker if name.startswith("AGENT_POOL")) == sorted(OWN)
        assert "TASK_TIMEOUT_MS" not in worker
        assert "CLAUDE_CLI" not in worker
        assert worker["AGENT_POOL_DEPTH"] == "1"

    lab.run(main())


def test_what_is_shown_of_the_environment_is_what_is_passed(lab: Lab) -> None:
    async def main() -> None:
        _, worker = await environments(lab)
        shown = (await lab.pool.launch("tester")).shown_env()
        assert set(worker) - set(shown) == {"AGENT_POOL_COOKIE"}
        assert set(shown) <= set(worker)
        assert "dummy" not in shown.values()
        assert shown["ANTHROPIC_AUTH_TOKEN"] != "kept"
        assert shown["SOME_TOOL_OF_THE_PROJECT"] == "kept"

    lab.run(main())


def test_settings_pass_and_block_variables(lab_with: Callable[..., Lab]) -> None:
    environ = {"CLAUDE_EFFORT": "high", "MY_SECRET_ONE": "x", "MY_SECRET_TWO": "x", "MY_OPEN": "x"}
    lab = lab_with(environ, env_passthrough=("CLAUDE_EFF*",), env_block=("MY_SECRET_*",))

    async def main() -> None:
        _, worker = await environments(lab)
        assert worker["CLAUDE_EFFORT"] == "high"
        assert worker["MY_OPEN"] == "x"
        assert "MY_SECRET_ONE" not in worker
        assert "MY_SECRET_TWO" not in worker

    lab.run(main())


NESTED = """
import asyncio, sys
from agent_pool import AgentPool
async def main():
    async with AgentPool() as pool:
        print("OPENED", pool.settings.allow_nested)
try:
    asyncio.run(main())
except Exception as error:
    print(type(error).__name__, error)
"""


def test_an_agent_does_not_get_a_pool_of_its_own_unless_it_is_allowed(lab: Lab) -> None:
    script = lab.world.root / "nested.py"
    script.write_text(NESTED)
    package = Path(agent_pool.__file__).parents[1]
    python = f"PYTHONPATH={package} {sys.executable} {script}"

    async def main() -> None:
        refused = await lab.ask(lab.plan(bash(python)))
        assert "ConfigError this is a pool inside an agent of a pool" in refused.text
        assert "AGENT_POOL_ALLOW_NESTED" in refused.text
        allowed = await lab.ask(lab.plan(bash(f"AGENT_POOL_ALLOW_NESTED=true {python}")))
        assert "OPENED True" in allowed.text

    lab.run(main())


@pytest.mark.parametrize("value", ["-1", "x", "1e3", "²"])
def test_a_depth_that_is_no_number_is_refused(lab: Lab, value: str) -> None:
    async def main() -> None:
        environ = {**lab.world.environment(lab.api.url), "AGENT_POOL_DEPTH": value}
        with pytest.raises(ConfigError, match="AGENT_POOL_DEPTH: expected a number"):
            await AgentPool(environ=environ).open()

    lab.run(main())


def test_ambient_mcp_servers_are_not_started(lab_with: Callable[..., Lab]) -> None:
    lab = lab_with({}, max_size=2)
    server = lab.world.root / "server.py"
    server.write_text("import pathlib, time\npathlib.Path(__file__).with_suffix('.up').touch()\n")
    servers = {"ambient": {"command": sys.executable, "args": [str(server)]}}
    (lab.world.root / ".mcp.json").write_text(json.dumps({"mcpServers": servers}))
    user = {"mcpServers": {"everywhere": servers["ambient"]}}
    user["projects"] = {str(lab.world.root): {"mcpServers": {"here": servers["ambient"]}}}
    (lab.world.home / ".claude").mkdir(exist_ok=True)
    (lab.world.home / ".claude" / ".claude.json").write_text(json.dumps(user))
    enabled = {"enableAllProjectMcpServers": True}
    (lab.world.root / ".claude" / "settings.json").write_text(json.dumps(enabled))
    lab.world.agent("named", mcpServers="[ambient]")

    async def main() -> None:
        asked = await lab.ask(lab.plan(tool("ToolSearch", query="ambient everywhere here")))
        assert "mcp__" not in " ".join(asked.requests[-1].tools)
        await lab.ask(lab.plan("again"))
        assert not server.with_suffix(".up").exists()
        await lab.ask(lab.plan("named"), agent="named")
        assert server.with_suffix(".up").exists()

    lab.run(main())


def test_transcripts_are_not_written(lab: Lab) -> None:
    async def main() -> None:
        canary = lab.word("canary")
        await lab.ask(lab.plan(bash(f"echo {canary}")))
        await lab.settled()
        home = [file for file in lab.world.home.rglob("*") if file.is_file()]
        assert [file for file in home if canary.encode() in file.read_bytes()] == []

    lab.run(main())


def test_the_cli_of_these_tests_is_the_current_one(lab: Lab) -> None:
    async def main() -> None:
        assert (await lab.pool.launch("tester")).argv[0] == str(real_cli())

    lab.run(main())


def _variables(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: value for name, _, value in pairs}
