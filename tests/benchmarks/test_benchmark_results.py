"""The workload, the statistics, the tables and the plot."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from agent_pool.loopback import ModelRequest, PromptCache, measure_prefixes
from benchmarks.comparison import METHOD_LABELS
from benchmarks.report import ACCEPTANCE, legend
from benchmarks.results import (
    BenchmarkResult,
    MethodResult,
    percentile,
    ratio_interval,
)
from benchmarks.tokens import token_use
from benchmarks.workload import is_from_agent, scripted_model, sum_task
from support.benchmark_runs import print_tables, rows_of, sample_result

SVG = "{http://www.w3.org/2000/svg}"


def request_of(number: int, *, header: str = "", system: str = "") -> ModelRequest:
    """Build a request as Claude Code sends it, without usage."""
    blocks: list[dict[str, Any]] = [{"type": "text", "text": header}] if header else []
    mark = {"type": "ephemeral"}
    blocks.append({"type": "text", "text": system or "x" * 8000, "cache_control": mark})
    message = {"role": "user", "content": f"task {number}"}
    body = {"model": "claude-opus-5", "system": blocks, "messages": [message]}
    return ModelRequest(body=body, headers={}, path="", index=number, received_at=float(number))


def bill(requests: list[ModelRequest]) -> list[ModelRequest]:
    """Bill requests one after another with a new prompt cache."""
    cache = PromptCache()
    for request in requests:
        prompt = measure_prefixes(request.body)
        request.usage = cache.read(prompt, request.received_at)
        cache.write(prompt, request.received_at)
    return requests


def test_tokens_are_counted_with_and_without_the_changing_header() -> None:
    header = "x-anthropic-billing-header: cc_version=1."
    found = token_use(bill([request_of(n, header=f"{header}{n}") for n in (1, 2)]))
    steady = token_use(bill([request_of(n) for n in (1, 2)]))
    assert found.sent.read == 0
    assert found.without_header == steady.sent == steady.without_header
    assert steady.sent.read == steady.sent.written > 2000


def test_the_tokens_of_a_session_are_separate_from_its_agents() -> None:
    agents = request_of(1, system="You review changes to a code base. " * 300)
    found = token_use(bill([agents, request_of(2)]))
    assert is_from_agent(agents)
    assert agents.usage is not None
    assert found.sent.written - found.session.written == agents.usage.cache_creation_input_tokens


def test_ten_tasks_begin_differently_and_the_model_answers_each() -> None:
    tasks = [sum_task(number) for number in range(10, 20)]
    assert len({task.text[:22] for task in tasks}) == 10
    for task in tasks:
        request = request_of(1, system="You review changes to a code base.")
        request = with_task(request, task.text)
        assert scripted_model(request).blocks[0].text == task.answer  # type: ignore[union-attr]


def with_task(request: ModelRequest, text: str) -> ModelRequest:
    """Return the same request with another task."""
    body = {**request.body, "messages": [{"role": "user", "content": text}]}
    return ModelRequest(body=body, headers={}, path="", index=1, received_at=0.0)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([3.0], 90, 3.0), ([1.0, 2.0], 50, 1.5), ([*map(float, range(11))], 90, 9.0)],
)
def test_percentiles_lie_between_the_values(
    values: list[float], percent: int, expected: float
) -> None:
    assert percentile(values, percent) == expected


def test_a_method_without_timed_tasks_has_no_percentiles() -> None:
    assert MethodResult().spread is None


def test_the_interval_of_a_constant_ratio_is_that_ratio() -> None:
    bare = [0.04, 0.02, 0.05, 0.03]
    low, high = ratio_interval([1.2 * seconds for seconds in bare], bare)
    assert [low, high] == pytest.approx([1.2, 1.2])


def test_the_interval_of_noisy_pairs_holds_their_ratio() -> None:
    bare = [0.040 + 0.001 * (number % 7) for number in range(50)]
    pool = [0.044 + 0.001 * (number % 5) for number in range(50)]
    low, high = ratio_interval(pool, bare)
    assert low < 0.046 / 0.043 < high
    assert (low, high) == ratio_interval(pool, bare)


def test_an_unfinished_pair_does_not_count_in_the_ratio() -> None:
    bare = MethodResult(paired_times=[0.04, 0.05])
    pool = MethodResult(paired_times=[0.04, 0.05, 9.0])
    found = BenchmarkResult(methods={"bare": bare, "pool": pool}).paired("pool", "bare")
    assert found is not None
    assert (found.pairs, found.ratio.median) == (2, 1.0)


def test_the_tables_hold_the_figures_of_the_result() -> None:
    text = print_tables(sample_result())
    assert rows_of(text, "pool, library") == [
        ["pool, library", "50 ms", "30 ms", "58 ms", "100 ms"],
        ["pool, library", "50 ms", "58 ms", "30 ms", "100 ms", "1,000 ms", "3"],
        ["pool, library", "18.0", "40.0"],
        ["pool, library", "300 / 200 MiB", "320 / 210 MiB"],
        ["pool, library", "3", "4"],
        ["pool, library", "5,000 / 10"],
        ["pool, library", "4,000 / 20"],
    ]
    assert rows_of(text, "bare warm turn")[2] == ["bare warm turn", "20.0", "-"]
    assert rows_of(text, "pool, MCP / bare warm turn") == [
        ["pool, MCP / bare warm turn", "1.25", "2.00", "1.25", "at most 1.30", "yes"]
    ]
    sdk = METHOD_LABELS["sdk"]
    assert rows_of(text, sdk) == [[sdk, "-", "-", "-", "-", "0 ms", "it broke"]]
    assert rows_of(text, "server") == [["server", "500 ms", "500 ms", "500 ms", "70 MiB"]]


def test_the_acceptance_ratio_is_printed_beside_its_target() -> None:
    text = print_tables(sample_result())
    assert rows_of(text, "ratio") == [["ratio", "1.25", "1.50", "1.21", "1.25"]]
    assert rows_of(text, "target") == [["target", "at most 1.10", "", "", ""]]
    assert rows_of(text, "met") == [["met", "no", "", "", ""]]
    assert re.search(
        r"a pooled task takes 1\.25 times as long as a bare warm turn .*"
        r"Target: at most 1\.10\. Met: no\.$",
        legend(sample_result()),
    )


def test_a_ratio_too_close_to_its_target_asks_for_more_pairs() -> None:
    bare = MethodResult(paired_times=[0.04, 0.05, 0.06])
    pool = MethodResult(paired_times=[0.04, 0.05, 0.09])
    result = BenchmarkResult(methods={"bare": bare, "pool": pool})
    assert legend(result).endswith(
        "Met: yes. The interval includes the target, so measure again with more --pairs."
    )


@pytest.mark.parametrize(("ratio", "is_met"), [(1.0, True), (1.1, True), (1.11, False)])
def test_the_acceptance_target_is_a_ratio_of_at_most_1_10(ratio: float, is_met: bool) -> None:
    assert ACCEPTANCE.is_met(ratio) is is_met


def write_plot(result: BenchmarkResult, path: Path) -> None:
    """Write the plot."""
    # Imported late: every process of a test run collects this module, and few draw a plot.
    from benchmarks import plot

    plot.write_plot(result, path)


def draw(result: BenchmarkResult, path: Path) -> ElementTree.Element:
    """Write the plot and return its root element."""
    write_plot(result, path)
    return ElementTree.fromstring(path.read_text(encoding="utf-8"))


def drawn_ids(root: ElementTree.Element, prefix: str) -> list[str]:
    """Return the ids of the elements that begin with `prefix`."""
    ids = [element.attrib.get("id", "") for element in root.iter()]
    return [one for one in ids if one.startswith(prefix)]


def width_of_bar(root: ElementTree.Element, name: str) -> float:
    """Return the width of a bar in the units of the drawing."""
    path = root.find(f".//{SVG}g[@id='time-{name}']/{SVG}path")
    assert path is not None
    points = re.findall(r"[ML] ([\d.]+) [\d.]+", path.attrib["d"])
    return max(map(float, points)) - min(map(float, points))


def test_the_plot_has_a_bar_and_a_curve_for_each_method(tmp_path: Path) -> None:
    root = draw(sample_result(), tmp_path / "plot.svg")
    assert drawn_ids(root, "time-") == ["time-bare", "time-pool", "time-mcp"]
    assert drawn_ids(root, "memory-") == ["memory-bare", "memory-pool"]
    ratio = width_of_bar(root, "bare") / width_of_bar(root, "pool")
    assert ratio == pytest.approx(0.8, abs=0.01)
    words = {"".join(text.itertext()).strip() for text in root.iter(f"{SVG}text")}
    assert {"bare warm turn", "pool, library", "50 ms", "1", "10", "MiB"} <= words


def test_the_same_result_gives_the_same_plot_to_the_byte(tmp_path: Path) -> None:
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    write_plot(sample_result(), first)
    write_plot(sample_result(), second)
    assert first.read_bytes() == second.read_bytes()
    assert b"<dc:date>" not in first.read_bytes()


def test_an_empty_result_gives_an_empty_plot_and_no_table(tmp_path: Path) -> None:
    root = draw(BenchmarkResult(), tmp_path / "plot.svg")
    assert drawn_ids(root, "axes") == []
    assert list(root.iter(f"{SVG}text")) == []
    assert print_tables(BenchmarkResult()) == ""
