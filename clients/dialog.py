"""What the offline model of a client does: it calls the tools that the prompt names, then ends.

A prompt carries its calls as JSON between two marks. It is a list of turns; each turn is a list of
calls that the model makes in one message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

FINISHED: Final = "FINISHED"
"""The model's last words."""
_CALLS: Final = re.compile(r"CALLS (.*?) END", re.DOTALL)
_TASK_ID: Final = re.compile(r'id=\\*"([^"\\]+)')
TASK: Final = "$TASK"
"""In arguments: the id that the latest result names."""


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool, by the name that the server gives it."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


def prompt_for(*turns: Sequence[ToolCall]) -> str:
    """Return the prompt that lets the model make these calls."""
    plan = [[{"tool": call.tool, "arguments": call.arguments} for call in turn] for turn in turns]
    # opencode 1.18 puts a backslash before every double quote of its argument.
    text = json.dumps(plan).replace('"', "'")
    return f"Call the tools of agent-pool. CALLS {text} END"


@dataclass(frozen=True)
class Conversation:
    """One request of a client, in the same form for every API.

    Attributes:
        prompt: the texts of the user.
        tools: the names of the tools that the model can call.
        results: the texts of all results so far, in order.
    """

    prompt: str
    tools: tuple[str, ...]
    results: tuple[str, ...]

    def next_calls(self) -> list[ToolCall]:
        """Return the calls of the next message, named as the client names them; empty at the end.

        Raises:
            LookupError: the client offers no such tool.
        """
        found = _CALLS.findall(self.prompt)
        done = len(self.results)
        for turn in json.loads(found[-1].replace("'", '"')) if found else []:
            if done < len(turn):
                return [self._call(**call) for call in turn[done:]]
            done -= len(turn)
        return []

    def _call(self, tool: str, arguments: dict[str, Any]) -> ToolCall:
        name = find_tool(self.tools, tool)
        filled = {key: self._fill(value) for key, value in arguments.items()}
        return ToolCall(name, filled)

    def _fill(self, value: Any) -> Any:
        if value != TASK:
            return value
        found = _TASK_ID.findall("\n".join(self.results))
        return found[-1] if found else "no-id"


def find_tool(offered: Sequence[str], name: str) -> str:
    """Return the client's name of a tool of the server.

    Raises:
        LookupError: the client offers no such tool.
    """
    ending = re.compile(rf"(^|[^a-zA-Z]){name}$")
    found = [each for each in offered if ending.search(each)]
    ours = [each for each in found if re.search("agent.?pool", each)]
    if not found:
        raise LookupError(f"{name} is not offered, only {', '.join(offered) or 'no tool'}")
    return (ours or found)[0]
