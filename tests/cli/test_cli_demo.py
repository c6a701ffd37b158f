"""`agent-pool demo`."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from agent_pool.cli.demo.measure import AT_ONCE, IN_A_ROW, Figures
from agent_pool.cli.demo.scene import Task
from cli_world import NOWHERE, agent_pool, command, invoke, tree
from support import Project


def test_the_demo_plays_offline_measures_both_ways_and_leaves_nothing(
    project: Project, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = agent_pool(
        project,
        "demo",
        url=NOWHERE,
        without=("ANTHROPIC_API_KEY", "IS_SANDBOX"),
        TMPDIR=str(temporary),
    )
    assert done.returncode == 0, done.stderr
    assert tree(project.home) == {}
    assert list(temporary.iterdir()) == []
    assert [process for process in psutil.process_iter() if _is_of(process, temporary)] == []
    for number in range(1, IN_A_ROW + 1):
        assert done.stderr.count(Task(number).answer) == (4 if number <= AT_ONCE else 2)
    table = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line)
    assert next(iter(table)) == "Measured"
    assert f"{AT_ONCE} tasks at once" in table
    assert "\x1b" not in done.stdout + done.stderr


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        return str(folder) in process.environ().get("TMPDIR", "")
    except psutil.Error:
        return False


@pytest.mark.parametrize("answers", [1, 3], ids=["the pool at work", "claude -p at work"])
def test_an_interrupted_demo_leaves_nothing(project: Project, tmp_path: Path, answers: int) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    running = subprocess.Popen(
        command("demo"),
        cwd=project.root,
        env=project.environment(NOWHERE, TMPDIR=str(temporary)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    for _ in range(answers):  # the pool gives the first two to this task
        assert any(Task(1).answer in line for line in running.stderr)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert (running.returncode, stdout) == (130, "")
    assert stderr.endswith("stopped by SIGINT\n")
    assert list(temporary.iterdir()) == []
    assert [process for process in psutil.process_iter() if _is_of(process, temporary)] == []


def test_the_figures_are_there_for_programs(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [
        Figures("pool", 0.5, 0.06, 0.9, 2 << 20, 3 << 20, 9 << 20, 1000, 20000),
        Figures("claude -p for each", None, 0.6, 1.2, 2 << 20, 2 << 20, 8 << 20, 900, 21000),
    ]

    async def play(cli: Path) -> list[Figures]:
        return figures

    monkeypatch.setattr("agent_pool.cli.demo.command._play", play)
    shown = json.loads(invoke("demo", "--json").stdout)
    assert [(one["name"], one["warm_up"], one["task"]) for one in shown] == [
        ("pool", 0.5, 0.06),
        ("claude -p for each", None, 0.6),
    ]
    assert [line.split("  ")[0] for line in invoke("demo").stdout.splitlines()[:4]] == [
        "Measured",
        "Ready for a first task",
        "One task, median",
        "4 tasks at once",
    ]


def test_without_a_cli_the_demo_says_how_to_get_one(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(here.home))
    monkeypatch.setattr("agent_pool.claude.binary.bundled_cli", lambda: None)
    done = invoke("demo")
    assert done.exit_code == 3
    assert "pip install 'claude-agent-pool[claude]'" in done.stderr
