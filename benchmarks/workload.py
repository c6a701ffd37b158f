"""The benchmark's workload: an agent with a prompt of about 1,500 tokens, its tasks, the model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from agent_pool.loopback import ModelReply, ModelRequest, ToolUseBlock

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
class CheckedTask:
    """A task, and the only right answer to it.

    Attributes:
        number: its number in the run, from 1.
    """

    number: int
    text: str
    answer: str


def sum_task(number: int) -> CheckedTask:
    """Build the task to add `number` to itself.

    Ten tasks in a row begin with different words, as real tasks do. That matters for the prompt
    cache: the CLI puts a digest of a conversation's first words before the system prompt.
    """
    opening = _OPENINGS[number % len(_OPENINGS)]
    question = f"{opening} What is {number} plus {number}?"
    return CheckedTask(number, question, f"{number} plus {number} is {2 * number}.")


def project_files() -> dict[str, str]:
    """Return the project's files by path: the agent's definition alone."""
    return {f".claude/agents/{AGENT}.md": _DEFINITION}


def is_from_agent(request: ModelRequest) -> bool:
    """Check whether the agent sent the request, and not a session that delegates to it."""
    return _MARK in request.system_text


def scripted_model(request: ModelRequest) -> ModelReply:
    """Return the model's reply: the agent answers, a session delegates each line of its prompt.

    It replies at once, so that the benchmark measures everything but the model.
    """
    if request.is_side:
        return ModelReply("adding numbers")
    if is_from_agent(request):
        return ModelReply(_answer(request.last_user_text))
    if request.tool_results:
        return ModelReply("All done.")
    # Older versions of the CLI call the tool Task.
    tool = "Agent" if "Agent" in request.tools else "Task"
    return ModelReply([_delegation(tool, line) for line in request.last_user_text.splitlines()])


def _answer(question: str) -> str:
    number = re.search(r"(\d+) plus", question)
    return sum_task(int(number[1])).answer if number else f"No question: {question[:80]!r}"


def _delegation(tool: str, task: str) -> ToolUseBlock:
    return ToolUseBlock(
        tool,
        {
            "description": "Add numbers",
            "prompt": task,
            "subagent_type": AGENT,
            "run_in_background": False,
        },
    )
