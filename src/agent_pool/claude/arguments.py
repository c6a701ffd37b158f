"""An agent's definition as options of the CLI, and what of it cannot be honoured.

The fields are Claude Code's own, made for sub-agents inside a session. A pooled agent is a session
of its own, so each field becomes the option that means the same there; where there is none it is
named by `not_honoured`, never dropped in silence.
"""

from __future__ import annotations

from typing import Final

from agent_pool.agents import Agent
from agent_pool.claude.states import SURVIVING_TOOLS
from agent_pool.settings import PERMISSIONS, Settings

NOT_OFFERED: Final = SURVIVING_TOOLS | {
    "AskUserQuestion",
    "CronList",
    "ListAgents",
    "ReportFindings",
}
"""Tools of an interactive or self-waking session, kept from agents that do not name them."""

NO_MEANING: Final = {
    "background": "every task of a pooled agent already runs beside its caller",
    "isolation": "a pooled agent works in the project's folder",
    "memory": "a pooled agent begins each task with nothing remembered",
    "initial_prompt": "a pooled agent begins with the task",
    "cache_ttl": "the CLI has no option for it; the API's own default holds",
}


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


def not_honoured(agent: Agent, settings: Settings) -> dict[str, str]:
    """The fields of a definition that have no effect in the pool, and why."""
    found = {field: why for field, why in NO_MEANING.items() if getattr(agent, field)}
    mode = permission_mode(agent, settings)
    if agent.permission_mode and mode != agent.permission_mode:
        found["permission_mode"] = f"the setting permission_ceiling allows no more than {mode}"
    rules = ", ".join(_rules(agent))
    if rules and mode == "bypassPermissions":
        found["tools"] = f"the rules {rules} bind nothing while permissions are bypassed"
    return found


def _rules(agent: Agent) -> list[str]:
    return [tool for tool in agent.tools or () if "(" in tool]


def _permission_arguments(agent: Agent, settings: Settings) -> list[str]:
    mode = permission_mode(agent, settings)
    if mode == "bypassPermissions":
        return ["--dangerously-skip-permissions"]
    rules = _rules(agent)
    return [
        f"--permission-mode={'default' if mode == 'ask' else mode}",
        "--permission-prompt-tool=stdio",
        *([f"--allowedTools={','.join(rules)}"] if rules else []),
    ]


def _tool_arguments(agent: Agent, settings: Settings) -> list[str]:
    named = {_bare(tool) for tool in agent.tools or ()}
    kept_out = set(NOT_OFFERED)
    if "skills" not in settings.inherit:
        kept_out.add("Skill")
    refused = [*agent.disallowed_tools, *sorted(kept_out - named)]
    arguments = [f"--disallowedTools={','.join(refused)}"]
    if agent.tools is not None:
        own = dict.fromkeys(_bare(t) for t in agent.tools if not t.startswith("mcp__"))
        arguments.append(f"--tools={','.join(own)}")
    return arguments


def _bare(tool: str) -> str:
    """A tool's name without its rule, and by its present name."""
    name = tool.partition("(")[0]
    return "Agent" if name == "Task" else name


def _model_arguments(agent: Agent) -> list[str]:
    options = {"model": agent.model, "effort": agent.effort, "max-turns": agent.max_turns}
    return [f"--{option}={value}" for option, value in options.items() if value is not None]
