"""The answer of the tool `agents`: the agents that a query means, with whole descriptions."""

from __future__ import annotations

from agent_pool import AgentInfo, AgentList
from agent_pool.mcp.agent_list import NO_AGENTS
from agent_pool.text import count, did_you_mean, one_line


def find_agents(found: AgentList, query: str) -> str:
    """Return the agents whose name or description has all words of the query, the best first.

    An empty query means all agents. Definitions that cannot be used are named with their errors.
    """
    words = query.casefold().split()
    matching = [agent for agent in found.usable if all(word in _words_of(agent) for word in words)]
    matching.sort(key=lambda agent: not any(word in agent.name.casefold() for word in words))
    broken = [f"- {one_line(agent.name)}: {one_line(agent.error or '')}" for agent in found.broken]
    parts = [_heading(found, matching, query), *map(_line, matching)]
    if broken:
        parts += ["", "Not usable until corrected:", *broken]
    return "\n".join(parts)


def _words_of(agent: AgentInfo) -> str:
    return f"{agent.name} {agent.description}".casefold()


def _heading(found: AgentList, matching: list[AgentInfo], query: str) -> str:
    if not found.usable:
        return NO_AGENTS
    names = [agent.name for agent in found.usable]
    if not matching:
        hint = did_you_mean(query, names)
        return f"No agent matches {query!r}{hint}. All agents: {', '.join(map(one_line, names))}"
    if not query:
        return f"{count(len(matching), 'agent')}:"
    return f"{len(matching)} of {count(len(names), 'agent')} match {query!r}:"


def _line(agent: AgentInfo) -> str:
    return f"- {one_line(agent.name)}: {one_line(agent.description)}".rstrip(": ")
