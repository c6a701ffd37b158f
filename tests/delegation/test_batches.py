"""Many tasks in one call: `map`; the options of `stream`; checks of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agent_pool import (
    AgentNotFound,
    AgentPool,
    AgentPoolError,
    ConfigError,
    ContextLost,
    Ended,
    PermissionRequest,
    TaskEvent,
    TaskRequest,
    TaskResult,
    TaskTimeout,
)
from agent_pool.loopback import ErrorResponse, ModelReply
from support.model_scripts import Gate, as_text, bash, tool
from support.pool_harness import PoolHarness

Define = Callable[..., str]
FORM = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FIRST_ANSWER = "not used"
"""The first step of a follow-up's plan stands for the answer to the task before it."""


def texts(outcomes: list[TaskResult | AgentPoolError]) -> list[str]:
    return [one.text if isinstance(one, TaskResult) else one.code for one in outcomes]


def test_each_call_of_a_map_can_have_its_own_options(harness: PoolHarness, define: Define) -> None:
    agent = define(permissionMode="ask")
    asked: list[tuple[int, str]] = []
    made = harness.project.root / harness.word("made")

    async def permit(index: int, request: PermissionRequest) -> bool:
        asked.append((index, request.tool))
        return True

    async def main() -> None:
        calls: list[Any] = [
            (agent, harness.plan(bash(f"touch {made}"), "made")),
            {"agent": agent, "task": harness.plan(tool("StructuredOutput", a=7)), "schema": FORM},
            {"agent": agent, "task": harness.plan(ModelReply("late", delay=60)), "timeout": 0.5},
            {"agent": agent, "task": harness.plan("plain"), "conversation": None},
            TaskRequest(agent, harness.plan(tool("StructuredOutput", a=8)), schema=FORM),
        ]
        ended = await harness.pool.map(calls, timeout=30, on_permission=permit)
        assert texts([ended[0], ended[3]]) == ["made", "plain"]
        assert isinstance(ended[1], TaskResult)
        assert isinstance(ended[4], TaskResult)
        assert (ended[1].structured, ended[4].structured) == ({"a": 7}, {"a": 8})
        assert isinstance(ended[2], TaskTimeout)
        assert "after 0.5 s" in str(ended[2])

    harness.run(main())
    assert (asked, made.exists()) == ([(0, "Bash")], True)


@pytest.mark.long
def test_a_map_runs_a_conversation_in_order_beside_other_calls(harness: PoolHarness) -> None:
    async def main() -> None:
        gate = Gate("first")
        other = harness.plan("other")
        calls: list[Any] = [
            {"agent": "tester", "task": harness.plan(gate), "conversation": "m"},
            {"agent": "tester", "task": harness.plan(FIRST_ANSWER, "second"), "conversation": "m"},
            ("other", other),
        ]
        harness.project.agent("other", description="Tests.")
        ended: list[int] = []

        def end(index: int, outcome: TaskResult | AgentPoolError) -> None:
            ended.append(index)
            if index == 2:
                gate.open()

        results = await harness.pool.map(calls, on_end=end)
        assert texts(results) == ["first", "second", "other"]
        assert ended == [2, 0, 1]
        assert [one.place for one in results if isinstance(one, TaskResult)] == [1, 2, 1]
        assert await harness.pool.end_conversation("tester", "m") is True

    harness.run(main())


def test_both_names_of_an_agent_share_one_conversation(
    harness: PoolHarness,
) -> None:
    (harness.project.root / ".claude" / "agents" / "filed.md").write_text(
        "---\nname: named\ndescription: Tests.\n---\nYou test.\n", encoding="utf-8"
    )

    async def main() -> None:
        never = harness.plan("never")
        calls: list[Any] = [
            {
                "agent": "filed",
                "task": harness.plan(ErrorResponse(400, message="no")),
                "conversation": "m",
            },
            {"agent": "named", "task": never, "conversation": "m"},
        ]
        _, second = await harness.pool.map(calls)
        assert isinstance(second, ContextLost)
        assert harness.requests_with(never) == []

    harness.run(main())


def test_a_failure_skips_the_rest_of_its_conversation(harness: PoolHarness) -> None:
    async def main() -> None:
        never = harness.plan("never")
        calls: list[Any] = [
            {
                "agent": "tester",
                "task": harness.plan(ErrorResponse(400, message="no")),
                "conversation": "m",
            },
            {"agent": "tester", "task": never, "conversation": "m"},
            {"agent": "tester", "task": harness.plan("well"), "conversation": "n"},
        ]
        ended: dict[int, object] = {}
        first, second, third = await harness.pool.map(calls, on_end=ended.__setitem__)
        assert isinstance(first, TaskResult)
        assert first.is_error
        assert isinstance(second, ContextLost)
        reason = "task 1 of this batch, an earlier one of the conversation 'm', did not succeed"
        assert reason in str(second)
        assert isinstance(third, TaskResult)
        assert ended == {0: first, 1: second, 2: third}
        assert harness.requests_with(never) == []
        await harness.pool.end_conversation("tester", "n")

    harness.run(main())


def test_a_map_never_exceeds_max_waiting_by_itself(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="clear", max_size=1, max_waiting=1)
    harness.project.agent("other", description="Tests.")

    async def main() -> None:
        calls = [(agent, harness.plan("done")) for agent in ("tester", "other") * 3]
        assert texts(await harness.pool.map(calls)) == ["done"] * 6

    harness.run(main())


def test_a_map_queues_no_call_before_a_worker_is_free(harness: PoolHarness) -> None:
    async def main() -> None:
        gate = Gate()
        events: dict[int, list[TaskEvent]] = {0: [], 1: []}
        calls = [("tester", harness.plan(gate)), ("tester", harness.plan("then"))]
        mapped = asyncio.ensure_future(
            harness.pool.map(calls, on_event=lambda index, event: events[index].append(event))
        )
        await gate.reached.wait()
        assert events[1] == []  # not even an event about the queue
        gate.open()
        assert texts(await mapped) == ["done", "then"]

    harness.run(main())


def test_an_error_in_on_end_ends_map_and_is_raised(harness: PoolHarness) -> None:
    async def main() -> None:
        gate, failed = Gate(), OSError("no space left")
        harness.project.agent("other", description="Tests.")

        def full(index: int, outcome: object) -> None:
            raise failed

        calls = [("tester", harness.plan(gate)), ("other", harness.plan("done"))]
        with pytest.raises(OSError, match="no space left") as raised:
            await harness.pool.map(calls, on_end=full)
        assert raised.value is failed
        await harness.wait_until_idle()
        gate.open()

    harness.run(main())


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ({"agent": "tester"}, "entry 1 has no task"),
        (
            {"agent": "tester", "task": "x", "timeot": 1},
            "entry 1: timeot: unknown; the known names are agent, task,",
        ),
        ("ab", r"entry 1 is not an \(agent, task\) pair and not a mapping: 'ab'"),
        ({"agent", "task"}, r"entry 1 is not an \(agent, task\) pair and not a mapping"),
    ],
)
def test_an_invalid_call_is_refused_before_any_call_runs(
    harness: PoolHarness, call: Any, problem: str
) -> None:
    task = harness.plan("never")
    with pytest.raises(ConfigError, match=problem):
        harness.run(harness.pool.map([("tester", task), call]))
    assert harness.requests_with(task) == []


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"agent": "testr"}, AgentNotFound),
        ({"task": " "}, ConfigError),
        ({"timeout": 0}, ConfigError),
        ({"conversation": " "}, ConfigError),
        ({"conversation": 7}, ConfigError),
        ({"schema": {"type": "array"}}, ConfigError),
    ],
)
def test_a_call_can_be_checked_without_a_worker(
    harness: PoolHarness, call: dict[str, Any], error: type[AgentPoolError]
) -> None:
    closed = AgentPool(harness.pool.settings)
    good: dict[str, Any] = {"agent": "tester", "task": "x", "schema": FORM, "timeout": 1}
    harness.run(closed.check(TaskRequest(**good)))
    with pytest.raises(error):
        harness.run(closed.check(TaskRequest(**good | call)))
    with pytest.raises(error):
        harness.run(harness.pool.invoke(**good | call))


def test_a_stream_takes_the_same_options_as_invoke(harness: PoolHarness, define: Define) -> None:
    agent = define(permissionMode="ask")
    asked: list[str] = []
    canary = harness.word("canary")

    async def permit(request: PermissionRequest) -> bool:
        asked.append(request.tool)
        return False

    async def main() -> None:
        options: dict[str, Any] = {"conversation": "s", "schema": FORM, "on_permission": permit}
        first = harness.plan(bash(f"touch {canary}"), tool("StructuredOutput", a=1))
        *_, last = [event async for event in harness.pool.stream(agent, first, **options)]
        assert isinstance(last, Ended)
        assert (result := last.result) is not None
        assert (result.structured, result.conversation, asked) == ({"a": 1}, "s", ["Bash"])
        second = harness.plan(*[tool("StructuredOutput", a=2)] * 4)
        events = [event async for event in harness.pool.stream(agent, second, **options)]
        last = events[-1]
        assert isinstance(last, Ended)
        assert last.result is not None
        assert last.result.place == 2
        assert canary in as_text(harness.requests_with(second)[-1])
        await harness.pool.end_conversation(agent, "s")

    harness.run(main())


def test_either_name_of_an_agent_ends_its_conversation(harness: PoolHarness) -> None:
    path = harness.project.agent("by-file", description="Tests.")
    path.write_text(path.read_text().replace("name: by-file", "name: by-name"))

    async def main() -> None:
        for invoked, ended in (("by-file", "by-file"), ("by-name", "by-file")):
            await harness.ask(harness.plan("x"), invoked, conversation="c")
            assert await harness.pool.end_conversation(ended, "c") is True
            assert await harness.pool.end_conversation("by-name", "c") is False
        with pytest.raises(AgentNotFound, match="did you mean"):
            await harness.pool.end_conversation("by-fil", "c")

    harness.run(main())
