"""Properties of a session that hold for any input and any order of calls."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from agent_pool.claude.protocol.frames import blocks_of
from agent_pool.claude.protocol.results import Spend, TurnResult, read_result, running_totals
from agent_pool.claude.protocol.session import Session
from agent_pool.claude.protocol.signals import (
    CanUseTool,
    ProtocolBroken,
    ResetFailed,
    ResetFinished,
    Signal,
    StrayFinished,
    TurnFinished,
)
from agent_pool.claude.protocol.states import SessionState
from agent_pool.errors import LocalProtocolError
from support import recorded_frames as frames
from support.json_lines import as_lines
from support.session_states import finished

MAX_LINE = 2_000

OURS, OTHERS = "ours", "another"
"""`OURS` stands for the stamp of the last prompt until a frame is sent."""

STAMPS = st.sampled_from([None, None, OURS, OURS, OTHERS])
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "x", OURS]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("type"), inner),
    max_leaves=3,
)
TEXTS = st.sampled_from(["", "s1", "s2", "text"])
TOOL_USE = st.fixed_dictionaries(
    {"type": st.just("tool_use"), "name": st.sampled_from(["Bash", "CronCreate"])}
)
BLOCKS = st.lists(
    TOOL_USE | st.sampled_from([{"type": "text", "text": "t"}, {"type": "tool_result"}]),
    max_size=2,
)
RESULT = st.fixed_dictionaries(
    {
        "type": st.just("result"),
        "subtype": st.sampled_from(["success", "success", "error_during_execution"]),
        "session_id": TEXTS,
        "result": TEXTS,
    },
    optional={
        "is_error": st.booleans(),
        "user_message_uuid": STAMPS,
        "user_message_uuids": st.lists(STAMPS, max_size=2),
        "local_command": st.sampled_from(["clear", "cost"]),
        "total_cost_usd": st.sampled_from([0, 0.25, 2]) | JUNK,
        "modelUsage": st.sampled_from([{}, {"m": {"inputTokens": 7}}]) | JUNK,
    },
)
RESET_RESULT = st.fixed_dictionaries(
    {
        "type": st.just("result"),
        "subtype": st.just("success"),
        "session_id": TEXTS,
        "result": st.just(""),
        "user_message_uuid": STAMPS,
    }
)
INIT = st.fixed_dictionaries(
    {"type": st.just("system"), "subtype": st.just("init"), "session_id": TEXTS},
    optional={"user_message_uuids": st.lists(STAMPS, max_size=2), "model": TEXTS},
)
CONTENTS = BLOCKS | st.lists(JUNK, max_size=2) | JUNK
MESSAGE = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["assistant", "user"]),
        "message": st.fixed_dictionaries({"content": CONTENTS}),
        "parent_tool_use_id": st.sampled_from([None, None, "toolu"]),
    }
)
TASKS = st.fixed_dictionaries(
    {
        "type": st.just("system"),
        "subtype": st.just("background_tasks_changed"),
        "tasks": st.sampled_from([[], [{"task_id": "b"}]]) | st.lists(JUNK, max_size=2),
    }
)
RESET_FRAME = st.fixed_dictionaries(
    {"type": st.just("conversation_reset")}, optional={"user_message_uuid": STAMPS}
)
REWOUND = st.fixed_dictionaries(
    {
        "rewound": st.sampled_from([True, True, False]),
        "targetMessageUuid": st.sampled_from([OURS, OURS, OTHERS]),
    },
    optional={"precedingAssistantUuid": st.sampled_from([None, None, OTHERS])},
)
CONTROL = st.fixed_dictionaries(
    {
        "type": st.just("control_response"),
        "response": st.fixed_dictionaries(
            {
                "subtype": st.sampled_from(["success", "success", "success", "error"]),
                "request_id": st.sampled_from(["i", "i", "r", "w", "w"]),
            },
            optional={"response": REWOUND},
        ),
    }
)
CONTROL_REQUEST = st.fixed_dictionaries(
    {
        "type": st.just("control_request"),
        "request_id": TEXTS,
        "request": st.fixed_dictionaries(
            {"subtype": st.sampled_from(["can_use_tool", "other"])}, optional={"input": JUNK}
        ),
    }
)
GOOD_FRAMES = st.one_of(
    RESULT, RESET_RESULT, INIT, MESSAGE, TASKS, RESET_FRAME, CONTROL, CONTROL_REQUEST
)
SPOILT_FRAMES = st.builds(
    lambda frame, field, junk: {**frame, sorted(frame)[field % len(frame)]: junk},
    GOOD_FRAMES,
    st.integers(0, 9),
    JUNK,
)
ASKED = CanUseTool("r", "Bash", {}, "")
CALLS = st.sampled_from(
    [
        *("initialize", "prompt", "prompt", "interrupt", "clear", "clear", "rewind", "rewind"),
        *("stop_background_task", "deny_tool", "eof"),
    ]
)


class Conversation:
    """A session, and the facts that must be true of it."""

    def __init__(self) -> None:
        self.session = Session(max_line=MAX_LINE)
        self.count = 0
        self.stamp = ""
        self.last_prompt = ""
        self.prompts = 0
        self.has_seen_stamps = False
        self.forgets = True
        self.session_id_before = ""
        self.totals = Spend()

    def begin(self) -> None:
        self.session.initialize(frames.INITIALIZED.stamp, prompt=None)
        self.session.receive(frames.INITIALIZED.data)

    def call(self, name: str) -> bytes | None:
        self.count += 1
        stamp, session = f"stamp-{self.count}", self.session
        if name == "initialize":
            return session.initialize("i", prompt="You test.")
        if name == "prompt":
            line = session.prompt(stamp, "task")
            self.stamp, self.last_prompt, self.forgets = stamp, stamp, False
            self.prompts += 1
            return line
        if name == "rewind":
            assert session.rewind_obstacle or self.prompts == 1
            line = session.rewind("w")
            self.stamp = ""
            return line
        if name == "clear":
            before = session.session_id
            line = session.clear(stamp, needs_announcement=bool(self.count % 2))
            self.stamp, self.session_id_before = stamp, before
            return line
        if name == "eof":
            session.receive_eof()
            return None
        if name == "deny_tool":
            return session.deny_tool(ASKED, "no")
        if name == "stop_background_task":
            return session.stop_background_task("r", "b")
        return session.interrupt("r")

    def receive(self, frame: dict[str, Any]) -> None:
        ours = self.stamp or self.last_prompt
        line = as_lines(frame).replace(f'"{OURS}"'.encode(), f'"{ours}"'.encode())
        frame = json.loads(line)
        state, strays = self.session.state, self.session.strays
        is_over = self.session.is_over
        signals = self.session.receive(line)
        if frame.get("type") == "result":
            kinds = [] if is_over else [type(signals[0])]
            assert [type(signal) for signal in signals] == kinds
            assert set(kinds) <= {TurnFinished, StrayFinished, ResetFinished, ResetFailed}
        if any(isinstance(signal, TurnFinished) for signal in signals):
            assert state in (SessionState.IN_TURN, SessionState.INTERRUPTING)
            assert self._is_for_us(frame) or self._is_error_without_stamp(frame, signals)
            totals = running_totals(frame)
            spend = totals.since(self.totals)
            (ended,) = signals
            assert isinstance(ended, TurnFinished)
            expected = read_result(frame, spend)
            assert ended.result == with_words_of(ended.result, expected)
            self.stamp, self.totals = "", totals
        if any(isinstance(signal, ResetFinished) for signal in signals):
            assert state is SessionState.RESETTING
            self.prompts, self.forgets = 0, True
            if frame["type"] == "control_response":
                answer = frame["response"]["response"]
                assert answer["rewound"] is True
                assert answer["targetMessageUuid"] == self.last_prompt
                assert answer["precedingAssistantUuid"] is None
            else:
                self._check_cleared(frame)
        has_stray = any(isinstance(signal, StrayFinished) for signal in signals)
        assert self.session.strays == strays + has_stray
        is_init = (frame.get("type"), frame.get("subtype")) == ("system", "init")
        if is_init or frame.get("type") == "result":
            self.has_seen_stamps |= bool(stamps_in(frame))

    def _check_cleared(self, frame: dict[str, Any]) -> None:
        # Versions that do not stamp turns announce `/clear` and do not stamp its result.
        is_announced = self.session.announced_reset and not self.session.stamps_turns
        assert self._is_for_us(frame) or (is_announced and not stamps_in(frame))
        assert not frame.get("is_error")
        assert not frame.get("result")
        assert self.session.session_id not in ("", self.session_id_before)
        self.stamp, self.totals = "", Spend()

    def _is_for_us(self, frame: dict[str, Any]) -> bool:
        stamps = stamps_in(frame)
        return self.stamp in stamps or (not stamps and not self.has_seen_stamps)

    def _is_error_without_stamp(self, frame: dict[str, Any], signals: list[Signal]) -> bool:
        """Check that an error of a version that does not stamp turns also ends its worker."""
        (ended,) = signals
        is_error = isinstance(ended, TurnFinished) and ended.result.is_error
        is_old = not self.session.stamps_turns and not stamps_in(frame)
        return is_error and is_old and self.session.taints != []

    def check(self) -> None:
        session = self.session
        if session.is_clean:
            assert (session.state, self.forgets) == (SessionState.READY, True)
            assert (session.taints, session.background) == ([], {})


def stamps_in(frame: dict[str, Any]) -> list[str]:
    many = frame.get("user_message_uuids")
    stamps = [*(many if isinstance(many, list) else []), frame.get("user_message_uuid")]
    return [stamp for stamp in stamps if isinstance(stamp, str)]


def receive(session: Session, data: bytes) -> list[Signal]:
    """Return the signals without `ProtocolBroken`, which must be the last of a BROKEN session."""
    signals = session.receive(data)
    if not (signals and isinstance(signals[-1], ProtocolBroken)):
        return signals
    assert session.state is SessionState.BROKEN
    return signals[:-1]


@given(
    chunks=st.lists(
        st.binary(max_size=50)
        | st.sampled_from([b"\n", b"{", b"}\n", b'{"type":"result"}\n'])
        | SPOILT_FRAMES.map(as_lines)
    ),
    calls=st.lists(CALLS),
)
@example(chunks=[b'{"type":"system","subtype":"init","model":' + b"[" * 900 + b"\n"], calls=[])
@example(chunks=[b'{"type":"system","subtype":"api_retry","attempt":1e999}\n'], calls=[])
def test_any_bytes_give_events_or_a_remote_protocol_error(
    chunks: list[bytes], calls: list[str]
) -> None:
    conversation = Conversation()
    conversation.begin()
    for turn, chunk in enumerate(chunks):
        if turn < len(calls):
            with contextlib.suppress(LocalProtocolError):
                conversation.call(calls[turn])
        assert isinstance(receive(conversation.session, chunk), list)


@given(calls=st.lists(CALLS))
def test_any_call_order_gives_bytes_or_a_local_protocol_error(calls: list[str]) -> None:
    conversation = Conversation()
    for name in calls:
        state = conversation.session.state
        try:
            line = conversation.call(name)
        except LocalProtocolError:
            assert conversation.session.state is state
        else:
            assert line is None or line.endswith(b"\n")


@given(steps=st.lists(CALLS | GOOD_FRAMES | SPOILT_FRAMES, max_size=25))
@example(steps=["prompt", {"type": "result", "user_message_uuid": OURS}, "clear", "prompt"])
def test_only_own_results_end_turns_and_only_resets_make_clean(
    steps: list[str | dict[str, Any]],
) -> None:
    conversation = Conversation()
    conversation.begin()
    for step in steps:
        with contextlib.suppress(LocalProtocolError):
            if isinstance(step, str):
                conversation.call(step)
            else:
                conversation.receive(step)
        conversation.check()


def with_words_of(spoken: TurnResult, expected: TurnResult) -> TurnResult:
    """Return `expected` with what the messages of the turn said, and not its result."""
    names = ("text", "partial", "models", "requests")
    return replace(expected, **{name: getattr(spoken, name) for name in names})


@given(before=st.lists(GOOD_FRAMES.filter(lambda frame: OURS not in stamps_in(frame)), max_size=10))
def test_frames_without_our_stamp_never_end_our_turn(before: list[dict[str, Any]]) -> None:
    conversation = Conversation()
    conversation.begin()
    conversation.session.prompt(frames.HELLO.stamp, "hello")
    conversation.session.receive(frames.HELLO.without_last())
    for frame in before:
        conversation.session.receive(as_lines(frame))
    assert conversation.session.state is SessionState.IN_TURN
    (ended,) = conversation.session.receive(as_lines(frames.HELLO.last))
    assert isinstance(ended, TurnFinished)
    expected = finished(frames.HELLO.last).result
    # A tool call in between makes these words no part of the last answer.
    if not any(block.get("type") == "tool_use" for one in before for block in blocks_of(one)):
        assert ended.result.text.startswith(expected.text)
    # Messages that name no turn at all are part of the one that runs.
    assert ended.result == with_words_of(ended.result, expected)
