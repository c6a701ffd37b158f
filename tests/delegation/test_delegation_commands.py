"""The command line: fields without effect, the size of a prompt, schemas, permissions."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import pytest

from agent_pool.loopback import LoopbackAPI, ToolUseBlock, call_tools, echo
from support.cli_runner import agent_pool, command, invoke, invoke_in
from support.project import TempProject

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
def here(project: TempProject, monkeypatch: pytest.MonkeyPatch) -> TempProject:
    """Return a project that is the current folder of this process, with its environment."""
    for name, value in project.environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.root)
    return project


def test_agents_and_doctor_name_fields_without_effect(here: TempProject) -> None:
    here.agent("one", **{"memory": "user", "allowed-tools": "Read"})
    here.agent("two", mcpServers="[gone]")
    listed = invoke("agents")
    assert listed.exit_code == 0, listed.output
    listing = listed.stdout
    assert "one: memory: a pooled agent starts each task without memories" in listing
    assert "one: allowed-tools: no such field (did you mean tools?)" in listing
    assert "two cannot be used: " in listing
    found = {agent["name"]: agent for agent in json.loads(invoke("agents", "--json").stdout)}
    assert set(found["one"]["warnings"]) == {"memory", "allowed-tools"}
    assert found["one"]["error"] is None
    assert "mcpServers" in found["two"]["error"]
    assert "'gone'" in found["two"]["error"]
    done = invoke("doctor", "--quick", "--json")
    said = {(f["state"], f["message"].split()[0]) for f in json.loads(done.stdout)["findings"]}
    assert done.exit_code == 1
    assert {("warning", "one"), ("wrong", "two")} <= said


def test_show_measures_the_size_of_each_prompt_part(project: TempProject) -> None:
    project.agent("one", "Be exact.", tools="Read, Grep")
    (project.root / "CLAUDE.md").write_text("x" * 4321)
    done = invoke_in(project, "show", "one", "--measure", "--json")
    size = json.loads(done.stdout)["size"]
    assert {"Read", "Grep"} <= set(size["tools"])
    assert list(size["tools"].values()) == sorted(size["tools"].values(), reverse=True)
    assert size["messages"] > 4321
    assert size["total"] == sum(size["tools"].values()) + size["system"] + size["messages"]
    assert size["tokens"] == size["total"] // 4
    assert "size" not in json.loads(invoke_in(project, "show", "one", "--json").stdout)


def test_show_prints_the_prompt_size_in_readable_lines(project: TempProject) -> None:
    project.agent("one", tools="[]")
    lines = invoke_in(project, "show", "one").stdout.splitlines()
    (place,) = [n for n, line in enumerate(lines) if line.startswith("Sent with every task (")]
    assert [line.split()[1:] for line in lines[place + 1 :]] == [
        ["system", "prompt"],
        ["messages"],
        ["0", "tools"],
    ]


def test_show_works_even_if_the_cli_cannot_start(project: TempProject) -> None:
    project.agent("one", "Be exact.")
    cli = project.root / "claude"
    cli.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo '2.1.330 (Claude Code)'\nexit 1\n")
    cli.chmod(0o755)
    done = invoke_in(project, "show", "one", CLAUDE_CLI=str(cli))
    assert done.returncode == 0
    assert "Be exact." in done.stdout
    assert "The size of the prompt could not be measured: " in done.stderr
    assert invoke_in(project, "show", "one", "--measure", CLAUDE_CLI=str(cli)).returncode == 3


@pytest.mark.parametrize("given", ["text", "file"])
def test_run_prints_an_answer_that_follows_a_schema(project: TempProject, given: str) -> None:
    project.agent("one")
    schema = json.dumps(SCHEMA)
    if given == "file":
        (project.root / "form.json").write_text(schema)
        schema = "form.json"
    with LoopbackAPI(call_tools(ToolUseBlock("StructuredOutput", {"a": 7}))).in_thread() as api:
        done = invoke_in(project, "run", "one", "x", "--schema", schema, "-q", url=api.url)
    assert (done.returncode, done.stdout) == (0, '{"a": 7}\n')


@pytest.mark.parametrize("schema", ["{", "nowhere.json", "list.json"])
def test_run_refuses_a_schema_that_cannot_be_read(here: TempProject, schema: str) -> None:
    (here.root / "list.json").write_text("[]")
    done = invoke("run", "one", "x", "--schema", schema)
    assert done.exit_code == 2
    assert "--schema" in done.stderr


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (b"y\n", "hello"),
        (b"\n", "The person in charge has not permitted this."),
        (b"\x04", "the question was closed without an answer."),
        (
            b"",
            "This is not permitted: there was no answer within 0.3 s (setting permission_timeout).",
        ),
    ],
    ids=["yes", "enter", "end of input", "nothing"],
)
def test_run_asks_for_permission_at_the_terminal(
    project: TempProject, typed: bytes, read: str
) -> None:
    project.agent("one", permissionMode="ask")
    patience = "100s" if typed else "300ms"
    with LoopbackAPI(call_tools(ToolUseBlock("Bash", {"command": COMMAND}))).in_thread() as api:
        environ = project.environment(api.url, AGENT_POOL_PERMISSION_TIMEOUT=patience)
        question, answer, messages = _run_and_type(project, environ, typed)
    assert COMMAND in question  # the whole command
    assert answer.endswith(read)
    assert ("This is not permitted: " in answer) is (typed in (b"\x04", b""))
    assert (project.root / "made").exists() is (typed == b"y\n")
    assert ("no answer came, so the request is denied" in messages) is (typed == b"")


COMMAND = f"tee made <<< hello {'#' * 200} the end"


def _run_and_type(
    project: TempProject, environ: dict[str, str], typed: bytes
) -> tuple[str, str, str]:
    """Run a task that asks, and type; return the question, the answer and the other messages."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        command("run", "one", "Make it.", "--ask", "--timeout", "90"),
        cwd=project.root,
        env=environ,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    assert running.stderr is not None
    shown = b""
    try:
        while not shown.endswith(b"[y/N] "):
            part = os.read(running.stderr.fileno(), 4096)
            assert part, shown
            shown += part
        os.write(ours, typed)
        stdout, stderr = running.communicate(timeout=60)
    finally:
        os.close(ours)  # a question that is still open gets the end of the input
    assert running.returncode == 0
    return shown.decode(), stdout.decode().strip(), stderr.decode()


def test_run_denies_permission_without_a_terminal(project: TempProject) -> None:
    project.agent("one", permissionMode="ask")
    file = project.root / "file"
    script = call_tools(ToolUseBlock("Bash", {"command": f"touch {file}"}), then=echo)
    with LoopbackAPI(script).in_thread() as api:
        done = agent_pool(project, "run", "one", "x", "--ask", url=api.url, stdin=b"y\ny\n")
    assert done.returncode == 0
    assert "not permitted" in done.stdout
    assert not file.exists()
