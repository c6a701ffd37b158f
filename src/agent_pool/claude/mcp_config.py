"""The MCP servers of an agent: found in Claude Code's configuration, and passed to its workers.

An agent names a server in `mcpServers`, or by one of its tools in `tools`. A worker starts only
these. Other configured servers stay out unless the setting `inherit` includes them, and the pool's
own server even then. An agent that has a list of tools has only the tools of servers that are in
it, as with `claude -p --agent` (2.1.332). Each server that is a process gets a mark in its
environment, so that the clean-up can tell it from processes that a task or another server left
running.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent_pool.agents import Agent, Project
from agent_pool.claude.cookies import SERVER_MARK
from agent_pool.claude.trust import (
    is_trusted,
    project_entry,
    project_key,
    read_json,
    user_file,
)
from agent_pool.errors import ConfigError
from agent_pool.settings import claude_home, managed_settings_files
from agent_pool.text import did_you_mean

_VARIABLE: Final = re.compile(r"\$\{([^}]+)\}")
_EXPANDED_FIELDS: Final = ("command", "args", "env", "url", "headers")

OWN_SERVER: Final = "agent-pool"
"""The name under which this package registers itself; no agent inherits it."""


@dataclass(frozen=True, slots=True)
class AgentServers:
    """The MCP servers of one agent.

    Attributes:
        started: the configuration of each server that its workers start, by name.
        tools: the tools of these that the agent has: names, or ``mcp__SERVER`` for all of one
            server; None for all tools of all of them.
        disabled: servers that it asks for and the user has disabled, and the file that says so.
        unused: servers in `mcpServers` of which `tools` names no tool.
    """

    started: Mapping[str, Any] = field(repr=False)
    tools: tuple[str, ...] | None
    disabled: Mapping[str, str]
    unused: tuple[str, ...]


class McpConfig:
    """Find the MCP servers of a project's agents in Claude Code's own configuration."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def find(self, agent: Agent) -> AgentServers:
        """Find the servers of an agent.

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
        found, off, inherited = self._configured(agent, named, tools)
        # A server that the definition itself configures wins over one of the same name.
        found = {name: _marked(agent, name, one) for name, one in sorted({**found, **own}.items())}
        off = {name: place for name, place in off.items() if name not in own}
        if agent.tools is None:
            return AgentServers(found, None, off, ())
        without = [name for name in found if not any(is_tool_of(tool, name) for tool in tools)]
        unused = tuple(name for name in without if name not in inherited)
        whole = (tool_prefix(name) for name in without if name in inherited)
        started = {name: one for name, one in found.items() if name not in unused}
        return AgentServers(started, (*tools, *whole), off, unused)

    def stamp(self) -> str:
        """Return a text that changes when a server, or the trust in the folder, does.

        It can hold secrets. Claude Code writes to its own file at every start, so the time of that
        file is no measure.
        """
        try:
            return json.dumps([*self._ambient(), is_trusted(self._project)], sort_keys=True)
        except ConfigError as error:
            return str(error)

    def _configured(
        self, agent: Agent, named: list[str], tools: list[str]
    ) -> tuple[dict[str, Any], dict[str, str], set[str]]:
        """Return configured servers that the agent gets, disabled ones, and inherited names."""
        # Read only if needed: a broken file must not stop an agent that uses no server of it.
        if not (named or tools or self._inherits):
            return {}, {}, set()
        ambient, disabled = self._ambient()
        inherited = {name for name in ambient if self._inherits and name != OWN_SERVER}
        asked = inherited | {
            name
            for name in (*ambient, *disabled)
            if name in named or any(is_tool_of(tool, name) for tool in tools)
        }
        for name in named:
            if name not in asked:
                raise self._unknown(agent, name, ambient)
        found = {name: one for name, one in ambient.items() if name in asked}
        return found, {n: where for n, where in disabled.items() if n in asked}, inherited

    @property
    def _inherits(self) -> bool:
        return "mcp" in self._project.settings.inherit

    def _unknown(self, agent: Agent, name: str, ambient: Mapping[str, Any]) -> ConfigError:
        return ConfigError(
            f"{agent.path}: mcpServers names {name!r}, which is configured neither in "
            f"{self._project_file} nor in {user_file(self._project)}{did_you_mean(name, ambient)}"
        )

    @property
    def _project_file(self) -> Path:
        return self._project.root / ".mcp.json"

    def _ambient(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Return all configured servers, and the disabled ones with the file that disables them.

        As in Claude Code, the project's servers win over the user's, and those that the user has
        for this project win over both.
        """
        user, shared = read_json(user_file(self._project)), read_json(self._project_file)
        found: dict[str, Any] = {}
        off: dict[str, str] = {}
        for servers, disabled in (
            (_servers(user), self._disabled_servers("disabledMcpServers")),
            (_servers(shared), self._disabled_servers("disabledMcpjsonServers")),
            (self._local_servers(), self._disabled_servers("disabledMcpServers")),
        ):
            found |= {name: one for name, one in servers.items() if name not in disabled}
            off |= {name: where for name, where in disabled.items() if name in servers}
        return found, {name: where for name, where in off.items() if name not in found}

    def _local_servers(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in self._keys:
            found |= _servers(project_entry(self._project, key))
        return found

    @property
    def _keys(self) -> tuple[str, ...]:
        root = self._project.root
        # Earlier versions stored a folder inside a repository by its own path.
        return str(root.resolve()), project_key(root)

    def _disabled_servers(self, key: str) -> dict[str, str]:
        """Return the names in this key of any settings, and the file that has it."""
        places = [(user_file(self._project), project_entry(self._project, k)) for k in self._keys]
        if key == "disabledMcpjsonServers":
            folder = self._project.root / ".claude"
            files = (
                claude_home(self._project.environ) / "settings.json",
                folder / "settings.json",
                folder / "settings.local.json",
                *managed_settings_files(),
            )
            places += [(path, read_json(path)) for path in files]
        return {
            name: str(path)
            for path, settings in places
            for name in _list(settings.get(key))
            if isinstance(name, str)
        }


def _servers(source: Mapping[str, Any]) -> dict[str, Any]:
    servers = source.get("mcpServers")
    return servers if isinstance(servers, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def tool_prefix(server: str) -> str:
    """Return the name that stands for all tools of a server."""
    return f"mcp__{re.sub(r'[^A-Za-z0-9_-]', '_', server)}"


def is_tool_of(tool: str, server: str) -> bool:
    """Check whether ``mcp__server`` or ``mcp__server__tool`` belongs to this server."""
    prefix = tool_prefix(server)
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
    return {**server, "env": {**env, SERVER_MARK: _mark(name, server)}}


def _mark(name: str, server: Mapping[str, Any]) -> str:
    """Return a text that tells the processes of this server from those of another one."""
    text = json.dumps([name, server], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def server_marks(servers: Mapping[str, Any]) -> frozenset[str]:
    """Return the marks in the environment of the processes of these servers."""
    marks = (server.get("env", {}).get(SERVER_MARK) for server in servers.values())
    return frozenset(mark for mark in marks if mark)


def expand_variables(servers: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """Return the servers with the values of ``${NAME}`` and ``${NAME:-default}`` in their fields.

    Claude Code replaces them in files, and not in servers that a running process is given
    (2.1.332). A name without a value stays as it is.
    """
    return {
        name: {
            key: _expand(value, env) if key in _EXPANDED_FIELDS else value
            for key, value in server.items()
        }
        for name, server in servers.items()
    }


def _expand(value: Any, env: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: _value_of(found, env), value)
    if isinstance(value, list):
        return [_expand(one, env) for one in value]
    if isinstance(value, dict):
        return {key: _expand(one, env) for key, one in value.items()}
    return value


def _value_of(found: re.Match[str], env: Mapping[str, str]) -> str:
    name, has_default, default = found[1].partition(":-")
    return env.get(name, default if has_default else found[0])
