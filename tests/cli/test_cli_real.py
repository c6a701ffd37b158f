"""`run` and `show` with the real Claude Code CLI and the offline model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from agent_pool.loopback import (
    Failure,
    LoopbackAPI,
    Reply,
    Request,
    Script,
    Text,
    ToolUse,
    calling,
    echo,
)
from cli_world import agent_pool, command
from support import Project, real_cli


def test_an_agent_answers(project: Project) -> None:
    project.agent("one")
    with LoopbackAPI(lambda _: "Grüße, \x1b[1m世界").in_thread() as api:
        done = agent_pool(project, "run", "one", "Greet.", url=api.url)
    assert (done.returncode, done.stdout) == (0, "Grüße, \x1b[1m世界\n")
    assert [line.split(":")[0] for line in done.stderr.splitlines()][-1] == "one"


def test_what_the_agent_does_is_told_while_it_does_it(project: Project) -> None:
    project.agent("one")
    script = calling(ToolUse("Bash", {"command": "echo $((40 + 2))"}))
    with LoopbackAPI(script).in_thread() as api:
        done = agent_pool(project, "run", "one", "-", url=api.url, stdin=b"Add.")
    assert done.stdout.rstrip().endswith("42")
    assert "  → Bash: echo $((40 + 2))" in done.stderr.splitlines()


def test_the_result_as_json_holds_what_was_billed(project: Project) -> None:
    project.agent("one")
    with LoopbackAPI(echo).in_thread() as api:
        done = agent_pool(project, "run", "one", "Hello.", "--json", url=api.url)
        billed = api.books.total.usage
    usage = json.loads(done.stdout)["usage"]
    assert usage["cache_write_tokens"] == billed.cache_creation_input_tokens
    assert usage["output_tokens"] == billed.output_tokens


def test_an_error_of_the_api_is_exit_code_1(project: Project) -> None:
    project.agent("one")
    with LoopbackAPI(lambda _: Failure(400, message="no such thing")).in_thread() as api:
        done = agent_pool(project, "run", "one", "Hello.", "-q", url=api.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such thing" in done.stderr


def test_a_task_that_takes_too_long_is_exit_code_124(project: Project) -> None:
    project.agent("one")
    with LoopbackAPI(lambda _: Reply("late", delay=60)).in_thread() as api:
        done = agent_pool(project, "run", "one", "x", "--timeout", "300ms", "--json", url=api.url)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"], error["retryable"]) == (124, "task_timeout", True)


def test_an_agent_that_is_not_there_is_exit_code_3(project: Project) -> None:
    project.agent("reviewer")
    done = agent_pool(project, "run", "revewer", "x")
    assert (done.returncode, done.stdout) == (3, "")
    assert "did you mean reviewer?" in done.stderr


def test_a_missing_cli_is_exit_code_3(project: Project) -> None:
    project.agent("one")
    done = agent_pool(project, "run", "one", "x", CLAUDE_CLI="/nowhere/claude")
    assert done.returncode == 3
    assert "/nowhere/claude" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_task_and_every_process_of_it(
    project: Project, number: signal.Signals
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
        with alive.open("rb") as held:  # opens once the agent's shell has opened it
            running.send_signal(number)
            stdout, stderr = running.communicate(timeout=60)
            assert held.read() == b""  # the end: whoever held it for writing is dead
    assert (running.returncode, stdout) == (128 + number, b"")
    assert stderr.decode().endswith(f"stopped by {number.name}\n")


def _holding(fifo: Path) -> Script:
    """A model that has the shell hold a pipe open for ever."""

    def script(request: Request) -> list[Text | ToolUse] | str:
        if request.is_side or request.tool_results:
            return "done"
        hold = f"exec 9> '{fifo}'; tail -f /dev/null"
        return [Text("I wait."), ToolUse("Bash", {"command": hold})]

    return script


def test_show_tells_the_prompt_and_the_command(project: Project) -> None:
    path = project.agent("one", "Be brief.", tools="[Read]")
    done = agent_pool(project, "show", "one", "--json", SOME_TOKEN="s3cret")
    shown = json.loads(done.stdout)
    assert (shown["prompt"], shown["path"]) == ("Be brief.", str(path))
    assert shown["argv"][0] == str(real_cli())
    assert "--tools=Read" in shown["argv"]
    assert shown["cwd"] == str(project.root)
    assert shown["env"]["HOME"] == str(project.home)
    assert "s3cret" not in done.stdout
    assert "dummy" not in done.stdout  # the API key


def test_show_is_readable(project: Project) -> None:
    project.agent("one", "Be [brief].")
    done = agent_pool(project, "show", "one", "--no-measure")
    assert done.returncode == 0
    assert done.stdout.endswith("System prompt (11 characters)\nBe [brief].\n\n")
    assert f"\nFolder\n{project.root}\n" in done.stdout


def test_the_starter_agent_runs(project: Project) -> None:
    assert agent_pool(project, "init").returncode == 0
    with LoopbackAPI(lambda _: "Nothing found.").in_thread() as api:
        done = agent_pool(project, "run", "code-reviewer", "Review it.", url=api.url)
        assert (done.returncode, done.stdout) == (0, "Nothing found.\n"), done.stderr
        asked = api.requests[-1]
    assert "You review code." in asked.system_text
    assert "Read" in asked.tools
    assert "Write" not in asked.tools
