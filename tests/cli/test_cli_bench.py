"""`agent-pool bench`."""

from __future__ import annotations

import json
import signal
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool.cli.bench import drive, measure
from agent_pool.cli.bench.figures import (
    Accounts,
    Figures,
    Memory,
    Result,
    Start,
    Tokens,
    percentile,
    spread,
)
from agent_pool.cli.bench.measure import NAMES, Plan
from agent_pool.cli.bench.plot import plot
from agent_pool.cli.bench.report import tables
from agent_pool.cli.bench.scene import Task, is_agents, model
from agent_pool.cli.bench.tokens import accounts
from agent_pool.cli.output import console
from agent_pool.loopback import PromptCache, Request
from agent_pool.loopback import measure as measured
from cli_world import NOWHERE, command, invoke
from support import Project, real_cli, run

TINY = Plan(tokens_after=(1, 2), rounds=1, memory_after=(1, 4), budget=0, at_once={2: 2}, starts=0)
BOUND = 110.0


def figures_of(way: str, plan: Plan = TINY) -> Figures:
    """One way, through the whole benchmark."""
    told: list[str] = []
    result = run(measure.measure(replace(plan, ways=(way,)), real_cli(), told.append), BOUND)
    return result.ways[way]


QUICK_WAYS = ("bare", "pool")
LONG_WAYS = [pytest.param(way, marks=pytest.mark.long) for way in NAMES if way not in QUICK_WAYS]


@pytest.mark.parametrize("way", [*QUICK_WAYS, *LONG_WAYS])
def test_every_way_answers_every_task_and_is_measured(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the user's own")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "the user's own")
    asked: list[Request] = []

    def keep(requests: Sequence[Request]) -> Accounts:
        asked.extend(requests)
        return accounts(requests)

    monkeypatch.setattr(measure, "accounts", keep)
    figures = figures_of(way)
    assert figures.problem == ""
    assert list(figures.tokens) == [1, 2]
    assert list(figures.memory) == [1, 4]
    assert list(figures.per_second) == [2]
    assert len(figures.times) == 1
    assert (figures.cpu or 0) > 0
    first, second = figures.tokens[1], figures.tokens[2]
    assert first.headless.written >= 3000  # tools, the system prompt and the first message
    assert second.headless.read > first.headless.read
    assert {request.headers["x-api-key"] for request in asked} == {"loopback"}
    assert not any("the user's own" in str(request.headers) for request in asked)
    assert all(memory.busy >= memory.rest > 0 for memory in figures.memory.values())
    assert (first.beside != Tokens()) is (way == "agent-tool")


def test_a_way_that_answers_wrongly_is_left_out_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drive, "model", lambda _: "Eleven.")
    figures = figures_of("bare")
    assert figures.problem == f"bare: {Task(1).text!r} was answered 'Eleven.'"
    assert (figures.times, figures.per_second) == ([], {})


def test_without_the_agent_sdk_its_row_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "find_spec", lambda name: None)
    result = Result(ways={"sdk": figures_of("sdk")})
    assert "claude-agent-sdk is not installed" in shown(result)


@pytest.mark.long
def test_an_interrupted_benchmark_leaves_nothing(project: Project, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    running = subprocess.Popen(
        command("bench", "--quick", "--ways", "pool,bare,mcp"),
        cwd=project.root,
        env=project.environment(NOWHERE, TMPDIR=str(temporary)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    assert any("in turns" in line for line in running.stderr)  # now all three are open
    mine = [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]
    assert len(mine) > 6
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert (running.returncode, stdout) == (130, "")
    assert stderr.endswith("stopped by SIGINT\n")
    _, alive = psutil.wait_procs(mine, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert list(temporary.iterdir()) == []


def request_of(number: int, *, header: str = "", system: str = "") -> Request:
    """A request as Claude Code sends it, billed by nobody yet."""
    blocks: list[dict[str, Any]] = [{"type": "text", "text": header}] if header else []
    mark = {"type": "ephemeral"}
    blocks.append({"type": "text", "text": system or "x" * 8000, "cache_control": mark})
    message = {"role": "user", "content": f"task {number}"}
    body = {"model": "claude-opus-5", "system": blocks, "messages": [message]}
    return Request(body=body, headers={}, path="", index=number, received_at=float(number))


def billed(requests: list[Request]) -> list[Request]:
    """The same requests, billed one after another."""
    cache = PromptCache()
    for request in requests:
        prompt = measured(request.body)
        request.usage = cache.charge(prompt, request.received_at)
        cache.commit(prompt, request.received_at)
    return requests


def test_a_header_that_changes_is_counted_and_left_out() -> None:
    header = "x-anthropic-billing-header: cc_version=1."
    found = accounts(billed([request_of(n, header=f"{header}{n}") for n in (1, 2)]))
    steady = accounts(billed([request_of(n) for n in (1, 2)]))
    assert found.sent.read == 0
    assert found.headless == steady.sent == steady.headless
    assert steady.sent.read == steady.sent.written > 2000


def test_what_a_session_spends_beside_its_agents_is_told_apart() -> None:
    agents = request_of(1, system="You review changes to a code base. " * 300)
    found = accounts(billed([agents, request_of(2)]))
    assert is_agents(agents)
    assert agents.usage is not None
    assert found.sent.written - found.beside.written == agents.usage.cache_creation_input_tokens


def test_tasks_begin_differently_and_the_model_answers_each() -> None:
    tasks = [Task(number) for number in range(10, 20)]
    assert len({task.text[:22] for task in tasks}) == 10
    for task in tasks:
        request = request_of(1, system="You review changes to a code base.")
        request = replace_text(request, task.text)
        assert model(request).blocks[0].text == task.answer  # type: ignore[union-attr]


def replace_text(request: Request, text: str) -> Request:
    """The same request with another task."""
    body = {**request.body, "messages": [{"role": "user", "content": text}]}
    return Request(body=body, headers={}, path="", index=1, received_at=0.0)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([], 90, None), ([3.0], 90, 3.0), ([1.0, 2.0], 50, 1.5), ([*map(float, range(11))], 90, 9.0)],
)
def test_percentiles_lie_between_the_values(
    values: list[float], percent: int, expected: float | None
) -> None:
    assert percentile(values, percent) == expected


def sample() -> Result:
    """A result as a run would give it."""
    memory = {1: Memory(300 << 20, 200 << 20, 3), 10: Memory(320 << 20, 210 << 20, 4)}
    tokens = {1: Accounts(Tokens(5000, 10), Tokens(4000, 20), Tokens())}
    bare = Figures(0.5, tokens, memory, [0.04, 0.02, 0.05], 0.08, {1: 20.0})
    pool = Figures(1.0, tokens, memory, [0.05, 0.03, 0.06], 0.1, {1: 18.0, 4: 40.0})
    return Result(
        machine={"Python": "3"},
        ways={"bare": bare, "pool": pool, "sdk": Figures(problem="it broke")},
        starts={"server": Start(spread([0.5]), 70 << 20)},
        noise=spread([0.02]),
    )


def shown(result: Result) -> str:
    """The tables as they are printed."""
    out = console()
    with out.capture() as captured:
        for table in tables(result):
            out.print(table)
    return captured.get()


def cells(text: str, row: str) -> list[list[str]]:
    """The rows of the tables that begin with this cell."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [line for line in lines if line and line[0] == row]


def test_the_tables_hold_the_figures() -> None:
    text = shown(sample())
    assert cells(text, "pool, library") == [
        ["pool, library", "50 ms", "58 ms", "30 ms", "100 ms", "1,000 ms", "3"],
        ["pool, library", "18.0", "40.0"],
        ["pool, library", "300 / 200 MB", "320 / 210 MB"],
        ["pool, library", "3", "4"],
        ["pool, library", "5,000 / 10"],
        ["pool, library", "4,000 / 20"],
    ]
    assert cells(text, "bare warm turn")[1] == ["bare warm turn", "20.0", "-"]
    assert cells(text, "pool, library / bare warm turn") == [
        ["pool, library / bare warm turn", "1.25", "1.50", "1.25", "at most 1.15"]
    ]
    assert cells(text, NAMES["sdk"]) == [[NAMES["sdk"], "-", "-", "-", "-", "0 ms", "it broke"]]
    assert cells(text, "server") == [["server", "500 ms", "500 ms", "500 ms", "70 MB"]]


def test_the_plot_is_svg_with_a_bar_and_a_curve_for_each_way() -> None:
    drawn = ElementTree.fromstring(plot(sample()))
    space = "{http://www.w3.org/2000/svg}"
    bars = [float(bar.attrib["width"]) for bar in drawn.findall(f"{space}rect")[1:]]
    assert [bar / bars[1] for bar in bars] == [pytest.approx(0.8, abs=0.01), 1.0]
    assert len(drawn.findall(f"{space}polyline")) == 2
    words = [text.text for text in drawn.findall(f"{space}text")]
    assert {"bare warm turn", "pool, library", "50 ms", "1", "10"} <= set(words)


def test_nothing_measured_is_an_empty_plot_and_no_table() -> None:
    assert ElementTree.fromstring(plot(Result())).attrib["height"] == "10"
    assert shown(Result()) == ""


@pytest.fixture
def planned(here: Project, monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that the command makes; they are not carried out."""
    plans: list[Plan] = []

    async def pretend(plan: Plan, cli: Path, tell: object) -> Result:
        plans.append(plan)
        return sample()

    monkeypatch.setenv("CLAUDE_CLI", str(real_cli()))
    monkeypatch.setattr("agent_pool.cli.bench.command._measure", pretend)
    return plans


def test_the_options_make_the_plan(planned: list[Plan]) -> None:
    assert invoke("bench").exit_code == 0
    assert invoke("bench", "--ways", "pool, bare", "--rounds", "7").exit_code == 0
    assert invoke("bench", "--quick").exit_code == 0
    assert [(list(plan.ways), plan.rounds) for plan in planned] == [
        (list(NAMES), 30),
        (["bare", "pool"], 7),
        (list(NAMES), 5),
    ]


def test_json_goes_to_stdout_or_a_file_and_the_plot_beside_it(
    planned: list[Plan], tmp_path: Path
) -> None:
    alone = invoke("bench", "--json", "-", "--plot", str(tmp_path / "bench.svg"))
    both = invoke("bench", "--json", str(tmp_path / "bench.json"))
    printed = json.loads(alone.stdout)
    assert printed["ways"]["pool"]["median"] == 0.05
    assert printed["ratios"][0] == {
        "one": "pool",
        "other": "bare",
        "bound": 1.15,
        "at_most": True,
        "median": pytest.approx(1.25),
        "least": pytest.approx(1.5),
        "cpu": pytest.approx(1.25),
    }
    assert json.loads((tmp_path / "bench.json").read_text()) == printed
    assert "Time for a task" in both.stdout
    assert (tmp_path / "bench.svg").read_text().startswith("<svg")


def test_an_unknown_way_is_refused_with_those_there_are(here: Project) -> None:
    done = invoke("bench", "--ways", "pool,fork")
    assert done.exit_code == 2
    assert "no way is called 'fork'; there are bare, pool, mcp" in " ".join(done.stderr.split())
