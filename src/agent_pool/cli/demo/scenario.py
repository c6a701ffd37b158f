"""The demo's scenario: agents that count in files, their tasks, and the scripted model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent_pool.loopback import ModelReply, ModelRequest, ToolUseBlock, get_result_text

AT_ONCE: Final = 3
"""Tasks that run at the same time."""
LINE: Final = "a line\n"
"""The notes consist of such lines."""
_GUIDE: Final = "\n".join(
    f"{number}. When a file is named, count in that file; name it in the answer; add nothing."
    for number in range(1, 31)
)


@dataclass(frozen=True, slots=True)
class CountingAgent:
    """One of the demo's agents.

    Attributes:
        name: its name.
        counted: what it counts, in the plural.
        command: the shell command that counts on its stdin.
        per_line: how many of them one line of the notes has.
    """

    name: str
    counted: str
    command: str
    per_line: int

    @property
    def job(self) -> str:
        """Return the sentence of its prompt that no other agent has."""
        return f"You count the {self.counted} of files"

    @property
    def definition(self) -> str:
        """Return the text of its file."""
        return (
            f"---\nname: {self.name}\ndescription: Counts the {self.counted} of files.\n"
            f"tools: [Read, Bash]\n---\n\n{self.job} with the shell.\n\n{_GUIDE}\n"
        )


AGENTS: Final = (
    CountingAgent("line-counter", "lines", "wc -l", 1),
    CountingAgent("word-counter", "words", "wc -w", 2),
    CountingAgent("byte-counter", "bytes", "wc -c", len(LINE)),
    CountingAgent("blank-counter", "blanks", "tr -cd ' ' | wc -c", 1),
    CountingAgent("vowel-counter", "vowels", "tr -cd aeiou | wc -c", 3),
    CountingAgent("letter-counter", "letters", "tr -cd a-z | wc -c", 5),
)


@dataclass(frozen=True, slots=True)
class CheckedTask:
    """A task of an agent, and the only right answer to it.

    Attributes:
        number: the number of the file, from 1.
    """

    agent: CountingAgent
    number: int

    @property
    def text(self) -> str:
        """Return the task: the same words for each agent, so the answer shows which one had it."""
        return f"Count in {_file(self.number)}."

    @property
    def answer(self) -> str:
        """Return the only right answer."""
        amount = self.agent.per_line * _line_count(self.number)
        return f"{_file(self.number)} has {amount} {self.agent.counted}."


def counting_tasks(rounds: int) -> list[CheckedTask]:
    """Return one task of each agent for each of so many rounds; no two have the same answer."""
    return [
        CheckedTask(agent, place + 1 + turn * len(AGENTS))
        for turn in range(rounds)
        for place, agent in enumerate(AGENTS)
    ]


def _file(number: int) -> str:
    return f"notes/{number}.txt"


def _line_count(number: int) -> int:
    return 3 * number


def project_files(rounds: int) -> dict[str, str]:
    """Return the project's files by path: the agents, and a text file for each of the tasks."""
    agents = {f".claude/agents/{agent.name}.md": agent.definition for agent in AGENTS}
    numbers = range(1, rounds * len(AGENTS) + 1)
    return agents | {_file(number): LINE * _line_count(number) for number in numbers}


class CountingModel:
    """The offline model: it counts as its system prompt says, and answers with the number."""

    def __call__(self, request: ModelRequest) -> ModelReply:
        """Return the reply to a request."""
        return ModelReply(self._content(request))

    def _content(self, request: ModelRequest) -> str | ToolUseBlock:
        named = re.search(r"notes/\d+\.txt", request.last_user_text)
        agent = next((one for one in AGENTS if one.job in request.system_text), None)
        # The CLI also asks for a title of the session; that request gets any short text.
        if request.is_side or named is None or agent is None:
            return "counting"
        if not request.tool_results:
            command = f"cat {named[0]} | {agent.command}"
            return ToolUseBlock("Bash", {"command": command, "description": "Count"})
        amount = get_result_text(request.tool_results[0]).strip()
        return f"{named[0]} has {amount} {agent.counted}."
