"""`agent-pool demo`."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from agent_pool import TaskFailed
from agent_pool.cli.demo.board import Board
from agent_pool.cli.demo.measure import AT_ONCE, IN_A_ROW, Figures, measure
from agent_pool.cli.demo.scene import Model, Task
from agent_pool.cli.demo.ways import Answer
from agent_pool.cli.output import console
from agent_pool.loopback import Usage
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


@pytest.mark.long
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


class Clerk:
    """A way that answers at once; one answer may be wrong, counted from 1."""

    name = "clerk"
    warm_up = None

    def __init__(self, wrong: int = 0) -> None:
        usage = Usage(cache_creation_input_tokens=7, cache_read_input_tokens=5)
        self.world: Any = SimpleNamespace(
            api=SimpleNamespace(books=SimpleNamespace(total=SimpleNamespace(usage=usage)))
        )
        self._wrong = wrong
        self._asked = 0

    async def carry_out(self, task: Task, tell: Callable[[str], None]) -> Answer:
        self._asked += 1
        answer = "many" if self._asked == self._wrong else task.answer
        return Answer(answer, task.number / 10, task.number)

    async def memory(self, answers: Iterable[Answer]) -> int:
        return sum(answer.memory for answer in answers)


def test_a_way_is_measured_by_its_answers() -> None:
    figures = asyncio.run(measure(Clerk(), Model(), Board(console(err=True))))
    assert (figures.warm_up, figures.task) == (None, 0.35)
    assert (figures.memory_first, figures.memory_last, figures.memory_at_once) == (1, 6, 10)
    assert (figures.written, figures.read) == (7, 5)


@pytest.mark.parametrize("wrong", [1, IN_A_ROW + AT_ONCE])
def test_a_wrong_answer_fails_the_demo(wrong: int) -> None:
    with pytest.raises(TaskFailed, match="was answered 'many', not 'notes/"):
        asyncio.run(measure(Clerk(wrong), Model(), Board(console(err=True))))


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
    assert "pip install claude-agent-sdk" in done.stderr
