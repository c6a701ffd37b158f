"""Many tasks in one call of the library, and what `stream` takes."""

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
    PermissionRequest,
    TaskEvent,
    TaskResult,
    TaskTimeout,
)
from agent_pool.loopback import Failure, Reply
from isolation.lab import Gate, Lab, bash, flat, tool

Define = Callable[..., str]
FORM = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
OF_THE_FIRST = "not said"
"""A follow-up's plan begins where the conversation is: after the answer to its first task."""


def texts(outcomes: list[TaskResult | AgentPoolError]) -> list[str]:
    return [one.text if isinstance(one, TaskResult) else one.code for one in outcomes]


def test_each_call_of_a_map_may_have_its_own_options(lab: Lab, define: Define) -> None:
    agent = define(permissionMode="ask")
    asked: list[str] = []
    made = lab.world.root / lab.word("made")

    async def permit(request: PermissionRequest) -> bool:
        asked.append(request.tool)
        return True

    async def main() -> None:
        calls: list[Any] = [
            (agent, lab.plan(bash(f"touch {made}"), "made")),
            {"agent": agent, "task": lab.plan(tool("StructuredOutput", a=7)), "schema": FORM},
            {"agent": agent, "task": lab.plan(Reply("late", delay=60)), "timeout": 0.5},
            {"agent": agent, "task": lab.plan("plain"), "conversation": None},
        ]
        ended = await lab.pool.map(calls, timeout=30, on_permission=permit)
        assert texts([ended[0], ended[3]]) == ["made", "plain"]
        assert isinstance(ended[1], TaskResult)
        assert ended[1].structured == {"a": 7}
        assert isinstance(ended[2], TaskTimeout)
        assert "after 0.5 s" in str(ended[2])

    lab.run(main())
    assert (asked, made.exists()) == (["Bash"], True)


def test_a_conversation_of_a_map_runs_in_order_and_others_meanwhile(lab: Lab) -> None:
    async def main() -> None:
        gate = Gate("first")
        other = lab.plan("other")
        calls: list[Any] = [
            {"agent": "tester", "task": lab.plan(gate), "conversation": "m"},
            {"agent": "tester", "task": lab.plan(OF_THE_FIRST, "second"), "conversation": "m"},
            ("other", other),
        ]
        lab.world.agent("other", description="Tests.")
        ended: list[int] = []

        def end(place: int, outcome: TaskResult | AgentPoolError) -> None:
            ended.append(place)
            if place == 2:
                gate.open()

        results = await lab.pool.map(calls, on_end=end)
        assert texts(results) == ["first", "second", "other"]
        assert ended == [2, 0, 1]
        assert [one.place for one in results if isinstance(one, TaskResult)] == [1, 2, 1]
        assert lab.pool.end_conversation("tester", "m") is True

    lab.run(main())


def test_an_agent_by_its_name_and_by_its_files_name_has_one_conversation(lab: Lab) -> None:
    (lab.world.root / ".claude" / "agents" / "filed.md").write_text(
        "---\nname: named\ndescription: Tests.\n---\nYou test.\n", encoding="utf-8"
    )

    async def main() -> None:
        never = lab.plan("never")
        calls: list[Any] = [
            {"agent": "filed", "task": lab.plan(Failure(400, message="no")), "conversation": "m"},
            {"agent": "named", "task": never, "conversation": "m"},
        ]
        _, second = await lab.pool.map(calls)
        assert isinstance(second, ContextLost)
        assert lab.told(never) == []

    lab.run(main())


def test_after_a_failure_the_rest_of_its_conversation_is_not_begun(lab: Lab) -> None:
    async def main() -> None:
        never = lab.plan("never")
        calls: list[Any] = [
            {"agent": "tester", "task": lab.plan(Failure(400, message="no")), "conversation": "m"},
            {"agent": "tester", "task": never, "conversation": "m"},
            {"agent": "tester", "task": lab.plan("well"), "conversation": "n"},
        ]
        told: dict[int, object] = {}
        first, second, third = await lab.pool.map(calls, on_end=told.__setitem__)
        assert isinstance(first, TaskResult)
        assert first.is_error
        assert isinstance(second, ContextLost)
        assert "call 0 of the conversation 'm' did not end well" in str(second)
        assert isinstance(third, TaskResult)
        assert told == {0: first, 1: second, 2: third}
        assert lab.told(never) == []
        lab.pool.end_conversation("tester", "n")

    lab.run(main())


def test_a_map_never_crowds_itself_out_of_the_queue(labs: Callable[..., Lab]) -> None:
    lab = labs(reset="clear", max_size=1, max_waiting=1)
    lab.world.agent("other", description="Tests.")

    async def main() -> None:
        calls = [(agent, lab.plan("done")) for agent in ("tester", "other") * 3]
        assert texts(await lab.pool.map(calls)) == ["done"] * 6

    lab.run(main())


def test_a_map_does_not_queue_what_an_agent_has_no_worker_for(lab: Lab) -> None:
    async def main() -> None:
        gate = Gate()
        told: dict[int, list[TaskEvent]] = {0: [], 1: []}
        calls = [("tester", lab.plan(gate)), ("tester", lab.plan("then"))]
        mapped = asyncio.ensure_future(
            lab.pool.map(calls, on_event=lambda place, event: told[place].append(event))
        )
        await gate.reached.wait()
        assert told[1] == []  # nothing about a queue either
        gate.open()
        assert texts(await mapped) == ["done", "then"]

    lab.run(main())


def test_what_on_end_raises_ends_the_others_and_is_raised(lab: Lab) -> None:
    async def main() -> None:
        gate, failed = Gate(), OSError("no space left")
        lab.world.agent("other", description="Tests.")

        def full(place: int, outcome: object) -> None:
            raise failed

        calls = [("tester", lab.plan(gate)), ("other", lab.plan("done"))]
        with pytest.raises(OSError, match="no space left") as raised:
            await lab.pool.map(calls, on_end=full)
        assert raised.value is failed
        await lab.settled()
        gate.open()

    lab.run(main())


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ({"agent": "tester"}, "entry 1 has no task"),
        ({"agent": "tester", "task": "x", "timeot": 1}, "entry 1: timeot: not known; there is"),
        ("ab", "entry 1 is no"),
        ({"agent", "task"}, "entry 1 is no"),
    ],
)
def test_what_is_no_call_is_refused_before_any_is_run(lab: Lab, call: Any, problem: str) -> None:
    task = lab.plan("never")
    with pytest.raises(ConfigError, match=problem):
        lab.run(lab.pool.map([("tester", task), call]))
    assert lab.told(task) == []


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
    lab: Lab, call: dict[str, Any], error: type[AgentPoolError]
) -> None:
    closed = AgentPool(lab.pool.settings)
    good: dict[str, Any] = {"agent": "tester", "task": "x", "schema": FORM, "timeout": 1}
    closed.check(**good)
    with pytest.raises(error):
        closed.check(**good | call)
    with pytest.raises(error):
        lab.run(lab.pool.invoke(**good | call))


def test_a_stream_takes_what_invoke_takes(lab: Lab, define: Define) -> None:
    agent = define(permissionMode="ask")
    asked: list[str] = []
    canary = lab.word("canary")

    async def permit(request: PermissionRequest) -> bool:
        asked.append(request.tool)
        return False

    async def main() -> None:
        options: dict[str, Any] = {"conversation": "s", "schema": FORM, "on_permission": permit}
        first = lab.plan(bash(f"touch {canary}"), tool("StructuredOutput", a=1))
        *_, result = [event async for event in lab.pool.stream(agent, first, **options)]
        assert isinstance(result, TaskResult)
        assert (result.structured, result.conversation, asked) == ({"a": 1}, "s", ["Bash"])
        second = lab.plan(*[tool("StructuredOutput", a=2)] * 4)
        events = [event async for event in lab.pool.stream(agent, second, **options)]
        assert isinstance(events[-1], TaskResult)
        assert events[-1].place == 2
        assert canary in flat(lab.told(second)[-1])
        lab.pool.end_conversation(agent, "s")

    lab.run(main())


def test_a_conversation_is_ended_by_either_name_of_its_agent(lab: Lab) -> None:
    path = lab.world.agent("by-file", description="Tests.")
    path.write_text(path.read_text().replace("name: by-file", "name: by-name"))

    async def main() -> None:
        for invoked, ended in (("by-file", "by-file"), ("by-name", "by-file")):
            await lab.ask(lab.plan("x"), invoked, conversation="c")
            assert lab.pool.end_conversation(ended, "c") is True
            assert lab.pool.end_conversation("by-name", "c") is False
        with pytest.raises(AgentNotFound, match="did you mean"):
            lab.pool.end_conversation("by-fil", "c")

    lab.run(main())
