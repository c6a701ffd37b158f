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

from agent_pool import (
    AgentPoolError,
    ConfigError,
    DaemonUnavailable,
    DeadlinePassed,
    NestingRefused,
    SpawnError,
    TaskNotFound,
    errors,
)
from agent_pool.cli import app
from agent_pool.cli.command import Terminated, exit_code, run_async
from support.cli_runner import agent_pool, command, invoke
from support.environment import UNREACHABLE_URL
from support.project import TempProject

HEAVY = ("mcp", "uvicorn", "starlette", "claude_agent_sdk")
DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
NOTHING_STARTED = (ConfigError, DaemonUnavailable, NestingRefused, SpawnError, TaskNotFound)
ERRORS = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, AgentPoolError)
]


@pytest.mark.parametrize("name", app.COMMANDS)
def test_the_help_of_every_command_shows_an_example(here: TempProject, name: str) -> None:
    done = invoke(name, "--help")
    assert done.exit_code == 0
    assert "Example:" in done.output


def test_the_help_lists_every_command_under_its_heading(here: TempProject) -> None:
    done = invoke("--help")
    listed = {
        heading: [line.split()[0] for line in _section(done.output, f"{heading}:")]
        for heading in app.GROUPS
    }
    assert listed == {heading: list(commands) for heading, commands in app.GROUPS.items()}


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_and_its_options_are_in_the_documentation(
    here: TempProject, name: str
) -> None:
    assert f"## agent-pool {name}\n" in DOCS
    section = DOCS.split(f"## agent-pool {name}\n")[1].split("\n## ")[0]
    shown = " ".join(_section(invoke(name, "--help").output, "Options:"))
    for option in set(re.findall(r"--[a-z-]+", shown)) - {"--help", "--project", "--json"}:
        assert option in section


def test_help_and_documentation_list_the_same_exit_codes(here: TempProject) -> None:
    listed = {line.split()[0] for line in _section(invoke("--help").output, "Exit codes:")}
    assert listed == set(re.findall(r"^\| `([^`]+)` \|", DOCS.split("## Exit codes")[1], re.M))


@pytest.mark.parametrize("args", [("--version",), ("--help",), ("agents",), ("run", "--help")])
def test_quick_commands_do_not_import_heavy_packages(
    project: TempProject, args: tuple[str, ...]
) -> None:
    code = (
        "import sys\nfrom agent_pool.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        f"    print(end.code, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=project.root,
        env=project.environment(UNREACHABLE_URL),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_version_option_prints_the_package_version(here: TempProject) -> None:
    assert invoke("--version").output == f"agent-pool, version {version('claude-agent-pool')}\n"


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_class_has_the_exit_code_of_its_kind(error: type[AgentPoolError]) -> None:
    expected = 1
    if issubclass(error, TimeoutError | DeadlinePassed):
        expected = 124
    elif issubclass(error, NOTHING_STARTED):
        expected = 3
    assert exit_code(error("no")) == expected


def test_an_unknown_command_is_a_usage_error_with_a_suggestion(here: TempProject) -> None:
    done = invoke("rum")
    assert done.exit_code == 2
    assert "No such command 'rum' (did you mean run?)" in done.stderr


def test_a_wrong_setting_gives_one_message_without_a_traceback(
    here: TempProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_POOL_MAX_SIZE", "many")
    done = invoke("agents")
    assert done.exit_code == 3
    assert done.stderr.startswith("Error: AGENT_POOL_MAX_SIZE: max_size: ")
    assert (done.stdout, "Traceback" in done.stderr) == ("", False)


@pytest.mark.parametrize("level", ["info", "loud"])
def test_only_an_invalid_log_level_gives_a_warning(project: TempProject, level: str) -> None:
    project.agent("one")
    done = agent_pool(project, "show", "one", AGENT_POOL_LOG=level)
    assert done.returncode == 0
    text = "WARNING agent_pool.cli.command: AGENT_POOL_LOG: expected debug, info, warning or error"
    assert (text in done.stderr) == (level == "loud")


def test_an_error_of_a_json_command_is_a_json_object(
    here: TempProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_POOL_MAX_SIZE", "many")
    done = invoke("agents", "--json")
    error = json.loads(done.stdout)["error"]
    assert done.exit_code == 3
    assert (error["code"], error["retryable"]) == ("config_error", False)


def test_the_project_option_works_before_and_after_the_command(
    here: TempProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.agent("there")
    monkeypatch.chdir("/")
    for args in (("--project", str(here.root), "agents"), ("agents", "--project", str(here.root))):
        assert [one["name"] for one in json.loads(invoke(*args, "--json").stdout)] == ["there"]


def test_a_project_that_is_no_folder_is_a_usage_error(here: TempProject) -> None:
    assert invoke("agents", "--project", str(here.root / "none")).exit_code == 2


def test_a_closed_stdout_gives_exit_code_1_without_a_traceback(project: TempProject) -> None:
    project.agent("one", description="x" * 100_000)
    process = subprocess.Popen(
        command("agents"),
        cwd=project.root,
        env=project.environment(UNREACHABLE_URL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (1, "")


def test_output_that_cannot_be_written_gives_one_error_message(project: TempProject) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("agents", "--json"),
            cwd=project.root,
            env=project.environment(UNREACHABLE_URL),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "Error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_the_command_and_is_reported_by_number(number: signal.Signals) -> None:
    async def until_cancelled() -> None:
        signal.raise_signal(number)
        await asyncio.Event().wait()

    with pytest.raises(Terminated) as ended:
        run_async(until_cancelled())
    assert ended.value.signal == number


def _section(text: str, heading: str) -> list[str]:
    lines = text.split(heading)[1].splitlines()[1:]
    return lines[: [*lines, ""].index("")]
