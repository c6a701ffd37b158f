"""Changes in one place of a JSON text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_pool.cli.json_text import insert, remove

HOOK = {"matcher": "Agent|Task", "hooks": [{"type": "command", "command": "true"}]}
PATH = ("hooks", "PreToolUse")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
filled_hooks = st.fixed_dictionaries(
    {}, optional={"PreToolUse": st.lists(values, min_size=1, max_size=3), "Stop": values}
)
documents = st.builds(
    lambda members, hooks: {**members, **({"hooks": hooks} if hooks else {})},
    st.dictionaries(st.text(max_size=6), values, max_size=3).map(
        lambda found: {key: value for key, value in found.items() if key != "hooks"}
    ),
    filled_hooks,
)
layouts = st.sampled_from([None, 0, 1, 2, 4, "\t"])


def text_of(document: Any, layout: int | str | None, *, end: str = "\n") -> str:
    return json.dumps(document, indent=layout, ensure_ascii=False) + end


def with_hook(document: dict[str, Any]) -> dict[str, Any]:
    hooks = document.get("hooks", {})
    return {**document, "hooks": {**hooks, "PreToolUse": [*hooks.get("PreToolUse", []), HOOK]}}


@given(documents, layouts, st.sampled_from(["\n", "", "\r\n", "  \n\n"]))
@example({}, None, "\n")
def test_removing_an_inserted_value_gives_back_every_byte(
    document: dict[str, Any], layout: int | str | None, end: str
) -> None:
    before = text_of(document, layout, end=end)
    after = insert(before, PATH, HOOK, append=True)
    assert json.loads(after) == with_hook(document)
    index = len(json.loads(after)["hooks"]["PreToolUse"]) - 1
    assert remove(after, (*PATH, index)) == before


@given(documents, layouts)
def test_a_value_can_be_removed_at_any_position(
    document: dict[str, Any], layout: int | str | None
) -> None:
    before = text_of(with_hook(document), layout)
    hooks = json.loads(before)["hooks"]["PreToolUse"]
    for index in range(len(hooks)):
        left = json.loads(remove(before, (*PATH, index))).get("hooks", {}).get("PreToolUse", [])
        assert left == hooks[:index] + hooks[index + 1 :]


def test_an_insert_keeps_the_layout_of_its_neighbours() -> None:
    before = '{\n    "allow": [ "a",  "b" ],\n    "hooks": {\n        "Stop": []\n    }\n}'
    assert insert(before, PATH, {"x": [1]}, append=True) == (
        '{\n    "allow": [ "a",  "b" ],\n    "hooks": {\n        "Stop": [],\n'
        '        "PreToolUse": [\n            {\n                "x": [\n                    1\n'
        "                ]\n            }\n        ]\n    }\n}"
    )


def test_inserted_lines_end_as_the_other_lines_do() -> None:
    after = insert('{\r\n  "a": 1\r\n}\r\n', PATH, 1, append=True)
    assert after.count("\n") == after.count("\r\n") > 3


@pytest.mark.parametrize(
    "before",
    [
        '{\n  "hooks": {}\n}\n',
        '{\n  "hooks": {\n    "PreToolUse": []\n  }\n}\n',
        '{\n  "hooks": { }\n}\n',
        "{ }",
    ],
)
def test_removing_keeps_a_container_that_was_empty_before(before: str) -> None:
    after = insert(before, PATH, HOOK, append=True)
    assert json.loads(after)["hooks"]["PreToolUse"] == [HOOK]
    assert remove(after, (*PATH, 0)) == before


def test_of_two_members_with_one_name_the_last_counts() -> None:
    before = '{"hooks": 1, "hooks": {"PreToolUse": [1]}}'
    assert insert(before, PATH, 2, append=True) == '{"hooks": 1, "hooks": {"PreToolUse": [1, 2]}}'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "the document is not an object"),
        ('{"hooks": []}', "hooks is not an object"),
        ('{"hooks": {"PreToolUse": {}}}', "hooks.PreToolUse is not an array"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ('{"a": 1} x', "Extra data"),
        ('{"a": 1,}', "Illegal trailing comma|Expecting property name"),
    ],
)
def test_a_text_that_cannot_take_the_value_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        insert(text, PATH, HOOK, append=True)


def test_inserting_a_member_that_exists_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mcpServers\.x is there already"):
        insert('{"mcpServers": {"x": 1}}', ("mcpServers", "x"), 2)


def test_removing_a_member_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hooks\.PreToolUse\.1 is not there"):
        remove('{"hooks": {"PreToolUse": [0]}}', (*PATH, 1))
