import json
from dataclasses import fields

import pytest

from agent_pool import AgentStats, ConfigError, PoolStats, TaskResult, TaskTimeout, Usage
from agent_pool.mcp.answers import (
    ERROR_KEY,
    RESULT_KEY,
    Ended,
    bug,
    human_bytes,
    pool_figures,
    refusal,
    task_answer,
    worker_rows,
)
from mcp_fakes import a_result, a_worker, some_stats, text_of


def test_an_answer_is_the_text_alone_with_the_figures_in_meta() -> None:
    answer = task_answer(Ended("reviewer", a_result("line one\nline two")))
    assert text_of(answer) == "line one\nline two"
    assert answer.is_error is False
    assert answer.meta is not None
    figures = answer.meta[RESULT_KEY]
    assert set(figures) == {field.name for field in fields(TaskResult)} - {"text", "is_error"}
    assert (figures["duration"], figures["session_id"], figures["pid"]) == (1.5, "s-1", 4711)
    assert figures["usage"] == {
        "input_tokens": 1,
        "output_tokens": 2,
        "cache_write_tokens": 3,
        "cache_read_tokens": 4,
    }


def test_an_answer_with_half_a_character_can_be_sent() -> None:
    answer = task_answer(Ended("reviewer", a_result("thumbs \ud83d", subtype="\udcff")))
    assert text_of(answer) == "thumbs ?"
    assert '"subtype":"?"' in answer.model_dump_json()


def test_an_empty_answer_says_that_it_is_empty() -> None:
    assert (
        text_of(task_answer(Ended("reviewer", a_result(""))))
        == "(reviewer finished without saying anything.)"
    )


@pytest.mark.parametrize(
    ("subtype", "advice"),
    [
        ("success", "failed: API Error"),
        ("error_max_turns", "smaller task"),
        ("error_during_execution", "agent-pool doctor"),
    ],
)
def test_an_error_that_the_agent_reports_is_a_tool_error_with_advice(
    subtype: str, advice: str
) -> None:
    answer = task_answer(
        Ended("reviewer", a_result("API Error: 529", is_error=True, subtype=subtype))
    )
    assert answer.is_error is True
    how = "" if subtype == "success" else f" ({subtype})"
    assert text_of(answer).startswith(f"reviewer failed{how}: API Error: 529\n")
    assert advice in text_of(answer)
    assert answer.meta is not None
    assert answer.meta[RESULT_KEY]["worker"] == "reviewer-1"


def test_a_refusal_says_whether_the_same_call_may_succeed_later() -> None:
    final = refusal(ConfigError("no such agent: 'x'"))
    assert (text_of(final), final.is_error) == ("no such agent: 'x'", True)
    assert final.meta == {ERROR_KEY: {"code": "config_error", "retryable": False}}
    again = refusal(TaskTimeout("stopped after 300 s"))
    assert text_of(again).endswith("The same call may succeed if it is made again.")
    assert again.meta == {ERROR_KEY: {"code": "task_timeout", "retryable": True}}


def test_a_bug_is_called_a_bug() -> None:
    answer = bug(KeyError("x"))
    assert answer.is_error is True
    assert text_of(answer).startswith("A bug in agent-pool stopped this call: KeyError: 'x'")


def test_the_workers_are_a_json_array_with_an_object_a_line() -> None:
    text = text_of(worker_rows([a_worker(), a_worker(worker="reviewer-2", description="prüft")]))
    assert len(text.splitlines()) == 2
    first, second = json.loads(text)
    assert first == {
        "name": "reviewer",
        "description": "Reviews code.",
        "worker": "reviewer-1",
        "state": "idle",
        "pid": 4711,
        "tasks": 3,
        "memory_bytes": 190_000_000,
        "memory": "181.2 MiB",
        "uptime_seconds": 12.3,
        "tokens": {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_write_tokens": 3,
            "cache_read_tokens": 4,
        },
        "cost_usd": 0.5,
        "note": "",
    }
    assert second["description"] == "prüft"
    (spare,) = json.loads(text_of(worker_rows([a_worker(agent="", description="")])))
    assert (spare["name"], spare["description"]) == ("", "(a spare, no agent yet)")
    assert text_of(worker_rows([])) == "[]"


def test_the_accounts_hold_every_agent_and_the_total() -> None:
    agents = tuple(
        AgentStats(
            agent=name,
            tasks=2,
            failed={"task_timeout": 1},
            running=3.0,
            waited=0.5,
            usage=Usage(1, 2, 3, 4),
            cost_usd=0.25,
        )
        for name in ("a", "b")
    )
    figures = json.loads(text_of(pool_figures(some_stats(agents=agents))))
    assert set(figures) == {field.name for field in fields(PoolStats)} | {"total"}
    assert [row["agent"] for row in figures["agents"]] == ["a", "b"]
    assert figures["total"] == {
        "agent": "",
        "tasks": 4,
        "failed": {"task_timeout": 2},
        "running": 6.0,
        "waited": 1.0,
        "usage": {
            "input_tokens": 2,
            "output_tokens": 4,
            "cache_write_tokens": 6,
            "cache_read_tokens": 8,
        },
        "cost_usd": 0.5,
        "cache_hit_rate": 0.5,
    }


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 2**40, "5.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_bytes_are_shown_in_the_unit_that_reads_best(count: int, shown: str) -> None:
    assert human_bytes(count) == shown
