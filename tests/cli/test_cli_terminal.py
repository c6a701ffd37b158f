"""What a terminal gets from real commands: no foreign escapes, and lines that fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent_pool.loopback import LoopbackAPI, ToolUseBlock, call_tools
from support.cli_runner import agent_pool, command, package_place
from support.environment import UNREACHABLE_URL
from support.project import TempProject
from support.terminals import run_on_terminal, useless_stderr
from support.variants import later

EVIL = "\x1b]0;owned\x07\x9b31m\u202eb\x08\u2066"
SHOWN = r"\x1b]0;owned\x07\x9b31m\u202eb\x08\u2066"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class EvilProject(TempProject):
    """A project with an agent, a broken agent, and a path, all with characters for terminals."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / f"place{EVIL}")
        text = json.dumps(f"Tests. {EVIL}")
        self.agent("one", f"You test. {EVIL}", description=text, model="opus", nonsense=text)
        self.agent("two", description=text, expertise=json.dumps([f"gone{EVIL}"]))
        (self.root / ".claude" / "agents" / f"x{EVIL}.md").write_text("---\n[\n---\n")


@pytest.fixture
def evil(tmp_path: Path) -> EvilProject:
    (tmp_path / f"place{EVIL}").mkdir()
    return EvilProject(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("agents",),
        ("show", "one", "--no-measure"),
        ("doctor", "--quick"),
        ("run", "one", "x", "--schema", EVIL),
        ("run", f"one{EVIL}", "x"),
        ("run", "one", "x", f"--{EVIL}"),
    ],
    ids=lambda arguments: " ".join(arguments).replace(EVIL, "EVIL"),
)
def test_no_command_lets_foreign_escapes_reach_a_terminal(
    evil: EvilProject, arguments: tuple[str, ...]
) -> None:
    environ = evil.environment(UNREACHABLE_URL, AGENT_POOL_LOG="info")
    done = run_on_terminal(command(*arguments), environ, evil.root)
    assert RAW.search(done.text) is None
    assert "owned" in done.text


def test_an_answer_and_its_progress_reach_a_terminal_as_escapes(evil: EvilProject) -> None:
    call = ToolUseBlock("Bash", {"command": f"echo '{EVIL}'"})
    with LoopbackAPI(call_tools(call, then=lambda _: f"Done. {EVIL}")).in_thread() as api:
        done = run_on_terminal(
            command("run", "one", "Look."), evil.environment(api.url), evil.root, columns=200
        )
    assert done.code == 0, done.screen
    assert RAW.search(done.text) is None
    assert f"Done. {SHOWN}" in done.text
    assert f"→ Bash: echo '{SHOWN}'" in done.text


DESCRIPTION = "Reviews a commit, a branch or files for bugs, missing tests and unclear code. " * 2
NAMES = ("a", "code-reviewer-for-the-backend-services", "x" * 70)


@pytest.fixture
def listed(project: TempProject) -> TempProject:
    """Return a project with agents of short and long names, one of them broken."""
    for name in NAMES:
        project.agent(name, description=DESCRIPTION, tools="[Read, Grep]", model="claude-opus-4-8")
    project.agent("broken", expertise="[gone]")
    return project


@pytest.mark.parametrize("columns", [60, later(80)])
@pytest.mark.parametrize("name", ["agents", "doctor"])
def test_listings_fit_the_terminal_and_break_no_name(
    listed: TempProject, name: str, columns: int
) -> None:
    environ = listed.environment(UNREACHABLE_URL, COLUMNS=str(columns))
    quick = ("--quick",) if name == "doctor" else ()
    lines = run_on_terminal(command(name, *quick), environ, listed.root, columns).lines
    for word in (*NAMES, "broken"):
        assert any(word in line.replace(",", " ").split() for line in lines), (word, lines)
    # Only a word that is itself longer than the line goes beyond it.
    long = [line for line in lines if len(line) > columns and len(line.split()) > 1]
    assert [line for line in long if len(max(line.split(), key=len)) < columns - 4] == []
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_pipe_gets_cells_with_tabs_and_no_padding(listed: TempProject) -> None:
    lines = agent_pool(listed, "agents").stdout.splitlines()
    head, *rows = [line.split("\t") for line in lines if "\t" in line]
    assert head == ["Agent", "Description", "Skills, expertise", "Model", "Tools", "File"]
    text = DESCRIPTION.strip()
    assert rows == [
        [name, text, "", "claude-opus-4-8", "Read, Grep", f".claude/agents/{name}.md"]
        for name in sorted(NAMES)
    ]
    findings = [
        line.split("\t") for line in agent_pool(listed, "doctor", "--quick").stdout.splitlines()
    ]
    assert [line[1] for line in findings[:2]] == ["Package", "Settings"]
    assert all(cell == cell.strip() for line in findings for cell in line)


def test_json_on_a_terminal_has_escapes_and_exact_values(evil: EvilProject) -> None:
    environ = evil.environment(UNREACHABLE_URL)
    done = run_on_terminal(command("agents", "--json"), environ, evil.root)
    found = {one["name"]: one for one in json.loads(done.screen)}
    assert found["one"]["description"] == f"Tests. {EVIL}"
    assert found["one"]["path"] == str(evil.root / ".claude" / "agents" / "one.md")
    assert agent_pool(evil, "agents", "--json").stdout == done.screen


@pytest.mark.parametrize(
    ("kind", "arguments", "code"),
    [
        ("reader gone", ("agents",), 0),
        ("disk full", ("show", "nobody"), 3),
        ("closed", ("rum",), 2),
    ],
    ids=["agents", "show", "rum"],
)
def test_a_stderr_that_takes_nothing_changes_no_exit_code(
    project: TempProject, kind: str, arguments: tuple[str, ...], code: int
) -> None:
    project.agent("one")
    with useless_stderr(kind) as stderr:
        done = subprocess.run(
            ["sh", "-c", f'"$0" "$@" {"2>&-" if kind == "closed" else ""}', *command(*arguments)],
            cwd=project.root,
            env=project.environment(UNREACHABLE_URL, AGENT_POOL_LOG="debug", **package_place()),
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=60,
        )
    assert done.returncode == code


def test_log_lines_and_tracebacks_reach_a_terminal_as_escapes(project: TempProject) -> None:
    code = (
        "import logging, sys\nfrom agent_pool.cli.output import guard_streams\nguard_streams()\n"
        "print('printed', sys.argv[1])\nlogging.warning('logged %s', sys.argv[1])\n"
        "raise ValueError('raised ' + sys.argv[1])"
    )
    environ = project.environment(UNREACHABLE_URL)
    done = run_on_terminal([sys.executable, "-c", code, EVIL], environ, project.root)
    assert RAW.search(done.text) is None
    for verb in ("printed", "logged", "raised"):
        assert f"{verb} {SHOWN}" in done.screen
