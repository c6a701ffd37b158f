"""The variables that a worker and its commands inherit, as the commands print them; real CLI."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import agent_pool
from agent_pool import AgentPool, ConfigError
from agent_pool.claude.engine import LEAN_FROM, LEAN_VARIABLES
from support.cli_age import is_at_least
from support.environment import real_cli
from support.model_scripts import as_text, bash, tool
from support.pool_harness import PoolHarness
from support.project import file_contents
from support.variants import later
from support.waiting import WAIT_TIMEOUT

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
"""Variables by which Claude Code tells its children about their session."""

PROVIDER = {
    "ANTHROPIC_AUTH_TOKEN": "kept",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Kept: kept",
    "AWS_REGION": "kept",
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "4000",
    "NODE_EXTRA_CA_CERTS": "/kept",
    "NO_PROXY": "127.0.0.1",
    "SOME_TOOL_OF_THE_PROJECT": "kept",
}
"""Variables that a worker, or a program that it runs, can need."""

OWN = ("AGENT_POOL_COOKIE", "AGENT_POOL_DEPTH")


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    settings = {"AGENT_POOL_MAX_SIZE": "1", "TASK_TIMEOUT_MS": "30000"}
    return open_harness(environ={**PARENT, **PROVIDER, **settings})


@pytest.fixture
def harness_with(tmp_path: Path, cache: Path) -> Iterator[Callable[..., PoolHarness]]:
    """Open a harness with these variables and settings; its workers are lean by default."""
    opened: list[PoolHarness] = []

    def open_one(environ: dict[str, str], **settings: Any) -> PoolHarness:
        settings = {"worker_memory": "lean", **settings}
        harness = PoolHarness(tmp_path / "harness", cache, environ=environ, **settings)
        opened.append(harness)
        harness.open()
        return harness

    yield open_one
    for harness in opened:
        harness.close()


async def environments(harness: PoolHarness) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables of a command that an agent runs, and of the process that runs it."""
    command = r"echo; env; echo ---; tr '\0' '\n' < /proc/$PPID/environ"
    output = (await harness.ask(harness.plan(bash(command)))).text
    mine, _, parents = output.partition("---")
    return _variables(mine), _variables(parents)


def test_no_variable_of_the_parent_session_reaches_a_worker(
    harness: PoolHarness,
) -> None:
    async def main() -> None:
        command, worker = await environments(harness)
        assert set(PARENT) & set(worker) == set()
        assert {name for name in PARENT if command.get(name) == PARENT[name]} <= {"CLAUDECODE"}
        assert "parent" not in " ".join([*command.values(), *worker.values()])

    harness.run(main())


def test_variables_claude_code_sets_for_commands_never_reach_a_worker(
    harness: PoolHarness, harness_with: Callable[..., PoolHarness]
) -> None:
    async def main() -> None:
        command, worker = await environments(harness)
        added = {name for name in command if name not in worker and "CLAUDE" in name}
        del command["AGENT_POOL_COOKIE"]  # a process with the worker's cookie ends with its task
        assert "CLAUDECODE" in added
        if is_at_least("2.1.229"):
            assert {"CLAUDE_CODE_SESSION_ID", "CLAUDE_PID"} <= added
        launch = await AgentPool(
            environ={**harness.project.environment(harness.api.url), **command}, allow_nested=True
        ).launch_spec("tester")
        assert added & set(launch.env) == set()

    harness.run(main())


def test_credentials_and_project_variables_reach_a_worker(harness: PoolHarness) -> None:
    async def main() -> None:
        command, worker = await environments(harness)
        assert {name: worker.get(name) for name in PROVIDER} == PROVIDER
        assert command["SOME_TOOL_OF_THE_PROJECT"] == "kept"
        assert worker["ANTHROPIC_API_KEY"] == "dummy"
        assert worker["CLAUDE_CONFIG_DIR"] == str(harness.project.home / ".claude")
        assert harness.api.requests[-1].headers["x-kept"] == "kept"

    harness.run(main())


def test_only_cookie_and_depth_of_the_pools_variables_reach_workers(harness: PoolHarness) -> None:
    async def main() -> None:
        _, worker = await environments(harness)
        assert sorted(name for name in worker if name.startswith("AGENT_POOL")) == sorted(OWN)
        assert "TASK_TIMEOUT_MS" not in worker
        assert "CLAUDE_CLI" not in worker
        assert worker["AGENT_POOL_DEPTH"] == "1"

    harness.run(main())


def test_the_shown_environment_matches_the_passed_one(harness: PoolHarness) -> None:
    async def main() -> None:
        _, worker = await environments(harness)
        shown = (await harness.pool.launch_spec("tester")).env
        assert set(worker) - set(shown) == {"AGENT_POOL_COOKIE"}
        assert set(shown) <= set(worker)
        assert "dummy" not in shown.values()
        assert shown["ANTHROPIC_AUTH_TOKEN"] != "kept"
        assert shown["SOME_TOOL_OF_THE_PROJECT"] == "kept"

    harness.run(main())


def test_settings_can_pass_or_block_environment_variables(
    harness_with: Callable[..., PoolHarness],
) -> None:
    environ = {"CLAUDE_EFFORT": "high", "MY_SECRET_ONE": "x", "MY_SECRET_TWO": "x", "MY_OPEN": "x"}
    harness = harness_with(environ, env_passthrough=("CLAUDE_EFF*",), env_block=("MY_SECRET_*",))

    async def main() -> None:
        _, worker = await environments(harness)
        assert worker["CLAUDE_EFFORT"] == "high"
        assert worker["MY_OPEN"] == "x"
        assert "MY_SECRET_ONE" not in worker
        assert "MY_SECRET_TWO" not in worker

    harness.run(main())


SERVER = """
import os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text("\\n".join(f"{k}={v}" for k, v in os.environ.items()))
"""
LEAN_WORKERS = pytest.mark.since(
    ".".join(map(str, LEAN_FROM)), "the pool knows that lean workers are worth it"
)


def engine(variables: dict[str, str]) -> dict[str, str]:
    """Return the variables that a Bun program obeys."""
    return {name: value for name, value in variables.items() if name.startswith("BUN_")}


def compiled_code(pid: int) -> int:
    """Return the KiB that a process has used of its memory for machine code of its own."""
    areas = re.split(r"^(?=\w+-\w+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.MULTILINE)
    code = [area for area in areas if " rwxp " in area.partition("\n")[0]]
    return sum(int(size) for area in code for size in re.findall(r"^Rss: +(\d+)", area, re.M))


@pytest.mark.long
@LEAN_WORKERS
def test_a_lean_worker_hides_its_variables_from_what_it_starts(
    harness_with: Callable[..., PoolHarness],
) -> None:
    harness = harness_with({}, max_size=2)
    root = harness.project.root
    (root / "server.py").write_text(SERVER)
    server = {"command": sys.executable, "args": ["server.py", str(root / "server.env")]}
    hooks = [
        {"type": "command", "command": f"env > {root}/hook.env"},
        {"type": "command", "command": "/bin/sh", "args": ["-c", f"env > {root}/exec.env"]},
    ]
    harness.project.trust()
    harness.project.agent(
        "lean",
        mcpServers=json.dumps([{"own": server}]),
        hooks=json.dumps({"PreToolUse": [{"hooks": hooks}]}),
    )

    async def main() -> None:
        command = r"echo; env; echo ---; tr '\0' '\n' < /proc/$PPID/environ"
        lean = await harness.ask(harness.plan(bash(command)), agent="lean")
        mine, _, worker = lean.text.partition("---")
        assert engine(_variables(worker)).items() >= LEAN_VARIABLES.items()
        assert engine(_variables(mine)) == {}
        for name in ("hook", "exec", "server"):
            assert "PATH" in (seen := _variables((root / f"{name}.env").read_text()))
            assert engine(seen) == {}

    harness.run(main())


@pytest.mark.long
@LEAN_WORKERS
def test_a_lean_worker_compiles_far_less_than_a_fast_one(
    harness_with: Callable[..., PoolHarness],
) -> None:
    harness = harness_with({}, max_size=2)
    harness.project.agent("fast", workerMemory="fast")

    async def main() -> None:
        for agent in ("tester", "fast") * 4:
            await harness.ask(harness.plan("answer"), agent=agent)
        workers = {worker.agent: worker for worker in await harness.pool.workers()}
        assert (workers["tester"].memory, workers["fast"].memory) == ("lean", "fast")
        lean, fast = (compiled_code(workers[name].pid or 0) for name in ("tester", "fast"))
        assert 0 < lean < fast / 2

    harness.run(main())


@LEAN_WORKERS
@pytest.mark.parametrize(
    "given", [{}, later({"BUN_JSC_useBaselineJIT": "1"})], ids=["options", "engine"]
)
def test_commands_of_a_lean_worker_get_the_users_bun_variables(
    harness_with: Callable[..., PoolHarness], given: dict[str, str]
) -> None:
    mine = {"BUN_OPTIONS": "--smol --no-addons", "BUN_JSC_useConcurrentGC": "1", **given}
    harness = harness_with(mine)

    async def main() -> None:
        command, worker = await environments(harness)
        assert engine(command) == mine
        # A variable that the user has set decides, so such a worker is not lean.
        assert worker["BUN_JSC_useBaselineJIT"] == given.get("BUN_JSC_useBaselineJIT", "0")

    harness.run(main())


ATTRIBUTION = pytest.mark.since("2.1.119", "it sends an attribution line")


@pytest.mark.parametrize("is_sent", [pytest.param(True, marks=ATTRIBUTION), False])
def test_the_attribution_line_is_sent_only_if_the_setting_says_so(
    harness_with: Callable[..., PoolHarness], is_sent: bool
) -> None:
    harness = harness_with({}, attribution=is_sent)

    async def main() -> None:
        for _ in range(2):  # the second task comes after a reset
            asked = await harness.ask(harness.plan("answer"))
            assert ("x-anthropic-billing-header" in as_text(asked.requests[-1])) == is_sent

    harness.run(main())


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


def test_an_agent_gets_its_own_pool_only_if_allowed(harness: PoolHarness) -> None:
    script = harness.project.root / "nested.py"
    script.write_text(NESTED)
    package = Path(agent_pool.__file__).parents[1]
    python = f"PYTHONPATH={package} {sys.executable} {script}"

    async def main() -> None:
        refused = await harness.ask(harness.plan(bash(python)))
        assert "ConfigError this is a pool inside an agent of a pool" in refused.text
        assert "AGENT_POOL_ALLOW_NESTED" in refused.text
        allowed = await harness.ask(harness.plan(bash(f"AGENT_POOL_ALLOW_NESTED=true {python}")))
        assert "OPENED True" in allowed.text

    harness.run(main())


@pytest.mark.parametrize("value", ["-1", "x", "1e3", "²"])
def test_a_depth_that_is_not_a_number_is_refused(harness: PoolHarness, value: str) -> None:
    async def main() -> None:
        environ = {**harness.project.environment(harness.api.url), "AGENT_POOL_DEPTH": value}
        with pytest.raises(ConfigError, match="AGENT_POOL_DEPTH: expected a number"):
            await AgentPool(environ=environ).open()

    harness.run(main())


def test_ambient_mcp_servers_are_not_started(harness_with: Callable[..., PoolHarness]) -> None:
    harness = harness_with({}, max_size=2)
    server = harness.project.root / "server.py"
    server.write_text("import pathlib, time\npathlib.Path(__file__).with_suffix('.up').touch()\n")
    servers = {"ambient": {"command": sys.executable, "args": [str(server)]}}
    (harness.project.root / ".mcp.json").write_text(json.dumps({"mcpServers": servers}))
    user: dict[str, Any] = {"mcpServers": {"everywhere": servers["ambient"]}}
    # Without `allowedTools` 2.0.0 would end at its start.
    entry = {"mcpServers": {"here": servers["ambient"]}, "allowedTools": []}
    user["projects"] = {str(harness.project.root): entry}
    (harness.project.home / ".claude").mkdir(exist_ok=True)
    (harness.project.home / ".claude" / ".claude.json").write_text(json.dumps(user))
    enabled = {"enableAllProjectMcpServers": True}
    (harness.project.root / ".claude" / "settings.json").write_text(json.dumps(enabled))
    harness.project.agent("named", mcpServers="[ambient]")

    async def main() -> None:
        asked = await harness.ask(harness.plan(tool("ToolSearch", query="ambient everywhere here")))
        assert "mcp__" not in " ".join(asked.requests[-1].tools)
        await harness.ask(harness.plan("again"))
        assert not server.with_suffix(".up").exists()
        await harness.ask(harness.plan("named"), agent="named")
        assert server.with_suffix(".up").exists()

    harness.run(main())


@pytest.mark.since("2.0.64", "it can run without transcripts")
def test_transcripts_of_tasks_are_not_written_to_disk(harness: PoolHarness) -> None:
    async def main() -> None:
        canary = harness.word("canary")
        await harness.ask(harness.plan(bash(f"echo {canary}")))
        await harness.wait_until_idle()
        home = await _unchanging_contents(harness.project.home)
        assert [path for path, content in home.items() if canary.encode() in content] == []

    harness.run(main())


def test_the_cli_of_these_tests_is_the_current_one(harness: PoolHarness) -> None:
    async def main() -> None:
        assert (await harness.pool.launch_spec("tester")).argv[0] == str(real_cli())

    harness.run(main())


async def _unchanging_contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file, read while no file was added or removed.

    The CLI replaces its files by renaming temporary ones, so a listed file can vanish before it is
    read; its new name is then in the next list.
    """
    async with asyncio.timeout(WAIT_TIMEOUT):
        while True:
            with suppress(FileNotFoundError):
                contents = file_contents(folder)
                if file_contents(folder).keys() == contents.keys():
                    return contents
            await asyncio.sleep(0.01)


def _variables(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: value for name, _, value in pairs}
