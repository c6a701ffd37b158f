from __future__ import annotations

import json

import pytest

from agent_pool.claude.events import (
    ControlAnswered,
    ControlAsked,
    Initialized,
    InitializeFailed,
    Retrying,
    Said,
    ToolAnswered,
    ToolCalled,
    TurnEnded,
)
from agent_pool.claude.session import Session
from agent_pool.claude.states import TRANSITIONS, State
from agent_pool.errors import LocalProtocolError, RemoteProtocolError
from claude import frames
from claude.frames import as_lines
from claude.sessions import (
    MAX_LINE,
    clearing,
    in_turn,
    kinds,
    new_session,
    ready,
    unstamped,
    used,
    with_fields,
)

# Becoming ready


def test_initialize_carries_the_given_fields_and_its_answer_makes_the_session_ready() -> None:
    session = new_session()
    sent = json.loads(session.initialize("r159c80", {"systemPrompt": ["You test."]}))
    assert sent == {
        "type": "control_request",
        "request_id": "r159c80",
        "request": {"subtype": "initialize", "systemPrompt": ["You test."]},
    }
    assert (session.state, session.is_clean) == (State.STARTING, False)
    [event] = session.receive(frames.INITIALIZED.data)
    assert isinstance(event, Initialized)
    assert event.info["account"]["apiKeySource"] == "ANTHROPIC_API_KEY"
    assert (session.state, session.is_clean) == (State.READY, True)


def test_a_refused_initialize_breaks_the_session() -> None:
    session = new_session()
    session.initialize("i", {})
    refusal = {"subtype": "error", "request_id": "i", "error": "no such prompt"}
    events = session.receive(as_lines({"type": "control_response", "response": refusal}))
    assert (events, session.state) == ([InitializeFailed("no such prompt")], State.BROKEN)


def test_another_requests_answer_does_not_make_the_session_ready() -> None:
    session = new_session()
    session.initialize("i", {})
    session.receive(frames.UNSUPPORTED.data)
    assert session.state is State.STARTING


def test_initialize_is_sent_once() -> None:
    session = new_session()
    session.initialize("i", {})
    with pytest.raises(LocalProtocolError):
        session.initialize("j", {})


# A turn


def test_a_turn_is_told_as_it_happens_and_ends_with_the_result_of_its_prompt() -> None:
    session = in_turn(frames.BASH)
    assert session.receive(frames.BASH.data) == [
        ToolCalled("toolu_b0adaa5446", "Bash", {"command": "echo hi", "description": "d"}),
        ToolAnswered("toolu_b0adaa5446", "hi", is_error=False),
        Said("done with tool"),
        TurnEnded(frames.BASH.last),
    ]
    assert (session.state, session.taints, session.strays) == (State.USED, [], 0)
    assert (session.session_id, session.version) == ("7242a9b6", "2.1.330")


@pytest.mark.parametrize("task", ["/clear", "/compact", "/model x", "hello", "--flag", "#note"])
def test_a_task_is_sent_as_data_after_a_line_feed(task: str) -> None:
    sent = json.loads(ready().prompt("stamp", task))
    assert (sent["type"], sent["uuid"]) == ("user", "stamp")
    assert sent["message"] == {"role": "user", "content": "\n" + task}


def test_a_version_that_does_not_stamp_is_taken_at_its_word() -> None:
    session = in_turn(frames.HELLO_2_1_119)
    events = session.receive(frames.HELLO_2_1_119.data)
    assert events == [Said("answer to hello"), TurnEnded(frames.HELLO_2_1_119.last)]
    assert (session.state, session.taints) == (State.USED, [])


def test_a_result_with_several_stamps_ends_the_turn_if_ours_is_among_them() -> None:
    session = in_turn(frames.HELLO)
    last = with_fields(
        frames.HELLO.last, user_message_uuid="other", user_message_uuids=["other", "d15cf5bc"]
    )
    assert session.receive(as_lines(last)) == [TurnEnded(last)]


@pytest.mark.parametrize("stamps", [["other"], ["other", "third"]])
def test_a_result_with_anothers_stamp_is_a_stray(stamps: list[str]) -> None:
    session = in_turn(frames.HELLO)
    late = with_fields(frames.HELLO.last, user_message_uuid=None, user_message_uuids=stamps)
    assert session.receive(as_lines(late)) == []
    assert (session.state, session.strays) == (State.IN_TURN, 1)
    assert session.taints != []


def test_the_late_result_of_the_turn_before_is_never_the_answer_to_this_one() -> None:
    session = used(frames.HELLO)
    session.prompt(frames.BASH.stamp, "the next task")
    assert session.receive(as_lines(frames.HELLO.last)) == []
    assert session.receive(frames.BASH.data)[-1] == TurnEnded(frames.BASH.last)
    assert (session.strays, len(session.taints)) == (1, 1)


def test_a_version_that_stamps_must_stamp_its_results() -> None:
    session = in_turn(frames.HELLO)
    session.receive(frames.HELLO.without_last())
    assert session.receive(as_lines(unstamped(frames.HELLO.last))) == []
    assert (session.state, session.strays) == (State.IN_TURN, 1)


def test_a_result_without_any_prompt_is_a_stray() -> None:
    session = ready()
    assert session.receive(as_lines(unstamped(frames.HELLO.last))) == []
    assert (session.state, session.strays, session.is_clean) == (State.READY, 1, False)


def test_a_second_result_for_the_same_prompt_is_a_stray() -> None:
    session = used(frames.HELLO)
    assert session.receive(as_lines(frames.HELLO.last)) == []
    assert (session.state, session.strays) == (State.USED, 1)


def test_an_error_result_ends_the_turn_as_well() -> None:
    session = in_turn(frames.HELLO)
    last = with_fields(frames.HELLO.last, subtype="error_max_turns", is_error=True, result=None)
    assert session.receive(as_lines(last)) == [TurnEnded(last)]
    assert (session.state, session.taints) == (State.USED, [])


def test_what_a_sub_agent_says_and_calls_is_not_told() -> None:
    session = in_turn(frames.SUBAGENT)
    called, answered, said, ended = session.receive(frames.SUBAGENT.data)
    assert isinstance(called, ToolCalled)
    assert called.name == "Agent"
    assert isinstance(answered, ToolAnswered)
    assert answered.id == called.id
    assert answered.text.startswith("  <tools-used-before-summary>")
    assert (said, ended) == (Said("done with tool"), TurnEnded(frames.SUBAGENT.last))
    assert session.taints == []


def test_frames_of_unknown_types_are_passed_over() -> None:
    session = in_turn(frames.HELLO)
    unknown = [{"type": "brand_new", "data": [1]}, {"type": None}, {"type": ["x"]}, {}]
    unknown.append({"type": "system", "subtype": "brand_new"})
    assert session.receive(as_lines(*unknown)) == []
    assert (session.state, session.taints, session.noise) == (State.IN_TURN, [], 0)


def test_lines_that_are_no_frames_are_counted_and_passed_over() -> None:
    session = in_turn(frames.HELLO)
    data = b"(node) a warning\n\n  \n" + frames.HELLO.data
    assert kinds(session.receive(data)) == [Said, TurnEnded]
    assert session.noise == 1


def test_a_retried_request_is_told() -> None:
    session = in_turn(frames.HELLO)
    frame = {
        "type": "system",
        "subtype": "api_retry",
        "attempt": 2,
        "error": "overloaded",
        "error_status": 529,
        "retry_delay_ms": 1500,
    }
    assert session.receive(as_lines(frame)) == [
        Retrying(status=529, error="overloaded", attempt=2, delay=1.5)
    ]


# Turns that nobody asked for


def test_a_turn_that_starts_by_itself_is_not_told_and_taints() -> None:
    session = used(frames.BACKGROUND)
    assert session.receive(frames.FOREIGN.data) == []
    assert (session.state, session.strays) == (State.USED, 1)
    assert "a turn started by itself" in session.taints


def test_a_turn_that_starts_by_itself_in_ours_leaves_our_answer_our_own() -> None:
    session = used(frames.BACKGROUND)
    session.prompt(frames.HELLO.stamp, "hello")
    events = session.receive(frames.FOREIGN.data + frames.HELLO.data)
    assert events == [Said("answer to hello"), TurnEnded(frames.HELLO.last)]
    assert (session.strays, session.is_clean) == (1, False)


def test_a_turn_that_starts_by_itself_spoils_a_reset() -> None:
    session = clearing(frames.HELLO)
    session.receive(frames.FOREIGN.data + frames.CLEAR.data)
    assert (session.state, session.strays, session.is_clean) == (State.READY, 1, False)


def test_a_turn_that_starts_by_itself_taints_as_soon_as_it_starts() -> None:
    session = used(frames.HELLO)
    session.prompt(frames.BASH.stamp, "the next task")
    session.receive(as_lines(frames.FOREIGN.frames[3]))
    assert session.taints == ["a turn started by itself"]


def test_a_turn_that_starts_by_itself_is_seen_where_results_are_not_stamped() -> None:
    session = used(frames.HELLO_2_1_119)
    session.receive(frames.AGAIN_2_1_119.data)
    assert (session.state, session.strays) == (State.USED, 1)
    assert "a turn started by itself" in session.taints


# Interrupting


def test_an_interrupted_turn_ends_with_its_own_result() -> None:
    session = in_turn(frames.RUNNING)
    session.receive(frames.RUNNING.data)
    sent = json.loads(session.interrupt(frames.INTERRUPTED.stamp))
    assert sent["request"] == {"subtype": "interrupt"}
    assert session.state is State.INTERRUPTING
    acknowledged, stopped, ended = session.receive(frames.INTERRUPTED.data)
    assert acknowledged == ControlAnswered("rd99618", None, {"still_queued": []})
    assert isinstance(stopped, ToolAnswered)
    assert ended == TurnEnded(frames.INTERRUPTED.last)
    assert (session.state, session.taints) == (State.USED, [])


def test_a_result_that_crosses_the_interrupt_ends_the_turn() -> None:
    session = in_turn(frames.HELLO)
    session.interrupt("r")
    assert session.receive(frames.HELLO.data)[-1] == TurnEnded(frames.HELLO.last)
    assert session.state is State.USED


# Control


def test_the_answers_to_our_control_requests_are_told() -> None:
    session = ready()
    sent = json.loads(session.control("rfb3432", {"subtype": "no_such"}))
    assert (sent["request_id"], sent["request"]) == ("rfb3432", {"subtype": "no_such"})
    assert session.receive(frames.UNSUPPORTED.data) == [
        ControlAnswered("rfb3432", "Unsupported control request subtype: no_such", {})
    ]


def test_what_the_process_asks_is_told_and_can_be_answered() -> None:
    session = in_turn(frames.HELLO)
    request = {"subtype": "can_use_tool", "tool_name": "Bash"}
    frame = {"type": "control_request", "request_id": "q", "request": request}
    assert session.receive(as_lines(frame)) == [ControlAsked("q", request)]
    assert json.loads(session.answer_control("q", {"behavior": "deny"}))["response"] == {
        "request_id": "q",
        "subtype": "success",
        "response": {"behavior": "deny"},
    }
    assert json.loads(session.answer_control("q", "not here"))["response"] == {
        "request_id": "q",
        "subtype": "error",
        "error": "not here",
    }


# The order of things

CALLS = {
    "prompt": lambda session: session.prompt("s", "task"),
    "interrupt": lambda session: session.interrupt("r"),
    "clear": lambda session: session.clear("s"),
    "control": lambda session: session.control("r", {"subtype": "x"}),
    "answer_control": lambda session: session.answer_control("r", {}),
}
ALLOWED = {
    State.STARTING: {"control", "answer_control"},
    State.READY: {"prompt", "control", "answer_control"},
    State.IN_TURN: {"interrupt", "control", "answer_control"},
    State.INTERRUPTING: {"control", "answer_control"},
    State.USED: {"prompt", "clear", "control", "answer_control"},
    State.RESETTING: {"control", "answer_control"},
    State.CLOSED: set(),
    State.BROKEN: set(),
}


def session_in(state: State) -> Session:
    if state is State.STARTING:
        return new_session()
    session = ready()
    if state in (State.IN_TURN, State.INTERRUPTING):
        session.prompt("s", "task")
    if state is State.INTERRUPTING:
        session.interrupt("r")
    if state in (State.USED, State.RESETTING):
        session = used() if state is State.USED else clearing()
    if state is State.CLOSED:
        session.receive_eof()
    if state is State.BROKEN:
        with pytest.raises(RemoteProtocolError):
            session.receive(b"{broken\n")
    assert session.state is state
    return session


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_allowed_or_refused_by_the_state(state: State, call: str) -> None:
    session = session_in(state)
    if call in ALLOWED[state]:
        assert CALLS[call](session).endswith(b"\n")
    else:
        with pytest.raises(LocalProtocolError, match=f"in state {state}"):
            CALLS[call](session)
        assert session.state is state


def test_a_prompt_that_cannot_be_sent_leaves_the_state_as_it_is() -> None:
    session = session_in(State.USED)
    with pytest.raises(LocalProtocolError, match="not sendable"):
        session.prompt(b"stamp", "task")  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="not sendable"):
        session.clear(b"stamp")  # type: ignore[arg-type]
    assert session.state is State.USED


def test_every_state_stands_in_the_table_of_transitions() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(after in TRANSITIONS for row in TRANSITIONS.values() for after in row.values())


@pytest.mark.parametrize("state", [State.CLOSED, State.BROKEN])
def test_what_comes_after_the_end_is_not_heard(state: State) -> None:
    session = session_in(state)
    assert session.receive(frames.HELLO.data) == []
    assert session.state is state


def test_broken_bytes_break_the_session_and_its_end_does_not_mend_it() -> None:
    session = in_turn(frames.HELLO)
    with pytest.raises(RemoteProtocolError, match="broken JSON"):
        session.receive(b'{"type": "result", \n')
    session.receive_eof()
    assert (session.state, session.is_clean) == (State.BROKEN, False)


def test_a_line_over_max_line_breaks_the_session() -> None:
    session = in_turn(frames.HELLO)
    with pytest.raises(RemoteProtocolError, match="10,000"):
        session.receive(b'{"a":"' + b"x" * MAX_LINE)
    assert session.state is State.BROKEN
