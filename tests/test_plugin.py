"""The Claude Code plugin: its files, its launcher, and the plugin in the real CLI."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_pool.loopback import LoopbackAPI, ModelRequest, ToolUseBlock, get_result_text
from agent_pool.mcp.tool_list import read_tools
from agent_pool.mcp.tools import static_tools
from support.environment import real_cli
from support.plugin_launcher import ANSWER_TIMEOUT, ROOT, PluginMachine, executable
from support.project import TempProject

PLUGIN = ROOT / "plugin"
TOOL = "mcp__plugin_agent-pool_agent-pool__"
DISCOVER = {"method": "server/discover", "params": {"_meta": {}}}


def manifest(path: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / path).read_text(encoding="utf-8")))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[PluginMachine]:
    machine = PluginMachine(tmp_path)
    yield machine
    machine.end()


# The files


def test_claude_code_validates_the_plugin_without_any_problem(project: TempProject) -> None:
    done = subprocess.run(
        [str(real_cli()), "plugin", "validate", "--strict", str(ROOT)],
        env=project.environment("http://127.0.0.1:9"),
        capture_output=True,
        text=True,
        timeout=ANSWER_TIMEOUT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_marketplace_entry_has_an_icon_and_the_install_command() -> None:
    (entry,) = manifest(".claude-plugin/marketplace.json")["plugins"]
    assert "claude plugin install agent-pool --marketplace" in entry["description"]
    plugin = ROOT / entry["source"]
    icon = json.loads((plugin / ".claude-plugin/plugin.json").read_text(encoding="utf-8"))["icon"]
    assert (plugin / icon).read_text(encoding="utf-8").startswith("<svg ")


def test_plugin_and_package_have_one_version() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert manifest(".claude-plugin/plugin.json")["version"] == package["version"]


def test_early_tools_are_those_that_the_server_declares() -> None:
    # After a change of a tool: python scripts/tools_file.py
    assert read_tools() == static_tools()


def test_launcher_can_be_parsed_by_the_oldest_supported_python() -> None:
    ast.parse((PLUGIN / "launch.py").read_text(encoding="utf-8"), feature_version=(3, 8))


# The launcher


def test_launcher_lists_tools_while_installing_and_becomes_the_server(
    machine: PluginMachine,
) -> None:
    launch = machine.start()
    discovered = launch.ask(DISCOVER, 1)
    listed = launch.ask({"method": "tools/list"}, 2)
    launch.send({"method": "tools/call", "params": {"name": "invoke"}}, 3)
    machine.open_gate()
    called = launch.answer()
    assert discovered["id"] == 1
    assert discovered["result"]["supportedVersions"] == ["2026-07-28"]
    assert discovered["result"]["capabilities"] == {
        "tools": {"listChanged": False},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
    }
    assert listed["id"] == 2
    names = [tool["name"] for tool in listed["result"]["tools"]]
    assert names == [
        "invoke",
        "invoke_many",
        "result",
        "agents",
        "read_answer",
        "warmup",
        "list",
        "stats",
        "reset",
    ]
    server = {"method": "tools/call", "pid": launch.process.pid}
    assert called == {
        "id": 3,
        "result": {**server, "argv": ["-I", "-m", "agent_pool", "serve"]},
    }
    assert launch.close() == 0


def test_launcher_answers_split_and_joined_messages_in_order(machine: PluginMachine) -> None:
    launch = machine.start()
    message = json.dumps({"jsonrpc": "2.0", "id": "a", **DISCOVER}).encode()
    assert launch._stdin is not None
    launch._stdin.sendall(message[:20])
    launch._stdin.sendall(message[20:] + b"\n" + message.replace(b'"a"', b'"b"') + b"\n")
    launch.send({"method": "x"}, 3)
    machine.open_gate()
    assert [launch.answer()["id"] for _ in range(3)] == ["a", "b", 3]


def test_second_start_becomes_the_server_without_an_installation(
    machine: PluginMachine,
) -> None:
    machine.install()
    launch = machine.start()
    assert launch.ask(DISCOVER)["result"]["pid"] == launch.process.pid
    assert machine.installations() == 1


def test_requests_of_an_older_client_are_left_for_the_server(machine: PluginMachine) -> None:
    launch = machine.start()
    launch.send({"method": "initialize"}, 1)
    launch.send({"method": "tools/list"}, 2)
    machine.open_gate()
    methods = [launch.answer()["result"]["method"] for _ in range(2)]
    assert methods == ["initialize", "tools/list"]


def test_launcher_with_a_pipe_as_stdin_loses_no_message(machine: PluginMachine) -> None:
    launch = machine.start(pipe=True)
    launch.send(DISCOVER)
    machine.open_gate()
    assert launch.answer()["result"]["pid"] == launch.process.pid


def test_two_sessions_at_the_same_time_install_only_once(machine: PluginMachine) -> None:
    first, second = machine.start(), machine.start()
    for launch in (first, second):
        launch.ask(DISCOVER)
        launch.send({"method": "tools/call"})
    machine.open_gate()
    assert {first.answer()["result"]["pid"], second.answer()["result"]["pid"]} == {
        first.process.pid,
        second.process.pid,
    }
    assert machine.installations() == 1


def test_installation_continues_after_its_session_was_terminated(machine: PluginMachine) -> None:
    launch = machine.start()
    launch.ask(DISCOVER)
    os.killpg(launch.process.pid, signal.SIGTERM)  # more than Claude Code does
    assert launch.close() == -signal.SIGTERM
    machine.open_gate()
    machine.wait_for_installer()
    assert machine.start().ask(DISCOVER)["result"]["method"] == "server/discover"
    assert machine.installations() == 1


def test_launcher_ends_with_claude_code_while_the_installation_continues(
    machine: PluginMachine,
) -> None:
    launch = machine.start()
    launch.ask(DISCOVER)
    assert launch.close() == 1
    machine.open_gate()
    machine.wait_for_installer()
    assert len(list(machine.data.glob("*/complete"))) == 1


@pytest.mark.parametrize("what", ["complete", "bin/python"])
def test_incomplete_environment_is_removed_and_installed_again(
    machine: PluginMachine, what: str
) -> None:
    machine.install()
    (venv,) = machine.venvs()
    (venv / what).unlink()
    (venv / "rest").touch()
    machine.install()
    assert machine.venvs() == [venv]
    assert not (venv / "rest").exists()
    assert machine.installations() == 2


def test_changed_pyproject_gets_its_own_new_environment(machine: PluginMachine) -> None:
    machine.install()
    with (machine.plugin / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    machine.install()
    assert len(machine.venvs()) == 2


def test_environment_unused_for_thirty_days_is_removed(machine: PluginMachine) -> None:
    now = time.time()
    for name, days in (("old", 31), ("recent", 29)):
        mark = machine.data / name / "complete"
        mark.parent.mkdir(parents=True)
        mark.touch()
        os.utime(mark, (now, now - days * 86400))
    machine.install()
    assert not (machine.data / "old").exists()
    assert (machine.data / "recent").exists()


@pytest.mark.long
def test_every_request_gets_the_reason_for_a_failed_installation(
    machine: PluginMachine,
) -> None:
    machine.uv.unlink()  # the launcher then uses venv and pip, which here can ask no index
    launch = machine.start(PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull, PIP_USER="1")
    launch.ask(DISCOVER)
    for number in (1, 2):
        assert launch.ask({"method": "tools/call"}, number) == {
            "jsonrpc": "2.0",
            "id": number,
            "error": {
                "code": -32603,
                "message": "agent-pool cannot start: its installation failed: No matching "
                f"distribution found for hatchling>=1.26 (see {machine.data / 'install.log'})",
            },
        }
    assert launch.close() == 1
    assert list(machine.data.glob("*/complete")) == []


def test_command_says_that_it_is_not_installed_yet(machine: PluginMachine) -> None:
    done = subprocess.run(
        [str(machine.plugin / "bin" / "agent-pool"), "doctor"],
        env=machine.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=ANSWER_TIMEOUT,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "not installed yet. The plugin's server installs it at its first start" in done.stderr


def test_launcher_reports_that_its_data_folder_cannot_be_used(machine: PluginMachine) -> None:
    machine.data.write_text("a file")
    message = machine.start().ask(DISCOVER)["error"]["message"]
    assert message.startswith("agent-pool cannot start: [Errno ")
    assert str(machine.data) in message


# The plugin in Claude Code


def results(request: ModelRequest) -> str:
    return "\n".join(get_result_text(result) for result in request.tool_results)


@pytest.mark.long
def test_first_session_delegates_to_the_pool_and_to_native_agents(
    project: TempProject, machine: PluginMachine
) -> None:
    project.agent("code-reviewer", "You review.", description="reviews")
    log = project.home / "hook.log"
    real = machine.plugin / "src" / "agent_pool" / "hook.py"
    shutil.move(real, real.with_name("real.py"))
    real.write_text(
        f"import os, sys\nopen({str(log)!r}, 'a').write('x')\n"
        f"os.execv(sys.executable, [sys.executable, '-I', '-S', {str(real.with_name('real.py'))!r},"
        " *sys.argv[1:]])\n"
    )
    python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    environ = project.environment("", PATH=f"{machine.uv.parent}:{os.environ['PATH']}")
    environ |= {"UV_LOG": str(machine.uv_log), "GATE": ""}
    environ["STAND_IN"] = str(executable(project.home / "python", python))

    delegate = {"description": "d", "prompt": "look", "run_in_background": False}
    steps = [
        ToolUseBlock("Agent", {**delegate, "subagent_type": "code-reviewer"}),
        ToolUseBlock(f"{TOOL}invoke", {"agent": "code-reviewer", "task": "look"}),
        ToolUseBlock("Agent", {**delegate, "subagent_type": "general-purpose"}),
        ToolUseBlock("Bash", {"command": "agent-pool --version"}),
    ]
    seen: list[str] = []

    def script(request: ModelRequest) -> str | ToolUseBlock:
        if "You review." in request.system_text:
            return "the pool's answer"
        if request.subagent_id or request.is_side:
            return "the subagent's answer"
        if request.tool_results:
            seen.append(results(request))
        return steps[len(seen)] if len(seen) < len(steps) else "the end"

    with LoopbackAPI(script).in_thread() as api:
        done = subprocess.run(
            [
                *(str(real_cli()), "-p", "go", "--plugin-dir", str(machine.plugin)),
                "--dangerously-skip-permissions",
            ],
            env={**environ, "ANTHROPIC_BASE_URL": api.url},
            cwd=project.root,
            capture_output=True,
            text=True,
            timeout=90,
        )
    assert done.stdout.strip() == "the end", done.stdout + done.stderr
    denied, invoked, native, version = seen
    assert version.startswith("agent-pool, version ")
    assert f'Call {TOOL}invoke with agent="code-reviewer" and the whole prompt' in denied
    assert invoked == "the pool's answer"
    assert "the subagent's answer" in native
    assert log.read_text() == "xx"  # once for each delegation
