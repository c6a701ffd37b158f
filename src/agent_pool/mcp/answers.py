"""Long answers, kept so that a client that cuts them can read the rest in parts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final

from mcp_types import CallToolResult, TextContent

from agent_pool import AgentPoolError
from agent_pool.mcp.agent_list import CLAUDE_CODE

CLAUDE_LIMIT: Final = 500_000
"""Characters of an answer that Claude Code gives to its model; it writes longer ones to a file."""
OTHER_LIMIT: Final = 10_000
"""Characters that every client gives to its model: Codex 0.171 cuts after 12,090."""
PART: Final = 10_000
"""Characters of a part."""
MAX_ANSWERS: Final = 16
"""Long answers that are kept, the latest ones."""
MAX_KEPT: Final = 16 * 2**20
"""Characters of all kept answers; the latest one is always kept."""


class NoSuchAnswer(AgentPoolError):  # noqa: N818
    """The client asks for an answer that is not kept."""

    code = "no_such_answer"


def answer_limit(client: str) -> int:
    """Return the characters of an answer that a client of this name gives to its model."""
    return CLAUDE_LIMIT if client == CLAUDE_CODE else OTHER_LIMIT


class LongAnswers:
    """The long answers of one connection."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._numbers = itertools.count(1)

    def keep(self, result: CallToolResult, limit: int, name: str = "") -> CallToolResult:
        """Keep an answer that is longer than `limit`, and say so in its first line.

        A line of its own: opencode 1.18 shows nothing of an answer that is a single long line. A
        name is for an answer that can be asked for again; without one it gets a new name.
        """
        text = "".join(block.text for block in result.content if isinstance(block, TextContent))
        if len(text) <= limit:
            return result
        name = name or f"answer-{next(self._numbers)}"
        self._texts[name] = text
        self._drop_oldest()
        note = (
            f"(This answer has {len(text):,} characters. If you see fewer, read the rest with the "
            f'tool read_answer: answer="{name}", start=the number of characters that you have.)'
        )
        block = TextContent(type="text", text=f"{note}\n\n{text}")
        return result.model_copy(update={"content": [block]})

    def read(self, name: str, start: int) -> str:
        """Return the part of an answer that begins at a character, after a line about it.

        Raises:
            NoSuchAnswer: it is not kept.
        """
        text = self._texts.get(name)
        if text is None:
            raise NoSuchAnswer(f"there is no {name!r}; {_kept(self._texts)}")
        part = text[start : start + PART]
        end = start + len(part)
        rest = f"The next part: start={end}." if end < len(text) else "This is the end."
        return f"(Characters {start:,} to {end:,} of {len(text):,}. {rest})\n\n{part}"

    def _drop_oldest(self) -> None:
        while len(self._texts) > 1 and (
            len(self._texts) > MAX_ANSWERS or sum(map(len, self._texts.values())) > MAX_KEPT
        ):
            del self._texts[next(iter(self._texts))]


def _kept(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"kept are the latest long answers: {listed}" if listed else "no answer was long so far"
