"""What the benchmark plays: a reviewer with a prompt of some length, its tasks, the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent_pool.loopback import Reply, Request, ToolUse

AGENT: Final = "reviewer"
TOOLS: Final = "Read, Grep, Glob, Bash, Edit, Write"
_MARK: Final = "You review changes to a code base."
_TOPICS: Final = (
    "Correctness",
    "Error handling",
    "Concurrency",
    "Resources",
    "Input validation",
    "Permissions",
    "Naming",
    "Interfaces",
    "Tests",
    "Dependencies",
    "Documentation",
    "Performance",
)
_SECTION: Final = (
    "## {topic}\n"
    "Look at this in every file that the change touches, and in the files that use what it "
    "changes. Name the file and the line, say in one sentence what goes wrong and when, and "
    "propose the smallest change that mends it. Rate each finding: high if users lose data or "
    "time, medium if the next change becomes harder, low otherwise. Do not report what a formatter "
    "or a type checker would find, nor what was there before, unless the change makes it worse.\n"
)
PROMPT: Final = f"{_MARK} Work through these sections.\n\n" + "\n".join(
    _SECTION.format(topic=topic) for topic in _TOPICS
)
"""About 1,500 tokens."""
_DEFINITION: Final = f"""\
---
name: {AGENT}
description: Reviews changes.
tools: {TOOLS}
---

{PROMPT}
"""


_OPENINGS: Final = (
    "A release is due today.",
    "Before the meeting, please:",
    "Could you check a sum?",
    "For the report on cache sizes:",
    "In src/limits.py there is a sum.",
    "Look at the totals again.",
    "One of the tests adds up numbers.",
    "Somebody doubts the invoice.",
    "The reviewer of the last change asks:",
    "We disagree about arithmetic.",
)


@dataclass(frozen=True, slots=True)
class Task:
    """A question, and the only right answer to it.

    Ten in a row begin differently, as tasks do: the CLI puts a digest of a conversation's first
    words before the system prompt, where it decides about the prompt cache.
    """

    number: int

    @property
    def text(self) -> str:
        opening = _OPENINGS[self.number % len(_OPENINGS)]
        return f"{opening} What is {self.number} plus {self.number}?"

    @property
    def answer(self) -> str:
        return f"{self.number} plus {self.number} is {2 * self.number}."


def project_files() -> dict[str, str]:
    """The project: nothing but the agent."""
    return {f".claude/agents/{AGENT}.md": _DEFINITION}


def is_agents(request: Request) -> bool:
    """Whether the agent asks, not a session that delegates to it."""
    return _MARK in request.system_text


def model(request: Request) -> Reply:
    """The offline model: an agent answers at once, a session delegates each line that it is given.

    Both take no time, so that what is measured is everything but the model.
    """
    if request.is_side:
        return Reply("adding numbers")
    if is_agents(request):
        return Reply(_answer(request.last_user_text))
    if request.tool_results:
        return Reply("All done.")
    tool = "Agent" if "Agent" in request.tools else "Task"  # as older versions call it
    return Reply([_delegation(tool, line) for line in request.last_user_text.splitlines()])


def _answer(question: str) -> str:
    number = re.search(r"(\d+) plus", question)
    return Task(int(number[1])).answer if number else f"No question: {question[:80]!r}"


def _delegation(tool: str, task: str) -> ToolUse:
    return ToolUse(
        tool,
        {
            "description": "Add numbers",
            "prompt": task,
            "subagent_type": AGENT,
            "run_in_background": False,
        },
    )
