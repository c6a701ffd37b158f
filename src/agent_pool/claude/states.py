"""The order of things in a conversation: its states, what leads from one to the next, and which
tools leave a mark that no reset undoes. Nothing else decides it."""

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
"""Tools whose effect a reset does not undo: whoever used one is not used again."""


class State(StrEnum):
    """Where the conversation stands."""

    STARTING = "starting"
    """Spawned; `initialize` is not answered yet."""
    READY = "ready"
    """Nothing is remembered: a task may be given."""
    IN_TURN = "in_turn"
    """Exactly one prompt is outstanding."""
    INTERRUPTING = "interrupting"
    """As IN_TURN, and the CLI was asked to end it."""
    USED = "used"
    """The turn has ended and its context is still there."""
    RESETTING = "resetting"
    """`/clear` is outstanding."""
    CLOSED = "closed"
    """The process has ended."""
    BROKEN = "broken"
    """The process broke the protocol; nothing more is believed."""


class Step(StrEnum):
    """What moves a session from one state to the next."""

    INITIALIZED = "initialized"
    PROMPT = "prompt"
    INTERRUPT = "interrupt"
    RESULT = "result"
    CLEAR = "clear"
    RESET = "reset"


TRANSITIONS: Final[Mapping[State, Mapping[Step, State]]] = {
    State.STARTING: {Step.INITIALIZED: State.READY},
    State.READY: {Step.PROMPT: State.IN_TURN},
    State.IN_TURN: {Step.RESULT: State.USED, Step.INTERRUPT: State.INTERRUPTING},
    State.INTERRUPTING: {Step.RESULT: State.USED},
    State.USED: {Step.PROMPT: State.IN_TURN, Step.CLEAR: State.RESETTING},
    State.RESETTING: {Step.RESET: State.READY},
    State.CLOSED: {},
    State.BROKEN: {},
}
