"""Structured answers: the request to the model, and the check of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent_pool import ConfigError, SchemaMismatch, StructureMissing, TaskFailed
from agent_pool.pool.answer_schema import check_answer, schema_text
from support.model_scripts import as_text, tool
from support.pool_harness import PoolHarness, TaskOutcome

SCORE = {
    "type": "object",
    "properties": {"why": {"type": "string"}, "score": {"type": "integer"}},
    "required": ["why", "score"],
}
GOOD = {"why": "it is", "score": 7}
TOOL = "StructuredOutput"


def answer(**content: Any) -> Any:
    return tool(TOOL, **content)


async def judge(
    harness: PoolHarness, *steps: Any, schema: dict[str, Any] = SCORE, **options: Any
) -> TaskOutcome:
    return await harness.ask(harness.plan(*steps), schema=schema, **options)


def test_a_structured_answer_is_a_python_object(harness: PoolHarness) -> None:
    said = harness.run(judge(harness, answer(**GOOD)))
    assert said.result.structured == GOOD
    (wanted,) = [one for one in said.requests[0].body["tools"] if one["name"] == TOOL]
    assert wanted["input_schema"]["properties"] == SCORE["properties"]


def test_the_model_gets_the_properties_in_schema_order(harness: PoolHarness) -> None:
    said = harness.run(judge(harness, answer(**GOOD)))
    (wanted,) = [one for one in said.requests[0].body["tools"] if one["name"] == TOOL]
    assert list(wanted["input_schema"]["properties"]) == ["why", "score"]


def test_the_model_is_asked_again_after_a_wrong_structure(harness: PoolHarness) -> None:
    said = harness.run(judge(harness, answer(score="seven"), answer(**GOOD)))
    assert said.result.structured == GOOD
    assert len(said.requests) == 2


def test_an_answer_without_the_structure_is_an_error(
    harness: PoolHarness,
) -> None:
    with pytest.raises(StructureMissing, match="without the structure") as raised:
        harness.run(judge(harness, "Seven, I think.", "Seven."))
    assert raised.value.result is not None
    assert raised.value.result.structured is None


def test_the_error_names_the_place_that_does_not_fit(harness: PoolHarness) -> None:
    result = replace(
        harness.run(judge(harness, answer(**GOOD))).result, structured={**GOOD, "score": "7"}
    )
    message = r"does not fit the schema at \$\.score: '7' is not"
    with pytest.raises(SchemaMismatch, match=message) as raised:
        check_answer(SCORE, result)
    error = raised.value
    assert (error.code, error.retryable, error.result) == ("schema_mismatch", False, result)
    assert error.message.endswith(SchemaMismatch.advice)


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
def test_a_schema_that_cannot_be_applied_is_an_error(
    harness: PoolHarness, schema: dict[str, Any]
) -> None:
    result = replace(harness.run(judge(harness, answer(**GOOD))).result, structured={"why": "1"})
    with pytest.raises(TaskFailed, match="cannot be applied") as error:
        check_answer(schema, result)
    assert error.value.result is result


def test_plain_and_structured_tasks_of_one_agent_run_in_parallel(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="clear", max_size=2)

    async def main() -> None:
        other = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}
        one, plain, two = await asyncio.gather(
            judge(harness, answer(**GOOD)),
            harness.ask(harness.plan("plain")),
            judge(harness, answer(b=1), schema=other),
        )
        assert (one.result.structured, two.result.structured) == (GOOD, {"b": 1})
        assert (plain.text, plain.result.structured) == ("plain", None)
        assert TOOL not in plain.requests[0].tools
        assert {said.result.agent for said in (one, plain, two)} == {"tester"}
        assert len({said.pid for said in (one, plain, two)}) == 3
        assert {worker.agent for worker in await harness.pool.workers()} == {"tester"}

    harness.run(main())


def test_a_reset_worker_keeps_its_schema_but_forgets_the_task(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="auto", max_size=1)

    async def main() -> None:
        first = await judge(harness, answer(why="plum", score=1))
        await harness.wait_until_idle()
        second = await judge(harness, answer(why="pear", score=2))
        assert first.pid == second.pid
        assert second.result.structured == {"why": "pear", "score": 2}
        assert "plum" not in as_text(second.requests[0])

    harness.run(main())


def test_a_follow_up_answers_by_the_schema_of_its_conversation(harness: PoolHarness) -> None:
    async def main() -> None:
        for place in (1, 2):
            steps = [answer(why="so", score=place)] * 4
            said = await judge(harness, *steps, conversation="scores")
            assert (said.result.structured["score"], said.result.place) == (place, place)
        assert await harness.pool.end_conversation("tester", "scores") is True

    harness.run(main())


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "array"}, "type: object"),
        ({"properties": {}}, "type: object"),
        ([], "type: object"),
        ("{}", "type: object"),
        (True, "type: object"),
        ({"type": "object", "properties": []}, "not a JSON schema"),
        ({"type": "object", "properties": {"a": {"type": "number!"}}}, "not a JSON schema"),
        ({"type": "object", "properties": {"a": {"pattern": "["}}}, "not a JSON schema"),
        ({"type": "object", "default": float("nan")}, "not a JSON schema"),
        ({"type": "object", "default": {1, 2}}, "not a JSON schema"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}, "not in it"),
        ({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/a"}}}, "not in it"),
    ],
)
def test_an_invalid_object_schema_is_refused(schema: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        schema_text(schema)


def test_a_schema_that_contains_itself_is_refused() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["not"] = schema
    with pytest.raises(ConfigError, match="not a JSON schema"):
        schema_text(schema)


def test_a_schema_can_refer_to_its_own_parts(harness: PoolHarness) -> None:
    parts = {"word": {"type": "string"}}
    properties = {"why": {"$ref": "#/$defs/word"}}
    schema = {"type": "object", "$defs": parts, "properties": properties, "required": ["why"]}
    said = harness.run(judge(harness, answer(why="so"), schema=schema))
    assert said.result.structured == {"why": "so"}


def test_a_bad_schema_starts_no_worker(harness: PoolHarness) -> None:
    async def main() -> None:
        before = await harness.pool.workers()
        with pytest.raises(ConfigError):
            await judge(harness, "x", schema={"type": "array"})
        assert {w.worker for w in await harness.pool.workers()} == {w.worker for w in before}

    harness.run(main())
