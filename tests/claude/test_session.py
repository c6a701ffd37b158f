from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from agent_pool import Retry, Text, ToolOutput, ToolUse, Usage
from agent_pool.claude.protocol.results import Spend, TurnResult
from agent_pool.claude.protocol.role import Role
from agent_pool.claude.protocol.session import Session
from agent_pool.claude.protocol.signals import (
    CanUseTool,
    Initialized,
    InitializeFailed,
    ProtocolBroken,
    ResetFinished,
    RoleMissed,
    Signal,
    StrayFinished,
    ToolsMissing,
    TurnFinished,
    UnknownRequest,
)
from agent_pool.claude.protocol.states import TRANSITIONS, SessionState
from agent_pool.errors import LocalProtocolError
from support import recorded_frames as frames
from support.json_lines import as_lines
from support.session_states import (
    MAX_LINE,
    clearing,
    finished,
    in_turn,
    kinds,
    new_session,
    ready,
    unstamped,
    used,
    with_fields,
)

# Becoming ready


def test_initialize_sends_its_fields_and_makes_the_session_ready() -> None:
    session = new_session()
    schema = {"type": "object"}
    sent = json.loads(session.initialize("r159c80", prompt="You test.", schema=schema))
    assert sent == {
        "type": "control_request",
        "request_id": "r159c80",
        "request": {"subtype": "initialize", "systemPrompt": ["You test."], "jsonSchema": schema},
    }
    assert (session.state, session.is_clean) == (SessionState.STARTING, False)
    assert session.receive(frames.INITIALIZED.data) == [Initialized()]
    assert (session.state, session.is_clean) == (SessionState.READY, True)


def test_initialize_leaves_out_a_prompt_and_schema_that_are_none() -> None:
    sent = json.loads(new_session().initialize("r159c80", prompt=None))
    assert sent["request"] == {"subtype": "initialize"}


def test_an_empty_system_prompt_is_sent_and_not_left_out() -> None:
    sent = json.loads(new_session().initialize("r159c80", prompt="", schema={}))
    assert sent["request"] == {"subtype": "initialize", "systemPrompt": [""], "jsonSchema": {}}


def test_a_refused_initialize_breaks_the_session() -> None:
    session = new_session()
    session.initialize("i", prompt=None)
    refusal = {"subtype": "error", "request_id": "i", "error": "no such prompt"}
    events = session.receive(as_lines({"type": "control_response", "response": refusal}))
    assert (events, session.state) == ([InitializeFailed("no such prompt")], SessionState.BROKEN)


def test_an_answer_to_another_request_leaves_the_session_starting() -> None:
    session = new_session()
    session.initialize("i", prompt=None)
    assert session.receive(frames.UNSUPPORTED.data) == []
    assert session.state is SessionState.STARTING


def test_a_second_initialize_is_a_local_protocol_error() -> None:
    session = new_session()
    session.initialize("i", prompt=None)
    with pytest.raises(LocalProtocolError):
        session.initialize("j", prompt=None)


# A turn


def test_a_turn_gives_its_events_and_ends_with_its_result() -> None:
    session = in_turn(frames.BASH)
    assert session.receive(frames.BASH.data) == [
        ToolUse("toolu_b0adaa5446", "Bash", {"command": "echo hi", "description": "d"}),
        ToolOutput("toolu_b0adaa5446", "hi", is_error=False),
        Text("done with tool"),
        TurnFinished(
            TurnResult(
                "done with tool",
                is_error=False,
                subtype="success",
                turns=2,
                spend=Spend(Usage(input_tokens=20, output_tokens=10), 0.00028000000000000003),
                session_id="7242a9b6",
                terminal_reason="completed",
                models=("claude-opus-5-5",),
                requests=1,
            )
        ),
    ]
    assert (session.state, session.taints, session.strays) == (SessionState.USED, [], 0)
    assert (session.session_id, session.version) == ("7242a9b6", "2.1.330")


@pytest.mark.parametrize("task", ["/clear", "/compact", "/model x", "hello", "--flag", "#note"])
def test_a_task_is_sent_as_data_after_a_line_feed(task: str) -> None:
    sent = json.loads(ready().prompt("stamp", task))
    assert (sent["type"], sent["uuid"]) == ("user", "stamp")
    assert sent["message"] == {"role": "user", "content": "\n" + task}


def test_an_unstamped_result_ends_the_turn_in_old_versions() -> None:
    session = in_turn(frames.HELLO_2_1_119)
    events = session.receive(frames.HELLO_2_1_119.data)
    assert events == [Text("answer to hello"), finished(frames.HELLO_2_1_119.last)]
    assert (session.state, session.taints) == (SessionState.USED, [])


def test_a_result_with_our_stamp_among_several_ends_the_turn() -> None:
    session = in_turn(frames.HELLO)
    last = with_fields(
        frames.HELLO.last, user_message_uuid="other", user_message_uuids=["other", "d15cf5bc"]
    )
    assert session.receive(as_lines(last)) == [finished(last)]


@pytest.mark.parametrize("stamps", [["other"], ["other", "third"]])
def test_a_result_with_only_foreign_stamps_is_a_stray(stamps: list[str]) -> None:
    session = in_turn(frames.HELLO)
    late = with_fields(frames.HELLO.last, user_message_uuid=None, user_message_uuids=stamps)
    assert session.receive(as_lines(late)) == [StrayFinished()]
    assert (session.state, session.strays) == (SessionState.IN_TURN, 1)
    assert session.taints != []


def test_a_late_result_never_answers_the_next_turn() -> None:
    session = used(frames.HELLO)
    session.prompt(frames.BASH.stamp, "the next task")
    assert session.receive(as_lines(frames.HELLO.last)) == [StrayFinished()]
    assert session.receive(frames.BASH.data)[-1] == finished(
        frames.BASH.last, after=frames.HELLO.last
    )
    assert (session.strays, len(session.taints)) == (1, 1)


def test_an_unstamped_result_is_a_stray_in_versions_that_stamp() -> None:
    session = in_turn(frames.HELLO)
    session.receive(frames.HELLO.without_last())
    assert session.receive(as_lines(unstamped(frames.HELLO.last))) == [StrayFinished()]
    assert (session.state, session.strays) == (SessionState.IN_TURN, 1)


def test_an_error_without_a_stamp_ends_its_turn_and_its_worker() -> None:
    session = in_turn(frames.HELLO_2_1_119)
    session.stamps_results = (
        True  # as in 2.1.229, which stamps no errors and no beginnings of turns
    )
    fields = {"is_error": True, "result": "API Error: 400", "api_error_status": 400}
    last = with_fields(frames.HELLO_2_1_119.last, **fields)

    (ended,) = session.receive(as_lines(last))

    assert isinstance(ended, TurnFinished)
    assert (ended.result.is_error, ended.result.api_status) == (True, 400)
    assert (session.state, session.strays) == (SessionState.USED, 0)
    assert session.taints == ["an error came that does not name its task"]


def test_an_error_without_a_stamp_is_a_stray_in_versions_that_stamp_turns() -> None:
    session = in_turn(frames.HELLO)
    session.receive(frames.HELLO.without_last())
    error = {**unstamped(frames.HELLO.last), "is_error": True}
    assert session.receive(as_lines(error)) == [StrayFinished()]
    assert (session.state, session.strays) == (SessionState.IN_TURN, 1)


def test_a_result_without_any_prompt_is_a_stray() -> None:
    session = ready()
    assert session.receive(as_lines(unstamped(frames.HELLO.last))) == [StrayFinished()]
    assert (session.state, session.strays, session.is_clean) == (SessionState.READY, 1, False)


def test_a_second_result_for_the_same_prompt_is_a_stray() -> None:
    session = used(frames.HELLO)
    assert session.receive(as_lines(frames.HELLO.last)) == [StrayFinished()]
    assert (session.state, session.strays) == (SessionState.USED, 1)


def test_an_error_result_ends_the_turn_as_well() -> None:
    session = in_turn(frames.HELLO)
    last = with_fields(frames.HELLO.last, subtype="error_max_turns", is_error=True, result=None)
    assert session.receive(as_lines(last)) == [finished(last)]
    assert (session.state, session.taints) == (SessionState.USED, [])


def test_text_and_tool_calls_of_subagents_give_no_events() -> None:
    session = in_turn(frames.SUBAGENT)
    called, answered, text, ended = session.receive(frames.SUBAGENT.data)
    assert isinstance(called, ToolUse)
    assert called.name == "Agent"
    assert isinstance(answered, ToolOutput)
    assert answered.id == called.id
    assert answered.text.startswith("  <tools-used-before-summary>")
    assert (text, ended) == (Text("done with tool"), finished(frames.SUBAGENT.last))
    assert session.taints == []


def test_frames_of_unknown_types_are_ignored_without_a_taint() -> None:
    session = in_turn(frames.HELLO)
    unknown = [{"type": "brand_new", "data": [1]}, {"type": None}, {"type": ["x"]}, {}]
    unknown.append({"type": "system", "subtype": "brand_new"})
    assert session.receive(as_lines(*unknown)) == []
    assert (session.state, session.taints) == (SessionState.IN_TURN, [])


def test_lines_that_are_no_frames_give_no_signals() -> None:
    session = in_turn(frames.HELLO)
    data = b"(node) a warning\n\n  \n" + frames.HELLO.data
    assert kinds(session.receive(data)) == [Text, TurnFinished]
    assert session.taints == []


def test_a_retried_api_request_gives_a_retry_event() -> None:
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
        Retry(status=529, error="overloaded", attempt=2, delay=1.5)
    ]


# The tokens and the cost of a turn


def spends(signals: list[Signal]) -> list[Spend]:
    return [signal.result.spend for signal in signals if isinstance(signal, TurnFinished)]


def test_a_turn_spends_only_the_growth_of_the_running_totals() -> None:
    session = in_turn(frames.HELLO_2_1_119)
    first = spends(session.receive(frames.HELLO_2_1_119.data))
    session.prompt(frames.AGAIN_2_1_119.stamp, "again")
    second = spends(session.receive(frames.AGAIN_2_1_119.data))
    assert first == second == [Spend(Usage(input_tokens=10, output_tokens=5), 0.000105)]


def test_the_running_totals_of_a_session_restart_at_a_clear() -> None:
    session = clearing(frames.HELLO)
    session.receive(frames.CLEAR.data)
    session.prompt(frames.BASH.stamp, "the next task")
    usage = Usage(input_tokens=20, output_tokens=10)
    assert spends(session.receive(frames.BASH.data)) == [Spend(usage, 0.00028000000000000003)]


def test_a_stray_result_does_not_change_the_running_totals() -> None:
    session = used(frames.HELLO)
    session.prompt(frames.BASH.stamp, "the next task")
    stray = with_fields(frames.BACKGROUND.last, total_cost_usd=99)
    assert spends(session.receive(as_lines(stray))) == []
    usage = Usage(input_tokens=10, output_tokens=5)
    assert spends(session.receive(frames.BASH.data)) == [Spend(usage, 0.00014000000000000001)]


# Turns that no prompt has asked for


def test_an_unrequested_turn_gives_no_events_and_taints_the_session() -> None:
    session = used(frames.BACKGROUND)
    assert session.receive(frames.FOREIGN.data) == [StrayFinished()]
    assert (session.state, session.strays) == (SessionState.USED, 1)
    assert "a turn started by itself" in session.taints


def test_an_unrequested_turn_inside_ours_leaves_our_answer_unchanged() -> None:
    session = used(frames.BACKGROUND)
    session.prompt(frames.HELLO.stamp, "hello")
    events = session.receive(frames.FOREIGN.data + frames.HELLO.data)
    answer = finished(frames.HELLO.last, after=frames.BACKGROUND.last)
    assert events == [StrayFinished(), Text("answer to hello"), answer]
    assert (session.strays, session.is_clean) == (1, False)


def test_an_unrequested_turn_during_a_reset_leaves_the_session_unclean() -> None:
    session = clearing(frames.HELLO)
    signals = session.receive(frames.FOREIGN.data + frames.CLEAR.data)
    assert kinds(signals) == [StrayFinished, ResetFinished]
    assert (session.state, session.strays, session.is_clean) == (SessionState.READY, 1, False)


def test_an_unrequested_turn_taints_the_session_at_its_start() -> None:
    session = used(frames.HELLO)
    session.prompt(frames.BASH.stamp, "the next task")
    session.receive(as_lines(frames.FOREIGN.frames[3]))
    assert session.taints == ["a turn started by itself"]


def test_an_unrequested_turn_is_noticed_in_versions_without_stamps() -> None:
    session = used(frames.HELLO_2_1_119)
    session.receive(frames.AGAIN_2_1_119.data)
    assert (session.state, session.strays) == (SessionState.USED, 1)
    assert "a turn started by itself" in session.taints


# Interrupting


def test_an_interrupted_turn_ends_with_its_own_result() -> None:
    session = in_turn(frames.RUNNING)
    session.receive(frames.RUNNING.data)
    sent = json.loads(session.interrupt(frames.INTERRUPTED.stamp))
    assert sent["request"] == {"subtype": "interrupt"}
    assert session.state is SessionState.INTERRUPTING
    stopped, ended = session.receive(frames.INTERRUPTED.data)
    assert isinstance(stopped, ToolOutput)
    assert ended == finished(frames.INTERRUPTED.last, begun=frames.RUNNING)
    assert (session.state, session.taints) == (SessionState.USED, [])


def test_a_result_that_arrives_during_an_interrupt_ends_the_turn() -> None:
    session = in_turn(frames.HELLO)
    session.interrupt("r")
    assert session.receive(frames.HELLO.data)[-1] == finished(frames.HELLO.last)
    assert session.state is SessionState.USED


# Control


def test_answers_to_our_control_requests_give_no_signals() -> None:
    session = used(frames.BACKGROUND)
    sent = json.loads(session.stop_background_task("rfb3432", "biz7pvve9"))
    assert (sent["type"], sent["request_id"]) == ("control_request", "rfb3432")
    assert sent["request"] == {"subtype": "stop_task", "task_id": "biz7pvve9"}
    assert session.receive(frames.UNSUPPORTED.data) == []
    assert (session.state, session.taints) == (SessionState.USED, [])


def control_request(**request: object) -> bytes:
    return as_lines({"type": "control_request", "request_id": "q", "request": request})


def test_a_permission_request_of_the_cli_is_reported_and_answered() -> None:
    session = in_turn(frames.HELLO)
    asked = CanUseTool("q", "Bash", {"command": "ls"}, "List the files.")
    data = control_request(
        subtype="can_use_tool",
        tool_name="Bash",
        input={"command": "ls"},
        description="List the files.",
    )
    assert session.receive(data) == [asked]
    assert json.loads(session.allow_tool(asked)) == {
        "type": "control_response",
        "response": {
            "request_id": "q",
            "subtype": "success",
            "response": {"behavior": "allow", "updatedInput": {"command": "ls"}},
        },
    }
    assert json.loads(session.deny_tool(asked, "not here"))["response"] == {
        "request_id": "q",
        "subtype": "success",
        "response": {"behavior": "deny", "message": "not here"},
    }


@pytest.mark.parametrize("junk", [None, [], 0, False])
def test_missing_fields_of_a_permission_request_are_read_as_empty(junk: object) -> None:
    session = in_turn(frames.HELLO)
    data = control_request(subtype="can_use_tool", input=junk, description=junk)
    assert session.receive(data) == [CanUseTool("q", "", {}, "")]


def test_an_unknown_request_of_the_cli_is_reported_and_refused() -> None:
    session = in_turn(frames.HELLO)
    unknown = UnknownRequest("q", "hook_callback")
    assert session.receive(control_request(subtype="hook_callback")) == [unknown]
    assert json.loads(session.refuse_request(unknown))["response"] == {
        "request_id": "q",
        "subtype": "error",
        "error": "agent-pool cannot answer hook_callback",
    }


def test_a_control_request_without_a_body_gives_no_signal() -> None:
    session = in_turn(frames.HELLO)
    frame = {"type": "control_request", "request_id": "q", "request": "odd"}
    assert session.receive(as_lines(frame)) == []


# The order of calls

ASKED = CanUseTool("r", "Bash", {}, "")
ROLE = Role("tester-1", "---\nname: tester-1\n---\n", None, None, frozenset(), "")
CALLS: dict[str, Callable[[Session], bytes]] = {
    "prompt": lambda session: session.prompt("s", "task"),
    "interrupt": lambda session: session.interrupt("r"),
    "clear": lambda session: session.clear("s"),
    "rewind": lambda session: session.rewind("r"),
    "load_roles": lambda session: session.load_roles("r"),
    "take_role": lambda session: session.take_role("r", ROLE, [ROLE.full_name]),
    "set_servers": lambda session: session.set_servers("r", {}),
    "ask_usage": lambda session: session.ask_usage("r"),
    "stop_background_task": lambda session: session.stop_background_task("r", "b"),
    "allow_tool": lambda session: session.allow_tool(ASKED),
    "deny_tool": lambda session: session.deny_tool(ASKED, "no"),
    "refuse_request": lambda session: session.refuse_request(UnknownRequest("r", "x")),
}
WHILE_ALIVE = {
    *("ask_usage", "stop_background_task", "allow_tool", "deny_tool", "refuse_request"),
}
ALLOWED: dict[SessionState, set[str]] = {
    SessionState.STARTING: WHILE_ALIVE,
    SessionState.READY: WHILE_ALIVE | {"prompt", "clear", "load_roles", "take_role", "set_servers"},
    SessionState.CONFIGURING: WHILE_ALIVE,
    SessionState.IN_TURN: WHILE_ALIVE | {"interrupt"},
    SessionState.INTERRUPTING: WHILE_ALIVE,
    SessionState.USED: WHILE_ALIVE | {"prompt", "clear", "rewind"},
    SessionState.RESETTING: WHILE_ALIVE,
    SessionState.CLOSED: set(),
    SessionState.BROKEN: set(),
}


def session_in(state: SessionState) -> Session:
    if state is SessionState.STARTING:
        return new_session()
    session = ready()
    if state in (SessionState.IN_TURN, SessionState.INTERRUPTING):
        session.prompt("s", "task")
    if state is SessionState.INTERRUPTING:
        session.interrupt("r")
    if state in (SessionState.USED, SessionState.RESETTING):
        session = used() if state is SessionState.USED else clearing()
    if state is SessionState.CONFIGURING:
        session.load_roles("r")
    if state is SessionState.CLOSED:
        session.receive_eof()
    if state is SessionState.BROKEN:
        assert kinds(session.receive(b"{broken\n")) == [ProtocolBroken]
    assert session.state is state
    return session


@pytest.mark.parametrize("state", SessionState)
@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_allowed_or_refused_by_the_state(state: SessionState, call: str) -> None:
    session = session_in(state)
    if call in ALLOWED[state]:
        assert CALLS[call](session).endswith(b"\n")
    else:
        with pytest.raises(LocalProtocolError, match=f"in state {state}|no rewind: 0 prompts"):
            CALLS[call](session)
        assert session.state is state


def test_a_prompt_that_cannot_be_sent_leaves_the_state_unchanged() -> None:
    session = session_in(SessionState.USED)
    with pytest.raises(LocalProtocolError, match="not sendable"):
        session.prompt(b"stamp", "task")  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="not sendable"):
        session.clear(b"stamp")  # type: ignore[arg-type]
    assert session.state is SessionState.USED


def test_every_state_is_in_the_table_of_transitions() -> None:
    assert set(TRANSITIONS) == set(SessionState)
    assert all(after in TRANSITIONS for row in TRANSITIONS.values() for after in row.values())


@pytest.mark.parametrize("state", [SessionState.CLOSED, SessionState.BROKEN])
def test_data_after_the_end_of_a_session_is_ignored(state: SessionState) -> None:
    session = session_in(state)
    assert session.receive(frames.HELLO.data) == []
    assert session.state is state


def test_broken_json_breaks_the_session_and_eof_keeps_it_broken() -> None:
    session = in_turn(frames.HELLO)
    [broken] = session.receive(b'{"type": "result", \n')
    assert isinstance(broken, ProtocolBroken)
    assert "broken JSON" in str(broken.error)
    session.receive_eof()
    assert (session.state, session.is_clean) == (SessionState.BROKEN, False)


def test_a_line_over_max_line_breaks_the_session() -> None:
    session = in_turn(frames.HELLO)
    [broken] = session.receive(b'{"a":"' + b"x" * MAX_LINE)
    assert isinstance(broken, ProtocolBroken)
    assert "10,000" in str(broken.error)
    assert session.state is SessionState.BROKEN


def test_an_answer_before_broken_json_in_one_chunk_still_arrives() -> None:
    session = in_turn(frames.HELLO)
    signals = session.receive(frames.HELLO.data + b"{broken\n")
    assert kinds(signals)[-2:] == [TurnFinished, ProtocolBroken]
    assert session.state is SessionState.BROKEN


# The agent and the folder of a turn


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("tools", ["Read", "Bash"], "it has Bash, which its agent does not name"),
        ("tools", ["Read", "Task"], "it has Agent, which its agent does not name"),
        ("tools", ["Read", "Monitor"], "it has Monitor, which its agent must not have"),
        ("cwd", "/elsewhere", "it works in /elsewhere"),
        ("permissionMode", "bypassPermissions", "its permission mode is bypassPermissions"),
    ],
)
def test_a_turn_that_is_not_that_of_its_role_is_reported(
    field: str, value: object, problem: str
) -> None:
    session = ready()
    session.role = Role("r", "", None, frozenset({"Read"}), frozenset({"Monitor"}), "")
    session.folders, session.modes = frozenset({"/here"}), frozenset({"plan", "default"})
    init = {"type": "system", "subtype": "init", "cwd": "/here", "permissionMode": "default"}
    session.prompt("s", "task")
    right = {**init, "tools": ["Read", "TaskStop"], "user_message_uuids": ["s"]}
    assert session.receive(as_lines(right)) == []
    assert session.taints == []
    assert session.receive(as_lines({**right, field: value})) == [RoleMissed(problem)]
    assert f"it is not its agent: {problem}" in session.taints


def test_a_turn_with_a_server_of_another_agent_is_refused() -> None:
    session = ready()
    for name in ("former", "present"):
        session.set_servers("r", {name: {"command": "x"}})
        session.receive(as_lines(success("r", {"errors": {"present": "no such file"}})))
    assert session.server_errors == {"present": "no such file"}
    session.prompt("s", "task")
    init = {"type": "system", "subtype": "init", "user_message_uuids": ["s"]}
    shown = [{"name": "present"}, {"name": "plugin:other"}]
    assert session.receive(as_lines({**init, "mcp_servers": shown})) == []
    shown.append({"name": "former"})
    missed = RoleMissed("it has the MCP server former")
    assert session.receive(as_lines({**init, "mcp_servers": shown})) == [missed]


def success(request_id: str, response: dict[str, object]) -> dict[str, object]:
    body = {"subtype": "success", "request_id": request_id, "response": response}
    return {"type": "control_response", "response": body}


@pytest.mark.parametrize(
    ("named", "without", "shown", "missing", "taints"),
    [
        ({"Bogus", "Other"}, set(), [], ("Bogus", "Other"), 0),
        ({"Bogus", "mcp__a__b"}, set(), [], ("Bogus", "mcp__a__b"), 1),
        ({"Bogus", "Read"}, set(), ["Read"], None, 0),
        ({"Bash"}, {"Bash"}, [], None, 0),
        (set(), set(), [], None, 0),
        ({"Bogus"}, set(), None, None, 0),
    ],
)
def test_a_role_of_whose_list_no_tool_exists_is_reported(
    named: set[str],
    without: set[str],
    shown: list[str] | None,
    missing: tuple[str, ...] | None,
    taints: int,
) -> None:
    session = ready()
    session.role = Role("r", "", None, frozenset(named), frozenset(without), "")
    session.prompt("s", "task")
    init = {"type": "system", "subtype": "init", "tools": shown, "user_message_uuids": ["s"]}
    expected = [ToolsMissing(missing)] if missing else []
    assert session.receive(as_lines(init)) == expected
    assert len(session.taints) == taints
