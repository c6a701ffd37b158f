"""The MCP servers of an agent: found in Claude Code's configuration, and passed to its workers.

An agent names a server in `mcpServers`, or by one of its tools in `tools`. A worker starts only
these. Other configured servers stay out unless the setting `inherit` includes them, and the pool's
own server even then. Each server that is a process gets a mark in its environment, so that the
clean-up after a task can tell it from processes that the task left running.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from agent_pool.agents import Agent, Project
from agent_pool.claude.process_tree import SERVER_MARK
from agent_pool.errors import ConfigError
from agent_pool.settings import claude_home
from agent_pool.text import did_you_mean

OWN_SERVER: Final = "agent-pool"
"""The name under which this package registers itself; no agent inherits it."""


class McpConfig:
    """Find the MCP servers of a project's agents in Claude Code's own configuration."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def json_for(self, agent: Agent) -> str:
        """Return the value of ``--mcp-config`` as JSON; empty if the agent gets no server.

        Raises:
            ConfigError: as `for_agent`.
        """
        found = self.for_agent(agent)
        # Sorted: the text is a part of the profile, so equal servers must give equal texts.
        return json.dumps({"mcpServers": found}, sort_keys=True) if found else ""

    def for_agent(self, agent: Agent) -> dict[str, Any]:
        """Return the configuration of each server that the agent gets, by name.

        Raises:
            ConfigError: a named server is configured nowhere, or a configuration is malformed; the
                message says where it was looked for.
        """
        entries = [json.loads(entry) for entry in agent.mcp_servers]
        own = {
            name: one for entry in entries if isinstance(entry, dict) for name, one in entry.items()
        }
        named = [entry for entry in entries if isinstance(entry, str)]
        tools = [tool for tool in agent.tools or () if tool.startswith("mcp__")]
        found: dict[str, Any] = {}
        # Read only if needed: a broken file must not stop an agent that uses no server of it.
        if named or tools or self._inherits:
            ambient = self._ambient()
            found = {name: one for name, one in ambient.items() if self._is_given(name, tools)}
            found |= {name: self._named(agent, name, ambient) for name in named}
        # A server that the definition itself configures wins over one of the same name.
        return {name: _marked(agent, name, one) for name, one in sorted({**found, **own}.items())}

    @property
    def _inherits(self) -> bool:
        return "mcp" in self._project.settings.inherit

    def _is_given(self, name: str, tools: Iterable[str]) -> bool:
        """Check whether an agent gets a configured server that its `mcpServers` does not name."""
        inherited = self._inherits and name != OWN_SERVER
        return inherited or any(is_tool_of(tool, name) for tool in tools)

    def _named(self, agent: Agent, name: str, ambient: Mapping[str, Any]) -> Any:
        if name in ambient:
            return ambient[name]
        raise ConfigError(
            f"{agent.path}: mcpServers names {name!r}, which is configured neither in "
            f"{self._project_file} nor in {self._user_file}{did_you_mean(name, ambient)}"
        )

    @property
    def _project_file(self) -> Path:
        return self._project.root / ".mcp.json"

    @property
    def _user_file(self) -> Path:
        environ = self._project.environ
        named = environ.get("CLAUDE_CONFIG_DIR")
        # Without that variable the file stands beside the folder .claude, not in it.
        return (Path(named) if named else claude_home(environ).parent) / ".claude.json"

    def _ambient(self) -> dict[str, Any]:
        """Return all configured servers; as in Claude Code, the project's win over the user's."""
        user = _read_json(self._user_file)
        projects = user.get("projects")
        here = str(self._project.root.resolve())  # Claude Code's key follows links
        local = projects.get(here) if isinstance(projects, dict) else {}
        found: dict[str, Any] = {}
        for source in (user, _read_json(self._project_file), local):
            servers = source.get("mcpServers") if isinstance(source, dict) else None
            found |= servers if isinstance(servers, dict) else {}
        return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        # Some editors write a byte order mark, which `json.loads` refuses.
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:  # both files are optional
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def is_tool_of(tool: str, server: str) -> bool:
    """Check whether ``mcp__server`` or ``mcp__server__tool`` belongs to this server."""
    prefix = f"mcp__{re.sub(r'[^A-Za-z0-9_-]', '_', server)}"
    return tool == prefix or tool.startswith(f"{prefix}__")


def _marked(agent: Agent, name: str, server: Any) -> Any:
    if not isinstance(server, dict):
        kind = type(server).__name__  # the value itself can be a secret
        raise ConfigError(f"{agent.path}: the MCP server {name!r} is a {kind}, not a mapping")
    # A server that is reached by its URL is no process, so there is no process to mark.
    if "command" not in server:
        return server
    env = server.get("env") or {}
    if not isinstance(env, dict):
        raise ConfigError(f"{agent.path}: the `env` of the MCP server {name!r} is not a mapping")
    return {**server, "env": {**env, SERVER_MARK: "1"}}
