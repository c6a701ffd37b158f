"""The command line as a whole: its list of commands, its imports, its exit codes."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from agent_pool import AgentPoolError, ConfigError, SpawnError, errors
from agent_pool.cli import app
from agent_pool.cli.command import Terminated, exit_code, run_async
from cli_world import NOWHERE, agent_pool, command, invoke
from support import Project

HEAVY = ("mcp", "uvicorn", "starlette", "claude_agent_sdk")
DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
ERRORS = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, AgentPoolError)
]


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_teaches_by_example(here: Project, name: str) -> None:
    done = invoke(name, "--help")
    assert done.exit_code == 0
    assert "Example:" in done.output


def test_help_lists_every_command(here: Project) -> None:
    done = invoke("--help")
    assert [line.split()[0] for line in _section(done.output, "Commands:")] == list(app.COMMANDS)


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_and_its_options_are_in_the_documentation(here: Project, name: str) -> None:
    assert f"## agent-pool {name}" in DOCS
    section = DOCS.split(f"## agent-pool {name}")[1].split("\n## ")[0]
    shown = " ".join(_section(invoke(name, "--help").output, "Options:"))
    for option in set(re.findall(r"--[a-z-]+", shown)) - {"--help", "--project", "--json"}:
        assert option in section


def test_the_exit_codes_of_the_help_are_those_of_the_documentation(here: Project) -> None:
    told = {line.split()[0] for line in _section(invoke("--help").output, "Exit codes:")}
    assert told == set(re.findall(r"^\| `([^`]+)` \|", DOCS.split("## Exit codes")[1], re.M))


@pytest.mark.parametrize("args", [("--version",), ("--help",), ("agents",), ("run", "--help")])
def test_quick_commands_import_nothing_heavy(project: Project, args: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom agent_pool.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        f"    print(end.code, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=project.root,
        env=project.environment(NOWHERE),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_version_is_the_package_version(here: Project) -> None:
    assert invoke("--version").output == f"agent-pool, version {version('claude-agent-pool')}\n"


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_an_exit_code_of_its_kind(error: type[AgentPoolError]) -> None:
    expected = 1
    if issubclass(error, TimeoutError):
        expected = 124
    elif issubclass(error, ConfigError | SpawnError):
        expected = 3
    assert exit_code(error("no")) == expected


def test_an_unknown_command_is_a_usage_error(here: Project) -> None:
    done = invoke("rum")
    assert done.exit_code == 2
    assert "No such command 'rum'" in done.stderr


def test_a_wrong_setting_is_one_message(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_POOL_MAX_SIZE", "many")
    done = invoke("agents")
    assert done.exit_code == 3
    assert done.stderr.startswith("Error: AGENT_POOL_MAX_SIZE: max_size: ")
    assert (done.stdout, "Traceback" in done.stderr) == ("", False)


@pytest.mark.parametrize("level", ["info", "loud"])
def test_what_the_pool_does_is_logged_on_request(project: Project, level: str) -> None:
    project.agent("one")
    done = agent_pool(project, "show", "one", AGENT_POOL_LOG=level)
    assert done.returncode == 0
    said = "WARNING agent_pool.cli.command: AGENT_POOL_LOG: expected debug, info, warning or error"
    assert (said in done.stderr) == (level == "loud")


def test_an_error_of_a_json_command_is_a_json_object(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_POOL_MAX_SIZE", "many")
    done = invoke("agents", "--json")
    error = json.loads(done.stdout)["error"]
    assert done.exit_code == 3
    assert (error["code"], error["retryable"]) == ("config_error", False)


def test_the_project_may_be_named_before_or_after_the_command(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.agent("there")
    monkeypatch.chdir("/")
    for args in (("--project", str(here.root), "agents"), ("agents", "--project", str(here.root))):
        assert [one["name"] for one in json.loads(invoke(*args, "--json").stdout)] == ["there"]


def test_a_project_that_is_no_folder_is_a_usage_error(here: Project) -> None:
    assert invoke("agents", "--project", str(here.root / "none")).exit_code == 2


def test_a_reader_that_went_away_is_no_traceback(project: Project) -> None:
    project.agent("one", description="x" * 100_000)
    process = subprocess.Popen(
        command("agents"),
        cwd=project.root,
        env=project.environment(NOWHERE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (1, "")


def test_output_that_cannot_be_written_is_one_message(project: Project) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("agents", "--json"),
            cwd=project.root,
            env=project.environment(NOWHERE),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "Error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_what_runs_and_is_told_apart(number: signal.Signals) -> None:
    async def until_cancelled() -> None:
        signal.raise_signal(number)
        await asyncio.Event().wait()

    with pytest.raises(Terminated) as ended:
        run_async(until_cancelled())
    assert ended.value.signal == number


def _section(text: str, heading: str) -> list[str]:
    lines = text.split(heading)[1].splitlines()[1:]
    return lines[: [*lines, ""].index("")]
