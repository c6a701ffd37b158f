import json
from dataclasses import fields

import pytest

from agent_pool import (
    AgentStats,
    ConfigError,
    DeniedTool,
    InternalError,
    ModelFallback,
    PoolStats,
    TaskResult,
    TaskTimeout,
    Usage,
)
from agent_pool.mcp.results import (
    ERROR_KEY,
    RESULT_KEY,
    EndedTask,
    error_result,
    stats_result,
    task_result,
    workers_result,
)
from support.fake_pool import make_result, make_stats, make_worker
from support.mcp_client import text_of


def test_answer_holds_only_the_text_and_meta_holds_the_figures() -> None:
    answer = task_result(EndedTask("reviewer", make_result("line one\nline two")))
    assert text_of(answer) == "line one\nline two"
    assert answer.is_error is False
    assert answer.meta is not None
    figures = answer.meta[RESULT_KEY]
    shown = {field.name for field in fields(TaskResult)} - {"text", "partial", "is_error"}
    assert set(figures) == shown | {"retryable", "advice"}
    assert (figures["duration"], figures["session_id"], figures["pid"]) == (1.5, "s-1", 4711)
    assert figures["usage"] == {
        "input_tokens": 1,
        "output_tokens": 2,
        "cache_write_tokens": 3,
        "cache_read_tokens": 4,
    }


def test_answer_replaces_a_lone_surrogate_with_a_question_mark() -> None:
    answer = task_result(EndedTask("reviewer", make_result("thumbs \ud83d", subtype="\udcff")))
    assert text_of(answer) == "thumbs ?"
    assert '"subtype":"?"' in answer.model_dump_json()


def test_empty_answer_states_that_the_agent_finished_without_text() -> None:
    assert (
        text_of(task_result(EndedTask("reviewer", make_result(""))))
        == "(reviewer finished without an answer.)"
    )


@pytest.mark.parametrize(
    ("code", "advice", "retryable"),
    [
        ("overloaded", "Call again", True),
        ("turn_limit", "smaller task", False),
        ("task_failed", "agent-pool doctor", False),
    ],
)
def test_agent_error_becomes_a_tool_error_with_advice(
    code: str, advice: str, retryable: bool
) -> None:
    failed = make_result("It broke.", is_error=True, code=code, partial="Found one.")
    answer = task_result(EndedTask("reviewer", failed))
    assert answer.is_error is True
    assert text_of(answer).startswith(f"reviewer failed ({code}): It broke.\n")
    assert advice in text_of(answer)
    assert text_of(answer).endswith("not a complete answer:\nFound one.")
    assert answer.meta is not None
    figures = answer.meta[RESULT_KEY]
    assert (figures["worker"], figures["code"]) == ("reviewer-1", code)
    assert figures["retryable"] is retryable


def test_an_answer_names_the_stand_in_and_the_refused_tools() -> None:
    answered = make_result(
        fallback=ModelFallback("opus", "sonnet", "refusal"),
        denied=(DeniedTool("Bash", {"command": "git push"}, "a rule says no"),),
    )
    answer = task_result(EndedTask("reviewer", answered))
    assert answer.is_error is False
    assert "(sonnet answered instead of opus: refusal.)" in text_of(answer)
    assert "not permitted to use Bash: a rule says no." in text_of(answer)
    assert answer.meta is not None
    assert answer.meta[RESULT_KEY]["denied"][0]["input"] == {"command": "git push"}


def test_error_answer_states_whether_the_same_call_can_succeed_later() -> None:
    final = error_result(ConfigError("no such agent: 'x'"))
    assert (text_of(final), final.is_error) == ("no such agent: 'x'", True)
    assert final.meta == {ERROR_KEY: {"code": "config_error", "retryable": False}}
    again = error_result(TaskTimeout("stopped after 300 s"))
    assert text_of(again).endswith("The same call can succeed if you make it again.")
    assert again.meta == {ERROR_KEY: {"code": "task_timeout", "retryable": True}}


@pytest.mark.parametrize(
    ("error", "beginning"),
    [
        (KeyError("x"), "A bug in agent-pool stopped this call: KeyError: 'x'\n"),
        (InternalError("a bug in agent-pool stopped the task"), "a bug in agent-pool stopped"),
    ],
)
def test_unexpected_exception_is_reported_as_a_bug_in_agent_pool(
    error: Exception, beginning: str
) -> None:
    answer = error_result(error)
    assert answer.is_error is True
    assert text_of(answer).startswith(beginning)
    assert "`claude --debug` shows" in text_of(answer)
    assert text_of(answer).endswith("Other calls are not affected.")
    assert answer.meta == {ERROR_KEY: {"code": "internal_error", "retryable": False}}


def test_worker_list_is_json_with_one_line_per_worker() -> None:
    text = text_of(
        workers_result([make_worker(), make_worker(worker="reviewer-2", description="prüft")])
    )
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
        "worker_memory": "lean",
        "profile": "",
        "uptime_seconds": 12.3,
        "tokens": {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_write_tokens": 3,
            "cache_read_tokens": 4,
        },
        "cost_usd": 0.5,
        "note": "",
        "hook_seconds": 0.0,
    }
    assert second["description"] == "prüft"
    (spare,) = json.loads(text_of(workers_result([make_worker(agent="", description="")])))
    assert (spare["name"], spare["description"]) == ("", "(a spare, no agent yet)")
    assert text_of(workers_result([])) == "[]"


def test_pool_figures_contain_each_agent_and_the_total() -> None:
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
    figures = json.loads(text_of(stats_result(make_stats(agents=agents))))
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
        "project": "",
    }
