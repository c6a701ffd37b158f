"""The parts of a definition that have no effect in the pool, so that each is reported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from agent_pool.agents import Agent, Project
from agent_pool.agents.fields import EFFORTS, FIELDS
from agent_pool.claude.cli_options import permission_mode, tool_rules
from agent_pool.claude.mcp_config import McpConfig, is_tool_of
from agent_pool.settings import Settings
from agent_pool.text import did_you_mean

_WITHOUT_EFFECT: Final = {
    "background": "every task of a pooled agent already runs in the background of its caller",
    "isolation": "a pooled agent works in the project's folder",
    "memory": "a pooled agent starts each task without memories",
    "initial_prompt": "a pooled agent starts with the task",
    "cache_ttl": "the CLI has no option for cacheTtl; the API's default applies",
}
_KEYS: Final = {attribute: key for key, (attribute, _) in FIELDS.items()}
_OTHER_SPELLINGS: Final = {"allowedtools": "tools", "prompt": "initialPrompt"}

_Warning = tuple[str, str]


def unsupported_fields(agent: Agent, project: Project) -> dict[str, str]:
    """Return the keys of a definition that have no effect in the pool, or a partial one, and why.

    Unknown keys are among them, with the field that was probably meant. `color` is not: it only
    says how other programs show the agent.

    Args:
        agent: the agent as it is defined.
        project: its settings (`permission_ceiling` can allow less than the definition) and the
            place of its MCP servers.

    Raises:
        ConfigError: the agent names an MCP server that is configured nowhere.
    """
    found: dict[str, str] = {}
    for key, reason in (
        *((_KEYS[name], why) for name, why in _WITHOUT_EFFECT.items() if getattr(agent, name)),
        *_effort(agent),
        *_permissions(agent, project.settings),
        *_server_tools(agent, McpConfig(project).for_agent(agent)),
        *((key, _unknown_key(key)) for key in agent.extra),
    ):
        found[key] = f"{found[key]}; {reason}" if key in found else reason
    return found


def _effort(agent: Agent) -> Iterator[_Warning]:
    if agent.effort is not None and agent.effort not in EFFORTS:
        yield "effort", f"the CLI's option accepts only {', '.join(EFFORTS)}, not a number"


def _permissions(agent: Agent, settings: Settings) -> Iterator[_Warning]:
    mode = permission_mode(agent, settings)
    wanted = agent.permission_mode
    # `ask` and `default` are the same mode for the CLI.
    if wanted and mode != wanted and {mode, wanted} != {"ask", "default"}:
        yield "permissionMode", f"the setting permission_ceiling allows no more than {mode}"
    rules = ", ".join(tool_rules(agent))
    if rules and mode == "bypassPermissions":
        yield "tools", f"the rules of {rules} have no effect while permissions are bypassed"


def _server_tools(agent: Agent, servers: Mapping[str, object]) -> Iterator[_Warning]:
    for tool in agent.tools or ():
        server = next((name for name in servers if is_tool_of(tool, name)), None)
        if tool.startswith("mcp__") and server is None:
            yield "tools", f"no MCP server of the agent has {tool}; name its server in mcpServers"
        elif server is not None and tool.count("__") > 1:
            # `mcp__SERVER` asks for all tools anyway; `mcp__SERVER__TOOL` asks for one of them.
            yield "tools", f"with {tool} the agent gets all tools of the MCP server {server}"


def _unknown_key(key: str) -> str:
    plain = re.sub(r"[^a-z]", "", key.lower())
    fields = {re.sub(r"[^a-z]", "", field.lower()): field for field in FIELDS}
    meant = _OTHER_SPELLINGS.get(plain) or fields.get(plain)
    return f"no such field{f' (did you mean {meant}?)' if meant else did_you_mean(key, FIELDS)}"
