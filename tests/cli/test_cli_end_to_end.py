"""`run`, `show` and `init` with the real Claude Code CLI and the offline model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent_pool.loopback import (
    ErrorResponse,
    LoopbackAPI,
    ModelReply,
    ModelRequest,
    Script,
    TextBlock,
    ToolUseBlock,
    call_tools,
    echo,
)
from support.cli_runner import agent_pool, command, invoke_in
from support.environment import real_cli
from support.project import TempProject


def test_an_answer_in_a_pipe_is_exact_to_the_byte(project: TempProject) -> None:
    project.agent("one")
    with LoopbackAPI(lambda _: "Grüße, \x1b[1m世界\x9b\u202e\t\r\n.").in_thread() as api:
        done = agent_pool(project, "run", "one", "Greet.", url=api.url)
    assert (done.returncode, done.stdout) == (0, "Grüße, \x1b[1m世界\x9b\u202e\t\r\n.\n")
    assert [line.split(":")[0] for line in done.stderr.splitlines()][-1] == "one"


def test_tool_calls_of_the_agent_are_shown_on_stderr(project: TempProject) -> None:
    project.agent("one")
    script = call_tools(ToolUseBlock("Bash", {"command": "echo $((40 + 2))"}))
    with LoopbackAPI(script).in_thread() as api:
        done = invoke_in(project, "run", "one", "-", url=api.url, stdin=b"Add.")
    assert done.stdout.rstrip().endswith("42")
    assert "  → Bash: echo $((40 + 2))" in done.stderr.splitlines()


def test_the_json_result_holds_the_billed_usage(project: TempProject) -> None:
    project.agent("one")
    with LoopbackAPI(echo).in_thread() as api:
        done = invoke_in(project, "run", "one", "Hello.", "--json", url=api.url)
        billed = api.usage.total.usage
    usage = json.loads(done.stdout)["usage"]
    assert usage["cache_write_tokens"] == billed.cache_creation_input_tokens
    assert usage["output_tokens"] == billed.output_tokens


def test_an_error_of_the_api_gives_exit_code_1(project: TempProject) -> None:
    project.agent("one")
    with LoopbackAPI(lambda _: ErrorResponse(400, message="no such thing")).in_thread() as api:
        done = agent_pool(project, "run", "one", "Hello.", "-q", url=api.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such thing" in done.stderr


def test_a_task_over_its_timeout_gives_exit_code_124(project: TempProject) -> None:
    project.agent("one")
    with LoopbackAPI(lambda _: ModelReply("late", delay=60)).in_thread() as api:
        done = agent_pool(project, "run", "one", "x", "--timeout", "300ms", "--json", url=api.url)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"], error["retryable"]) == (124, "task_timeout", True)


def test_an_unknown_agent_gives_exit_code_3_and_a_suggestion(project: TempProject) -> None:
    project.agent("reviewer")
    done = agent_pool(project, "run", "revewer", "x")
    assert (done.returncode, done.stdout) == (3, "")
    assert "did you mean reviewer?" in done.stderr


def test_a_missing_cli_gives_exit_code_3(project: TempProject) -> None:
    project.agent("one")
    done = invoke_in(project, "run", "one", "x", CLAUDE_CLI="/nowhere/claude")
    assert done.returncode == 3
    assert "/nowhere/claude" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_task_and_all_its_processes(
    project: TempProject, number: signal.Signals
) -> None:
    project.agent("one")
    alive = project.root / "alive"
    os.mkfifo(alive)
    with LoopbackAPI(_holding(alive)).in_thread() as api:
        running = subprocess.Popen(
            command("run", "one", "Wait."),
            cwd=project.root,
            env=project.environment(api.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with alive.open("rb") as held:  # this waits until the agent's shell has opened it
            running.send_signal(number)
            stdout, stderr = running.communicate(timeout=60)
            assert held.read() == b""  # the end: the process that held it open has ended
    assert (running.returncode, stdout) == (128 + number, b"")
    assert stderr.decode().endswith(f"stopped by {number.name}\n")


def _holding(fifo: Path) -> Script:
    """Make a script that lets the shell hold a pipe open for ever."""

    def script(request: ModelRequest) -> list[TextBlock | ToolUseBlock] | str:
        if request.is_side or request.tool_results:
            return "done"
        hold = f"exec 9> '{fifo}'; tail -f /dev/null"
        return [TextBlock("I wait."), ToolUseBlock("Bash", {"command": hold})]

    return script


def test_show_prints_the_prompt_and_command_but_no_secrets(project: TempProject) -> None:
    path = project.agent("one", "Be brief.", tools="[Read]")
    secrets: dict[str, Any] = {
        "SOME_TOKEN": "s3cret",
        "PGPASSWORD": "s3cret",
        "ALERTS": "https://hooks.example.com/services/T0/B0/a8Zs3cretPq71LxW",
        "DATABASE": "host=db user=me password=s3cret",
        "CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR": "3",
        "CLAUDE_SESSION_INGRESS_TOKEN_FILE": "/s3cret",
    }
    done = agent_pool(project, "show", "one", "--json", **secrets)
    shown = json.loads(done.stdout)
    assert (shown["prompt"], shown["path"]) == ("Be brief.", str(path))
    assert shown["argv"][0] == str(real_cli())
    assert "--strict-mcp-config" in shown["argv"]
    assert 'tools: ["Read"]' in shown["role"]
    assert shown["effort"] == ""
    assert shown["cwd"] == str(project.root)
    assert shown["env"]["HOME"] == str(project.home)
    assert "s3cret" not in done.stdout
    assert shown["env"]["DATABASE"] == "host=db user=me password=…"
    assert not {"CLAUDE_CODE_API_KEY_FILE_DESCRIPTOR", "CLAUDE_SESSION_INGRESS_TOKEN_FILE"} & set(
        shown["env"]
    )
    assert "dummy" not in done.stdout  # the API key


def test_show_prints_prompt_and_folder_under_headings(project: TempProject) -> None:
    project.agent("one", "Be [brief].", effort="low", maxBudgetUsd="0.50")
    done = invoke_in(project, "show", "one", "--no-measure")
    assert done.returncode == 0
    assert "\nBudget of a task\n0.5 US dollars (maxBudgetUsd)\n" in done.stdout
    listed = json.loads(invoke_in(project, "agents", "--json").stdout)
    assert listed[0]["max_budget_usd"] == 0.5
    assert "\nEffort, set with the role\nlow\n" in done.stdout
    assert done.stdout.endswith("System prompt (11 characters)\nBe [brief].\n\n")
    assert f"\nFolder\n{project.root}\n" in done.stdout


def test_the_starter_agent_of_init_runs_a_task(project: TempProject) -> None:
    assert invoke_in(project, "init").returncode == 0
    with LoopbackAPI(lambda _: "Nothing found.").in_thread() as api:
        done = agent_pool(project, "run", "code-reviewer", "Review it.", url=api.url)
        assert (done.returncode, done.stdout) == (0, "Nothing found.\n"), done.stderr
        asked = api.requests[-1]
    assert "You review code." in asked.system_text
    assert "Read" in asked.tools
    assert "Write" not in asked.tools
