"""The answer to `tools/list`: the tools of `tools.json`, with the agents of the moment.

This module is imported before the SDK, for the first answer. `tools.json` is written by
`python scripts/tools_file.py` from `agent_pool.mcp.tools`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from agent_pool.mcp.agent_list import AgentNames, describe_agents, taken_length
from agent_pool.text import one_line

FILE: Final = Path(__file__).with_name("tools.json")


def read_tools() -> list[dict[str, Any]]:
    """Return all tools in the form of the protocol, without agents."""
    tools: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return tools


def list_tools(found: AgentNames | Exception, limit: int) -> list[dict[str, Any]]:
    """Return the tools for a client, with the agents in the description of `invoke`.

    Names that do not fit stand in the description of its argument `agent`, which no client cuts.

    Args:
        found: the agents, or why they cannot be listed.
        limit: the most characters of a description.
    """
    tools = read_tools()
    invoke = next(tool for tool in tools if tool["name"] == "invoke")
    budget = limit - taken_length(invoke["description"])
    if isinstance(found, Exception):
        problem = one_line(f"The agents cannot be listed now: {found}", budget // 3)
        invoke["description"] += problem
        return tools
    agents = describe_agents(found, budget)
    invoke["description"] += agents.text
    if agents.left:
        argument = invoke["inputSchema"]["properties"]["agent"]
        argument["description"] += f" The agents that it has no room for: {', '.join(agents.left)}"
    return tools
