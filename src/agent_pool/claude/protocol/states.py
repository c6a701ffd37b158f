"""The states of a session, the steps between them, and the tools that no reset undoes.

`TRANSITIONS` is the only place that decides which step is allowed in which state.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

SURVIVING_TOOLS: Final = frozenset(
    {
        "CronCreate",
        "CronDelete",
        "EnterPlanMode",
        "EnterWorktree",
        "ExitPlanMode",
        "ExitWorktree",
        "Monitor",
        "ProposeGoal",
        "PushNotification",
        "RemoteTrigger",
        "RunWorkflow",
        "ScheduleWakeup",
        "SendMessage",
        "SetGoal",
        "TeamCreate",
        "TeamDelete",
        "Workflow",
    }
)
"""Tools whose effect outlives `/clear` (seen on 2.1.330): a worker that used one is replaced."""


class SessionState(StrEnum):
    """The state of one session."""

    STARTING = "starting"
    """The process was started; `initialize` is not answered yet."""
    READY = "ready"
    """The context is empty: a task can be given."""
    IN_TURN = "in_turn"
    """Exactly one prompt has no result yet."""
    INTERRUPTING = "interrupting"
    """As IN_TURN, and the CLI was asked to end the turn."""
    USED = "used"
    """The turn has ended and its context is still there."""
    RESETTING = "resetting"
    """`/clear` has no result yet."""
    CLOSED = "closed"
    """The process has ended."""
    BROKEN = "broken"
    """The process broke the protocol; its later output is ignored."""


class Step(StrEnum):
    """A step that moves a session from one state to the next."""

    INITIALIZED = "initialized"
    PROMPT = "prompt"
    INTERRUPT = "interrupt"
    RESULT = "result"
    CLEAR = "clear"
    RESET = "reset"


TRANSITIONS: Final[Mapping[SessionState, Mapping[Step, SessionState]]] = {
    SessionState.STARTING: {Step.INITIALIZED: SessionState.READY},
    SessionState.READY: {Step.PROMPT: SessionState.IN_TURN},
    # No second prompt: the CLI can merge two open prompts into one turn.
    SessionState.IN_TURN: {
        Step.RESULT: SessionState.USED,
        Step.INTERRUPT: SessionState.INTERRUPTING,
    },
    # The CLI answers an interrupt by the turn's own result (2.0.77 to 2.1.330).
    SessionState.INTERRUPTING: {Step.RESULT: SessionState.USED},
    # A prompt without `/clear` continues the conversation.
    SessionState.USED: {Step.PROMPT: SessionState.IN_TURN, Step.CLEAR: SessionState.RESETTING},
    SessionState.RESETTING: {Step.RESET: SessionState.READY},
    SessionState.CLOSED: {},
    SessionState.BROKEN: {},
}
