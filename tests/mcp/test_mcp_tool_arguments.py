import pytest

from agent_pool.mcp.tool_arguments import (
    MAX_TASKS,
    AgentArguments,
    BadArguments,
    InvokeArguments,
    InvokeManyArguments,
    NoArguments,
    ResetArguments,
    ToolArguments,
)


def refusal(model: type[ToolArguments], tool: str, given: object) -> str:
    with pytest.raises(BadArguments) as caught:
        model.read(tool, given)  # type: ignore[arg-type]
    return str(caught.value)


def test_valid_arguments_are_read_without_any_change() -> None:
    call = InvokeArguments.read("invoke", {"agent": "reviewer", "task": "  look\nhere "})
    assert (call.agent, call.task) == ("reviewer", "  look\nhere ")
    assert NoArguments.read("list", None) == NoArguments()


def test_missing_argument_is_named_in_the_error() -> None:
    assert refusal(InvokeArguments, "invoke", {"agent": "reviewer"}) == (
        "invoke: the argument 'task' is missing. Call it as invoke(agent, task, conversation?, "
        "cwd?, model?, effort?, permission_mode?, isolation?, max_budget_usd?, max_tokens?)."
    )
    assert "'agent' is missing; the argument 'task' is missing" in refusal(
        InvokeArguments, "invoke", None
    )


def test_unknown_argument_is_named_with_the_closest_known_one() -> None:
    message = refusal(
        InvokeArguments, "invoke", {"agnet": "reviewer", "agent": "reviewer", "task": "x"}
    )
    assert message.startswith("invoke: unknown argument 'agnet' (did you mean agent?).")
    assert refusal(NoArguments, "list", {"agent": "x"}) == (
        "list: unknown argument 'agent'. Call it as list(), without arguments."
    )


@pytest.mark.parametrize(
    ("value", "kind"),
    [(3, "a number"), (1.5, "a number"), (True, "a boolean"), (None, "null"), ([1], "an array")],
)
def test_error_names_the_expected_type_and_the_given_type(value: object, kind: str) -> None:
    message = refusal(AgentArguments, "reset", {"agent": value})
    assert message.startswith(f"reset: the argument 'agent' must be a string, not {kind}.")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"max_budget_usd": 0}, "'max_budget_usd' must be above 0, not a number."),
        ({"max_budget_usd": "1"}, "'max_budget_usd' must be a number, not a string."),
        ({"max_budget_usd": True}, "'max_budget_usd' must be a number, not a boolean."),
        ({"max_tokens": 0}, "'max_tokens' must be 1 or more, not a number."),
        ({"max_tokens": 1.5}, "'max_tokens' must be a whole number, not a number."),
        ({"max_tokens": True}, "'max_tokens' must be a whole number, not a boolean."),
    ],
)
def test_a_wrong_budget_is_named_with_the_expected_value(
    given: dict[str, object], problem: str
) -> None:
    assert problem in refusal(InvokeArguments, "invoke", {"agent": "a", "task": "b", **given})


def test_a_whole_number_of_dollars_is_a_budget_too() -> None:
    call = InvokeArguments.read("invoke", {"agent": "a", "task": "b", "max_budget_usd": 2})
    assert call.request.max_budget_usd == 2.0


@pytest.mark.parametrize("blank", ["", "  ", "\n\t"])
def test_blank_task_is_refused_as_an_empty_argument(blank: str) -> None:
    assert "the argument 'task' is empty" in refusal(
        InvokeArguments, "invoke", {"agent": "a", "task": blank}
    )


def test_client_schema_lists_all_arguments_of_invoke_and_their_types() -> None:
    schema = InvokeArguments.schema_for_clients()
    assert schema["required"] == ["agent", "task"]
    assert schema["additionalProperties"] is False
    assert {name: field["type"] for name, field in schema["properties"].items()} == {
        "agent": "string",
        "task": "string",
        "conversation": "string",
        "cwd": "string",
        "model": "string",
        "effort": "string",
        "permission_mode": "string",
        "isolation": "string",
        "max_budget_usd": "number",
        "max_tokens": "integer",
    }
    assert all("title" not in field for field in schema["properties"].values())
    assert "enum" not in schema["properties"]["agent"]


def test_schema_of_invoke_many_contains_the_invoke_schema_without_references() -> None:
    schema = InvokeManyArguments.schema_for_clients()
    assert "$ref" not in str(schema)
    tasks = schema["properties"]["tasks"]
    assert (tasks["minItems"], tasks["maxItems"]) == (1, MAX_TASKS)
    assert tasks["items"] == InvokeArguments.schema_for_clients()


def test_optional_argument_can_be_left_out_or_null() -> None:
    for given in ({}, {"conversation": None}):
        call = InvokeArguments.read("invoke", {"agent": "a", "task": "b", **given})
        assert call.conversation is None
    assert ResetArguments.read("reset", {"agent": "a", "conversation": "q3"}).conversation == "q3"


A_TASK = {"agent": "a", "task": "b"}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("all", "the argument 'tasks' must be an array, not a string."),
        ([], "the argument 'tasks' holds 0 tasks, not 1 to 32."),
        ([A_TASK] * 33, "the argument 'tasks' holds 33 tasks, not 1 to 32."),
        ([A_TASK, 3], "the argument 'tasks[1]' must be an object, not a number."),
        ([A_TASK, {"agent": "a"}], "the argument 'tasks[1].task' is missing."),
        ([A_TASK | {"task": ""}], "the argument 'tasks[0].task' is empty."),
        (
            [A_TASK | {"agnet": "a"}],
            "unknown argument 'tasks[0].agnet' (did you mean agent?).",
        ),
        (
            [A_TASK | {"conversation": "x" * 101}],
            "the argument 'tasks[0].conversation' is longer than 100 characters.",
        ),
    ],
)
def test_error_in_a_task_list_names_its_position(tasks: object, message: str) -> None:
    assert refusal(InvokeManyArguments, "invoke_many", {"tasks": tasks}) == (
        f"invoke_many: {message} Call it as invoke_many(tasks)."
    )
