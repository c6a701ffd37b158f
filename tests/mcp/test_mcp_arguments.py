import pytest

from agent_pool.mcp.arguments import Arguments, BadArguments, Invoke, Nothing, OneAgent


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
        "invoke: the argument 'task' is missing. It is called as invoke(agent, task)."
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
    }
    assert all("title" not in field for field in schema["properties"].values())
    assert "enum" not in schema["properties"]["agent"]
