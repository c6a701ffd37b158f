"""What of a definition has no effect in the pool, so that it is never dropped in silence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from agent_pool.agents import Agent
from agent_pool.agents.fields import EFFORTS, FIELDS
from agent_pool.agents.names import did_you_mean
from agent_pool.claude.arguments import permission_mode, rules
from agent_pool.claude.servers import Servers, is_tool_of
from agent_pool.settings import Settings

_WITHOUT_MEANING: Final = {
    "background": "every task of a pooled agent already runs beside its caller",
    "isolation": "a pooled agent works in the project's folder",
    "memory": "a pooled agent begins each task with nothing remembered",
    "initial_prompt": "a pooled agent begins with the task",
    "cache_ttl": "the CLI has no option for cacheTtl; the API's own default holds",
}
_KEYS: Final = {attribute: key for key, (attribute, _) in FIELDS.items()}
_OTHER_SPELLINGS: Final = {"allowedtools": "tools", "prompt": "initialPrompt"}

Finding = tuple[str, str]


def not_honoured(
    agent: Agent, settings: Settings, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The keys of a definition that have no effect in the pool, or not all of it, and why.

    Keys that nothing knows are among them, with the field that was probably meant. `color` is
    not: it says how others show the agent.

    Args:
        agent: what is defined.
        settings: among them `permission_ceiling`, which may allow less than the definition.
        environ: says where Claude Code keeps its MCP servers.

    Raises:
        ConfigError: the agent names an MCP server that is configured nowhere.
    """
    found: dict[str, str] = {}
    for key, why in (
        *((_KEYS[field], why) for field, why in _WITHOUT_MEANING.items() if getattr(agent, field)),
        *_effort(agent),
        *_permissions(agent, settings),
        *_server_tools(agent, Servers(settings, environ).for_agent(agent)),
        *((key, _unknown(key)) for key in agent.extra),
    ):
        found[key] = f"{found[key]}; {why}" if key in found else why
    return found


def _effort(agent: Agent) -> Iterator[Finding]:
    if agent.effort is not None and agent.effort not in EFFORTS:
        yield "effort", f"the CLI's option takes {', '.join(EFFORTS)} only, no number"


def _permissions(agent: Agent, settings: Settings) -> Iterator[Finding]:
    mode = permission_mode(agent, settings)
    wanted = agent.permission_mode
    if wanted and mode != wanted and {mode, wanted} != {"ask", "default"}:
        yield "permissionMode", f"the setting permission_ceiling allows no more than {mode}"
    bound = ", ".join(rules(agent))
    if bound and mode == "bypassPermissions":
        yield "tools", f"the rules of {bound} bind nothing while permissions are bypassed"


def _server_tools(agent: Agent, servers: Mapping[str, object]) -> Iterator[Finding]:
    for tool in agent.tools or ():
        server = next((name for name in servers if is_tool_of(tool, name)), None)
        if tool.startswith("mcp__") and server is None:
            yield "tools", f"no MCP server that the agent gets has {tool}; name it in mcpServers"
        elif server is not None and tool.count("__") > 1:
            yield "tools", f"with {tool} the agent gets all tools of the MCP server {server}"


def _unknown(key: str) -> str:
    plain = re.sub(r"[^a-z]", "", key.lower())
    fields = {re.sub(r"[^a-z]", "", field.lower()): field for field in FIELDS}
    meant = _OTHER_SPELLINGS.get(plain) or fields.get(plain)
    return f"no such field{f' (did you mean {meant}?)' if meant else did_you_mean(key, FIELDS)}"
