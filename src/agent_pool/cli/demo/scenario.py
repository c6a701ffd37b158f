"""The demo's scenario: an agent that counts lines, its tasks, and the scripted model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent_pool.loopback import ModelReply, ModelRequest, ToolUseBlock, get_result_text

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
class CheckedTask:
    """A task, and the only right answer to it.

    Attributes:
        number: its number in the run, from 1.
    """

    number: int
    text: str
    answer: str


def counting_task(number: int) -> CheckedTask:
    """Build the task to count the lines of file `number`."""
    file, lines = _file(number), _line_count(number)
    return CheckedTask(number, f"How many lines has {file}?", f"{file} has {lines} lines.")


def _file(number: int) -> str:
    return f"notes/{number}.txt"


def _line_count(number: int) -> int:
    return 3 * number


def project_files(tasks: int) -> dict[str, str]:
    """Return the project's files by path: the agent, and one text file for each of the tasks."""
    numbers = range(1, tasks + 1)
    notes = {_file(number): "a line\n" * _line_count(number) for number in numbers}
    return {f".claude/agents/{AGENT}.md": _DEFINITION, **notes}


class CountingModel:
    """The offline model: it counts the file's lines with the shell, then answers with the number.

    Attributes:
        reply_delay: seconds before each reply.
    """

    def __init__(self) -> None:
        self.reply_delay = 0.0

    def __call__(self, request: ModelRequest) -> ModelReply:
        """Return the reply to a request."""
        return ModelReply(self._content(request), delay=self.reply_delay)

    def _content(self, request: ModelRequest) -> str | ToolUseBlock:
        named = re.search(r"notes/\d+\.txt", request.last_user_text)
        # The CLI also asks for a title of the session; that request gets any short text.
        if request.is_side or named is None:
            return "counting lines"
        if not request.tool_results:
            return ToolUseBlock("Bash", {"command": f"wc -l < {named[0]}", "description": "Count"})
        return f"{named[0]} has {get_result_text(request.tool_results[0]).strip()} lines."
