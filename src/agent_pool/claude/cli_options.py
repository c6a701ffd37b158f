"""An agent's definition as options of the CLI.

The fields of a definition are Claude Code's own, made for sub-agents inside a session. A pooled
agent is a session of its own, so each field becomes the option that means the same there. Fields
that have no such option are named by `unsupported`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

from agent_pool.agents import Agent
from agent_pool.agents.fields import EFFORTS, to_canonical_json
from agent_pool.claude.binary import parse_version
from agent_pool.claude.protocol.role import plain_tool
from agent_pool.claude.protocol.states import SURVIVING_TOOLS
from agent_pool.settings import PERMISSIONS, Settings

NOT_OFFERED: Final = SURVIVING_TOOLS | {
    "AskUserQuestion",
    "CronList",
    "ListAgents",
    "ReportFindings",
}
"""Tools of an interactive or self-waking session: only agents that name them get them."""


TOOLS_FROM: Final = (2, 0, 31)
"""From this version on `--tools` limits the built-in tools."""
_TOOLS_BEFORE: Final = frozenset(
    {
        *("Glob", "Grep", "Read", "Edit", "Write", "NotebookEdit"),
        *("Bash", "BashOutput", "KillShell", "WebFetch", "WebSearch"),
        *("Task", "TodoWrite", "ExitPlanMode", "SlashCommand", "Skill"),
        *("ListMcpResourcesTool", "ReadMcpResourceTool"),
    }
)
"""All built-in tools of the versions before `TOOLS_FROM`, without those of `NOT_OFFERED`."""

# A table, because the binary cannot be asked cheaply: `--help` hides options such as `--max-turns`
# and takes 0.4 s (2.1.332) to 1.7 s (2.0.0), and the error names only the first unknown option.
_OPTIONS_FROM: Final[Mapping[str, tuple[tuple[int, ...], str]]] = {
    "--tools": (
        TOOLS_FROM,
        "an agent that lists its tools is refused all other built-in tools one by one, and so are "
        "its sub-agents",
    ),
    "--no-session-persistence": (
        (2, 0, 64),
        "a transcript of each task is written to the folder projects of Claude Code's own folder, "
        "and a later process of the same folder sends it to a small model for a title",
    ),
    "--effort": ((2, 1, 38), "effort has no effect"),
}
"""The first version that knows an option, and what it costs to leave the option out. An older CLI
does not start with it: "unknown option"."""


def unknown_options(version: str) -> dict[str, str]:
    """Return the options that this version of the CLI does not know, and what that costs."""
    numbers = parse_version(version)
    return {name: cost for name, (first, cost) in _OPTIONS_FROM.items() if numbers < first}


def option_name(option: str) -> str:
    """Return the name of an option that can have a value: ``--tools`` for ``--tools=Read``."""
    return option.partition("=")[0]


def agent_options(
    agent: Agent,
    settings: Settings,
    mcp_tools: Sequence[str] | None = None,
    version: tuple[int, ...] = TOOLS_FROM,
) -> list[str]:
    """Return the options that make a process this agent.

    Its system prompt and its MCP servers are not among them: those go by files or by stdin.

    Args:
        agent: the agent.
        settings: what agents inherit, and the ceiling of permissions.
        mcp_tools: the only tools of its MCP servers that it has; None for all.
        version: of the CLI. Options that it does not know are returned too.
    """
    return [
        *_permission_options(agent, settings),
        *_tool_options(agent, settings, version),
        *_mcp_tool_options(agent, settings, mcp_tools),
        *_model_options(agent),
        *_turn_options(agent),
        _settings_option(agent),
    ]


def process_options(agent: Agent, settings: Settings) -> list[str]:
    """Return the options of an agent that cannot be changed in a running process."""
    return [
        *_permission_options(agent, settings),
        # In a definition they would have no effect: SendMessage is offered all the same (2.1.332).
        f"--disallowedTools={','.join(_kept_out(agent, NOT_OFFERED))}",
        *_turn_options(agent),
        _settings_option(agent),
    ]


def withheld_tools(agent: Agent, settings: Settings) -> list[str]:
    """Return the tools that the setting `inherit` keeps from an agent which does not name them."""
    # The list of skills comes with the tool.
    return _kept_out(agent, frozenset() if "skills" in settings.inherit else {"Skill"})


def _kept_out(agent: Agent, tools: Set[str]) -> list[str]:
    return sorted(tools - {plain_tool(tool) for tool in agent.tools or ()})


def permission_mode(agent: Agent, settings: Settings) -> str:
    """Return the agent's permission mode: as its definition says, at most the ceiling."""
    asked = agent.permission_mode or "bypassPermissions"
    ceiling = settings.permission_ceiling
    return min(asked, ceiling, key=PERMISSIONS.index)


def cli_mode(agent: Agent, settings: Settings) -> str:
    """Return the agent's permission mode by the CLI's own name."""
    mode = permission_mode(agent, settings)
    # `ask` is a word of this package: for the CLI it is its mode `default`.
    return "default" if mode == "ask" else mode


def permitted_modes(mode: str) -> frozenset[str]:
    """Return a mode of the CLI and the stricter ones; a policy can forbid more than was asked."""
    return frozenset(PERMISSIONS[: PERMISSIONS.index(mode) + 1])


def tool_rules(agent: Agent) -> list[str]:
    """Return the tools that it has for some uses only, such as ``Bash(git log:*)``."""
    return [tool for tool in agent.tools or () if "(" in tool]


def allowing_rules(agent: Agent, settings: Settings) -> list[str]:
    """Return the rules of a definition that let its tools be used without asking.

    Below the highest ceiling there are none: a definition cannot allow itself more than the person
    who set the ceiling.
    """
    has_ceiling = settings.permission_ceiling != "bypassPermissions"
    return [] if has_ceiling else tool_rules(agent)


def _permission_options(agent: Agent, settings: Settings) -> list[str]:
    mode = cli_mode(agent, settings)
    # Requests for permission then come as `can_use_tool` frames on stdout. Under bypassPermissions
    # too: an `ask` rule of the settings asks all the same, and a policy against bypassing puts the
    # process into the mode `default` (2.1.332).
    asking = "--permission-prompt-tool=stdio"
    if mode == "bypassPermissions":
        # The CLI refuses this for root unless IS_SANDBOX=1 (all versions).
        return ["--dangerously-skip-permissions", asking]
    allowed = ",".join(allowing_rules(agent, settings))
    return [
        f"--permission-mode={mode}",
        asking,
        *([f"--allowedTools={allowed}"] if allowed else []),
    ]


def _mcp_tool_options(
    agent: Agent, settings: Settings, mcp_tools: Sequence[str] | None
) -> list[str]:
    if agent.tools is None or mcp_tools is None:
        return []
    # `--tools` limits the built-in tools alone (2.1.332), and the names of a server's other tools
    # are not known before it is started. An agent's list of tools limits both. Its prompt is
    # replaced by that of `initialize`, but must not be empty: 2.1.260 would end at its start, and
    # 2.1.119 to 2.1.229 would ignore the agent and with it the limit.
    skill = ["Skill"] if "skills" in settings.inherit else []
    built_in = [tool for tool in agent.tools if not tool.startswith("mcp__")]
    one = {
        "description": agent.description or agent.name,
        "prompt": " ",
        "tools": [*built_in, *skill, *mcp_tools],
    }
    return [f"--agents={json.dumps({agent.name: one})}", f"--agent={agent.name}"]


def _tool_options(agent: Agent, settings: Settings, version: tuple[int, ...]) -> list[str]:
    named = {plain_tool(tool) for tool in agent.tools or ()}
    if "skills" in settings.inherit:
        named.add("Skill")  # the list of skills comes with the tool
    kept_out = [*_kept_out(agent, NOT_OFFERED), *withheld_tools(agent, settings)]
    if agent.tools is not None and version < TOOLS_FROM:
        # Without `--tools` this is the only limit: a tool that is not refused is offered (2.0.30).
        kept_out += _TOOLS_BEFORE - named - {*kept_out}
    refused = [*agent.disallowed_tools, *sorted(kept_out)]
    options = [f"--disallowedTools={','.join(refused)}"]
    if agent.tools is not None:
        # Tools of MCP servers are not known to this option, see `_mcp_tool_options`.
        own = sorted(tool for tool in named if not tool.startswith("mcp__"))
        options.append(f"--tools={','.join(own)}")
    return options


def _model_options(agent: Agent) -> list[str]:
    effort = agent.effort if agent.effort in EFFORTS else None
    options = {"model": agent.model, "effort": effort}
    # Written as --option=value: the CLI takes a separate value that begins with a dash for an
    # option (all versions).
    return [f"--{option}={value}" for option, value in options.items() if value is not None]


def _turn_options(agent: Agent) -> list[str]:
    return [f"--max-turns={agent.max_turns}"] if agent.max_turns is not None else []


def _settings_option(agent: Agent) -> str:
    # If other settings name a main agent, the process would start as that agent, and keep its model
    # for every agent without a field `model`. An empty name means no such agent; null would not
    # replace the name (2.1.332).
    settings: dict[str, Any] = {"agent": ""}
    if agent.hooks:
        settings["hooks"] = json.loads(agent.hooks)
    return f"--settings={to_canonical_json(settings)}"
