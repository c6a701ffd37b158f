"""The MCP servers that an agent names: where they are configured, and how a worker gets them.

A worker starts only these; ambient ones stay out, the pool's own among them, unless `inherit` says
otherwise. Each server that is a process is marked in its environment, so that cleaning up after a
task can tell it from what the task left behind.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
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
        if not agent.mcp_servers and "mcp" not in self._settings.inherit:
            return {}
        ambient = self._ambient()
        inherits = "mcp" in self._settings.inherit
        found = {name: ambient[name] for name in ambient if name != OWN} if inherits else {}
        for entry in map(json.loads, agent.mcp_servers):
            if isinstance(entry, str):
                found[entry] = self._named(agent, entry, ambient)
            else:
                found |= entry
        return {name: _marked(server) for name, server in sorted(found.items())}

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
        local = projects.get(str(self._settings.project_dir)) if isinstance(projects, dict) else {}
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


def _marked(server: Any) -> Any:
    if not isinstance(server, dict) or "command" not in server:
        return server
    return {**server, "env": {**server.get("env", {}), SERVER_MARK: "1"}}
