"""An agent's definition as options of the CLI.

The fields are Claude Code's own, made for sub-agents inside a session. A pooled agent is a session
of its own, so each field becomes the option that means the same there; where there is none,
`honoured` names it.
"""

from __future__ import annotations

from typing import Final

from agent_pool.agents import Agent
from agent_pool.agents.fields import EFFORTS
from agent_pool.claude.states import SURVIVING_TOOLS
from agent_pool.settings import PERMISSIONS, Settings

NOT_OFFERED: Final = SURVIVING_TOOLS | {
    "AskUserQuestion",
    "CronList",
    "ListAgents",
    "ReportFindings",
}
"""Tools of an interactive or self-waking session, kept from agents that do not name them."""


def agent_arguments(agent: Agent, settings: Settings) -> list[str]:
    """The options that make a process this agent, its system prompt and MCP servers excepted."""
    return [
        *_permission_arguments(agent, settings),
        *_tool_arguments(agent, settings),
        *_model_arguments(agent),
        *([f'--settings={{"hooks":{agent.hooks}}}'] if agent.hooks else []),
    ]


def permission_mode(agent: Agent, settings: Settings) -> str:
    """What the agent may do without being asked: as it says, but never more than the ceiling."""
    asked = agent.permission_mode or "bypassPermissions"
    ceiling = settings.permission_ceiling
    return min(asked, ceiling, key=PERMISSIONS.index)


def rules(agent: Agent) -> list[str]:
    """Those of its tools that it has for some uses only, such as ``Bash(git log:*)``."""
    return [tool for tool in agent.tools or () if "(" in tool]


def _permission_arguments(agent: Agent, settings: Settings) -> list[str]:
    mode = permission_mode(agent, settings)
    if mode == "bypassPermissions":
        return ["--dangerously-skip-permissions"]
    allowed = ",".join(rules(agent))
    return [
        f"--permission-mode={'default' if mode == 'ask' else mode}",
        "--permission-prompt-tool=stdio",
        *([f"--allowedTools={allowed}"] if allowed else []),
    ]


def _tool_arguments(agent: Agent, settings: Settings) -> list[str]:
    named = {_bare(tool) for tool in agent.tools or ()}
    kept_out = set(NOT_OFFERED)
    if "skills" in settings.inherit:
        named.add("Skill")  # the listing comes with the tool
    else:
        kept_out.add("Skill")
    refused = [*agent.disallowed_tools, *sorted(kept_out - named)]
    arguments = [f"--disallowedTools={','.join(refused)}"]
    if agent.tools is not None:
        own = sorted(tool for tool in named if not tool.startswith("mcp__"))
        arguments.append(f"--tools={','.join(own)}")
    return arguments


def _bare(tool: str) -> str:
    """A tool's name without its rule, and by its present name."""
    name = tool.partition("(")[0]
    return "Agent" if name == "Task" else name


def _model_arguments(agent: Agent) -> list[str]:
    effort = agent.effort if agent.effort in EFFORTS else None
    options = {"model": agent.model, "effort": effort, "max-turns": agent.max_turns}
    return [f"--{option}={value}" for option, value in options.items() if value is not None]
