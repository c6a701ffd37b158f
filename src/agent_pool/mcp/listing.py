"""The agents as the description of `invoke` shows them: a line each, within a budget."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from agent_pool import Agent, Broken
from agent_pool.mcp.text import one_line

NO_AGENTS = (
    "No agent is defined yet. `agent-pool init` writes a first one; any Markdown file with "
    "`name` and `description` in its frontmatter in .claude/agents is one."
)
_BROKEN_LIMIT = 200


def describe_agents(found: Iterable[Agent | Broken], budget: int) -> str:
    """The agents with their descriptions, then the broken files, in at most `budget` characters.

    When room is short the longest descriptions are cut first, then all of them, then agents are
    left out and counted. A budget below 450 may be exceeded.
    """
    entries = list(found)
    agents = [
        (one_line(item.name), one_line(item.description))
        for item in entries
        if isinstance(item, Agent)
    ]
    broken = _broken([item.name for item in entries if isinstance(item, Broken)])
    if not agents:
        return NO_AGENTS + broken
    heading = "Agents:\n"
    return heading + _fit(agents, budget - len(heading) - len(broken)) + broken


def _fit(agents: Sequence[tuple[str, str]], budget: int) -> str:
    widest = max(len(description) for _, description in agents)
    width = bisect_right(range(widest + 1), budget, key=lambda w: len(_rows(agents, w))) - 1
    return _rows(agents, width) if width >= 0 else _names(agents, budget)


def _rows(agents: Sequence[tuple[str, str]], width: int) -> str:
    return "\n".join(_row(name, description, width) for name, description in agents)


def _row(name: str, description: str, width: int) -> str:
    return f"- {name}: {one_line(description, width)}" if description and width else f"- {name}"


def _names(agents: Sequence[tuple[str, str]], budget: int) -> str:
    shown = [name for name, _ in agents]
    while shown and len(_shortened(shown, len(agents))) > budget:
        shown.pop()
    return _shortened(shown, len(agents))


def _shortened(shown: Sequence[str], total: int) -> str:
    names = ", ".join(shown)
    return names if len(shown) == total else f"{names} and {total - len(shown)} more"


def _broken(names: Sequence[str]) -> str:
    if not names:
        return ""
    listed = one_line(", ".join(names), _BROKEN_LIMIT)
    return f"\nNot usable until mended (`agent-pool doctor` says why): {listed}"
