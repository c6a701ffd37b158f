from __future__ import annotations

import copy
import json

import pytest

from agent_pool.claude.protocol.role import Role
from agent_pool.claude.protocol.session import Session
from agent_pool.claude.protocol.signals import (
    ResetFailed,
    ResetFinished,
    RewindRefused,
    StrayFinished,
)
from agent_pool.claude.protocol.states import REWOUND_TOOLS, SURVIVING_TOOLS, SessionState
from agent_pool.errors import LocalProtocolError
from support import recorded_frames as frames
from support.json_lines import as_lines
from support.recorded_frames import Recording
from support.session_states import clearing, in_turn, used, with_fields

# Resetting


def test_an_acknowledged_reset_makes_the_session_ready_and_clean_again() -> None:
    session = used(frames.HELLO)
    sent = json.loads(session.clear("fa56b6da", needs_announcement=True))
    assert sent["message"]["content"] == "/clear"
    assert (session.state, session.is_clean) == (SessionState.RESETTING, False)
    assert session.receive(frames.CLEAR.data) == [ResetFinished()]
    assert session.session_id == "7242a9b6"
    assert (session.state, session.is_clean) == (SessionState.READY, True)
    assert session.announced_reset


def test_the_announcing_frame_of_a_reset_is_optional_unless_expected() -> None:
    session = clearing(needs_announcement=False)
    data = as_lines(*(f for f in frames.CLEAR.frames if f["type"] != "conversation_reset"))
    assert session.receive(data) == [ResetFinished()]
    assert session.session_id == "7242a9b6"
    assert (session.is_clean, session.announced_reset) == (True, False)


def refused_resets() -> dict[str, tuple[bytes, str]]:
    *before, last = frames.CLEAR.frames
    silent = [frame for frame in before if frame["type"] != "conversation_reset"]
    late = [{**before[0], "user_message_uuid": "another"}, *before[1:]]
    same_id = [with_fields(frame, session_id="dbbf91ef") for frame in [*before, last]]
    return {
        "with an error": (as_lines(*before, with_fields(last, is_error=True)), "failed: success"),
        "with another subtype": (
            as_lines(*before, with_fields(last, subtype="error_during_execution")),
            "failed: error_during_execution",
        ),
        "without a subtype": (as_lines(*before, with_fields(last, subtype=None)), "failed: None"),
        "with a text": (
            as_lines(*before, with_fields(last, result="Unknown skill: clear")),
            "answered with text: 'Unknown skill: clear'",
        ),
        "as another command": (
            as_lines(*before, with_fields(last, local_command="cost")),
            "was taken for 'cost'",
        ),
        "with the same session id": (as_lines(*same_id), "kept the session id"),
        "without the announcing frame": (as_lines(*silent, last), "not announced"),
        "with the announcing frame of another": (as_lines(*late, last), "not announced"),
    }


@pytest.mark.parametrize("how", refused_resets())
def test_an_unexpected_answer_to_a_reset_breaks_the_session(how: str) -> None:
    data, problem = refused_resets()[how]
    session = clearing(needs_announcement=True)
    [event] = session.receive(data)
    assert isinstance(event, ResetFailed)
    assert problem in event.reason
    assert (session.state, session.is_clean) == (SessionState.BROKEN, False)
    assert event.reason in session.taints


def test_a_reset_fails_if_the_cli_has_commands_disabled() -> None:
    session = used(frames.HELLO)
    session.clear(frames.NO_CLEAR.stamp)
    [event] = session.receive(frames.NO_CLEAR.data)
    assert event == ResetFailed(
        '/clear was answered with text: "/clear isn\'t available in this environment."'
    )


def test_a_reset_fails_if_the_cli_keeps_the_session_id() -> None:
    session = used(frames.HELLO_2_0_77)
    session.clear(frames.CLEAR_2_0_77.stamp)
    assert session.receive(frames.CLEAR_2_0_77.data) == [ResetFailed("/clear kept the session id")]


def test_a_session_accepts_the_false_reset_of_2_1_119() -> None:
    session = used(frames.HELLO_2_1_119)
    session.clear(frames.CLEAR_2_1_119.stamp)
    assert session.receive(frames.CLEAR_2_1_119.data) == [ResetFinished()]
    assert session.session_id == "3415fe3c"


def test_a_late_task_result_does_not_acknowledge_the_reset() -> None:
    session = clearing(frames.HELLO)
    assert session.receive(as_lines(frames.HELLO.last)) == [StrayFinished()]
    assert (session.state, session.strays) == (SessionState.RESETTING, 1)
    session.receive(frames.CLEAR.data)
    assert not session.is_clean


def test_a_late_reset_result_does_not_end_the_next_task() -> None:
    session = clearing(frames.HELLO)
    session.receive(frames.CLEAR.data)
    session.prompt(frames.BASH.stamp, "the next task")
    assert session.receive(as_lines(frames.CLEAR.last)) == [StrayFinished()]
    assert (session.state, session.strays) == (SessionState.IN_TURN, 1)


def test_a_conversation_that_resets_itself_taints_the_session() -> None:
    session = in_turn(frames.HELLO)
    session.receive(as_lines(frames.CLEAR.frames[0]))
    assert session.taints == ["the conversation was reset by itself"]


def test_a_reset_does_not_remove_the_taints_of_a_session() -> None:
    session = used(frames.HELLO)
    session.taint("a reason")
    session.taint("a reason")
    session.clear(frames.CLEAR.stamp)
    session.receive(frames.CLEAR.data)
    assert (session.state, session.taints, session.is_clean) == (
        SessionState.READY,
        ["a reason"],
        False,
    )


# What a reset does not undo


def test_a_running_background_task_keeps_the_session_unclean_after_reset() -> None:
    session = used(frames.BACKGROUND)
    assert session.background == {"biz7pvve9": "d"}
    session.clear(frames.CLEAR.stamp)
    session.receive(as_lines(*(f for f in frames.CLEAR.frames if "tasks" not in f)))
    assert (session.state, session.is_clean) == (SessionState.READY, False)
    session.receive(as_lines(frames.FOREIGN.frames[2]))
    assert (session.background, session.is_clean) == ({}, True)


@pytest.mark.parametrize("tool", sorted(SURVIVING_TOOLS))
@pytest.mark.parametrize("parent", [None, "toolu_1"])
def test_a_tool_with_effects_beyond_a_reset_taints_the_session(
    tool: str, parent: str | None
) -> None:
    session = in_turn(frames.HELLO)
    frame = copy.deepcopy(frames.CRON.frames[1])
    frame["message"]["content"][0]["name"] = tool
    session.receive(as_lines({**frame, "parent_tool_use_id": parent}))
    assert session.taints == [f"it used {tool}, whose effect outlives a reset"]


def test_a_scheduled_wake_up_taints_the_session() -> None:
    assert used(frames.CRON).taints == ["it used CronCreate, whose effect outlives a reset"]


@pytest.mark.parametrize(
    ("recording", "taint"),
    [(frames.OTHER_MODEL, "its model changed"), (frames.PLAN_MODE, "its permissionMode changed")],
)
def test_a_changed_model_or_permission_mode_taints_the_session(
    recording: Recording, taint: str
) -> None:
    session = used(frames.HELLO)
    session.prompt(recording.stamp, "the next task")
    session.receive(recording.data)
    assert taint in session.taints


def test_a_model_change_during_a_task_is_noticed_at_reset() -> None:
    session = clearing(frames.HELLO)
    changed = [
        with_fields(f, model="claude-haiku-4-5") if f.get("subtype") == "init" else f
        for f in frames.CLEAR.frames
    ]
    session.receive(as_lines(*changed))
    assert (session.taints, session.is_clean) == (["its model changed"], False)


# Rewinding


def rewound(**fields: object) -> bytes:
    """Return the CLI's answer to a rewind of the task of `frames.HELLO`."""
    answer = {
        "rewound": True,
        "targetMessageUuid": frames.HELLO.stamp,
        "prefillText": "do it",
        "precedingAssistantUuid": None,
        **fields,
    }
    body = {"subtype": "success", "request_id": "w", "response": answer}
    return as_lines({"type": "control_response", "response": body})


def test_a_rewind_names_the_prompt_and_makes_the_session_clean() -> None:
    session = used()
    request = json.loads(session.rewind("w"))["request"]
    assert request["subtype"] == "rewind_conversation"
    assert request["target_message_uuid"] == frames.HELLO.stamp
    assert (session.state, session.is_clean) == (SessionState.RESETTING, False)
    assert session.receive(rewound()) == [ResetFinished()]
    assert (session.state, session.is_clean) == (SessionState.READY, True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (rewound(rewound=False, error="stale target"), "stale target"),
        (rewound(rewound=False), "no reason given"),
        (rewound(targetMessageUuid="another"), "it took back another prompt"),
        (rewound(precedingAssistantUuid="earlier"), "an earlier answer is left"),
        (
            as_lines(
                {
                    "type": "control_response",
                    "response": {"subtype": "error", "request_id": "w", "error": "unknown"},
                }
            ),
            "unknown",
        ),
    ],
)
def test_a_refused_rewind_leaves_the_way_by_clear(answer: bytes, reason: str) -> None:
    session = used()
    session.rewind("w")
    assert session.receive(answer) == [RewindRefused(reason)]
    assert (session.state, session.taints) == (SessionState.USED, [])
    assert reason in session.rewind_obstacle
    session.clear(frames.CLEAR.stamp)
    assert session.receive(frames.CLEAR.data) == [ResetFinished()]
    assert session.is_clean


def test_the_answer_to_another_request_does_not_end_a_rewind() -> None:
    session = used()
    session.rewind("other")
    assert session.receive(rewound()) == []
    assert session.state is SessionState.RESETTING


def test_a_result_during_a_rewind_is_a_stray() -> None:
    session = used()
    session.rewind("w")
    assert session.receive(as_lines(frames.HELLO.last)) == [StrayFinished()]
    session.receive(rewound())
    assert not session.is_clean


def test_a_conversation_of_two_prompts_is_not_rewound() -> None:
    session = used()
    session.prompt(frames.BASH.stamp, "more")
    session.receive(frames.BASH.data)
    with pytest.raises(LocalProtocolError, match="2 prompts since the last reset"):
        session.rewind("w")


@pytest.mark.parametrize(
    ("frame", "obstacle"),
    [
        ({"subtype": "compact_boundary"}, "its conversation was compacted"),
        ({"subtype": "commands_changed"}, "the list of commands changed"),
        ({"subtype": "hook_started", "hook_event": "SessionStart"}, "SessionStart hooks"),
    ],
)
def test_what_only_clear_undoes_is_an_obstacle_to_rewinding(
    frame: dict[str, str], obstacle: str
) -> None:
    session = in_turn(frames.HELLO)
    session.receive(as_lines({"type": "system", **frame}) + frames.HELLO.data)
    assert session.rewind_obstacle == obstacle
    assert not session.taints


@pytest.mark.parametrize("tool", ["TaskCreate", "TodoWrite", "NewTool", *sorted(REWOUND_TOOLS)])
def test_a_tool_that_was_not_tried_is_an_obstacle_to_rewinding(tool: str) -> None:
    session = in_turn(frames.HELLO)
    content = [{"type": "tool_use", "id": "t", "name": tool, "input": {}}]
    said = {"type": "assistant", "parent_tool_use_id": "of a sub-agent"}
    session.receive(as_lines({**said, "message": {"content": content}}) + frames.HELLO.data)
    expected = "" if tool in REWOUND_TOOLS else f"it used {tool}"
    assert session.rewind_obstacle == expected


def test_clear_removes_the_obstacles_of_earlier_prompts() -> None:
    session = in_turn(frames.HELLO)
    session.receive(as_lines({"type": "system", "subtype": "compact_boundary"}))
    session.receive(frames.HELLO.data)
    session.clear(frames.CLEAR.stamp)
    session.receive(frames.CLEAR.data)
    session.prompt(frames.HELLO.stamp, "next")
    session.receive(frames.HELLO.data)
    assert session.rewind_obstacle == ""


def test_a_session_with_an_attribution_line_is_cleared_before_it_is_rewound() -> None:
    session = Session(max_line=10_000, sends_attribution=True)
    session.initialize(frames.INITIALIZED.stamp, prompt=None)
    session.receive(frames.INITIALIZED.data)
    for obstacle in ("the attribution line would change", ""):
        session.prompt(frames.HELLO.stamp, "do it")
        session.receive(frames.HELLO.data)
        assert session.rewind_obstacle == obstacle
        session.clear(frames.CLEAR.stamp)
        session.receive(frames.CLEAR.data)


def test_a_session_of_changing_agents_is_cleared_before_the_next_change() -> None:
    session = used()  # by no role
    found = []
    for name in ("a", "a", "b", "a", "a"):
        session.clear(frames.CLEAR.stamp)
        session.receive(frames.CLEAR.data)
        take_role(session, name)
        assert not session.needs_clear
        session.prompt(frames.HELLO.stamp, "do it")
        session.receive(frames.HELLO.data)
        found.append(session.rewind_obstacle)
    other = "the agent before had other tools"
    assert found == ["", "", other, other, ""]


def take_role(session: Session, name: str) -> None:
    role = Role(name, "", None, None, frozenset(), toolset=name)
    session.take_role(frames.INITIALIZED.stamp, role, [])
    session.receive(frames.INITIALIZED.data)
    assert session.is_clean
