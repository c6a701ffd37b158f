"""What the demo plays: an agent that counts lines, its tasks, and the model's lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent_pool.loopback import Reply, Request, ToolUse, text_of

AGENT: Final = "counter"
_GUIDE: Final = "\n".join(
    f"{number}. When a file is named, count in that file; name it in the answer; add nothing."
    for number in range(1, 31)
)
_DEFINITION: Final = f"""\
---
name: {AGENT}
description: Counts the lines of files.
tools: [Read, Bash]
---

You count the lines of files with the shell and say how many there are.

{_GUIDE}
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A question, and the only right answer to it."""

    number: int

    @property
    def file(self) -> str:
        return f"notes/{self.number}.txt"

    @property
    def text(self) -> str:
        return f"How many lines has {self.file}?"

    @property
    def lines(self) -> int:
        return 3 * self.number

    @property
    def answer(self) -> str:
        return f"{self.file} has {self.lines} lines."


def project_files(tasks: int) -> dict[str, str]:
    """The project: the agent, and a file for each of so many tasks."""
    notes = {task.file: "a line\n" * task.lines for task in map(Task, range(1, tasks + 1))}
    return {f".claude/agents/{AGENT}.md": _DEFINITION, **notes}


class Model:
    """The offline model: it has the file's lines counted by the shell, then says the number.

    Attributes:
        thinking: seconds that it takes for each of its replies.
    """

    def __init__(self) -> None:
        self.thinking = 0.0

    def __call__(self, request: Request) -> Reply:
        """What it says next."""
        return Reply(self._content(request), delay=self.thinking)

    def _content(self, request: Request) -> str | ToolUse:
        named = re.search(r"notes/\d+\.txt", request.last_user_text)
        if request.is_side or named is None:
            return "counting lines"
        if not request.tool_results:
            return ToolUse("Bash", {"command": f"wc -l < {named[0]}", "description": "Count"})
        return f"{named[0]} has {text_of(request.tool_results[0]).strip()} lines."
