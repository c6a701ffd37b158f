"""What scripts and tests read from a request, and the ready-made scripts."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.loopback import Request, Script, Text, ToolUse, Usage, calling, echo, sequence
from agent_pool.loopback.books import Account, Books, Line
from agent_pool.loopback.cache import InvalidRequest, measure
from agent_pool.loopback.request import check_body, text_of

CLI_HEADERS = {"user-agent": "claude-cli/2.1.330 (external, sdk-cli)"}
REMINDER = "<system-reminder>\nBe tidy.\n</system-reminder>\n"
AFTER_CLEAR = [
    "<local-command-caveat>Not for you.</local-command-caveat>",
    "<command-name>/clear</command-name>\n  <command-message>clear</command-message>\n"
    "  <command-args></command-args>\n",
    "<local-command-stdout></local-command-stdout>\n",
]


def user(*content: Any) -> dict[str, Any]:
    blocks = [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]
    return {"role": "user", "content": blocks}


def result(content: Any = "ok") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": content}


CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "x", "input": {}}]}
ENVIRONMENT = {"role": "system", "content": "# Environment"}


def make(
    *messages: dict[str, Any], headers: dict[str, str] | None = None, **fields: Any
) -> Request:
    body = {"model": "m", "messages": list(messages) or [user("hi")], **fields}
    return Request(check_body(body), headers or {}, "/v1/messages", 0, 0.0)


@pytest.mark.parametrize(
    ("messages", "task"),
    [
        ([{"role": "user", "content": "plain"}], "plain"),
        ([user(REMINDER, "the task"), ENVIRONMENT], "the task"),
        ([user(*AFTER_CLEAR, "after a clear")], "after a clear"),
        ([user(REMINDER + "in one block")], "in one block"),
        ([user("two", "blocks")], "two\nblocks"),
        ([user("  kept as it is\n")], "  kept as it is\n"),
        ([user(f"explain {REMINDER}")], f"explain {REMINDER}"),
        ([user("first"), CALL, user(result())], "first"),
        ([user("first"), CALL, user(result(), REMINDER)], "first"),
        ([user("first"), CALL, user(result(), "and now stop")], "and now stop"),
        ([user("first"), user(REMINDER)], ""),
        ([{"role": "assistant", "content": "prefilled"}], ""),
    ],
)
def test_the_task_is_what_the_user_said_last(messages: list[dict[str, Any]], task: str) -> None:
    assert make(*messages).last_user_text == task


def test_the_system_prompt_is_joined_and_the_tools_are_named() -> None:
    request = make(
        system=[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        tools=[{"name": "Bash"}, {"name": "Read"}],
    )
    assert (request.system_text, request.tools) == ("one\ntwo", ("Bash", "Read"))
    assert make(system="short").system_text == "short"
    assert (make().system_text, make().tools) == ("", ())


def test_tool_results_are_those_of_the_last_message() -> None:
    request = make(user("go"), CALL, user(result("old")), CALL, user(result([{"type": "image"}])))
    assert [text_of(each) for each in request.tool_results] == [""]
    assert text_of(result("text")) == "text"
    assert text_of(result([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])) == "a\nb"
    assert (
        make(user("go"), CALL, user(result()), {"role": "user", "content": "x"}).tool_results == ()
    )


@pytest.mark.parametrize(
    ("headers", "fields", "is_side"),
    [
        (CLI_HEADERS, {"tools": [{"name": "Bash"}], "thinking": {"type": "adaptive"}}, False),
        (CLI_HEADERS, {"tools": [], "thinking": {"type": "disabled"}}, False),
        (CLI_HEADERS, {"tools": [{"name": "Bash"}]}, False),
        (CLI_HEADERS, {"tools": []}, True),
        (CLI_HEADERS, {}, True),
        ({"user-agent": "curl/8"}, {}, False),
        ({}, {}, False),
    ],
)
def test_side_requests_are_claude_codes_own(
    headers: dict[str, str], fields: dict[str, Any], is_side: bool
) -> None:
    assert make(headers=headers, **fields).is_side == is_side


def test_session_and_subagent_come_from_the_headers() -> None:
    headers = {"x-claude-code-session-id": "s", "x-claude-code-agent-id": "a"}
    request = make(headers=headers)
    assert (request.session_id, request.subagent_id) == ("s", "a")
    assert (make().session_id, make().subagent_id) == ("", "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["text", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text() | st.sampled_from(["type", "text", "role", "content", "cache_control"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
bodies = st.fixed_dictionaries(
    {"model": st.just("m") | json_values},
    optional=dict.fromkeys(
        ("messages", "system", "tools", "stream", "max_tokens", "cache_control"), json_values
    ),
)
message_lists = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": json_values}), max_size=3
)


@given(bodies, message_lists)
def test_any_body_is_either_refused_or_readable(body: dict[str, Any], messages: list[Any]) -> None:
    for candidate in (body, {**body, "messages": messages}):
        with contextlib.suppress(InvalidRequest):
            request = make(**check_body(candidate))
            measure(request.body)
            assert isinstance(request.last_user_text + request.system_text, str)
            assert isinstance(echo(request), str)
            assert isinstance(request.is_side, bool)


def answers(script: Script, *requests: Request) -> list[Any]:
    return [script(request) for request in requests]


def test_a_sequence_goes_on_with_its_last_answer() -> None:
    assert answers(sequence(["a", "b"]), make(), make(), make()) == ["a", "b", "b"]


def test_a_sequence_is_not_used_up_by_side_requests() -> None:
    side = make(user("title?"), headers=CLI_HEADERS)
    assert answers(sequence(["a", "b"]), side, make(), side, make()) == [
        "echo: title?",
        "a",
        "echo: title?",
        "b",
    ]


def test_a_sequence_needs_an_answer() -> None:
    with pytest.raises(ValueError, match="at least one"):
        sequence([])


def test_calling_calls_the_tools_and_then_goes_on() -> None:
    call = ToolUse("Bash", {"command": "ls"})
    done = make(user("go"), CALL, user(result("files")))
    assert answers(calling(call, call), make(), done) == [[call, call], "tool: files"]
    assert answers(calling(call, then=lambda _: Text("bye")), done) == [Text("bye")]


usages = st.builds(Usage, *(st.integers(0, 1000) for _ in range(5)))
lines = st.builds(Line, st.integers(0, 50), st.sampled_from("abc"), st.booleans(), usages)


@given(st.lists(lines, max_size=20))
def test_the_total_is_the_sum_of_the_models_and_of_the_lines(entered: list[Line]) -> None:
    books = Books()
    for line in entered:
        books.enter(line)
    assert books.lines == entered
    assert books.since(0) == books.total
    by_hand = Account()
    for account in books.by_model.values():
        by_hand += account
    assert by_hand == books.total
    assert books.total.usage.input_tokens == sum(line.usage.input_tokens for line in entered)
    assert books.total.usage.prompt_tokens == sum(line.usage.prompt_tokens for line in entered)


def test_the_books_can_be_read_from_one_request_on() -> None:
    books = Books()
    for index in range(3):
        books.enter(Line(index, "m", False, Usage(output_tokens=10**index)))
    assert books.since(1) == Account(2, Usage(output_tokens=110))
    assert json.dumps(books.total.usage.as_json())
