"""One conversation with a Claude Code process, without any IO.

A session is fed the bytes that the process writes and answers with events; it is asked for the
bytes to send and refuses what its state does not allow; the order of things stands in `states`.

Two rules keep tasks apart. A prompt is stamped with a uuid, and only a result that carries the
stamp ends its turn; versions that do not stamp get strict alternation instead. And whatever
happens that a reset would not undo is remembered in `taints`: a tainted session must not serve
another task, because replacing it is always correct.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from agent_pool.claude.events import (
    ControlAnswered,
    ControlAsked,
    Event,
    Initialized,
    InitializeFailed,
    ResetFailed,
    Said,
    ToolAnswered,
    ToolCalled,
    TurnEnded,
    WasReset,
)
from agent_pool.claude.frames import Frame, blocks_of, flat_text, retrying, stamps_of, text_of
from agent_pool.claude.framing import LineBuffer, decode, encode
from agent_pool.claude.states import SURVIVING_TOOLS, TRANSITIONS, State, Step
from agent_pool.errors import LocalProtocolError, RemoteProtocolError

SELF_STARTED: Final = "a turn started by itself"


class Session:
    """The state of one conversation.

    Args:
        max_line: bytes that one line of the process may have.
        is_stamped: this version is known to stamp its results; otherwise it is once it does.

    Attributes:
        state: where the conversation stands.
        session_id: the CLI's id of the conversation, empty before the first turn.
        version: the CLI's version as it says itself, empty before it did.
        taints: why this session must not serve another task; empty while it may.
        strays: results that nobody had asked for.
        noise: lines that were no frames.
        background: the background tasks that the CLI says are running, by id.
        is_stamped: whether the CLI stamps its results with the prompts that they answer.
        announced_reset: whether the last reset was announced by a `conversation_reset` frame.
    """

    def __init__(self, *, max_line: int, is_stamped: bool = False) -> None:
        self.state = State.STARTING
        self.session_id = ""
        self.version = ""
        self.taints: list[str] = []
        self.strays = 0
        self.noise = 0
        self.background: dict[str, str] = {}
        self._lines = LineBuffer(max_line)
        self._expects_reset_frame = False
        self._initialize_id = ""
        self._stamp = ""
        self.is_stamped = is_stamped
        self._foreign_turn = False
        self.announced_reset = False
        self._session_before_reset = ""
        self._baseline: dict[str, object] = {}

    # What may be sent

    def initialize(self, request_id: str, fields: Mapping[str, Any]) -> bytes:
        """The request that makes the process ready; `fields` may hold its system prompt."""
        if self.state is not State.STARTING or self._initialize_id:
            raise LocalProtocolError(f"initialize sent twice, or in state {self.state}")
        self._initialize_id = request_id
        return self.control(request_id, {"subtype": "initialize", **fields})

    def prompt(self, stamp: str, text: str) -> bytes:
        """One task, as data: its text cannot be taken for a command of the CLI.

        Commands are recognised by the first character alone, so a line feed goes before the text.
        """
        line = self._user_frame(stamp, "\n" + text)
        self._step(Step.PROMPT)
        self._stamp = stamp
        self._foreign_turn = False
        return line

    def interrupt(self, request_id: str) -> bytes:
        """The request to end the running turn; its result follows all the same."""
        self._step(Step.INTERRUPT)
        return self.control(request_id, {"subtype": "interrupt"})

    def clear(self, stamp: str, *, expects_frame: bool = False) -> bytes:
        """The request to forget the conversation.

        With `expects_frame`, for versions that announce a reset by `conversation_reset`, a reset
        without it fails.
        """
        line = self._user_frame(stamp, "/clear")
        self._step(Step.CLEAR)
        self._stamp = stamp
        self.announced_reset = False
        self._expects_reset_frame = expects_frame
        self._foreign_turn = False
        self._session_before_reset = self.session_id
        return line

    def control(self, request_id: str, request: Mapping[str, Any]) -> bytes:
        """Any control request; allowed in every living state."""
        self._refuse_if_over()
        return encode({"type": "control_request", "request_id": request_id, "request": request})

    def answer_control(self, request_id: str, response: Mapping[str, Any] | str) -> bytes:
        """The answer to what the process asked; a string says why it is refused."""
        self._refuse_if_over()
        body: dict[str, Any] = {"request_id": request_id}
        if isinstance(response, str):
            body |= {"subtype": "error", "error": response}
        else:
            body |= {"subtype": "success", "response": response}
        return encode({"type": "control_response", "response": body})

    # What arrives

    def receive(self, data: bytes) -> list[Event]:
        """The events that `data` completes.

        Raises:
            RemoteProtocolError: the bytes are no conversation; the session is BROKEN from now on.
        """
        if self.is_over:
            return []
        try:
            events: list[Event] = []
            for line in self._lines.feed(data):
                self._receive_line(line, events.append)
            return events
        except RemoteProtocolError:
            self.state = State.BROKEN
            raise

    def receive_eof(self) -> None:
        """The process has ended."""
        if self.state is not State.BROKEN:
            self.state = State.CLOSED

    def taint(self, why: str) -> None:
        """Remember why this session must not serve another task."""
        if why not in self.taints:
            self.taints.append(why)

    @property
    def is_over(self) -> bool:
        """Whether nothing can be said any more."""
        return self.state in (State.CLOSED, State.BROKEN)

    @property
    def is_clean(self) -> bool:
        """Whether a task may be given to this session now."""
        return self.state is State.READY and not self.taints and not self.background

    # The state machine

    def _step(self, step: Step) -> None:
        try:
            self.state = TRANSITIONS[self.state][step]
        except KeyError:
            raise LocalProtocolError(f"no {step} in state {self.state}") from None

    def _refuse_if_over(self) -> None:
        if self.is_over:
            raise LocalProtocolError(f"nothing can be sent in state {self.state}")

    def _user_frame(self, stamp: str, text: str) -> bytes:
        return encode(
            {
                "type": "user",
                "uuid": stamp,
                "session_id": "",
                "parent_tool_use_id": None,
                "message": {"role": "user", "content": text},
            }
        )

    def _receive_line(self, line: bytes, emit: Callable[[Event], None]) -> None:
        frame = decode(line)
        if frame is None:
            self.noise += bool(line.strip())
            return
        kind = frame.get("type")
        receiver = self._RECEIVERS.get(kind) if isinstance(kind, str) else None
        if receiver is not None:
            receiver(self, frame, emit)

    def _on_system(self, frame: Frame, emit: Callable[[Event], None]) -> None:
        subtype = frame.get("subtype")
        if subtype == "init":
            self._on_turn_begins(frame)
        elif subtype == "background_tasks_changed":
            self._on_background_tasks(frame)
        elif subtype == "api_retry":
            emit(retrying(frame))

    def _on_turn_begins(self, frame: Frame) -> None:
        self.version = text_of(frame, "claude_code_version") or self.version
        self.session_id = text_of(frame, "session_id") or self.session_id
        stamps = stamps_of(frame)
        self.is_stamped |= bool(stamps)
        self._foreign_turn = self.is_stamped and self._stamp not in stamps
        if self._foreign_turn:
            self.taint(SELF_STARTED)
        self._compare_with_baseline(frame)

    def _compare_with_baseline(self, frame: Frame) -> None:
        for name in ("model", "permissionMode", "cwd"):
            if name in frame and self._baseline.setdefault(name, frame[name]) != frame[name]:
                self.taint(f"its {name} changed")

    def _on_background_tasks(self, frame: Frame) -> None:
        tasks = frame.get("tasks")
        self.background = {
            str(task.get("task_id")): str(task.get("description", ""))
            for task in (tasks if isinstance(tasks, list) else ())
            if isinstance(task, dict)
        }

    def _on_conversation_reset(self, frame: Frame, emit: Callable[[Event], None]) -> None:
        stamp = frame.get("user_message_uuid")
        if self.state is State.RESETTING and stamp in (None, self._stamp):
            self.announced_reset = True
        else:
            self.taint("the conversation was reset by itself")

    def _on_assistant(self, frame: Frame, emit: Callable[[Event], None]) -> None:
        if not self._stamp and frame.get("parent_tool_use_id") is None:
            self.taint(SELF_STARTED)
        for block in blocks_of(frame):
            kind = block.get("type")
            if kind == "tool_use":
                self._on_tool_use(block, emit, frame)
            elif kind == "text" and self._is_told(frame):
                emit(Said(str(block.get("text", ""))))

    def _on_tool_use(self, block: Frame, emit: Callable[[Event], None], frame: Frame) -> None:
        name = str(block.get("name", ""))
        if name in SURVIVING_TOOLS:
            self.taint(f"it used {name}, whose effect outlives a reset")
        if self._is_told(frame):
            given = block.get("input")
            arguments = given if isinstance(given, dict) else {}
            emit(ToolCalled(str(block.get("id", "")), name, arguments))

    def _on_user(self, frame: Frame, emit: Callable[[Event], None]) -> None:
        for block in blocks_of(frame):
            if block.get("type") == "tool_result" and self._is_told(frame):
                emit(
                    ToolAnswered(
                        str(block.get("tool_use_id", "")),
                        flat_text(block.get("content")),
                        block.get("is_error") is True,
                    )
                )

    def _is_told(self, frame: Frame) -> bool:
        """Whether a message belongs to the turn that was asked for and to its main agent."""
        in_turn = self.state in (State.IN_TURN, State.INTERRUPTING)
        return in_turn and not self._foreign_turn and frame.get("parent_tool_use_id") is None

    def _on_result(self, frame: Frame, emit: Callable[[Event], None]) -> None:
        stamps = stamps_of(frame)
        self.is_stamped |= bool(stamps)
        if not self._answers_ours(stamps):
            self.strays += 1
            self.taint("a result came that nobody had asked for")
        elif self.state is State.RESETTING:
            self._on_reset_result(frame, emit)
        else:
            self._stamp = ""
            self.session_id = text_of(frame, "session_id") or self.session_id
            self._step(Step.RESULT)
            emit(TurnEnded(frame))

    def _answers_ours(self, stamps: list[str]) -> bool:
        if not self._stamp:
            return False
        if stamps:
            return self._stamp in stamps
        return not self.is_stamped and not self._foreign_turn

    def _on_reset_result(self, frame: Frame, emit: Callable[[Event], None]) -> None:
        self._stamp = ""
        self.session_id = text_of(frame, "session_id") or self.session_id
        why = self._why_not_reset(frame)
        if why:
            self.taint(why)
            self.state = State.BROKEN
            emit(ResetFailed(why))
        else:
            self._step(Step.RESET)
            emit(WasReset(self.session_id))

    def _why_not_reset(self, frame: Frame) -> str:
        if frame.get("is_error") or frame.get("subtype") != "success":
            return f"/clear failed: {frame.get('subtype')}"
        if frame.get("local_command", "clear") != "clear":
            return f"/clear was taken for {frame['local_command']!r}"
        if frame.get("result"):
            return f"/clear was answered with text: {str(frame['result'])[:100]!r}"
        if not self.session_id or self.session_id == self._session_before_reset:
            return "/clear kept the session id"
        if self._expects_reset_frame and not self.announced_reset:
            return "/clear was not announced by conversation_reset"
        return ""

    def _on_control_response(self, frame: Frame, emit: Callable[[Event], None]) -> None:
        body = frame.get("response")
        if not isinstance(body, dict):
            return
        request_id = str(body.get("request_id", ""))
        error = str(body.get("error")) if body.get("subtype") == "error" else None
        answer = body.get("response")
        response: Frame = answer if isinstance(answer, dict) else {}
        if request_id != self._initialize_id or self.state is not State.STARTING:
            emit(ControlAnswered(request_id, error, response))
        elif error is not None:
            self.state = State.BROKEN
            emit(InitializeFailed(error))
        else:
            self.version = text_of(response, "claude_code_version") or self.version
            self._step(Step.INITIALIZED)
            emit(Initialized(response))

    def _on_control_request(self, frame: Frame, emit: Callable[[Event], None]) -> None:
        request = frame.get("request")
        if isinstance(request, dict):
            emit(ControlAsked(str(frame.get("request_id", "")), request))

    _RECEIVERS: Final = {
        "system": _on_system,
        "conversation_reset": _on_conversation_reset,
        "assistant": _on_assistant,
        "user": _on_user,
        "result": _on_result,
        "control_response": _on_control_response,
        "control_request": _on_control_request,
    }
