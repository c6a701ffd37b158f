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
from agent_pool.cli.demo.measurement import (
    PARALLEL_TASKS,
    SEQUENTIAL_TASKS,
    RunnerMeasurement,
    measure_runner,
)
from agent_pool.cli.demo.progress import DemoProgress
from agent_pool.cli.demo.runners import MeasuredAnswer
from agent_pool.cli.demo.scenario import CheckedTask, CountingModel, counting_task
from agent_pool.cli.output import console
from agent_pool.loopback import ApiUsage
from support.cli_runner import agent_pool, command, invoke
from support.environment import UNREACHABLE_URL
from support.project import TempProject, file_contents


def test_the_demo_measures_both_runners_offline_and_leaves_nothing(
    project: TempProject, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = agent_pool(
        project,
        "demo",
        url=UNREACHABLE_URL,
        without=("ANTHROPIC_API_KEY", "IS_SANDBOX"),
        TMPDIR=str(temporary),
    )
    assert done.returncode == 0, done.stderr
    assert file_contents(project.home) == {}
    assert list(temporary.iterdir()) == []
    assert [process for process in psutil.process_iter() if _is_of(process, temporary)] == []
    for number in range(1, SEQUENTIAL_TASKS + 1):
        expected = 4 if number <= PARALLEL_TASKS else 2
        assert done.stderr.count(counting_task(number).answer) == expected
    table = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line)
    assert next(iter(table)) == "Measured"
    assert f"{PARALLEL_TASKS} tasks at once" in table
    assert "\x1b" not in done.stdout + done.stderr


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        return str(folder) in process.environ().get("TMPDIR", "")
    except psutil.Error:
        return False


@pytest.mark.long
@pytest.mark.parametrize("answers", [1, 3], ids=["while the pool runs", "while claude -p runs"])
def test_an_interrupted_demo_leaves_no_process_and_no_file(
    project: TempProject, tmp_path: Path, answers: int
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    running = subprocess.Popen(
        command("demo"),
        cwd=project.root,
        env=project.environment(UNREACHABLE_URL, TMPDIR=str(temporary)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    for _ in range(answers):  # the pool gives the first two answers to this task
        assert any(counting_task(1).answer in line for line in running.stderr)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert (running.returncode, stdout) == (130, "")
    assert stderr.endswith("stopped by SIGINT\n")
    assert list(temporary.iterdir()) == []
    assert [process for process in psutil.process_iter() if _is_of(process, temporary)] == []


class FakeRunner:
    """A task runner that answers at once. Answer number `wrong`, from 1, is wrong."""

    name = "fake"
    warm_up = None

    def __init__(self, wrong: int = 0) -> None:
        usage = ApiUsage(cache_creation_input_tokens=7, cache_read_input_tokens=5)
        self.sandbox: Any = SimpleNamespace(
            api=SimpleNamespace(usage=SimpleNamespace(total=SimpleNamespace(usage=usage)))
        )
        self._wrong = wrong
        self._asked = 0

    async def run_task(self, task: CheckedTask, show: Callable[[str], None]) -> MeasuredAnswer:
        self._asked += 1
        answer = "many" if self._asked == self._wrong else task.answer
        return MeasuredAnswer(answer, task.number / 10, task.number)

    async def total_memory(self, answers: Iterable[MeasuredAnswer]) -> int:
        return sum(answer.memory for answer in answers)


def measure(runner: FakeRunner) -> RunnerMeasurement:
    """Measure a fake runner."""
    progress = DemoProgress(console(err=True))
    return asyncio.run(measure_runner(runner, CountingModel(), progress))


def test_a_runner_is_measured_by_its_own_answers() -> None:
    figures = measure(FakeRunner())
    assert (figures.warm_up, figures.task) == (None, 0.35)
    assert (figures.memory_first, figures.memory_last, figures.memory_at_once) == (1, 6, 10)
    assert (figures.written, figures.read) == (7, 5)


@pytest.mark.parametrize("wrong", [1, SEQUENTIAL_TASKS + PARALLEL_TASKS])
def test_a_single_wrong_answer_fails_the_whole_demo(wrong: int) -> None:
    with pytest.raises(TaskFailed, match="was answered 'many', not 'notes/"):
        measure(FakeRunner(wrong))


def test_the_figures_are_printed_as_json_or_table(
    here: TempProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = [
        RunnerMeasurement("pool", 0.5, 0.06, 0.9, 2 << 20, 3 << 20, 9 << 20, 1000, 20000),
        RunnerMeasurement(
            "claude -p per task", None, 0.6, 1.2, 2 << 20, 2 << 20, 8 << 20, 900, 21000
        ),
    ]

    async def pretend(cli: Path) -> list[RunnerMeasurement]:
        return figures

    monkeypatch.setattr("agent_pool.cli.demo.command._measure_runners", pretend)
    shown = json.loads(invoke("demo", "--json").stdout)
    assert [(one["name"], one["warm_up"], one["task"]) for one in shown] == [
        ("pool", 0.5, 0.06),
        ("claude -p per task", None, 0.6),
    ]
    assert [line.split("  ")[0] for line in invoke("demo").stdout.splitlines()[:4]] == [
        "Measured",
        "Ready for a first task",
        "One task, median",
        "4 tasks at once",
    ]


def test_a_demo_without_a_cli_explains_how_to_get_one(
    here: TempProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(here.home))
    monkeypatch.setattr("agent_pool.claude.binary.bundled_cli", lambda: None)
    done = invoke("demo")
    assert done.exit_code == 3
    assert "pip install claude-agent-sdk" in done.stderr
