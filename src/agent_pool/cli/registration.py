"""The registration of this package with Claude Code, and the steps that change it.

The MCP server is added and removed by Claude Code's own `claude mcp` commands; its files are only
read, to find the server. The hook is an entry in a settings file: there is no command for that.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import agent_pool
from agent_pool.cli import json_text
from agent_pool.cli.json_file import new_file_text, read_json, replace_file
from agent_pool.errors import AgentPoolError, ConfigError
from agent_pool.settings import Environment, claude_home, config_file

Scope: TypeAlias = Literal["local", "project", "user"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
SERVER: Final = "agent-pool"
MATCHER: Final = "Agent|Task"
"""Claude Code's own delegation tool: it is called `Agent`, and was called `Task` before."""

RULE: Final = f"mcp__{SERVER}"
"""The permission rule for every tool of the server."""

_ALLOW: Final = ("permissions", "allow")
_PRE_TOOL_USE: Final = ("hooks", "PreToolUse")
_HOOK_FILE: Final = "agent_pool/hook.py"
_CLAUDE_TIMEOUT_SECONDS: Final = 60.0
_GIT_TIMEOUT_SECONDS: Final = 10.0
_SETTINGS_FILES: Final = {"local": "settings.local.json", "project": "settings.json"}


def server_command() -> list[str]:
    """Return the command that starts the server: with this Python."""
    # -P: a folder `agent_pool` in the current directory must not be imported instead.
    return [sys.executable, "-P", "-m", "agent_pool", "serve"]


def headers_command() -> str:
    """Return the shell command that prints the headers for the daemon: with this Python."""
    return shlex.join([sys.executable, "-P", "-m", "agent_pool", "mcp-headers"])


def http_server_entry(port: int) -> dict[str, Any]:
    """Return the entry of the daemon's MCP server on this port, in Claude Code's form."""
    url = f"http://127.0.0.1:{port}/mcp"
    return {"type": "http", "url": url, "headersHelper": headers_command()}


def free_port() -> int:
    """Return a port of 127.0.0.1 that no program listens on now, the same one for each user.

    It is below the ports that systems give to any program that asks for one.
    """
    first = 8400 + os.getuid() % 400
    for port in range(first, first + 400):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AgentPoolError(f"no port from {first} to {first + 399} is free; set daemon_port")


def hook_command() -> str:
    """Return the hook's shell command; without the hook's file it lets delegations pass."""
    # After this package is uninstalled the file is missing. Python would end with code 2 then, by
    # which Claude Code understands that the hook refuses the call.
    path = shlex.quote(str(Path(agent_pool.__file__).with_name("hook.py")))
    return f"test ! -f {path} || {shlex.quote(sys.executable)} -I -S {path}"


@dataclass(frozen=True, slots=True)
class RegistrationStep:
    """One change, or the reason why no change is needed.

    A change is made either by a command or by a new text of a file.

    Attributes:
        action: the change in words, in the imperative: ``add the hook to FILE``.
        command: the arguments of `claude` that make the change.
        file: the file that gets a new text; with `command`, the file whose layout is to be kept.
        text: the new text of the file.
        unchanged: the reason why no change is needed; empty for a change.
    """

    action: str
    command: tuple[str, ...] = ()
    file: Path | None = None
    text: str | None = None
    unchanged: str = ""


class Registration:
    """The registrations for one project and one user.

    Args:
        project: the project's folder.
        environ: the environment that tells where Claude Code keeps its files.
    """

    def __init__(self, project: Path, environ: Mapping[str, str] | None = None) -> None:
        self.project = project
        self.environ = Environment(environ)

    def find_server(self, scope: Scope) -> dict[str, Any] | None:
        """Return the registered server that has our name; None if there is none.

        Raises:
            ConfigError: Claude Code's file cannot be read.
        """
        return next(filter(None, map(_server_in, self._server_tables(scope))), None)

    def find_hooks(self, scope: Scope) -> list[tuple[int, dict[str, Any]]]:
        """Return our entries among the PreToolUse hooks, each with its index.

        Raises:
            ConfigError: the settings file cannot be read.
        """
        _, settings = read_json(self.settings_file(scope))
        hooks = settings.get("hooks")
        entries = hooks.get("PreToolUse") if isinstance(hooks, dict) else None
        found = enumerate(entries if isinstance(entries, list) else [])
        return [(index, entry) for index, entry in found if _HOOK_FILE in json.dumps(entry)]

    def find_rules(self, scope: Scope) -> list[int]:
        """Return the indexes of our rule among the rules that allow tools.

        Raises:
            ConfigError: the settings file cannot be read.
        """
        _, settings = read_json(self.settings_file(scope))
        permissions = settings.get("permissions")
        rules = permissions.get("allow") if isinstance(permissions, dict) else None
        return [index for index, rule in enumerate(rules or []) if rule == RULE]

    def settings_file(self, scope: Scope) -> Path:
        """Return the settings file that holds the hooks of a scope."""
        if scope == "user":
            return claude_home(self.environ) / "settings.json"
        return self.project / ".claude" / _SETTINGS_FILES[scope]

    def _server_tables(self, scope: Scope) -> Iterator[Any]:
        """Yield the values whose `mcpServers` can hold a server of this scope."""
        if scope == "project":
            yield read_json(self._mcp_file())[1]
            return
        _, state = read_json(self._state_file())
        if scope == "user":
            yield state
            return
        projects = state.get("projects")
        for key in self._project_keys():
            yield projects.get(str(key)) if isinstance(projects, dict) else None

    def _mcp_file(self) -> Path:
        return self.project / ".mcp.json"

    def _state_file(self) -> Path:
        home = self.environ.get("CLAUDE_CONFIG_DIR") or self.environ.get("HOME") or Path.home()
        return Path(home) / ".claude.json"

    def _project_keys(self) -> Iterator[Path]:
        """Yield the names that Claude Code can have for this project in its state."""
        # It takes the main folder of the Git repository if there is one.
        query = ["git", "rev-parse", "--git-common-dir"]
        try:
            git = subprocess.run(
                query, cwd=self.project, capture_output=True, timeout=_GIT_TIMEOUT_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired):
            git = None
        if git is not None and git.returncode == 0:
            yield (self.project / os.fsdecode(git.stdout).strip()).resolve().parent
        yield self.project

    def plan_install(
        self, scope: Scope, *, hook: bool, allow: bool = False, http_port: int | None = None
    ) -> list[RegistrationStep]:
        """Return the steps that register the server and, with `hook`, the hook.

        With `allow` they also permit every tool of the server without a question. With `http_port`
        the server is the daemon's, on this port.

        Raises:
            ConfigError: a file cannot be read, or another server has our name.
        """
        entry = None if http_port is None else http_server_entry(http_port)
        steps = list(self._add_server(scope, entry))
        if hook:
            steps += self._add_hook(scope)
        if allow:
            steps.append(self._add_rule(scope, steps[-1].text))
        return steps

    def plan_port(self, port: int) -> RegistrationStep:
        """Return the step that writes the daemon's port into the settings file.

        Raises:
            ConfigError: the file cannot be read.
        """
        path = config_file(self.environ)
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from None
        # At the beginning: a line at the end could belong to a table.
        new_text = f"daemon_port = {port}\n{text}"
        action = f"set daemon_port = {port} in {path}"
        return RegistrationStep(action, file=path, text=new_text)

    def _add_server(
        self, scope: Scope, entry: dict[str, Any] | None = None
    ) -> Iterator[RegistrationStep]:
        """Yield the steps that register the server: `entry`, or without it the relay."""
        action = f"register the MCP server {SERVER} (scope {scope})"
        present, wanted = self.find_server(scope), server_command()
        if present is not None and _is_same_server(present, entry):
            yield RegistrationStep(action, unchanged="it is registered already")
            return
        if present is not None:
            if not _is_our_server(present):
                raise ConfigError(
                    f"another MCP server is called {SERVER} in scope {scope}: "
                    f"{shlex.join(server_argv(present))}. If you do not need it, run: "
                    f"claude mcp remove --scope {scope} {SERVER}"
                )
            yield self._remove_step(scope, f"remove the older entry of {SERVER} (scope {scope})")
        command = ("mcp", "add", "--scope", scope, SERVER, "--", *wanted)
        if entry is not None:
            command = ("mcp", "add-json", "--scope", scope, SERVER, json.dumps(entry))
        yield RegistrationStep(action, command, self._file_with_layout(scope))

    def _add_hook(self, scope: Scope) -> Iterator[RegistrationStep]:
        path = self.settings_file(scope)
        action = f"add the delegation hook to {path}"
        wanted = {
            "matcher": MATCHER,
            "hooks": [{"type": "command", "command": hook_command()}],
        }
        present = self.find_hooks(scope)
        if [entry for _, entry in present] == [wanted]:
            yield RegistrationStep(action, unchanged="it is there already")
            return
        text = _remove_hooks(read_json(path)[0], [index for index, _ in present])
        try:
            text = json_text.insert(text, _PRE_TOOL_USE, wanted, append=True) if text else ""
        except ValueError as error:
            raise ConfigError(f"{path}: {error}; correct this file first") from None
        new_text = text or new_file_text({"hooks": {"PreToolUse": [wanted]}})
        yield RegistrationStep(action, file=path, text=new_text)

    def _add_rule(self, scope: Scope, text: str | None) -> RegistrationStep:
        """Add our rule to the text that the step before writes; None is the file as it is."""
        path = self.settings_file(scope)
        action = f"allow every tool of {SERVER} in {path}"
        if self.find_rules(scope):
            return RegistrationStep(action, unchanged="it is allowed there already")
        before = read_json(path)[0] if text is None else text
        try:
            after = json_text.insert(before, _ALLOW, RULE, append=True) if before else ""
        except ValueError as error:
            raise ConfigError(f"{path}: {error}; correct this file first") from None
        new_text = after or new_file_text({"permissions": {"allow": [RULE]}})
        return RegistrationStep(action, file=path, text=new_text)

    def plan_uninstall(self, scope: Scope) -> list[RegistrationStep]:
        """Return the steps that remove what `plan_install` adds, and nothing else.

        Raises:
            ConfigError: a file cannot be read.
        """
        steps = [self._remove_server(scope), self._remove_hook(scope)]
        if rules := self.find_rules(scope):
            steps.append(self._remove_rules(scope, rules, steps[-1].text))
        return steps

    def _remove_rules(self, scope: Scope, rules: list[int], text: str | None) -> RegistrationStep:
        path = self.settings_file(scope)
        after = read_json(path)[0] if text is None else text
        for index in reversed(rules):
            after = json_text.remove(after, (*_ALLOW, index))
        return RegistrationStep(f"remove the rule {RULE} from {path}", file=path, text=after)

    def _remove_server(self, scope: Scope) -> RegistrationStep:
        action = f"remove the MCP server {SERVER} (scope {scope})"
        present = self.find_server(scope)
        if present is None:
            reason = f"it is not registered{self._other_scopes(scope)}"
            return RegistrationStep(action, unchanged=reason)
        if not _is_our_server(present):
            reason = f"it is not ours: {shlex.join(server_argv(present))}"
            return RegistrationStep(action, unchanged=reason)
        return self._remove_step(scope, action)

    def _remove_step(self, scope: Scope, action: str) -> RegistrationStep:
        command = ("mcp", "remove", "--scope", scope, SERVER)
        return RegistrationStep(action, command, self._file_with_layout(scope))

    def _remove_hook(self, scope: Scope) -> RegistrationStep:
        path = self.settings_file(scope)
        action = f"remove the delegation hook from {path}"
        indexes = [index for index, _ in self.find_hooks(scope)]
        if not indexes:
            return RegistrationStep(action, unchanged="it is not there")
        return RegistrationStep(action, file=path, text=_remove_hooks(read_json(path)[0], indexes))

    def _other_scopes(self, scope: Scope) -> str:
        """Return a hint to the other scopes that have the server; empty if there are none."""
        others = [
            other for other in SCOPES if other != scope and self.find_server(other) is not None
        ]
        return f", but in scope {', '.join(others)}: use --scope" if others else ""

    def _file_with_layout(self, scope: Scope) -> Path | None:
        """Return the file of a server of this scope if its layout is the user's own."""
        # Users write .mcp.json by hand; the state file belongs to Claude Code.
        return self._mcp_file() if scope == "project" else None


def apply_step(
    step: RegistrationStep, cli: Path, project: Path, environ: Mapping[str, str]
) -> None:
    """Make the change of a step.

    Raises:
        AgentPoolError: `claude mcp` failed; the message has its output.
        OSError: a file cannot be written.
    """
    if step.text is not None:
        assert step.file is not None
        replace_file(step.file, step.text)
    elif step.command:
        before = read_json(step.file)[0] if step.file else ""
        _run_claude([str(cli), *step.command], project, environ)
        if step.file and before:
            _restore_layout(step.file, before)


def _run_claude(argv: list[str], project: Path, environ: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            argv,
            cwd=project,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_CLAUDE_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise AgentPoolError(
            f"{shlex.join(argv)} did not end in {_CLAUDE_TIMEOUT_SECONDS:g} s"
        ) from None
    if done.returncode != 0:
        output = done.stdout.decode("utf-8", "replace").strip()
        raise AgentPoolError(f"{shlex.join(argv)} failed with {done.returncode}: {output}")


def _restore_layout(path: Path, before: str) -> None:
    """Put the change that Claude Code made into the text that the file had before."""
    # Claude Code writes the whole file again, in a layout of its own.
    _, after = read_json(path)
    entry = _server_in(after)
    place = ("mcpServers", SERVER)
    if entry is not None:
        text = json_text.insert(before, place, entry)
    else:
        text = json_text.remove(before, place)
    # Only if this is the same change: Claude Code can have changed another member too.
    if _without_empty_members(json.loads(text)) == _without_empty_members(after):
        replace_file(path, text)


def _without_empty_members(value: dict[str, Any]) -> dict[str, Any]:
    return {key: member for key, member in value.items() if member != {}}


def _remove_hooks(text: str, indexes: list[int]) -> str:
    for index in reversed(indexes):  # from the end, so that the other indexes stay right
        text = json_text.remove(text, (*_PRE_TOOL_USE, index))
    return text


def _server_in(table: Any) -> dict[str, Any] | None:
    servers = table.get("mcpServers") if isinstance(table, dict) else None
    entry = servers.get(SERVER) if isinstance(servers, dict) else None
    return entry if isinstance(entry, dict) else None


def server_argv(entry: Mapping[str, Any]) -> list[str]:
    """Return the command of a registered server; its URL if it has no command."""
    if "command" not in entry:
        return [str(entry.get("url", "?"))]
    return [str(entry["command"]), *map(str, entry.get("args") or [])]


def _is_same_server(present: Mapping[str, Any], entry: Mapping[str, Any] | None) -> bool:
    if entry is not None:
        return all(present.get(name) == value for name, value in entry.items())
    return server_argv(present) == server_command()


def _is_our_server(entry: Mapping[str, Any]) -> bool:
    """Check whether a server is this package's, started by any Python."""
    helper = str(entry.get("headersHelper", ""))
    if helper.endswith("-m agent_pool mcp-headers"):
        return True
    argv = server_argv(entry)
    is_module = argv[-3:] == ["-m", "agent_pool", "serve"]
    return is_module or (Path(argv[0]).name == SERVER and argv[1:] == ["serve"])
