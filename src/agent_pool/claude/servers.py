"""The MCP servers that an agent names: where they are configured, and how a worker gets them.

It names one in `mcpServers`, or by a tool of it in `tools`. A worker starts only these; ambient
ones stay out unless `inherit` says otherwise, and the pool's own even then. Each server that is a
process is marked in its environment, so that cleaning up after a task can tell it from what the
task left behind.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from agent_pool.agents import Agent
from agent_pool.claude.tree import SERVER_MARK
from agent_pool.errors import ConfigError
from agent_pool.settings import Settings, claude_home

OWN: Final = "agent-pool"
"""The name under which this package registers itself; no agent inherits it."""


class Servers:
    """Finds MCP servers by name in Claude Code's own configuration."""

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._environ = environ

    def config_for(self, agent: Agent) -> str:
        """What ``--mcp-config`` takes for this agent, as JSON; empty if it gets no server.

        Raises:
            ConfigError: as `for_agent`.
        """
        found = self.for_agent(agent)
        return json.dumps({"mcpServers": found}, sort_keys=True) if found else ""

    def for_agent(self, agent: Agent) -> dict[str, Any]:
        """The configuration of each server that the agent gets, by name.

        Raises:
            ConfigError: a named one is configured nowhere; says where it was looked for.
        """
        entries = [json.loads(entry) for entry in agent.mcp_servers]
        own = {
            name: one for entry in entries if isinstance(entry, dict) for name, one in entry.items()
        }
        named = [entry for entry in entries if isinstance(entry, str)]
        tools = [tool for tool in agent.tools or () if tool.startswith("mcp__")]
        found: dict[str, Any] = {}
        if named or tools or self._inherits:
            ambient = self._ambient()
            found = {name: one for name, one in ambient.items() if self._is_given(name, tools)}
            found |= {name: self._named(agent, name, ambient) for name in named}
        return {name: _marked(agent, name, one) for name, one in sorted({**found, **own}.items())}

    @property
    def _inherits(self) -> bool:
        return "mcp" in self._settings.inherit

    def _is_given(self, name: str, tools: Iterable[str]) -> bool:
        """Whether an agent gets an ambient server though `mcpServers` does not name it."""
        return any(is_tool_of(tool, name) for tool in tools) or (self._inherits and name != OWN)

    def _named(self, agent: Agent, name: str, ambient: Mapping[str, Any]) -> Any:
        if name in ambient:
            return ambient[name]
        close = difflib.get_close_matches(name, ambient, n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise ConfigError(
            f"{agent.path}: mcpServers names {name!r}, which is configured neither in "
            f"{self._project_file} nor in {self._user_file}{hint}"
        )

    @property
    def _project_file(self) -> Path:
        return self._settings.project_dir / ".mcp.json"

    @property
    def _user_file(self) -> Path:
        named = self._environ.get("CLAUDE_CONFIG_DIR")
        return (Path(named) if named else claude_home(self._environ).parent) / ".claude.json"

    def _ambient(self) -> dict[str, Any]:
        """All configured servers; the project's own come before the user's, as in Claude Code."""
        user = _read(self._user_file)
        projects = user.get("projects")
        here = str(self._settings.project_dir.resolve())  # as Claude Code calls the project
        local = projects.get(here) if isinstance(projects, dict) else {}
        found: dict[str, Any] = {}
        for source in (user, _read(self._project_file), local):
            servers = source.get("mcpServers") if isinstance(source, dict) else None
            found |= servers if isinstance(servers, dict) else {}
        return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def is_tool_of(tool: str, server: str) -> bool:
    """Whether ``mcp__server`` or ``mcp__server__tool`` speaks of this server."""
    prefix = f"mcp__{re.sub(r'[^A-Za-z0-9_-]', '_', server)}"
    return tool == prefix or tool.startswith(f"{prefix}__")


def _marked(agent: Agent, name: str, server: Any) -> Any:
    if not isinstance(server, dict):
        kind = type(server).__name__  # and not what it is, which may be a secret
        raise ConfigError(f"{agent.path}: the MCP server {name!r} is a {kind}, not a mapping")
    if "command" not in server:
        return server
    env = server.get("env") or {}
    if not isinstance(env, dict):
        raise ConfigError(f"{agent.path}: the `env` of the MCP server {name!r} is no mapping")
    return {**server, "env": {**env, SERVER_MARK: "1"}}
