"""The answer that a caller gets is whole, and its ending is called what it is."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from agent_pool import (
    AgentPool,
    Ended,
    ModelFallback,
    TaskEvent,
    TaskFailed,
    TaskRequest,
    TaskResult,
    TaskTimeout,
    Text,
    Withdrawn,
)
from agent_pool.errors import task_failure
from agent_pool.loopback import (
    ErrorResponse,
    ModelReply,
    ModelRequest,
    StreamError,
    ToolUseBlock,
)
from support.model_scripts import as_text
from support.pools import PoolProject
from support.waiting import run

FIRST = "1. The lock is never released (src/a.py:10).\n2. SQL is built from input"
REST = " (src/b.py:7).\n3. No tests."
WHOLE = FIRST + REST
NO_RETRY = {"x-should-retry": "false"}
CYBER = {"type": "refusal", "category": "cyber", "explanation": "no"}


def cut(stop_reason: str) -> ModelReply:
    return ModelReply(FIRST, stop_reason=stop_reason)


def talk_and_call(words: str, command: str = "echo a") -> ModelReply:
    return ModelReply([words, ToolUseBlock("Bash", {"command": command, "description": "d"})])


def refuse(status: int, message: str = "") -> ErrorResponse:
    return ErrorResponse(status, message=message, headers=NO_RETRY)


class Cases:
    """A model that answers each task, known by its name, with the replies of a table."""

    def __init__(self, table: dict[str, list[Any]]) -> None:
        self._table = table
        self._used: defaultdict[str, int] = defaultdict(int)

    def __call__(self, request: ModelRequest) -> Any:
        text = as_text(request)
        name = next(name for name in self._table if f"case {name}." in text)
        replies = self._table[name]
        reply = replies[min(self._used[name], len(replies) - 1)]
        self._used[name] += 1
        return reply


async def ask_all(
    pool: AgentPool, names: list[str], agent: str = "tester"
) -> tuple[dict[str, TaskResult], dict[str, list[TaskEvent]]]:
    """Give the pool the task of each case; return the results and the events by case."""
    events: dict[str, list[TaskEvent]] = {name: [] for name in names}
    requests = [TaskRequest(agent, f"case {name}.") for name in names]

    def note(index: int, event: TaskEvent) -> None:
        events[names[index]].append(event)

    outcomes = await pool.map(requests, on_event=note)
    results = {}
    for name, outcome in zip(names, outcomes, strict=True):
        assert isinstance(outcome, TaskResult), (name, outcome)
        results[name] = outcome
    return results, events


def said(events: list[TaskEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, Text)]


WHOLE_ANSWERS: dict[str, list[Any]] = {
    "one block": [WHOLE],
    "two blocks": [ModelReply([FIRST, REST])],
    "output limit": [cut("max_tokens"), REST],
    "context limit": [cut("model_context_window_exceeded"), REST],
    "cut stream": [
        ModelReply([FIRST, " (sr", StreamError()], delta_interval=0.002, delta_size=40),
        REST,
    ],
    "tool call before": [talk_and_call("I look."), ModelReply([FIRST, REST])],
}


def test_an_answer_in_several_pieces_reaches_the_caller_whole(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.real(Cases(WHOLE_ANSWERS), max_size=2) as (pool, _):
            results, events = await ask_all(pool, list(WHOLE_ANSWERS))
            assert {name: result.text for name, result in results.items()} == dict.fromkeys(
                WHOLE_ANSWERS, WHOLE
            )
            assert {(one.is_error, one.code, one.partial) for one in results.values()} == {
                (False, "", "")
            }
            assert said(events["output limit"]) == [FIRST, REST]
            counts = {name: result.requests for name, result in results.items()}
            assert counts["one block"] == counts["two blocks"] == 1
            assert counts["output limit"] == counts["tool call before"] == 2
            (model,) = {one.models for one in results.values()}
            assert len(model) == 1
            endings = {(one.stop_reason, one.terminal_reason) for one in results.values()}
            assert endings == {("end_turn", "completed")}

    run(main())


TOO_LONG = "prompt is too long: 213462 tokens > 200000 maximum"
NO_CREDIT = "Your credit balance is too low to access the Anthropic API. Please go to Plans."

FAILURES: dict[str, tuple[str, bool, list[Any]]] = {
    "pause": ("unfinished", True, [cut("pause_turn")]),
    "unknown reason": ("unfinished", True, [cut("solar_flare")]),
    "output": ("output_limit", False, [ModelReply("part ", stop_reason="max_tokens")]),
    "context": (
        "context_limit",
        False,
        [ModelReply("part ", stop_reason="model_context_window_exceeded")],
    ),
    "refusal": ("refusal", False, [cut("refusal")]),
    "prompt": ("prompt_too_long", False, [refuse(400, TOO_LONG)]),
    "size": ("request_too_large", False, [refuse(413)]),
    "credit": ("no_credit", False, [refuse(400, NO_CREDIT)]),
    "sign-in": ("sign_in", False, [refuse(403, "no access")]),
    "model": ("model_unavailable", False, [refuse(404, "model: x")]),
    "overload": ("overloaded", True, [refuse(529)]),
    "rate": ("rate_limit", True, [refuse(429)]),
    "server": ("api_error", True, [refuse(500)]),
    "other": ("task_failed", False, [refuse(400, "messages.1: wrong")]),
}
"""By case: the code, whether the same call can succeed later, and the model's replies."""

PARTIAL = {
    "pause": FIRST,
    "unknown reason": FIRST,
    "output": "part part part part ",
    "context": "part part part part ",
}


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the pool from waiting after a refusal for load."""
    monkeypatch.setattr("agent_pool.pool.task_runner.OVERLOAD_PAUSE", 0.0)


@pytest.mark.usefixtures("no_pause")
def test_each_kind_of_failure_has_its_code_and_advice(pool_project: PoolProject) -> None:
    async def main() -> None:
        table = {name: replies for name, (_, _, replies) in FAILURES.items()}
        async with pool_project.real(Cases(table), max_size=2) as (pool, _):
            results, events = await ask_all(pool, list(FAILURES))
            found = {name: (one.code, one.retryable) for name, one in results.items()}
            assert found == {name: case[:2] for name, case in FAILURES.items()}
            assert all(result.is_error for result in results.values())
            partial = {name: one.partial for name, one in results.items() if one.partial}
            assert partial == PARTIAL
            advice = [results[name].advice for name in FAILURES]
            # A plain overload and a rate limit have the same next step; so have both pauses.
            assert len(set(advice)) == len(advice) - 2
            for name, result in results.items():
                again = "call again" in result.advice.casefold()
                assert again == result.retryable, name
                # Words that the CLI made itself are not the agent's.
                assert not [text for text in said(events[name]) if "API Error" in text]
                ended = events[name][-1]
                assert isinstance(ended, Ended)
                assert ended.failure == result.code
            assert "~213462 tokens (limit 200000)" in results["prompt"].text
            assert "The task itself has 12 characters." in results["prompt"].text
            withdrawn = [e for e in events["refusal"] if isinstance(e, Withdrawn)]
            assert [one.text for one in withdrawn] == [FIRST, FIRST]
            with pytest.raises(task_failure("no_credit"), match="Buy credit") as failed:
                results["credit"].raise_for_error()
            assert isinstance(failed.value, TaskFailed)
            assert failed.value.code == "no_credit"

    run(main())


def test_words_before_a_limit_of_turns_are_kept(pool_project: PoolProject) -> None:
    pool_project.agent("limited", description="Tests.", maxTurns="2")
    replies = [talk_and_call("I look first."), talk_and_call("Found one.")]

    async def main() -> None:
        async with pool_project.real(Cases({"turns": replies})) as (pool, _):
            results, _ = await ask_all(pool, ["turns"], agent="limited")
            result = results["turns"]
            assert (result.code, result.retryable) == ("turn_limit", False)
            assert result.partial == "I look first.\n\nFound one."
            assert result.terminal_reason == "max_turns"

    run(main())


def test_words_before_the_end_of_the_time_are_kept(pool_project: PoolProject) -> None:
    replies = [talk_and_call("I look first."), talk_and_call("Now I wait.", "sleep 60")]

    async def main() -> None:
        async with pool_project.real(Cases({"slow": replies}), kill_grace=0.3) as (pool, _):
            with pytest.raises(TaskTimeout) as stopped:
                await pool.invoke("tester", "case slow.", timeout=3)
            partial = stopped.value.result
            assert partial is not None
            assert partial.partial == "I look first.\n\nNow I wait."
            assert (partial.is_error, partial.code, partial.retryable) == (
                True,
                "task_timeout",
                True,
            )
            with pytest.raises(TaskTimeout):
                partial.raise_for_error()

    run(main())


def test_a_model_that_steps_in_for_another_is_named(pool_project: PoolProject) -> None:
    replies = [
        ModelReply("partly", stop_reason="refusal", stop_details=CYBER),
        ModelReply("again", stop_reason="refusal", stop_details=CYBER),
        ModelReply("whole"),
        ModelReply("next"),
    ]

    async def main() -> None:
        table: dict[str, list[Any]] = {"plain": ["first"], "refused": replies}
        async with pool_project.real(Cases(table), max_size=1) as (pool, api):
            await ask_all(pool, ["plain"])
            results, events = await ask_all(pool, ["refused"])
            result = results["refused"]
            assert (result.text, result.is_error) == ("whole", False)
            asked, answered = api.requests[0].model, api.requests[-1].model
            assert asked != answered
            assert result.fallback == ModelFallback(asked, answered, "refusal")
            assert result.models == (asked, answered)
            withdrawn = [e.text for e in events["refused"] if isinstance(e, Withdrawn)]
            assert withdrawn == ["partly", "again"]
            # The CLI stays with the other model, so the next task has another process.
            later, _ = await ask_all(pool, ["refused"])
            assert (later["refused"].text, later["refused"].fallback) == ("next", None)
            assert later["refused"].pid != result.pid
            assert api.requests[-1].model == asked

    run(main())


def hook(command: str) -> list[dict[str, Any]]:
    return [{"hooks": [{"type": "command", "command": command}]}]


BLOCKING = 'if grep -q "case blocked"; then echo "not on Fridays" >&2; exit 2; fi'
STOPPING = """if grep -q stop-here; then echo '{"continue": false, "stopReason": "stopped"}'; fi"""
HOOKS = {"hooks": {"UserPromptSubmit": hook(BLOCKING), "PostToolUse": hook(STOPPING)}}


def test_a_task_that_a_hook_stopped_is_a_failure(pool_project: PoolProject) -> None:
    settings = pool_project.home / ".claude/settings.json"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(json.dumps(HOOKS))
    table: dict[str, list[Any]] = {
        "free": ["done"],
        "blocked": ["never"],
        "halfway": [talk_and_call("I begin.", "echo stop-here"), "never"],
    }

    async def main() -> None:
        async with pool_project.real(Cases(table), max_size=1) as (pool, api):
            results, _ = await ask_all(pool, list(table))
            assert results["free"].text == "done"
            assert results["blocked"].code == "prompt_blocked"
            assert "not on Fridays" in results["blocked"].text
            assert not results["blocked"].retryable
            assert results["halfway"].code == "stopped_by_hook"
            assert results["halfway"].partial == "I begin."
            assert len(api.requests) == 2

    run(main())
