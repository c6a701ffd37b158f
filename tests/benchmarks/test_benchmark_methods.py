"""The methods of the benchmark, run with the real CLI."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from agent_pool.loopback import ModelRequest
from benchmarks import comparison, method_process, method_server
from benchmarks.comparison import METHOD_LABELS, BenchmarkPlan
from benchmarks.results import BenchmarkResult, MethodResult, TokenCounts, TokenUse
from benchmarks.tokens import token_use
from benchmarks.workload import sum_task
from support.benchmark_runs import print_tables, start_command
from support.environment import real_cli
from support.process_checks import is_alive
from support.project import TempProject
from support.waiting import run

TINY = BenchmarkPlan(
    tokens_after=(1, 2),
    rounds=1,
    pairs=0,
    memory_after=(1, 4),
    budget=0,
    at_once={2: 2},
    starts=0,
)
BOUND = 110.0


def compare(plan: BenchmarkPlan) -> BenchmarkResult:
    """Run the benchmark with the real CLI."""
    return run(comparison.compare_methods(plan, real_cli(), lambda _: None), BOUND)


def result_of(method: str) -> MethodResult:
    """Run one method through the whole benchmark."""
    return compare(replace(TINY, methods=(method,))).methods[method]


def test_every_label_belongs_to_a_method_that_can_be_run() -> None:
    assert list(METHOD_LABELS) == list(method_server.METHODS)


@pytest.mark.long
@pytest.mark.parametrize("method", METHOD_LABELS)
def test_each_method_answers_every_task_and_is_measured(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the user's own")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "the user's own")
    asked: list[ModelRequest] = []

    def keep(requests: Sequence[ModelRequest]) -> TokenUse:
        asked.extend(requests)
        return token_use(requests)

    monkeypatch.setattr(comparison, "token_use", keep)
    result = result_of(method)
    assert result.problem == ""
    assert list(result.tokens) == [1, 2]
    assert list(result.memory) == [1, 4]
    assert list(result.per_second) == [2]
    assert len(result.times) == 1
    assert (result.cpu or 0) > 0
    first, second = result.tokens[1], result.tokens[2]
    # Tools, the system prompt and the first message.
    assert first.without_header.written >= 3000
    assert second.without_header.read > first.without_header.read
    assert {request.headers["x-api-key"] for request in asked} == {"loopback"}
    assert not any("the user's own" in str(request.headers) for request in asked)
    assert all(memory.peak >= memory.after > 0 for memory in result.memory.values())
    assert (first.session != TokenCounts()) is (method == "agent-tool")


@pytest.mark.long
def test_pooled_tasks_and_bare_turns_are_timed_in_alternation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    time_paired_task = comparison.MethodRun.time_paired_task

    async def recorded(run: comparison.MethodRun) -> None:
        order.append(run.name)
        await time_paired_task(run)

    monkeypatch.setattr(comparison.MethodRun, "time_paired_task", recorded)
    plan = replace(
        TINY, methods=("bare", "pool"), tokens_after=(1,), pairs=4, memory_after=(), at_once={}
    )
    result = compare(plan)
    assert order == ["pool", "bare", "bare", "pool", "pool", "bare", "bare", "pool"]
    found = result.paired("pool", "bare")
    assert found is not None
    assert found.pairs == 4
    assert found.ratio.median == found.one.median / found.other.median > 0
    assert all(len(method.times) == 1 for method in result.methods.values())


@pytest.mark.long
def test_a_method_with_a_wrong_answer_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(method_process, "scripted_model", lambda _: "Eleven.")
    result = result_of("bare")
    assert result.problem == f"bare: {sum_task(1).text!r} was answered 'Eleven.'"
    assert (result.times, result.per_second) == ([], {})


def test_a_missing_agent_sdk_is_named_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "find_spec", lambda name: None)
    result = BenchmarkResult(methods={"sdk": result_of("sdk")})
    assert "claude-agent-sdk is not installed" in print_tables(result)


@pytest.mark.long
def test_an_interrupted_benchmark_leaves_no_process_and_no_file(
    project: TempProject, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    running = start_command(project, "--quick", "--methods", "pool,bare,mcp", temporary=temporary)
    assert running.stderr is not None
    assert any("in turns" in line for line in running.stderr)  # now all three have started
    try:
        processes = [psutil.Process(running.pid)]
        processes += processes[0].children(recursive=True)
        assert len(processes) >= 6  # the watchdogs and their workers are no children
    finally:  # a failed test must not leave them either
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=60)
    assert (running.returncode, stdout) == (130, "")
    assert stderr.endswith("stopped by SIGINT\n")
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert [process for process in alive if is_alive(process.pid)] == []
    assert list(temporary.iterdir()) == []
