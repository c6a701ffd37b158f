"""How a session asks what its turn has used, and reads the answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.claude.protocol.frames import pays_by_subscription
from agent_pool.claude.protocol.session import Session
from agent_pool.claude.protocol.signals import TurnFinished, UsageGrew
from agent_pool.events import Spent
from agent_pool.models import Usage
from support.json_lines import as_lines
from support.session_states import MAX_LINE

CALL = {
    "type": "assistant",
    "parent_tool_use_id": None,
    "message": {"content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]},
}
OUTPUT = {
    "type": "user",
    "parent_tool_use_id": None,
    "message": {"content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]},
}
OF_SUB_AGENT = {**CALL, "parent_tool_use_id": "toolu_1"}
PROGRESS = {"type": "system", "subtype": "task_progress"}
WORDS = {**CALL, "message": {"content": [{"type": "text", "text": "words"}]}}


def session_of(*capabilities: str, stamp: str = "s1") -> Session:
    """Return a session in a turn, of a CLI with these capabilities."""
    session = Session(max_line=MAX_LINE, stamps_results=True)
    session.initialize("i", prompt=None)
    answer = {"capabilities": list(capabilities)}
    body = {"subtype": "success", "request_id": "i", "response": answer}
    session.receive(as_lines({"type": "control_response", "response": body}))
    session.prompt(stamp, "do it")
    return session


def reporting() -> Session:
    return session_of("get_usage_detached_v1")


def totals(tokens: int, cost: float = 0.0) -> dict[str, Any]:
    models = {"a": {"outputTokens": tokens}}
    return {"session": {"total_cost_usd": cost, "model_usage": models}}


def answer_to(request_id: str, tokens: int, cost: float = 0.0) -> bytes:
    body = {"subtype": "success", "request_id": request_id, "response": totals(tokens, cost)}
    return as_lines({"type": "control_response", "response": body})


def result(stamp: str, tokens: int) -> bytes:
    return as_lines(
        {
            **{"type": "result", "subtype": "success", "user_message_uuid": stamp},
            **{"result": "done", "modelUsage": {"a": {"outputTokens": tokens}}},
        }
    )


@pytest.mark.parametrize("frame", [CALL, OUTPUT, OF_SUB_AGENT, PROGRESS])
def test_an_answer_of_the_api_makes_the_session_ask(frame: dict[str, Any]) -> None:
    session = reporting()
    assert UsageGrew() in session.receive(as_lines(frame))
    asked = json.loads(session.ask_usage("u1"))["request"]
    assert asked == {"subtype": "get_usage", "skip_behaviors": True, "detached": True}


def test_the_last_message_of_a_turn_is_not_asked_about() -> None:
    assert UsageGrew() not in reporting().receive(as_lines(WORDS))


def test_many_frames_at_once_are_asked_about_once() -> None:
    session = reporting()
    assert session.receive(as_lines(CALL, OF_SUB_AGENT, OUTPUT)).count(UsageGrew()) == 1
    session.ask_usage("u1")
    assert UsageGrew() not in session.receive(as_lines(CALL))
    # That frame came after the request, so the answer can be older.
    assert session.receive(answer_to("u1", 5)) == [Spent(Usage(output_tokens=5), 0.0), UsageGrew()]
    session.ask_usage("u2")
    assert session.receive(answer_to("u2", 5)) == []
    assert session.usage.spent.usage.output_tokens == 5


def test_a_turn_has_used_the_growth_since_the_last_result() -> None:
    session = reporting()
    session.receive(result("s1", 100))
    session.prompt("s2", "again")
    session.receive(as_lines(CALL))
    session.ask_usage("u1")
    assert session.receive(answer_to("u1", 130)) == [Spent(Usage(output_tokens=30), 0.0)]


def test_a_late_answer_belongs_to_no_later_turn() -> None:
    session = reporting()
    session.receive(as_lines(CALL))
    session.ask_usage("u1")
    assert [type(one) for one in session.receive(result("s1", 100))] == [TurnFinished]
    assert session.receive(answer_to("u1", 90)) == []
    session.prompt("s2", "again")
    assert session.receive(answer_to("u1", 100)) == []
    assert session.usage.spent.usage == Usage()


def test_a_cli_that_refuses_is_not_asked_again() -> None:
    session = reporting()
    session.receive(as_lines(CALL))
    session.ask_usage("u1")
    body = {"subtype": "error", "request_id": "u1", "error": "unknown"}
    assert session.receive(as_lines({"type": "control_response", "response": body})) == []
    assert not session.usage.is_possible
    assert UsageGrew() not in session.receive(as_lines(CALL))


def test_a_cli_without_the_capability_is_never_asked() -> None:
    session = session_of("interrupt_receipt_v1")
    assert UsageGrew() not in session.receive(as_lines(CALL, OUTPUT, PROGRESS))


def test_an_interrupted_turn_is_not_asked_any_more() -> None:
    session = reporting()
    session.receive(as_lines(CALL))
    session.ask_usage("u1")
    session.interrupt("r")
    assert UsageGrew() not in session.receive(as_lines(CALL))
    assert session.receive(answer_to("u1", 5)) == [Spent(Usage(output_tokens=5), 0.0)]


def message(prompt: int, *, model: str = "large", parent: str | None = None) -> dict[str, Any]:
    """Return a frame that calls a tool after a prompt of so many tokens."""
    usage = {"input_tokens": 1, "cache_read_input_tokens": prompt - 1, "output_tokens": 9}
    content = [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]
    body = {"model": model, "usage": usage, "content": content}
    return {"type": "assistant", "parent_tool_use_id": parent, "message": body}


def windows(**by_model: int) -> bytes:
    models = {name: {"contextWindow": size} for name, size in by_model.items()}
    answer = {"session": {"total_cost_usd": 0, "model_usage": models}}
    body = {"subtype": "success", "request_id": "u1", "response": answer}
    return as_lines({"type": "control_response", "response": body})


def test_the_context_is_that_of_the_main_agents_last_request() -> None:
    session = reporting()
    session.receive(as_lines(message(500), message(700), message(90, model="small", parent="a")))
    session.ask_usage("u1")
    (spent, *_) = session.receive(windows(large=1000, small=100))
    assert isinstance(spent, Spent)
    assert (spent.context_tokens, spent.context_window) == (700, 1000)


def test_the_window_is_that_of_the_sessions_variant_of_a_model() -> None:
    session = reporting()
    session.receive(as_lines({"type": "system", "subtype": "init", "model": "large[1m]"}))
    session.receive(as_lines(message(700)))
    session.ask_usage("u1")
    (spent, *_) = session.receive(windows(**{"large": 1000, "large[1m]": 5000}))
    assert isinstance(spent, Spent)
    assert (spent.context_tokens, spent.context_window) == (700, 5000)


def test_without_a_known_window_no_context_is_reported() -> None:
    session = reporting()
    session.receive(as_lines(message(700, model="other")))
    session.ask_usage("u1")
    assert session.receive(windows(large=1000)) == []
    session.receive(result("s1", 100))
    session.prompt("s2", "again")
    assert session.usage.context == (0, 0)


@given(st.lists(st.sampled_from(["frame", "ask", "answer"]), max_size=12))
def test_every_answer_of_the_api_is_asked_about_in_the_end(steps: list[str]) -> None:
    session, asked, wanted, frames = reporting(), "", False, 0
    for number, step in enumerate([*steps, "frame", "ask", "answer", "ask", "answer"]):
        if step == "frame":
            frames += 1
            wanted |= UsageGrew() in session.receive(as_lines(CALL))
        elif step == "ask" and wanted:
            asked, wanted = f"u{number}", False
            session.ask_usage(asked)
        elif step == "answer" and asked:
            wanted |= UsageGrew() in session.receive(answer_to(asked, frames))
            asked = ""
    assert session.usage.spent.usage.output_tokens == frames
    assert not wanted


@pytest.mark.parametrize(
    ("account", "is_subscription"),
    [
        ({"tokenSource": "none", "apiKeySource": "ANTHROPIC_API_KEY"}, False),
        ({"tokenSource": "CLAUDE_CODE_OAUTH_TOKEN"}, True),
        ({"tokenSource": "CLAUDE_CODE_OAUTH_TOKEN_FILE_DESCRIPTOR"}, True),
        ({"tokenSource": "CLAUDE_CODE_OAUTH_TOKEN", "apiKeySource": "ANTHROPIC_API_KEY"}, False),
        ({"tokenSource": "ANTHROPIC_AUTH_TOKEN"}, False),
        ({"tokenSource": "apiKeyHelper", "apiKeySource": "apiKeyHelper"}, False),
        ({"subscriptionType": "Claude Max", "apiProvider": "firstParty"}, True),
        ({"apiProvider": "bedrock"}, False),
        ({}, False),
    ],
)
def test_an_account_is_a_subscription_only_without_a_key(
    account: dict[str, str], is_subscription: bool
) -> None:
    assert pays_by_subscription(account) is is_subscription
