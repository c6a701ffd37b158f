"""Agents as roles: definitions in a private plugin folder, which a running process can take.

Claude Code loads a definition from a plugin, and the main agent of a process can be switched to it
between two conversations. So one process can serve every agent whose other options are equal. The
folder belongs to one process; each file in it is one version of one agent.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agent_pool.agents import Agent
from agent_pool.agents.fields import EFFORTS
from agent_pool.claude.cli_options import withheld_tools
from agent_pool.claude.private_files import write_private
from agent_pool.claude.protocol.role import ROLE_PLUGIN, Role, plain_tool
from agent_pool.settings import Settings

ROLES_FROM: Final = (2, 1, 330)
"""From this version on a process that took a role sends what a new process of the agent sends."""
MAX_ROLES: Final = 50
"""Roles that a process keeps loaded; the oldest is left out for one more."""
ROLES_AHEAD: Final = 40
"""Roles that a process loads before a task needs them; the others of `MAX_ROLES` are those that it
has already. It takes 40 of them as fast as one (2.1.332)."""

_REPLACED_TEXTS: Final = ("${CLAUDE_PLUGIN", "${CLAUDE_PROJECT_DIR}")
"""Claude Code 2.1.332 puts a folder in place of ``${CLAUDE_PLUGIN_ROOT}``, of
``${CLAUDE_PLUGIN_DATA}`` and of ``${CLAUDE_PROJECT_DIR}``, in the agents of plugins only."""


def can_be_role(agent: Agent, version: tuple[int, ...]) -> bool:
    """Check whether a running process can become this agent with its prompt unchanged."""
    return version >= ROLES_FROM and not any(text in agent.prompt for text in _REPLACED_TEXTS)


def compose_role(
    agent: Agent,
    settings: Settings,
    mcp_tools: Sequence[str] | None = None,
    servers: Mapping[str, Any] | None = None,
) -> Role:
    """Return the role of an agent.

    Args:
        agent: the agent, with its complete prompt.
        settings: what agents inherit.
        mcp_tools: the only tools of its MCP servers that it has; None for all.
        servers: the configuration of its MCP servers; see `Role`.
    """
    servers = servers or {}
    tools = None if agent.tools is None else _tools(agent, settings, mcp_tools)
    # With a list of tools all others are left out anyway.
    withheld = withheld_tools(agent, settings) if tools is None else []
    without = [*agent.disallowed_tools, *withheld]
    effort = agent.effort if agent.effort in EFFORTS else None
    fields: dict[str, Any] = {"tools": tools, "disallowedTools": without, "model": agent.model}
    given = {key: value for key, value in fields.items() if value is not None and value != []}
    if tools == []:
        given["tools"] = []  # no tools at all, and not all tools
    toolset = json.dumps([given, servers], sort_keys=True)
    content = json.dumps([toolset, effort, agent.prompt])
    name = f"{_plain_name(agent.name)}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    head = {"name": name, "description": agent.description or agent.name, **given}
    lines = [f"{key}: {_yaml(value)}" for key, value in head.items()]
    return Role(
        name=name,
        definition="\n".join(["---", *lines, "---", agent.prompt]),
        effort=effort,
        tools=None if tools is None else frozenset(map(plain_tool, tools)),
        # A rule forbids some uses of a tool; Claude Code takes the whole tool away (2.1.332).
        without=frozenset(map(plain_tool, without)),
        # The model too: which tools are sent at once depends on it. Hashed: it can hold secrets.
        toolset=hashlib.sha256(toolset.encode()).hexdigest(),
        servers=servers,
    )


def _tools(agent: Agent, settings: Settings, mcp_tools: Sequence[str] | None) -> list[str]:
    named = agent.tools or ()
    own = [tool for tool in named if mcp_tools is None or not tool.startswith("mcp__")]
    # The list of skills comes with the tool.
    skill = ["Skill"] if "skills" in settings.inherit and "Skill" not in own else []
    return [*own, *skill, *(mcp_tools or ())]


def _yaml(value: Any) -> str:
    """Return a value as YAML, with no character that could end the frontmatter."""
    # JSON is YAML too, whatever characters a value has. The CLI takes the first three hyphens for
    # the end of the block, also in the middle of a line (2.1.332).
    return json.dumps(value).replace("---", r"\u002d" * 3)


def _plain_name(name: str) -> str:
    """Return a name for a file, and for the hooks that read it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "agent"


class RoleFolder:
    """The plugin folder of one process.

    Args:
        path: the folder; it is made at the first role.

    Attributes:
        loaded: the full names of the roles in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._roles: dict[str, Role] = {}

    @property
    def loaded(self) -> list[str]:
        return [role.full_name for role in self._roles.values()]

    def add(self, role: Role | None) -> bool:
        """Write a role's definition; return whether a running process must load the folder again.

        Args:
            role: the role; None only makes the folder.

        Raises:
            SpawnError: a file cannot be written.
        """
        if not self._roles and not self.path.is_dir():
            manifest = json.dumps({"name": ROLE_PLUGIN})
            write_private(self.path / ".claude-plugin" / "plugin.json", manifest)
        if role is None or role.name in self._roles:
            return False
        if len(self._roles) >= MAX_ROLES:
            oldest = next(iter(self._roles))
            del self._roles[oldest]
            self._file(oldest).unlink(missing_ok=True)
        write_private(self._file(role.name), role.definition)
        self._roles[role.name] = role
        return True

    def _file(self, name: str) -> Path:
        return self.path / "agents" / f"{name}.md"
