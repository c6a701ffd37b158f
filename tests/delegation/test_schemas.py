"""Structured answers: what the model is asked for, and what is accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent_pool import ConfigError, TaskFailed
from agent_pool.pool.running import check_answer, schema_text
from isolation.lab import Lab, Said, flat, tool

SCORE = {
    "type": "object",
    "properties": {"why": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["why", "score"],
}
GOOD = {"why": "it is", "score": 7}
TOOL = "StructuredOutput"


def answer(**content: Any) -> Any:
    return tool(TOOL, **content)


async def judge(lab: Lab, *steps: Any, schema: dict[str, Any] = SCORE, **options: Any) -> Said:
    return await lab.ask(lab.plan(*steps), schema=schema, **options)


def test_the_answer_is_a_python_object(lab: Lab) -> None:
    said = lab.run(judge(lab, answer(**GOOD)))
    assert said.result.structured == GOOD
    (wanted,) = [one for one in said.requests[0].body["tools"] if one["name"] == TOOL]
    assert wanted["input_schema"]["properties"] == SCORE["properties"]


def test_the_model_answers_in_the_order_of_the_schema(lab: Lab) -> None:
    said = lab.run(judge(lab, answer(**GOOD)))
    (wanted,) = [one for one in said.requests[0].body["tools"] if one["name"] == TOOL]
    assert list(wanted["input_schema"]["properties"]) == ["why", "score"]


def test_a_model_that_does_not_keep_to_the_schema_is_asked_again(lab: Lab) -> None:
    said = lab.run(judge(lab, answer(score="seven"), answer(**GOOD)))
    assert said.result.structured == GOOD
    assert len(said.requests) == 2


def test_an_answer_without_the_structure_is_an_error_with_what_was_said(lab: Lab) -> None:
    with pytest.raises(TaskFailed, match="without the structure") as raised:
        lab.run(judge(lab, "Seven, I think.", "Seven."))
    assert raised.value.result is not None
    assert raised.value.result.structured is None


def test_an_answer_that_does_not_fit_is_an_error_that_says_where(lab: Lab) -> None:
    result = replace(lab.run(judge(lab, answer(**GOOD))).result, structured={**GOOD, "score": "7"})
    with pytest.raises(TaskFailed, match=r"does not fit the schema at \$\.score: '7' is not"):
        check_answer(SCORE, result)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "$ref": "#"},
        {"type": "object", "$dynamicRef": "#nowhere"},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "type": "object",
            "patternProperties": {"(": {}},
        },
    ],
)
def test_a_schema_that_cannot_be_applied_is_an_error_with_the_answer(
    lab: Lab, schema: dict[str, Any]
) -> None:
    result = replace(lab.run(judge(lab, answer(**GOOD))).result, structured={"why": "1"})
    with pytest.raises(TaskFailed, match="cannot be applied") as error:
        check_answer(schema, result)
    assert error.value.result is result


def test_plain_and_structured_tasks_of_one_agent_stand_side_by_side(
    labs: Callable[..., Lab],
) -> None:
    lab = labs(reset="clear", max_size=2)

    async def main() -> None:
        other = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}
        one, plain, two = await asyncio.gather(
            judge(lab, answer(**GOOD)),
            lab.ask(lab.plan("plain")),
            judge(lab, answer(b=1), schema=other),
        )
        assert (one.result.structured, two.result.structured) == (GOOD, {"b": 1})
        assert (plain.text, plain.result.structured) == ("plain", None)
        assert TOOL not in plain.requests[0].tools
        assert {said.result.agent for said in (one, plain, two)} == {"tester"}
        assert len({said.pid for said in (one, plain, two)}) == 3
        assert {worker.agent for worker in await lab.pool.list()} == {"tester"}

    lab.run(main())


def test_a_worker_with_a_schema_forgets_between_tasks_and_keeps_the_schema(
    labs: Callable[..., Lab],
) -> None:
    lab = labs(reset="auto", max_size=1)

    async def main() -> None:
        first = await judge(lab, answer(why="plum", score=1))
        await lab.settled()
        second = await judge(lab, answer(why="pear", score=2))
        assert first.pid == second.pid
        assert second.result.structured == {"why": "pear", "score": 2}
        assert "plum" not in flat(second.requests[0])

    lab.run(main())


def test_a_follow_up_answers_by_the_schema_of_its_conversation(lab: Lab) -> None:
    async def main() -> None:
        for place in (1, 2):
            steps = [answer(why="so", score=place)] * 4
            said = await judge(lab, *steps, conversation="scores")
            assert (said.result.structured["score"], said.result.place) == (place, place)
        assert lab.pool.end_conversation("tester", "scores") is True

    lab.run(main())


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "array"}, "type: object"),
        ({"properties": {}}, "type: object"),
        ([], "type: object"),
        ("{}", "type: object"),
        (True, "type: object"),
        ({"type": "object", "properties": []}, "no JSON schema"),
        ({"type": "object", "properties": {"a": {"type": "number!"}}}, "no JSON schema"),
        ({"type": "object", "properties": {"a": {"pattern": "["}}}, "no JSON schema"),
        ({"type": "object", "default": float("nan")}, "no JSON schema"),
        ({"type": "object", "default": {1, 2}}, "no JSON schema"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}, "not in it"),
        ({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/a"}}}, "not in it"),
    ],
)
def test_what_is_no_schema_of_an_object_is_refused(schema: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        schema_text(schema)


def test_a_schema_that_contains_itself_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["not"] = schema
    with pytest.raises(ConfigError, match="no JSON schema"):
        schema_text(schema)


def test_a_schema_may_refer_to_its_own_parts(lab: Lab) -> None:
    parts = {"word": {"type": "string"}}
    properties = {"why": {"$ref": "#/$defs/word"}}
    schema = {"type": "object", "$defs": parts, "properties": properties, "required": ["why"]}
    said = lab.run(judge(lab, answer(why="so"), schema=schema))
    assert said.result.structured == {"why": "so"}


def test_a_bad_schema_starts_no_worker(lab: Lab) -> None:
    async def main() -> None:
        before = await lab.pool.list()
        with pytest.raises(ConfigError):
            await judge(lab, "x", schema={"type": "array"})
        assert {w.worker for w in await lab.pool.list()} == {w.worker for w in before}

    lab.run(main())
