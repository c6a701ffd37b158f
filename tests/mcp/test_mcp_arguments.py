import pytest

from agent_pool.mcp.arguments import (
    MOST_TASKS,
    Arguments,
    BadArguments,
    Invoke,
    InvokeMany,
    Nothing,
    OneAgent,
    Reset,
)


def complaint(model: type[Arguments], tool: str, given: object) -> str:
    with pytest.raises(BadArguments) as caught:
        model.read(tool, given)  # type: ignore[arg-type]
    return str(caught.value)


def test_good_arguments_are_read_as_they_are() -> None:
    call = Invoke.read("invoke", {"agent": "reviewer", "task": "  look\nhere "})
    assert (call.agent, call.task) == ("reviewer", "  look\nhere ")
    assert Nothing.read("list", None) == Nothing()


def test_a_missing_argument_is_named() -> None:
    assert complaint(Invoke, "invoke", {"agent": "reviewer"}) == (
        "invoke: the argument 'task' is missing. "
        "It is called as invoke(agent, task, conversation?)."
    )
    assert "'agent' is missing; the argument 'task' is missing" in complaint(Invoke, "invoke", None)


def test_an_unknown_argument_is_named_with_the_closest_one() -> None:
    said = complaint(Invoke, "invoke", {"agnet": "reviewer", "agent": "reviewer", "task": "x"})
    assert said.startswith("invoke: unknown argument 'agnet' (did you mean 'agent'?).")
    assert complaint(Nothing, "list", {"agent": "x"}) == (
        "list: unknown argument 'agent'. It is called as list(), without arguments."
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [(3, "a number"), (1.5, "a number"), (True, "a boolean"), (None, "null"), ([1], "an array")],
)
def test_a_value_of_the_wrong_type_is_named_with_what_was_expected(
    value: object, kind: str
) -> None:
    said = complaint(OneAgent, "reset", {"agent": value})
    assert said.startswith(f"reset: the argument 'agent' must be a string, not {kind}.")


@pytest.mark.parametrize("blank", ["", "  ", "\n\t"])
def test_a_blank_task_is_refused(blank: str) -> None:
    assert "the argument 'task' is empty" in complaint(
        Invoke, "invoke", {"agent": "a", "task": blank}
    )


def test_the_schema_for_clients_says_the_same() -> None:
    schema = Invoke.schema_for_clients()
    assert schema["required"] == ["agent", "task"]
    assert schema["additionalProperties"] is False
    assert {name: field["type"] for name, field in schema["properties"].items()} == {
        "agent": "string",
        "task": "string",
        "conversation": "string",
    }
    assert all("title" not in field for field in schema["properties"].values())
    assert "enum" not in schema["properties"]["agent"]


def test_the_schema_of_many_tasks_holds_that_of_one_without_references() -> None:
    schema = InvokeMany.schema_for_clients()
    assert "$ref" not in str(schema)
    tasks = schema["properties"]["tasks"]
    assert (tasks["minItems"], tasks["maxItems"]) == (1, MOST_TASKS)
    assert tasks["items"] == Invoke.schema_for_clients()


def test_an_optional_argument_may_be_left_out_or_null() -> None:
    for given in ({}, {"conversation": None}):
        call = Invoke.read("invoke", {"agent": "a", "task": "b", **given})
        assert call.conversation is None
    assert Reset.read("reset", {"agent": "a", "conversation": "q3"}).conversation == "q3"


A_TASK = {"agent": "a", "task": "b"}


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("all", "the argument 'tasks' must be an array, not a string."),
        ([], "the argument 'tasks' holds 0 tasks, not 1 to 32."),
        ([A_TASK] * 33, "the argument 'tasks' holds 33 tasks, not 1 to 32."),
        ([A_TASK, 3], "the argument 'tasks[1]' must be an object, not a number."),
        ([A_TASK, {"agent": "a"}], "the argument 'tasks[1].task' is missing."),
        ([A_TASK | {"task": ""}], "the argument 'tasks[0].task' is empty."),
        (
            [A_TASK | {"agnet": "a"}],
            "unknown argument 'tasks[0].agnet' (did you mean 'agent'?).",
        ),
        (
            [A_TASK | {"conversation": "x" * 101}],
            "the argument 'tasks[0].conversation' is longer than 100 characters.",
        ),
    ],
)
def test_what_is_wrong_in_a_list_of_tasks_is_named_with_its_place(tasks: object, said: str) -> None:
    assert complaint(InvokeMany, "invoke_many", {"tasks": tasks}) == (
        f"invoke_many: {said} It is called as invoke_many(tasks)."
    )
