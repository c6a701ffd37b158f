"""What of this package is registered with Claude Code, and the steps that change it.

The server is added and removed by Claude Code's own `claude mcp` commands; its files are only
read, to see what is there. The hook is an entry in a settings file, for which there is no command.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import agent_pool
from agent_pool.cli import json_text
from agent_pool.cli.json_file import created, read_json, write_text
from agent_pool.errors import AgentPoolError, ConfigError
from agent_pool.settings import claude_home

Scope: TypeAlias = Literal["local", "project", "user"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
SERVER: Final = "agent-pool"
MATCHER: Final = "Agent|Task"
"""Native delegation: the tool is called `Agent` now and was `Task` before."""

_PRE_TOOL_USE: Final = ("hooks", "PreToolUse")
_HOOK_FILE: Final = "agent_pool/hook.py"
_TIMEOUT: Final = 60.0
_SETTINGS: Final = {"local": "settings.local.json", "project": "settings.json"}


def server_command() -> list[str]:
    """How Claude Code starts the server: this Python, nothing taken from its current directory."""
    return [sys.executable, "-P", "-m", "agent_pool", "serve"]


def hook_command() -> str:
    """The hook's shell command.

    A file that is gone, as after this package was uninstalled, must let delegations pass: Python
    ends with 2 for it, which Claude Code takes for a refusal.
    """
    path = shlex.quote(str(Path(agent_pool.__file__).with_name("hook.py")))
    return f"test ! -f {path} || {shlex.quote(sys.executable)} -I -S {path}"


@dataclass(frozen=True, slots=True)
class Step:
    """One change, or the finding that there is nothing to do.

    Attributes:
        what: the change in words, as a request: ``add the hook to FILE``.
        command: the `claude` arguments that make it.
        file: the file that it changes, when it is no command or its layout is to be kept.
        text: that file's new text, when it is no command.
        note: why there is nothing to do, when there is nothing.
    """

    what: str
    command: tuple[str, ...] = ()
    file: Path | None = None
    text: str | None = None
    note: str = ""


class Registration:
    """One project's and user's registrations.

    Args:
        project: the project's folder.
        environ: says where Claude Code keeps its files.
    """

    def __init__(self, project: Path, environ: Mapping[str, str] = os.environ) -> None:
        self.project = project
        self.environ = environ

    def server(self, scope: Scope) -> dict[str, Any] | None:
        """The registered server of our name, None when there is none.

        Raises ConfigError when Claude Code's file cannot be read.
        """
        return next(filter(None, map(_server_in, self._server_tables(scope))), None)

    def hooks(self, scope: Scope) -> list[tuple[int, dict[str, Any]]]:
        """Our entries of the PreToolUse hooks, with their index.

        Raises ConfigError when the settings file cannot be read.
        """
        _, settings = read_json(self.settings_file(scope))
        hooks = settings.get("hooks")
        entries = hooks.get("PreToolUse") if isinstance(hooks, dict) else None
        found = enumerate(entries if isinstance(entries, list) else [])
        return [(index, entry) for index, entry in found if _HOOK_FILE in json.dumps(entry)]

    def settings_file(self, scope: Scope) -> Path:
        """Where that scope's hooks are."""
        if scope == "user":
            return claude_home(self.environ) / "settings.json"
        return self.project / ".claude" / _SETTINGS[scope]

    def _server_tables(self, scope: Scope) -> Iterator[Any]:
        """The places where a server of that scope may stand."""
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
        """What Claude Code may call this project: its repository's main folder, or itself."""
        ask = ["git", "rev-parse", "--git-common-dir"]
        try:
            said = subprocess.run(ask, cwd=self.project, capture_output=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            said = None
        if said is not None and said.returncode == 0:
            yield (self.project / os.fsdecode(said.stdout).strip()).resolve().parent
        yield self.project

    def add(self, scope: Scope, *, hook: bool) -> list[Step]:
        """The steps that register the server, and with `hook` the hook.

        Raises:
            ConfigError: a file cannot be read, or another server has our name.
        """
        steps = list(self._add_server(scope))
        return [*steps, *self._add_hook(scope)] if hook else steps

    def _add_server(self, scope: Scope) -> Iterator[Step]:
        what = f"register the MCP server {SERVER} (scope {scope})"
        there, wanted = self.server(scope), server_command()
        if there is not None and command_of(there) == wanted:
            yield Step(what, note="it is registered already")
            return
        if there is not None:
            if not _is_ours(there):
                raise ConfigError(
                    f"another MCP server is called {SERVER} in scope {scope}: "
                    f"{shlex.join(command_of(there))}. If you do not need it, run: "
                    f"claude mcp remove --scope {scope} {SERVER}"
                )
            yield self._remove_step(scope, f"remove the older entry of {SERVER} (scope {scope})")
        command = ("mcp", "add", "--scope", scope, SERVER, "--", *wanted)
        yield Step(what, command, self._layout_file(scope))

    def _add_hook(self, scope: Scope) -> Iterator[Step]:
        path = self.settings_file(scope)
        what = f"add the delegation hook to {path}"
        wanted = {
            "matcher": MATCHER,
            "hooks": [{"type": "command", "command": hook_command()}],
        }
        there = self.hooks(scope)
        if [entry for _, entry in there] == [wanted]:
            yield Step(what, note="it is there already")
            return
        text = _without(read_json(path)[0], [index for index, _ in there])
        try:
            text = json_text.insert(text, _PRE_TOOL_USE, wanted, append=True) if text else ""
        except ValueError as error:
            raise ConfigError(f"{path}: {error}; correct this file first") from None
        yield Step(what, file=path, text=text or created({"hooks": {"PreToolUse": [wanted]}}))

    def remove(self, scope: Scope) -> list[Step]:
        """The steps that take away what `add` added, and nothing else.

        Raises ConfigError when a file cannot be read.
        """
        return [self._remove_server(scope), self._remove_hook(scope)]

    def _remove_server(self, scope: Scope) -> Step:
        what = f"remove the MCP server {SERVER} (scope {scope})"
        there = self.server(scope)
        if there is None:
            return Step(what, note=f"it is not registered{self._elsewhere(scope)}")
        if not _is_ours(there):
            return Step(what, note=f"it is not ours: {shlex.join(command_of(there))}")
        return self._remove_step(scope, what)

    def _remove_step(self, scope: Scope, what: str) -> Step:
        command = ("mcp", "remove", "--scope", scope, SERVER)
        return Step(what, command, self._layout_file(scope))

    def _remove_hook(self, scope: Scope) -> Step:
        path = self.settings_file(scope)
        what = f"remove the delegation hook from {path}"
        indexes = [index for index, _ in self.hooks(scope)]
        if not indexes:
            return Step(what, note="it is not there")
        return Step(what, file=path, text=_without(read_json(path)[0], indexes))

    def _elsewhere(self, scope: Scope) -> str:
        others = [other for other in SCOPES if other != scope and self.server(other) is not None]
        return f", but in scope {', '.join(others)}: use --scope" if others else ""

    def _layout_file(self, scope: Scope) -> Path | None:
        """The file whose layout is the user's own; the others are Claude Code's."""
        return self._mcp_file() if scope == "project" else None


def carry_out(step: Step, cli: Path, project: Path, environ: Mapping[str, str]) -> None:
    """Make the change of a step.

    Raises:
        AgentPoolError: `claude mcp` refused, with what it said.
        OSError: a file cannot be written.
    """
    if step.text is not None:
        assert step.file is not None
        write_text(step.file, step.text)
    elif step.command:
        before = read_json(step.file)[0] if step.file else ""
        _run_claude([str(cli), *step.command], project, environ)
        if step.file and before:
            _keep_layout(step.file, before)


def _run_claude(argv: list[str], project: Path, environ: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            argv,
            cwd=project,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise AgentPoolError(f"{shlex.join(argv)} did not end in {_TIMEOUT:g} s") from None
    if done.returncode != 0:
        said = done.stdout.decode("utf-8", "replace").strip()
        raise AgentPoolError(f"{shlex.join(argv)} failed with {done.returncode}: {said}")


def _keep_layout(path: Path, before: str) -> None:
    """Claude Code writes a whole file in its own layout: put its change into the file as it was."""
    _, after = read_json(path)
    entry = _server_in(after)
    place = ("mcpServers", SERVER)
    if entry is not None:
        text = json_text.insert(before, place, entry)
    else:
        text = json_text.remove(before, place)
    if _filled(json.loads(text)) == _filled(after):
        write_text(path, text)


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    return {key: member for key, member in value.items() if member != {}}


def _without(text: str, indexes: list[int]) -> str:
    for index in reversed(indexes):
        text = json_text.remove(text, (*_PRE_TOOL_USE, index))
    return text


def _server_in(table: Any) -> dict[str, Any] | None:
    servers = table.get("mcpServers") if isinstance(table, dict) else None
    entry = servers.get(SERVER) if isinstance(servers, dict) else None
    return entry if isinstance(entry, dict) else None


def command_of(entry: Mapping[str, Any]) -> list[str]:
    if "command" not in entry:
        return [str(entry.get("url", "?"))]
    return [str(entry["command"]), *map(str, entry.get("args") or [])]


def _is_ours(entry: Mapping[str, Any]) -> bool:
    """Whether this package's server is meant, by whatever Python."""
    command = command_of(entry)
    by_module = command[-3:] == ["-m", "agent_pool", "serve"]
    return by_module or (Path(command[0]).name == SERVER and command[1:] == ["serve"])
