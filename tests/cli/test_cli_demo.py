"""`agent-pool demo`."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from agent_pool import TaskFailed
from agent_pool.cli.demo.command import closing_sentence
from agent_pool.cli.demo.measurement import ROUNDS, RunnerMeasurement, measure_runner
from agent_pool.cli.demo.progress import DemoProgress
from agent_pool.cli.demo.scenario import AGENTS, CheckedTask, counting_tasks
from agent_pool.cli.output import console
from agent_pool.loopback import ApiUsage
from support.cli_runner import agent_pool, command, invoke
from support.environment import UNREACHABLE_URL
from support.project import TempProject, file_contents


@pytest.mark.long
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
    for task in counting_tasks(ROUNDS):
        assert done.stderr.count(task.answer) == 2
    table = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    pool, single = table["Processes started"].split("\t")
    assert int(pool) <= len(AGENTS)
    assert int(single) == ROUNDS * len(AGENTS)
    closing = done.stdout.splitlines()[-1]
    for measured in ("All tasks", "Memory of all processes, peak"):
        for figure in table[measured].split("\t"):
            assert figure in closing
    assert closing.startswith("18 tasks of 6 agents: the pool answered them in ")
    assert "\x1b" not in done.stdout + done.stderr


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        return str(folder) in process.environ().get("TMPDIR", "")
    except psutil.Error:
        return False


@pytest.mark.long
@pytest.mark.parametrize("answers", [1, 2], ids=["while the pool runs", "while claude -p runs"])
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
    for _ in range(answers):  # the pool gives the first answer to this task
        assert any(counting_tasks(1)[0].answer in line for line in running.stderr)
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
        self.asked: list[CheckedTask] = []
        self._wrong = wrong

    async def run_task(self, task: CheckedTask, show: Callable[[str], None]) -> str:
        self.asked.append(task)
        return "many" if len(self.asked) == self._wrong else task.answer

    async def memory(self) -> int:
        return len(self.asked)

    async def processes(self) -> int:
        return len(self.asked)


def measure(runner: FakeRunner) -> RunnerMeasurement:
    """Measure a fake runner."""
    return asyncio.run(measure_runner(runner, DemoProgress(console(err=True))))


def test_a_runner_is_measured_by_all_tasks_of_all_agents() -> None:
    runner = FakeRunner()
    figures = measure(runner)
    assert runner.asked == counting_tasks(ROUNDS)
    assert len({task.answer for task in runner.asked}) == len(runner.asked) == figures.tasks == 18
    assert (figures.agents, figures.processes, figures.memory) == (6, 18, 18)
    assert (figures.written, figures.read) == (7, 5)


@pytest.mark.parametrize("wrong", [1, ROUNDS * len(AGENTS)])
def test_a_single_wrong_answer_fails_the_whole_demo(wrong: int) -> None:
    with pytest.raises(TaskFailed, match="with 'many', not 'notes/"):
        measure(FakeRunner(wrong))


POOL = RunnerMeasurement("pool", 6, 18, 0.5, 2.0, 0.3, 3, 600 << 20, 1000, 20000)
SINGLE = RunnerMeasurement("claude -p per task", 6, 18, 0.0, 8.0, 1.2, 18, 500 << 20, 900, 21000)


def test_the_figures_are_printed_as_json_or_table(
    here: TempProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pretend(cli: Path) -> list[RunnerMeasurement]:
        return [POOL, SINGLE]

    monkeypatch.setattr("agent_pool.cli.demo.command._measure_runners", pretend)
    shown = json.loads(invoke("demo", "--json").stdout)
    assert [(one["name"], one["seconds"], one["memory"]) for one in shown] == [
        ("pool", 2.0, 600 << 20),
        ("claude -p per task", 8.0, 500 << 20),
    ]
    assert invoke("demo").stdout.splitlines()[:4] == [
        "Measured\tpool\tclaude -p per task",
        "Ready for the tasks\t500 ms\t-",
        "All tasks\t2.0 s\t8.0 s",
        "One task, median\t300 ms\t1.2 s",
    ]


def test_the_closing_sentence_claims_only_what_was_measured() -> None:
    assert closing_sentence(POOL, SINGLE) == (
        "18 tasks of 6 agents: the pool answered them in 2.0 s, after 500 ms of preparation, with "
        "3 processes and at most 600 MiB; claude -p in 8.0 s, with 18 processes and at most "
        "500 MiB. Once ready, the pool was 4.0 times as fast."
    )
    assert closing_sentence(POOL, replace(SINGLE, seconds=1.5)).endswith("at most 500 MiB.")


def test_a_demo_without_a_cli_explains_how_to_get_one(
    here: TempProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(here.home))
    monkeypatch.setattr("agent_pool.claude.binary.bundled_cli", lambda: None)
    done = invoke("demo")
    assert done.exit_code == 3
    assert "pip install claude-agent-sdk" in done.stderr
