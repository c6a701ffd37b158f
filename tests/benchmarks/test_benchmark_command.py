"""The command line of the benchmark."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

import agent_pool
from agent_pool.loopback import ModelRequest, TextBlock, ToolUseBlock
from benchmarks import command
from benchmarks.comparison import METHOD_LABELS, BenchmarkPlan
from benchmarks.memory import AGENTS, WORKLOADS
from benchmarks.results import BenchmarkResult
from support.benchmark_runs import IMPORTABLE, sample_result, start_command
from support.environment import real_cli
from support.process_checks import is_alive, reapers, watchdogs
from support.project import TempProject
from support.waiting import blocking_wait

SOURCES = Path(agent_pool.__file__).parent


def invoke(*args: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(command.benchmarks, args, prog_name="python -m benchmarks")


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[BenchmarkPlan]:
    """Collect the plans that the command makes instead of running them."""
    plans: list[BenchmarkPlan] = []

    async def pretend(plan: BenchmarkPlan, cli: Path, show: object) -> BenchmarkResult:
        plans.append(plan)
        return sample_result()

    monkeypatch.setenv("CLAUDE_CLI", str(real_cli()))
    monkeypatch.setattr(command, "_measure", pretend)
    return plans


def test_the_options_choose_methods_and_number_of_tasks(plans: list[BenchmarkPlan]) -> None:
    assert invoke().exit_code == 0
    assert invoke("--methods", "pool, bare", "--rounds", "7", "--pairs", "9").exit_code == 0
    assert invoke("--quick").exit_code == 0
    assert [(list(plan.methods), plan.rounds, plan.pairs) for plan in plans] == [
        (list(METHOD_LABELS), 30, 200),
        (["bare", "pool"], 7, 9),
        (list(METHOD_LABELS), 5, 40),
    ]


def test_json_goes_to_stdout_or_a_file_and_the_plot_too(
    plans: list[BenchmarkPlan], tmp_path: Path
) -> None:
    alone = invoke("--json", "-", "--plot", str(tmp_path / "bench.svg"))
    both = invoke("--json", str(tmp_path / "bench.json"))
    printed = json.loads(alone.stdout)
    assert printed["methods"]["pool"]["median"] == 0.05
    assert printed["ratios"][0] == {
        "one": "mcp",
        "other": "bare",
        "bound": 1.3,
        "at_most": True,
        "median": pytest.approx(1.25),
        "fastest": pytest.approx(2.0),
        "cpu": pytest.approx(1.25),
    }
    acceptance = printed["acceptance"]
    assert acceptance["ratio"] == {
        "median": pytest.approx(1.25),
        "fastest": pytest.approx(1.5),
        "cpu": pytest.approx(1.25),
    }
    assert (acceptance["pairs"], acceptance["bound"], acceptance["met"]) == (3, 1.1, False)
    assert json.loads((tmp_path / "bench.json").read_text()) == printed
    assert "Time for a task" in both.stdout
    assert "<svg" in (tmp_path / "bench.svg").read_text()


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    done = invoke("--methods", "pool,fork")
    assert done.exit_code == 2
    assert "no method is called 'fork'; choose from bare, pool, mcp" in one_line(done.stderr)


def test_a_plot_without_matplotlib_is_refused_before_the_run(
    plans: list[BenchmarkPlan], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    done = invoke("--plot", str(tmp_path / "bench.svg"))
    assert (done.exit_code, plans) == (2, [])
    assert "matplotlib is not installed: pip install -e '.[bench]'" in one_line(done.stderr)


def one_line(text: str) -> str:
    """Undo the line breaks of an error message."""
    return " ".join(text.split())


def test_the_command_runs_from_a_checkout_and_explains_itself(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"],
        cwd=Path(command.__file__).parents[1],
        env={"PYTHONPATH": IMPORTABLE, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: python -m benchmarks ")
    assert all(f"\n    {name} " in done.stdout for name in METHOD_LABELS)


def test_the_package_does_not_import_the_benchmarks() -> None:
    pattern = re.compile(r"^\s*(?:from|import) benchmarks\b", re.MULTILINE)
    files = sorted(SOURCES.rglob("*.py"))
    assert files
    assert [file for file in files if pattern.search(file.read_text(encoding="utf-8"))] == []


def test_options_of_the_comparison_are_refused_before_memory() -> None:
    done = invoke("--quick", "memory")
    assert done.exit_code == 2
    assert "--quick has no effect on memory" in done.stderr


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("max_rss", 2, "'max_rss': expected SETTING=VALUE"),
        ("max_rss=many", 3, "max_rss: expected bytes, or a number with a unit"),
        ("no_such_setting=1", 3, "no_such_setting"),
    ],
)
def test_a_wrong_setting_of_the_memory_benchmark_is_one_message(
    setting: str, code: int, message: str
) -> None:
    done = invoke("memory", "--set", setting)
    assert done.exit_code == code
    assert message in one_line(done.stderr)


@pytest.mark.parametrize(("name", "calls"), [("output", 3), ("slow", 6), ("long", 8)])
def test_the_model_of_a_memory_workload_makes_all_its_calls(name: str, calls: int) -> None:
    workload = WORKLOADS[name]
    messages = [{"role": "user", "content": workload.task(1)}]
    made = 0
    while isinstance((reply := workload.reply(request_with(messages))).blocks[0], ToolUseBlock):
        made += len(reply.blocks)
        messages.append({"role": "assistant", "content": f"tool_use {reply.blocks}"})
        messages.append({"role": "user", "content": "tool_use_id, and the output"})
    assert (reply.blocks, made) == ((TextBlock("done"),), calls)
    assert len(messages) == 1 + 2 * len(workload.steps)


def request_with(messages: list[dict[str, str]]) -> ModelRequest:
    """Build a request with these messages."""
    return ModelRequest(body={"messages": messages}, headers={}, path="", index=1, received_at=0.0)


@pytest.mark.long
def test_memory_and_times_of_both_workers_are_reported(
    project: TempProject, tmp_path: Path
) -> None:
    running = start_command(project, "memory", "--tasks", "2", temporary=tmp_path / "tmp")
    stdout, stderr = running.communicate(timeout=100)
    assert (running.returncode, stderr) == (0, "")
    memory = r"^ *(\d+) +(\w+) +(worker-\d) +(\d+) MiB +([\d.]+) MiB$"
    found = re.findall(memory, stdout, re.MULTILINE)
    assert [row[:3] for row in found] == [
        ("1", "lean", "worker-1"),
        ("1", "fast", "worker-2"),
        ("2", "lean", "worker-1"),
        ("2", "fast", "worker-2"),
    ]
    assert all(int(tree) > 50 and float(own) > 10 for *_, tree, own in found)
    times = re.findall(r"^(lean|fast)(?: +(\d+) ms){3}$", stdout, re.MULTILINE)
    assert [agent for agent, _ in times] == ["lean", "fast"]
    assert all(int(processor) > 10 for _, processor in times)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.long
def test_agents_in_turn_and_first_tasks_are_compared_with_claude(
    project: TempProject, tmp_path: Path
) -> None:
    options = ("--agents", "2", "--rounds", "1")
    running = start_command(project, "agents", *options, temporary=tmp_path / "tmp")
    stdout, stderr = running.communicate(timeout=100)
    assert (running.returncode, stderr) == (0, "")
    rows = re.findall(r"^(\S.*?\S) +(\d+) ms +(\d+) ms +([\d.]+) +of (\d)$", stdout, re.MULTILINE)
    assert [(title.split(",")[0], int(number)) for title, *_, number in rows] == [
        ("2 agents in turn", 2),
        ("first task of an agent", 1),
        ("first task in a project", 1),
    ]
    assert all(float(ratio) > 0 for *_, ratio, _ in rows)
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.long
def test_the_daemon_benchmark_compares_sessions_and_leaves_nothing(
    project: TempProject, tmp_path: Path
) -> None:
    running = start_command(
        project,
        *("daemon", "--sessions", "2", "--starts", "1", "--pairs", "1"),
        temporary=tmp_path / "tmp",
    )
    stdout, stderr = running.communicate(timeout=110)
    assert (running.returncode, stderr) == (0, "")
    counts = re.findall(
        r"^2 sessions, (.+): (\d+) processes, (\d+) of them of Claude Code, [\d,]+ MiB$",
        stdout,
        re.MULTILINE,
    )
    assert [name for name, *_ in counts] == ["daemon", "a server each"]
    assert int(counts[0][1]) < int(counts[1][1])
    assert int(counts[0][2]) < int(counts[1][2])
    assert len(re.findall(r"daemon ÷ a server each: 0\.\d\d", stdout)) == 2
    assert re.search(r"ratio, median of 1 pairs: \d+\.\d\d$", stdout.rstrip()) is not None
    assert project.processes() == []
    assert list((tmp_path / "tmp").iterdir()) == []


def processes_of_benchmark(pid: int) -> list[psutil.Process]:
    """Return the running benchmark's process, that of its pool, the watchdog's and its workers."""
    (pool,) = psutil.Process(pid).children()
    # The watchdog's two processes are no children of the pool; they are the parents of the workers.
    (watchdog,), (reaper,) = watchdogs(pool.pid), reapers(pool.pid)
    blocking_wait(lambda: len(watchdog.children()) == len(AGENTS))
    return [psutil.Process(pid), pool, reaper, watchdog, *watchdog.children()]


@pytest.mark.long
def test_an_interrupted_memory_benchmark_leaves_no_process(
    project: TempProject, tmp_path: Path
) -> None:
    running = start_command(project, "memory", "--tasks", "500", temporary=tmp_path / "tmp")
    assert running.stdout is not None
    try:
        assert any(line.split()[0] == "1" for line in running.stdout)  # the first task is done
        processes = processes_of_benchmark(running.pid)
    finally:  # a failed test must not leave hundreds of tasks either
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
    assert (running.returncode, stderr) == (130, "stopped by SIGINT\n")
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert [process for process in alive if is_alive(process.pid)] == []
    assert list((tmp_path / "tmp").iterdir()) == []
