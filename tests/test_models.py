"""Values and errors become JSON and come back the same."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import asdict, is_dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agent_pool
from agent_pool import (
    AgentInfo,
    AgentList,
    AgentPoolError,
    AgentStats,
    Attachment,
    ConfigError,
    DayTotal,
    Denied,
    DeniedTool,
    LaunchSpec,
    ModelFallback,
    NodeInfo,
    PermissionRequest,
    PoolStats,
    PoolStatus,
    PromptSize,
    RateLimits,
    RateWindow,
    ResetVerdict,
    ReuseStats,
    SilentPool,
    TaskFailed,
    TaskFilter,
    TaskNotFound,
    TaskQuestion,
    TaskRecord,
    TaskRequest,
    TaskResult,
    TaskTimeout,
    ToolUse,
    Usage,
    WorkerInfo,
    error_from_json,
)
from agent_pool.models import AgentKey, JsonValue
from support.fake_pool import make_result
from support.json_values import assert_other_ways_give_json, errors, values_of

VALUES: tuple[type[JsonValue], ...] = (
    *(AgentInfo, AgentKey, AgentList, AgentStats, Denied, DeniedTool, LaunchSpec, ModelFallback),
    *(
        PermissionRequest,
        PoolStats,
        PoolStatus,
        PromptSize,
        RateLimits,
        RateWindow,
        ResetVerdict,
        ReuseStats,
        TaskFilter,
        TaskQuestion,
        TaskRecord,
        TaskRequest,
        TaskResult,
    ),
    *(Attachment, DayTotal, NodeInfo, Usage, WorkerInfo),
)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value.as_json(), allow_nan=False))


def test_every_class_of_values_is_among_those_tested() -> None:
    package = {kind for kind in JsonValue.__subclasses__() if kind.__module__.endswith(".models")}
    assert {kind.__name__ for kind in package} == {kind.__name__ for kind in VALUES}


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
@settings(max_examples=30, deadline=None)  # the first example builds the converters
@given(data=st.data())
def test_a_value_survives_the_way_through_json(kind: type[JsonValue], data: st.DataObject) -> None:
    value = data.draw(values_of(kind))
    if isinstance(value, TaskRecord) and value.error is not None:
        # Errors are equal by their JSON only.
        assert kind.from_json(through_json(value)).as_json() == value.as_json()
        assert_other_ways_give_json(value, lambda made: made.as_json())
        return
    assert kind.from_json(through_json(value)) == value
    assert_other_ways_give_json(value)


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("wrong", [None, [], "text", {"agent": 5, "usage": 5}])
def test_wrong_json_of_a_value_is_a_config_error(kind: type[JsonValue], wrong: object) -> None:
    if kind in (AgentStats, Denied, ReuseStats, Usage) and isinstance(wrong, dict):
        wrong = {"agent": [], "reason": [], "tasks": [], "input_tokens": []}
    with pytest.raises(ConfigError, match=f"this is not the JSON of {kind.__name__}"):
        kind.from_json(wrong)


def test_unknown_fields_of_newer_versions_are_ignored() -> None:
    newer = {**TaskRequest("a", "b").as_json(), "invented": 5}
    assert TaskRequest.from_json(newer) == TaskRequest("a", "b")


@given(error=errors())
def test_an_error_survives_the_way_through_json(error: AgentPoolError) -> None:
    made = error_from_json(through_json(error))
    assert type(made) is type(error)
    assert (str(made), made.as_json()) == (str(error), error.as_json())
    own, others = dict(vars(error)), dict(vars(made))
    assert own == others
    by_dataclass = error_from_json(json.loads(json.dumps(asdict(error))))
    assert (type(by_dataclass), by_dataclass.as_json()) == (type(error), error.as_json())


def test_an_error_is_copied_and_pickled_as_an_exception() -> None:
    error = TaskTimeout("too late", result=make_result("half"))
    for made in (copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert isinstance(made, TaskTimeout)
        assert made.as_json() == error.as_json()


def test_an_error_of_an_unknown_code_keeps_code_and_message() -> None:
    made = error_from_json({"code": "newer_error", "message": "new", "retryable": True})
    assert type(made) is AgentPoolError
    assert (made.code, str(made), made.retryable) == ("newer_error", "new", True)
    assert AgentPoolError("other").code == "agent_pool_error"


@pytest.mark.parametrize("wrong", [None, [], {}, {"code": 5}, "error"])
def test_json_without_a_code_is_not_an_error(wrong: object) -> None:
    with pytest.raises(ConfigError, match="this is not the JSON of an error"):
        error_from_json(wrong)


def test_the_result_of_a_failed_task_travels_with_its_error() -> None:
    result = make_result("half an answer")
    made = error_from_json(through_json(TaskFailed("it failed", result=result)))
    assert isinstance(made, TaskFailed)
    assert made.result == result


def test_usage_adds_subtracts_and_counts_the_whole_prompt() -> None:
    usage = Usage(1, 2, 3, 4)
    assert usage + usage == Usage(2, 4, 6, 8)
    assert usage - usage == Usage()
    assert (usage.prompt_tokens, usage.cache_hit_rate) == (8, 0.5)
    assert Usage().cache_hit_rate == 0.0


@pytest.mark.parametrize("wrong", [{"message": None}, {"message": "x", "pid": "7"}])
def test_an_error_with_a_field_of_the_wrong_type_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="not the JSON of an error"):
        error_from_json({"code": "worker_died", **wrong})


def test_a_subclass_of_an_error_does_not_replace_its_code() -> None:
    class Slow(TaskTimeout):
        pass

    assert type(error_from_json(Slow("slow").as_json())) is TaskTimeout


def test_a_later_class_with_a_used_code_replaces_none() -> None:
    class OtherError(AgentPoolError):
        code = "task_not_found"

    assert type(error_from_json(OtherError("missing").as_json())) is TaskNotFound


def test_every_public_dataclass_has_only_fields_with_a_json_form() -> None:
    found = [getattr(agent_pool, name) for name in agent_pool.__all__]
    kinds = [kind for kind in found if isinstance(kind, type) and is_dataclass(kind)]
    # An error names its members for `asdict` and has its own way to JSON.
    kinds = [kind for kind in kinds if not issubclass(kind, AgentPoolError)]
    assert SilentPool in kinds
    assert [kind.__name__ for kind in kinds if not issubclass(kind, JsonValue)] == []
    silent = SilentPool("/tmp/pool", "no answer")
    assert json.loads(json.dumps(asdict(silent))) == silent.as_json()


def test_an_answer_of_any_depth_becomes_json() -> None:
    deep: Any = "end"
    for _ in range(400):
        deep = [deep]
    assert ToolUse("1", "Read", {"deep": deep}).as_json()["input"] == {"deep": deep}
