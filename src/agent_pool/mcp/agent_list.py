"""The agents in the description of `invoke`: within the characters that the client takes.

This module is imported before the SDK, for the first answer to `tools/list`.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from agent_pool.text import one_line

CLAUDE_CODE = "claude-code"
"""The name that Claude Code gives itself as a client."""
NO_AGENTS = (
    "No agent is defined yet. `agent-pool init` writes a first one. An agent is a Markdown file in "
    ".claude/agents with `name` and `description` in its frontmatter."
)
MIN_WIDTH = 24
"""Characters of a description at least; shorter ones are left out, as they help nobody."""
_MAX_BROKEN = 200
"""Characters of the list of definitions that cannot be used."""
_CUT = "\nThe tool agents returns whole descriptions."
_NAMES = "Agents (the tool agents returns what each one does): "
_REST = ", and {} more: see the argument agent"

_Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class AgentNames:
    """The agents of a project, as they are declared to clients.

    Attributes:
        usable: the name and the description of each.
        broken: the names of definitions that cannot be used.
    """

    usable: Sequence[tuple[str, str]]
    broken: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class AgentsText:
    """The agents in a bounded text.

    Attributes:
        text: the text.
        left: the names for which it has no room.
    """

    text: str
    left: tuple[str, ...] = ()


def description_limit(client: str, version: str) -> int:
    """Return the characters of a tool's description that a client passes to its model.

    Claude Code takes 2,048 (2.1.197), since 2.1.300 it takes 4,096. Other clients have no limit
    that is known.
    """
    numbers = tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
    return 2048 if client == CLAUDE_CODE and numbers < (2, 1, 300) else 4096


def taken_length(text: str) -> int:
    """Return the length of a text as Claude Code counts it: in UTF-16, normalised by NFKC."""
    # Measured on 2.1.332: "…" counts three characters, as it becomes "...".
    return len(unicodedata.normalize("NFKC", text).encode("utf-16-le", "surrogatepass")) // 2


def describe_agents(found: AgentNames, budget: int) -> AgentsText:
    """Return the agents with their descriptions, then the broken files, in `budget` characters.

    If there is not enough room, the longest descriptions are cut first, then all descriptions go,
    then names are left out and returned. A budget below 450 can be exceeded.
    """
    agents = [(one_line(name), _normalised(description)) for name, description in found.usable]
    broken = _broken_line(found.broken)
    if not agents:
        return AgentsText(NO_AGENTS + broken)
    heading = "Agents:\n"
    room = budget - taken_length(broken)
    rows = _fit(agents, room - len(heading))
    if rows is not None:
        return AgentsText(heading + rows + broken)
    names = _names([name for name, _ in agents], room)
    return AgentsText(names.text + broken, names.left)


def _normalised(description: str) -> str:
    return unicodedata.normalize("NFKC", one_line(description))


def _fit(agents: Sequence[_Row], budget: int) -> str | None:
    """Return the agents with descriptions as long as possible; None if they would be too short."""
    widest = max(len(description) for _, description in agents)
    if taken_length(whole := _rows(agents, widest)) <= budget:
        return whole
    room = budget - len(_CUT)
    width = bisect_right(range(widest), room, key=lambda w: taken_length(_rows(agents, w))) - 1
    return _rows(agents, width) + _CUT if width >= MIN_WIDTH else None


def _rows(agents: Sequence[_Row], width: int) -> str:
    return "\n".join(_row(name, description, width) for name, description in agents)


def _row(name: str, description: str, width: int) -> str:
    if len(description) > width:
        description = description[: max(width - 3, 0)].rstrip() + "..."  # one "…" counts three
    return f"- {name}: {description}" if description else f"- {name}"


def _names(names: Sequence[str], budget: int) -> AgentsText:
    if taken_length(whole := _NAMES + ", ".join(names)) <= budget:
        return AgentsText(whole)
    room = budget - len(_REST.format(len(names)))
    numbers = range(1, len(names) + 1)
    fitting = bisect_right(numbers, room, key=lambda n: taken_length(_NAMES + ", ".join(names[:n])))
    shown, left = names[:fitting], tuple(names[fitting:])
    return AgentsText(_NAMES + ", ".join(shown) + _REST.format(len(left)), left)


def _broken_line(names: Sequence[str]) -> str:
    if not names:
        return ""
    listed = one_line(", ".join(names), _MAX_BROKEN).replace("…", "...")
    return f"\nNot usable until corrected (`agent-pool doctor` says why): {listed}"
