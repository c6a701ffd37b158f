"""The command line: fields without effect, the size of a prompt, schemas, and questions."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from agent_pool.loopback import LoopbackAPI, ToolUse, calling, echo
from cli_world import agent_pool, command, invoke
from support import Project

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name, value in project.environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.root)
    return project


def test_agents_and_doctor_name_what_has_no_effect(here: Project) -> None:
    here.agent("one", **{"memory": "user", "allowed-tools": "Read"})
    here.agent("two", mcpServers="[gone]")
    told = invoke("agents").stdout
    assert "one: memory: a pooled agent begins each task with nothing remembered" in told
    assert "one: allowed-tools: no such field (did you mean tools?)" in told
    found = {
        one["name"]: one["not_honoured"] for one in json.loads(invoke("agents", "--json").stdout)
    }
    assert set(found["one"]) == {"memory", "allowed-tools"}
    assert "'gone'" in found["two"]["mcpServers"]
    done = invoke("doctor", "--quick", "--json")
    said = {(f["state"], f["said"].split()[0]) for f in json.loads(done.stdout)["findings"]}
    assert done.exit_code == 1
    assert {("warning", "one"), ("wrong", "two")} <= said


def test_the_size_of_a_prompt_is_measured_with_what_makes_it(project: Project) -> None:
    project.agent("one", "Be exact.", tools="Read, Grep")
    (project.root / "CLAUDE.md").write_text("x" * 4321)
    done = agent_pool(project, "show", "one", "--measure", "--json")
    size = json.loads(done.stdout)["size"]
    assert {"Read", "Grep"} <= set(size["tools"])
    assert list(size["tools"].values()) == sorted(size["tools"].values(), reverse=True)
    assert size["messages"] > 4321
    assert size["total"] == sum(size["tools"].values()) + size["system"] + size["messages"]
    assert size["tokens"] == size["total"] // 4
    assert "size" not in json.loads(agent_pool(project, "show", "one", "--json").stdout)


def test_the_size_of_a_prompt_is_readable(project: Project) -> None:
    project.agent("one", tools="[]")
    lines = agent_pool(project, "show", "one", "--measure").stdout.splitlines()
    (place,) = [n for n, line in enumerate(lines) if line.startswith("Sent with every task (")]
    assert [line.split()[1:] for line in lines[place + 1 :]] == [
        ["system", "prompt"],
        ["messages"],
        ["0", "tools"],
    ]


@pytest.mark.parametrize("given", ["text", "file"])
def test_run_prints_an_answer_by_a_schema(project: Project, given: str) -> None:
    project.agent("one")
    schema = json.dumps(SCHEMA)
    if given == "file":
        (project.root / "form.json").write_text(schema)
        schema = "form.json"
    with LoopbackAPI(calling(ToolUse("StructuredOutput", {"a": 7}))).in_thread() as api:
        done = agent_pool(project, "run", "one", "x", "--schema", schema, "-q", url=api.url)
    assert (done.returncode, done.stdout) == (0, '{"a": 7}\n')


@pytest.mark.parametrize("schema", ["{", "nowhere.json", "list.json"])
def test_a_schema_that_cannot_be_read_is_a_wrong_command_line(here: Project, schema: str) -> None:
    (here.root / "list.json").write_text("[]")
    done = invoke("run", "one", "x", "--schema", schema)
    assert done.exit_code == 2
    assert "--schema" in done.stderr


def test_run_asks_at_the_terminal(project: Project) -> None:
    project.agent("one", permissionMode="ask")
    wanted, unwanted = project.root / "wanted", project.root / "unwanted"
    assert _asked(project, wanted, answer=b"y\n")
    assert wanted.exists()
    assert _asked(project, unwanted, answer=b"\n")
    assert not unwanted.exists()


def _asked(project: Project, file: Path, answer: bytes) -> bool:
    """Run a task that makes a file, answering the question; whether all of it was shown."""
    made = f"touch {file} {'#' * 200} the end"
    script = calling(ToolUse("Bash", {"command": made, "description": "Makes it."}))
    ours, theirs = pty.openpty()
    with LoopbackAPI(script).in_thread() as api:
        running = subprocess.Popen(
            command("run", "one", "Make it.", "--ask"),
            cwd=project.root,
            env=project.environment(api.url),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
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
            os.write(ours, answer)
            running.communicate(timeout=60)
        finally:
            os.close(ours)  # whatever still asks is told that nobody is there
    assert running.returncode == 0
    return made.encode() in shown


def test_without_a_terminal_nothing_is_asked_and_it_is_denied(project: Project) -> None:
    project.agent("one", permissionMode="ask")
    file = project.root / "file"
    script = calling(ToolUse("Bash", {"command": f"touch {file}"}), then=echo)
    with LoopbackAPI(script).in_thread() as api:
        done = agent_pool(project, "run", "one", "x", "--ask", url=api.url, stdin=b"y\ny\n")
    assert done.returncode == 0
    assert "not permitted" in done.stdout
    assert not file.exists()
