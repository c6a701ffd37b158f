"""The values that scripts and tests read from a request, and the ready-made scripts."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.loopback import (
    ApiUsage,
    ModelRequest,
    Script,
    TextBlock,
    ToolUseBlock,
    call_tools,
    echo,
    sequence,
)
from agent_pool.loopback.cache import InvalidRequest, measure_prefixes
from agent_pool.loopback.request import check_body, get_result_text
from agent_pool.loopback.usage import UsageEntry, UsageLog, UsageTotal

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
) -> ModelRequest:
    body = {"model": "m", "messages": list(messages) or [user("hi")], **fields}
    return ModelRequest(check_body(body), headers or {}, "/v1/messages", 0, 0.0)


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
def test_the_task_is_the_last_text_of_the_user(messages: list[dict[str, Any]], task: str) -> None:
    assert make(*messages).last_user_text == task


def test_a_request_gives_its_system_text_and_tool_names() -> None:
    request = make(
        system=[{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        tools=[{"name": "Bash"}, {"name": "Read"}],
    )
    assert (request.system_text, request.tools) == ("one\ntwo", ("Bash", "Read"))
    assert make(system="short").system_text == "short"
    assert (make().system_text, make().tools) == ("", ())


def test_tool_results_are_found_before_a_message_of_the_system() -> None:
    # Claude Code 2.1.260 to 2.1.294 puts the number of tokens left behind the results.
    request = make(user("go"), CALL, user(result("text")), {"role": "system", "content": "left"})
    assert [get_result_text(each) for each in request.tool_results] == ["text"]
    assert make({"role": "system", "content": "alone"}).tool_results == ()


def test_tool_results_are_those_of_the_last_message() -> None:
    request = make(user("go"), CALL, user(result("old")), CALL, user(result([{"type": "image"}])))
    assert [get_result_text(each) for each in request.tool_results] == [""]
    assert get_result_text(result("text")) == "text"
    assert (
        get_result_text(result([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))
        == "a\nb"
    )
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
def test_cli_requests_without_tools_and_thinking_are_side_requests(
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
def test_any_request_body_is_either_refused_or_readable(
    body: dict[str, Any], messages: list[Any]
) -> None:
    for candidate in (body, {**body, "messages": messages}):
        with contextlib.suppress(InvalidRequest):
            request = make(**check_body(candidate))
            measure_prefixes(request.body)
            assert isinstance(request.last_user_text + request.system_text, str)
            assert isinstance(echo(request), str)
            assert isinstance(request.is_side, bool)


def answers(script: Script, *requests: ModelRequest) -> list[Any]:
    return [script(request) for request in requests]


def test_a_sequence_repeats_its_last_answer_at_the_end() -> None:
    assert answers(sequence(["a", "b"]), make(), make(), make()) == ["a", "b", "b"]


def test_side_requests_take_no_answer_from_a_sequence() -> None:
    side = make(user("title?"), headers=CLI_HEADERS)
    assert answers(sequence(["a", "b"]), side, make(), side, make()) == [
        "echo: title?",
        "a",
        "echo: title?",
        "b",
    ]


def test_a_sequence_needs_at_least_one_answer() -> None:
    with pytest.raises(ValueError, match="at least one"):
        sequence([])


def test_calling_first_calls_the_tools_and_then_answers() -> None:
    call = ToolUseBlock("Bash", {"command": "ls"})
    done = make(user("go"), CALL, user(result("files")))
    assert answers(call_tools(call, call), make(), done) == [[call, call], "tool: files"]
    assert answers(call_tools(call, then=lambda _: TextBlock("bye")), done) == [TextBlock("bye")]


usages = st.builds(ApiUsage, *(st.integers(0, 1000) for _ in range(5)))
entries = st.builds(UsageEntry, st.integers(0, 50), st.sampled_from("abc"), st.booleans(), usages)


@given(st.lists(entries, max_size=20))
def test_the_total_is_the_sum_of_all_models_and_lines(entered: list[UsageEntry]) -> None:
    log = UsageLog()
    for entry in entered:
        log.add(entry)
    assert log.entries == entered
    assert log.since(0) == log.total
    by_hand = UsageTotal()
    for total in log.by_model.values():
        by_hand += total
    assert by_hand == log.total
    assert log.total.usage.input_tokens == sum(entry.usage.input_tokens for entry in entered)
    assert log.total.usage.prompt_tokens == sum(entry.usage.prompt_tokens for entry in entered)


def test_the_books_can_be_summed_from_a_given_request() -> None:
    log = UsageLog()
    for index in range(3):
        log.add(UsageEntry(index, "m", False, ApiUsage(output_tokens=10**index)))
    assert log.since(1) == UsageTotal(2, ApiUsage(output_tokens=110))
    assert json.dumps(log.total.usage.as_json())
