"""The parts of a definition that have no effect in the pool, so that each is reported."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from agent_pool.agents import Agent, Project
from agent_pool.agents.fields import EFFORTS, FIELDS
from agent_pool.claude.cli_options import allowing_rules, permission_mode, tool_rules
from agent_pool.claude.mcp_config import AgentServers, McpConfig, is_tool_of, tool_prefix
from agent_pool.claude.trust import permitted_agent, refused_fields
from agent_pool.settings import Settings
from agent_pool.text import did_you_mean

_WITHOUT_EFFECT: Final = {
    "background": "every task of a pooled agent already runs in the background of its caller",
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
        *_isolation(agent),
        *_permissions(agent, project.settings),
        *_rules_against_tools(agent),
        *refused_fields(agent, project),
        *_servers(agent, McpConfig(project).find(permitted_agent(agent, project))),
        *agent.ignored.items(),
        *((key, _unknown_key(key)) for key in agent.extra),
    ):
        found[key] = f"{found[key]}; {reason}" if key in found else reason
    return found


def _effort(agent: Agent) -> Iterator[_Warning]:
    if agent.effort is not None and agent.effort not in EFFORTS:
        yield "effort", f"the CLI's option accepts only {', '.join(EFFORTS)}, not a number"


def _rules_against_tools(agent: Agent) -> Iterator[_Warning]:
    if rules := ", ".join(tool for tool in agent.disallowed_tools if "(" in tool):
        yield "disallowedTools", f"Claude Code takes the whole tool away, not only {rules}"


def _isolation(agent: Agent) -> Iterator[_Warning]:
    if agent.isolation == "remote":
        yield "isolation", "a pooled agent works on this machine; only worktree has an effect"


def _permissions(agent: Agent, settings: Settings) -> Iterator[_Warning]:
    mode = permission_mode(agent, settings)
    wanted = agent.permission_mode
    # `ask` and `default` are the same mode for the CLI.
    if wanted and mode != wanted and {mode, wanted} != {"ask", "default"}:
        yield "permissionMode", f"the setting permission_ceiling allows no more than {mode}"
    rules = ", ".join(tool_rules(agent))
    if rules and mode == "bypassPermissions":
        yield "tools", f"the rules of {rules} have no effect while permissions are bypassed"
    elif rules and not allowing_rules(agent, settings):
        ceiling = settings.permission_ceiling
        reason = f"the setting permission_ceiling allows no more than {ceiling}"
        yield "tools", f"the rules of {rules} allow nothing without asking: {reason}"


def _servers(agent: Agent, servers: AgentServers) -> Iterator[_Warning]:
    for name, path in servers.disabled.items():
        yield "mcpServers", f"the MCP server {name} is left out: it is disabled in {path}"
    for name in servers.unused:
        prefix = tool_prefix(name)
        reason = f"the MCP server {name} is left out: tools names none of its tools; add {prefix}"
        yield "mcpServers", reason
    known = {*servers.started, *servers.disabled, *_inline_names(agent)}
    for tool in agent.tools or ():
        if tool.startswith("mcp__") and not any(is_tool_of(tool, name) for name in known):
            yield "tools", f"no MCP server of the agent has {tool}; name its server in mcpServers"


def _inline_names(agent: Agent) -> Iterator[str]:
    """Yield the servers inside the definition; `refused_fields` reports those that are left out."""
    for entry in map(json.loads, agent.mcp_servers):
        yield from entry if isinstance(entry, dict) else ()


def _unknown_key(key: str) -> str:
    plain = re.sub(r"[^a-z]", "", key.lower())
    fields = {re.sub(r"[^a-z]", "", field.lower()): field for field in FIELDS}
    meant = _OTHER_SPELLINGS.get(plain) or fields.get(plain)
    return f"no such field{f' (did you mean {meant}?)' if meant else did_you_mean(key, FIELDS)}"
