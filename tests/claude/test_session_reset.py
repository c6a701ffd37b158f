from __future__ import annotations

import copy
import json

import pytest

from agent_pool.claude.events import (
    ResetFailed,
    WasReset,
)
from agent_pool.claude.states import SURVIVING_TOOLS, State
from claude import frames
from claude.frames import Recording, as_lines
from claude.sessions import (
    clearing,
    in_turn,
    used,
    with_fields,
)

# Resetting


def test_an_acknowledged_reset_makes_the_session_ready_and_clean_again() -> None:
    session = used(frames.HELLO)
    sent = json.loads(session.clear("fa56b6da", expects_frame=True))
    assert sent["message"]["content"] == "/clear"
    assert (session.state, session.is_clean) == (State.RESETTING, False)
    assert session.receive(frames.CLEAR.data) == [WasReset("7242a9b6")]
    assert (session.state, session.is_clean) == (State.READY, True)
    assert session.announced_reset


def test_a_reset_without_the_announcing_frame_passes_where_none_is_expected() -> None:
    session = clearing(expects_frame=False)
    data = as_lines(*(f for f in frames.CLEAR.frames if f["type"] != "conversation_reset"))
    assert session.receive(data) == [WasReset("7242a9b6")]
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
def test_a_reset_that_is_answered_otherwise_breaks_the_session(how: str) -> None:
    data, why = refused_resets()[how]
    session = clearing(expects_frame=True)
    [event] = session.receive(data)
    assert isinstance(event, ResetFailed)
    assert why in event.why
    assert (session.state, session.is_clean) == (State.BROKEN, False)
    assert event.why in session.taints


def test_a_cli_whose_commands_are_off_does_not_reset() -> None:
    session = used(frames.HELLO)
    session.clear(frames.NO_CLEAR.stamp)
    [event] = session.receive(frames.NO_CLEAR.data)
    assert event == ResetFailed(
        '/clear was answered with text: "/clear isn\'t available in this environment."'
    )


def test_an_old_cli_that_goes_on_with_the_conversation_does_not_reset() -> None:
    session = used(frames.HELLO_2_0_77)
    session.clear(frames.CLEAR_2_0_77.stamp)
    assert session.receive(frames.CLEAR_2_0_77.data) == [ResetFailed("/clear kept the session id")]


def test_a_session_alone_cannot_tell_that_2_1_119_forgets_nothing() -> None:
    session = used(frames.HELLO_2_1_119)
    session.clear(frames.CLEAR_2_1_119.stamp)
    assert session.receive(frames.CLEAR_2_1_119.data) == [WasReset("3415fe3c")]


def test_the_late_result_of_the_task_is_not_the_acknowledgement_of_the_reset() -> None:
    session = clearing(frames.HELLO)
    assert session.receive(as_lines(frames.HELLO.last)) == []
    assert (session.state, session.strays) == (State.RESETTING, 1)
    session.receive(frames.CLEAR.data)
    assert not session.is_clean


def test_the_result_of_the_reset_is_not_the_answer_to_the_next_task() -> None:
    session = clearing(frames.HELLO)
    session.receive(frames.CLEAR.data)
    session.prompt(frames.BASH.stamp, "the next task")
    assert session.receive(as_lines(frames.CLEAR.last)) == []
    assert (session.state, session.strays) == (State.IN_TURN, 1)


def test_a_conversation_that_resets_itself_taints() -> None:
    session = in_turn(frames.HELLO)
    session.receive(as_lines(frames.CLEAR.frames[0]))
    assert session.taints == ["the conversation was reset by itself"]


def test_nothing_that_happened_before_is_forgotten_by_a_reset() -> None:
    session = used(frames.HELLO)
    session.taint("a reason")
    session.taint("a reason")
    session.clear(frames.CLEAR.stamp)
    session.receive(frames.CLEAR.data)
    assert (session.state, session.taints, session.is_clean) == (State.READY, ["a reason"], False)


# What a reset does not undo


def test_a_running_background_task_is_known_until_it_ends_and_keeps_a_session_unclean() -> None:
    session = used(frames.BACKGROUND)
    assert session.background == {"biz7pvve9": "d"}
    session.clear(frames.CLEAR.stamp)
    session.receive(as_lines(*(f for f in frames.CLEAR.frames if "tasks" not in f)))
    assert (session.state, session.is_clean) == (State.READY, False)
    session.receive(as_lines(frames.FOREIGN.frames[2]))
    assert (session.background, session.is_clean) == ({}, True)


@pytest.mark.parametrize("tool", sorted(SURVIVING_TOOLS))
@pytest.mark.parametrize("parent", [None, "toolu_1"])
def test_a_tool_whose_effect_survives_a_reset_taints(tool: str, parent: str | None) -> None:
    session = in_turn(frames.HELLO)
    frame = copy.deepcopy(frames.CRON.frames[1])
    frame["message"]["content"][0]["name"] = tool
    session.receive(as_lines({**frame, "parent_tool_use_id": parent}))
    assert session.taints == [f"it used {tool}, whose effect outlives a reset"]


def test_a_scheduled_wake_up_taints() -> None:
    assert used(frames.CRON).taints == ["it used CronCreate, whose effect outlives a reset"]


@pytest.mark.parametrize(
    ("recording", "taint"),
    [(frames.OTHER_MODEL, "its model changed"), (frames.PLAN_MODE, "its permissionMode changed")],
)
def test_another_model_or_permission_mode_than_at_first_taints(
    recording: Recording, taint: str
) -> None:
    session = used(frames.HELLO)
    session.prompt(recording.stamp, "the next task")
    session.receive(recording.data)
    assert taint in session.taints


def test_a_model_changed_in_a_task_is_seen_at_its_reset() -> None:
    session = clearing(frames.HELLO)
    changed = [
        with_fields(f, model="claude-haiku-4-5") if f.get("subtype") == "init" else f
        for f in frames.CLEAR.frames
    ]
    session.receive(as_lines(*changed))
    assert (session.taints, session.is_clean) == (["its model changed"], False)
