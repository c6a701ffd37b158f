"""The agents in the description of `invoke`: one line for each, within a number of characters."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from agent_pool import AgentList
from agent_pool.text import one_line

NO_AGENTS = (
    "No agent is defined yet. `agent-pool init` writes a first one. An agent is a Markdown file in "
    ".claude/agents with `name` and `description` in its frontmatter."
)
_MAX_BROKEN = 200
"""Characters of the list of definitions that cannot be used."""

_Row = tuple[str, str]


def describe_agents(found: AgentList, budget: int) -> str:
    """Return the agents with their descriptions, then the broken files, in `budget` characters.

    If there is not enough room, the longest descriptions are cut first, then all descriptions go,
    then agents are left out and counted. A budget below 450 can be exceeded.
    """
    agents = [(one_line(agent.name), one_line(agent.description)) for agent in found.usable]
    broken = _broken_line([agent.name for agent in found.broken])
    if not agents:
        return NO_AGENTS + broken
    heading = "Agents:\n"
    return heading + _fit(agents, budget - len(heading) - len(broken)) + broken


def _fit(agents: Sequence[_Row], budget: int) -> str:
    widest = max(len(description) for _, description in agents)
    width = bisect_right(range(widest + 1), budget, key=lambda w: len(_rows(agents, w))) - 1
    return _rows(agents, width) if width >= 0 else _names(agents, budget)


def _rows(agents: Sequence[_Row], width: int) -> str:
    return "\n".join(_row(name, description, width) for name, description in agents)


def _row(name: str, description: str, width: int) -> str:
    return f"- {name}: {one_line(description, width)}" if description and width else f"- {name}"


def _names(agents: Sequence[_Row], budget: int) -> str:
    shown = [name for name, _ in agents]
    while shown and len(_shortened(shown, len(agents))) > budget:
        shown.pop()
    return _shortened(shown, len(agents))


def _shortened(shown: Sequence[str], total: int) -> str:
    names = ", ".join(shown)
    return names if len(shown) == total else f"{names} and {total - len(shown)} more"


def _broken_line(names: Sequence[str]) -> str:
    if not names:
        return ""
    listed = one_line(", ".join(names), _MAX_BROKEN)
    return f"\nNot usable until corrected (`agent-pool doctor` says why): {listed}"
