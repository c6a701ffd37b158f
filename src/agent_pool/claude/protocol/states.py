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

REWOUND_TOOLS: Final = frozenset(
    {
        "Agent",
        "Bash",
        "Edit",
        "Glob",
        "Grep",
        "Read",
        "Skill",
        "StructuredOutput",
        "Task",
        "ToolSearch",
        "Write",
    }
)
"""Tools of which a rewind undoes everything (tried on 2.1.332). After any other tool `/clear` is
sent: the list of TaskCreate, for example, outlives a rewind but not `/clear`. Tools of MCP servers
change nothing in the CLI itself."""


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
    CONFIGURING = "configuring"
    """The process was asked to take a role, or to load its roles again."""
    USED = "used"
    """The turn has ended and its context is still there."""
    RESETTING = "resetting"
    """`/clear` or a rewind has no answer yet."""
    CLOSED = "closed"
    """The process has ended."""
    BROKEN = "broken"
    """The process broke the protocol; its later output is ignored."""


class Step(StrEnum):
    """A step that moves a session from one state to the next."""

    INITIALIZED = "initialized"
    CONFIGURE = "configure"
    CONFIGURED = "configured"
    PROMPT = "prompt"
    INTERRUPT = "interrupt"
    RESULT = "result"
    CLEAR = "clear"
    REWIND = "rewind"
    REFUSE = "refuse"
    RESET = "reset"


TRANSITIONS: Final[Mapping[SessionState, Mapping[Step, SessionState]]] = {
    SessionState.STARTING: {Step.INITIALIZED: SessionState.READY},
    # `/clear` before the first prompt makes the CLI read CLAUDE.md and skills again (2.1.332).
    SessionState.READY: {
        Step.PROMPT: SessionState.IN_TURN,
        Step.CLEAR: SessionState.RESETTING,
        Step.CONFIGURE: SessionState.CONFIGURING,
    },
    # A conversation that has begun would keep the prompt and the tools of its role (2.1.332).
    SessionState.CONFIGURING: {Step.CONFIGURED: SessionState.READY},
    # No second prompt: the CLI can merge two open prompts into one turn.
    SessionState.IN_TURN: {
        Step.RESULT: SessionState.USED,
        Step.INTERRUPT: SessionState.INTERRUPTING,
    },
    # The CLI answers an interrupt by the turn's own result (2.0.77 to 2.1.330).
    SessionState.INTERRUPTING: {Step.RESULT: SessionState.USED},
    # A prompt without a reset continues the conversation.
    SessionState.USED: {
        Step.PROMPT: SessionState.IN_TURN,
        Step.CLEAR: SessionState.RESETTING,
        Step.REWIND: SessionState.RESETTING,
    },
    SessionState.RESETTING: {Step.RESET: SessionState.READY, Step.REFUSE: SessionState.USED},
    SessionState.CLOSED: {},
    SessionState.BROKEN: {},
}
