"""The role of a process: the agent that it is at present, and a check that it really is.

A process takes a role by `apply_flag_settings` with the name of a definition that it has loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent_pool.claude.protocol.frames import Frame

ROLE_PLUGIN: Final = "agent-pool"
"""The name of the plugin whose agents are the roles of a process."""

_MAIN_TOOLS: Final = frozenset(
    {
        "Agent",
        "Bash",
        "Edit",
        "Glob",
        "Grep",
        "NotebookEdit",
        "Read",
        "Skill",
        "WebFetch",
        "WebSearch",
        "Write",
    }
)
"""Tools that a process can only have in `system/init` if its role names them. Other tools can stand
there by another name than the one in the definition: KillShell is shown as TaskStop (2.1.332)."""


@dataclass(frozen=True, slots=True)
class Role:
    """An agent in the form in which a running process can take it.

    Attributes:
        name: its name in the plugin; another content gives another name.
        definition: the Markdown file that the process loads.
        effort: the reasoning effort; None for the default.
        tools: the tools that it names, without rules; None for all.
        without: tools that it must not have, without rules.
        toolset: equal for roles whose requests have the same tools.
        servers: the configuration of its MCP servers by name, with no variables left in it.
    """

    name: str
    definition: str
    effort: str | None
    tools: frozenset[str] | None
    without: frozenset[str]
    toolset: str
    servers: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @property
    def full_name(self) -> str:
        """Return the name by which the CLI knows the definition."""
        return f"{ROLE_PLUGIN}:{self.name}"

    def has_tools_of(self, other: Role) -> bool:
        """Check whether both roles send the same tools to the model."""
        return self.toolset == other.toolset

    def problem(self, init: Frame) -> str:
        """Return how the process of this `system/init` frame differs from the role; else empty."""
        tools = init.get("tools")
        shown = {plain_tool(tool) for tool in tools or () if isinstance(tool, str)}
        if surplus := shown & self.without:
            return f"it has {', '.join(sorted(surplus))}, which its agent must not have"
        if self.tools is not None and (surplus := shown & _MAIN_TOOLS - self.tools):
            return f"it has {', '.join(sorted(surplus))}, which its agent does not name"
        return ""

    def missing_tools(self, init: Frame) -> list[str]:
        """Return the tools that the role names if the process of this frame has none at all.

        Claude Code drops each name that no tool has, and refuses a sub-agent for which no tool is
        left (2.1.332). A main agent works without tools then.
        """
        # A list of which `disallowedTools` leaves nothing is accepted there as well.
        if not self.tools or init.get("tools") != [] or self.tools & self.without:
            return []
        return sorted(self.tools)


def plain_tool(tool: str) -> str:
    """Return a tool's name without its rule, and by its present name."""
    name = tool.partition("(")[0]
    # The tool that starts sub-agents is also called `Task`, in `system/init` too (2.1.332).
    return "Agent" if name == "Task" else name


def flag_settings(role: Role, loaded: list[str]) -> dict[str, Any]:
    """Return the settings by which a process takes a role.

    Args:
        role: the role.
        loaded: the full names of all roles that the process has loaded.
    """
    # Denied to the Agent tool, so that no agent sees or starts a role of another one; a process
    # can take a denied role nevertheless (2.1.332). Each call replaces the former value.
    denied = [f"Agent({name})" for name in loaded]
    return {
        "agent": role.full_name,
        "effortLevel": role.effort,
        "permissions": {"deny": denied},
    }
